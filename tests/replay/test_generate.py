"""Completions sampled here are a policy's own: seeded, at its temperature, and said to be ours."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from scipy import stats
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from arca_diag.config import resolve
from arca_diag.errors import ArcaError, CheckpointError, ConfigError, RolloutError
from arca_diag.inputs.arguments import longest_of
from arca_diag.inputs.rollouts.record import Rollout, Sample
from arca_diag.inputs.runs import Checkpoint
from arca_diag.pipeline import Diagnosis, diagnose
from arca_diag.progress import Silent
from arca_diag.replay.generate import sample_completions
from tests.conftest import UNRENDERED
from tests.inputs import EOS, SAMPLE, a_run, sample_copy
from tests.replay.test_forward import load

PROMPT = (1, 5, 6, 14, 5, 13, 18)  # 12+19>, as the tiny sample tokenises it


def sampled(
    steps: tuple[int, ...] = (20,), prompts: int = 1, **changed: Any
) -> dict[str, list[Rollout]]:
    """Checkpoint -> what it sampled, in float32 as a scan does."""
    folders = [SAMPLE / f"checkpoint-{step}" for step in steps]
    asked = [
        Sample(id=f"p{n}", place="", step=None, group_id=f"p{n}", prompt=PROMPT, completion=())
        for n in range(prompts)
    ]
    options: dict[str, Any] = {
        "each": 8,
        "longest": 6,
        "temperature": 1.0,
        "seed": 0,
        "tokenizer": None,
        "end_tokens": frozenset({EOS}),
        "progress": Silent(),
    }
    found: dict[str, list[Rollout]] = {}
    for rollout in sample_completions(
        changed.pop("model", None) or load(SAMPLE / "base", *folders, dtype=torch.float32),
        [Checkpoint(name=f.name, step=s, path=f) for s, f in zip(steps, folders, strict=True)],
        asked,
        {s.id: PROMPT for s in asked},
        **options | changed,
    ):
        found.setdefault(rollout.group_id.partition("/")[0], []).append(rollout)
    return found


def answers(rollouts: list[Rollout]) -> list[tuple[int, ...]]:
    return [r.completion_ids for r in rollouts]


class TestSampling:
    def test_the_same_seed_gives_the_same_and_another_another(self):
        first, again, other = sampled(), sampled(), sampled(seed=1)
        assert first == again
        assert answers(first["checkpoint-20"]) != answers(other["checkpoint-20"])

    def test_what_else_is_sampled_moves_nothing(self):
        alone = sampled((20,), prompts=1)["checkpoint-20"]
        among = sampled((2, 20), prompts=3)["checkpoint-20"]
        assert among[: len(alone)] == alone

    def test_the_global_generator_is_left_alone(self):
        model = load(SAMPLE / "base", SAMPLE / "checkpoint-20", dtype=torch.float32)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        assert sampled(model=model)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
    def test_the_first_token_has_the_policys_own_distribution(self, temperature):
        drawn = sampled(each=3000, longest=1, temperature=temperature)["checkpoint-20"]
        model = AutoModelForCausalLM.from_pretrained(SAMPLE / "base", dtype=torch.float32)
        model = PeftModel.from_pretrained(model, str(SAMPLE / "checkpoint-20")).eval()
        with torch.no_grad():
            logits = model(torch.tensor([PROMPT])).logits[0, -1].double()
        expected = (logits / temperature).softmax(-1).numpy()
        counts = np.bincount([r.completion_ids[0] for r in drawn], minlength=len(expected))
        often = expected * len(drawn) >= 5
        observed = [*counts[often], counts[~often].sum()]
        wanted = [*expected[often] * len(drawn), expected[~often].sum() * len(drawn)]
        assert stats.chisquare(observed, wanted).pvalue > 1e-3
        # At another temperature the same counts are out of the question.
        wrong = (logits / (temperature * 1.5)).softmax(-1).numpy()
        wrong = [*wrong[often], wrong[~often].sum()]
        assert stats.chisquare(observed, np.array(wrong) * len(drawn)).pvalue < 1e-6

    def test_a_completion_ends_with_its_first_end_token_or_at_the_limit(self):
        found = sampled(each=200, longest=12)["checkpoint-20"]
        reasons = {"stop": 0, "length": 0}
        for r in found:
            reasons[r.finish_reason or ""] += 1
            assert (r.completion_ids[-1] == EOS) == (r.finish_reason == "stop")
            assert EOS not in r.completion_ids[:-1]
            assert len(r.completion_ids) <= 12
            assert len(r.completion_ids) == 12 or r.finish_reason == "stop"
            assert r.mask == (True,) * len(r.completion_ids)
            assert (r.step, r.prompt_ids, r.ids_exact) == (20, PROMPT, True)
        assert min(reasons.values()) > 0

    def test_each_checkpoint_samples_by_itself(self):
        found = sampled((2, 100), each=400, longest=1)
        first = [
            np.bincount([r.completion_ids[0] for r in rs], minlength=22) for rs in found.values()
        ]
        assert abs(first[0] - first[1]).sum() > 40

    def test_what_the_base_says_of_sampling_is_not_heeded(self):
        folder = SAMPLE / "checkpoint-20"
        model = load(SAMPLE / "base", folder, dtype=torch.float32)
        model.base.generation_config = GenerationConfig(
            repetition_penalty=9.0, min_p=0.9, no_repeat_ngram_size=1, suppress_tokens=[6], top_k=1
        )
        assert sampled(model=model) == sampled()

    def test_every_token_may_come(self):
        found = sampled(each=1000, longest=1, temperature=5.0)["checkpoint-20"]
        assert len({r.completion_ids[0] for r in found}) > 15


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The tiny run with two checkpoints and no completions, and a file of prompts beside it."""
    run = sample_copy(tmp_path, checkpoints=(20, 60), tables=())
    (run / "completions").rmdir()
    (tmp_path / "prompts.txt").write_text("12+19>\n34+28>\n\n56+37>\n")
    return run


def scan(run: Path, **flags: Any) -> Diagnosis:
    options = {"run": run, "prompts": run.parent / "prompts.txt", "generate": 4} | flags
    return diagnose(resolve(options, environ=UNRENDERED, cwd=run.parent))


class TestAScan:
    def test_of_a_run_without_completions_names_all_three_ways_out(self, bare):
        with pytest.raises(RolloutError) as caught:
            scan(bare, prompts=None, generate=None)
        for way in ("--prompts FILE --generate 8", "log_completions=True", "recorder()"):
            assert way in caught.value.hint

    def test_samples_from_each_checkpoint_and_says_that_these_are_not_the_runs_own(self, bare):
        done = scan(bare, max_new_tokens=10)
        rollouts = done.report.rollouts
        assert (rollouts.selected, rollouts.clusters, rollouts.groups) == (2 * 3 * 4, 3, 6)
        assert rollouts.steps == [20, 60]
        assert "sampled by this scan, not by the run" in rollouts.source
        (note,) = [f for f in done.report.findings if f.id == "rollouts-generated"]
        assert "not the run's own" in note.message
        table = pd.read_parquet(done.folder / "rollouts.parquet")
        assert set(table["rollout_step"]) == {20, 60}
        assert table["completion_text"].str.len().max() > 0
        measured = {
            (m.checkpoint, m.view)
            for m in done.report.measurements
            if m.value is not None and m.name == "gini_corrected"
        }
        assert measured >= {(20, "on-policy"), (60, "on-policy"), (20, "fixed-set")}

    def test_of_an_adapter_without_a_step_is_on_policy_all_the_same(self, bare, tmp_path):
        alone = Path(shutil.copytree(bare / "checkpoint-20", tmp_path / "alone"))
        prompts = bare.parent / "prompts.txt"
        done = scan(alone, prompts=prompts, base=str(bare / "base"), max_new_tokens=6)
        assert {(v.checkpoint, v.view) for v in done.report.verdicts} == {
            ("alone", "on-policy"),
            ("alone", "fixed-set"),
        }

    def test_on_its_own_samples_a_checkpoint_is_as_surprised_as_it_expects(self, bare):
        done = scan(bare, generate=40, max_new_tokens=10, groups=64, fixed_groups=64)
        tokens = pd.read_parquet(done.folder / "tokens.parquet")
        own = tokens[tokens["rollout_step"] == tokens["checkpoint_step"]]
        for _, rows in own.groupby("checkpoint"):
            excess = (rows["surprisal"] - rows["entropy"]).to_numpy()
            assert abs(excess.mean()) < 4 * excess.std() / np.sqrt(len(excess))

    @pytest.mark.slow
    def test_the_same_again_is_nothing_new_and_another_seed_another_result(self, bare):
        first = scan(bare, max_new_tokens=6)
        before = (first.folder / "tokens.parquet").read_bytes()
        assert scan(bare, max_new_tokens=6).did == "nothing new"
        with pytest.raises(ArcaError, match="seed"):
            scan(bare, max_new_tokens=6, seed=3)
        scan(bare, max_new_tokens=6, seed=3, force=True)
        assert (first.folder / "tokens.parquet").read_bytes() != before
        scan(bare, max_new_tokens=6, force=True)
        assert (first.folder / "tokens.parquet").read_bytes() == before

    def test_the_temperature_and_the_limit_are_the_runs_own(self, bare):
        longest = json.loads((bare / "base" / "config.json").read_bytes())[
            "max_position_embeddings"
        ]
        done = scan(bare)
        lengths = pd.read_parquet(done.folder / "rollouts.parquet")["n_completion_tokens"]
        assert done.report.run.temperature_source.startswith("recorded")
        assert lengths.max() <= longest

    @pytest.mark.parametrize("limit", [-5, 0.5, 1e300, "many"])
    def test_a_limit_that_is_none_is_not_the_runs(self, limit):
        assert longest_of(a_run(training_args={"max_completion_length": limit})) == 256

    def test_a_checkpoint_that_diverged_is_named(self, bare):
        path = bare / "checkpoint-60" / "adapter_model.safetensors"
        tensors = {k: 3e38 * v.sign() if ".lora_B." in k else v for k, v in load_file(path).items()}
        save_file(tensors, path)
        with pytest.raises(CheckpointError, match="checkpoint-60"):
            scan(bare, max_new_tokens=4)

    def test_a_file_without_a_prompt_is_refused(self, bare):
        (bare.parent / "prompts.txt").write_text("\n \n")
        with pytest.raises(ArcaError, match="no prompt in it"):
            scan(bare)

    def test_a_prompt_and_a_limit_that_do_not_fit_the_model(self, bare):
        with pytest.raises(RolloutError, match="positions") as caught:
            scan(bare, max_new_tokens=100_000)
        assert "--max-new-tokens" in caught.value.hint

    @pytest.mark.parametrize("flags", [{"generate": 4}, {"max_new_tokens": 4}], ids=str)
    def test_sampling_without_prompts_is_refused(self, bare, flags):
        with pytest.raises(ConfigError, match="no prompts are given"):
            scan(bare, **{"prompts": None, "generate": None} | flags)

    def test_prompts_and_rollouts_together_are_refused(self, bare):
        with pytest.raises(ConfigError, match="prompts and rollouts"):
            scan(bare, rollouts=bare.parent / "prompts.txt")

    @pytest.mark.slow
    def test_jsonl_prompts_with_ids_or_text_give_the_same(self, bare, tmp_path):
        text = tmp_path / "a.jsonl"
        text.write_text(json.dumps({"prompt": "12+19>"}) + "\n")
        one = scan(bare, prompts=text, max_new_tokens=6)
        table = pd.read_parquet(one.folder / "rollouts.parquet")
        ids = tmp_path / "b.jsonl"
        tokenizer = PreTrainedTokenizerFast.from_pretrained(bare / "base")
        ids.write_text(json.dumps({"prompt_ids": tokenizer("12+19>")["input_ids"]}) + "\n")
        other = scan(bare, prompts=ids, max_new_tokens=6, out=tmp_path / "o")
        again = pd.read_parquet(other.folder / "rollouts.parquet")
        assert list(table["completion"]) == list(again["completion"])


def test_a_sample_is_a_rollout_of_its_checkpoint():
    (found,) = sampled(each=1).values()
    assert dataclasses.asdict(found[0])["group_id"] == "checkpoint-20/p0"
