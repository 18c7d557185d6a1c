"""Runs that TRL itself left: `inspect` names what is special about each, `scan` measures it right.

The runs are those of tests/trl_runs.py. The truth is a plain forward of transformers and PEFT.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from arca_diag.config import resolve
from arca_diag.errors import ResultError
from arca_diag.inspected import Inspection
from arca_diag.inspection import inspect_run
from arca_diag.pipeline import diagnose
from arca_diag.results import Report
from tests.conftest import TINY, UNRENDERED
from tests.inputs import edit_json
from tests.test_trl import tables

#: Run -> the reference it is measured against, and the findings that say what is special about it;
#: notes about signals aside.
SPECIAL: dict[str, tuple[str, set[str]]] = {
    "fresh": ("adapter-off", set()),
    "chat": ("adapter-off", set()),
    "no-recorder": ("adapter-off", {"ids-retokenised"}),
    "continued": ("ref-adapter", set()),
    "no-op": ("ref-adapter", {"adapter-unchanged"}),
    "pissa": ("base", {"reference-apart"}),
    "olora": ("base", {"reference-apart"}),
    "dora": ("adapter-off", set()),
    "rslora": ("adapter-off", set()),
    "bias": ("base", set()),
    "hot": ("adapter-off", set()),
    "reused": ("adapter-off", set()),
    "sparse": ("adapter-off", set()),
    "evaluated": ("adapter-off", set()),
    "evaluated-mixed": ("adapter-off", set()),
}
#: The small model never ends its answers once it has been trained before: true of it, and no fault
#: that the run was made to show.
ALSO_TRUE = {"completions-truncated"}
#: Run -> completions of evaluations in its files.
EVALUATED = {"evaluated": 16, "evaluated-mixed": 26}


def config(run: Path, **flags: Any) -> Any:
    return resolve({"run": run} | flags, environ=UNRENDERED, cwd=run)


def inspected(run: Path) -> Inspection:
    return inspect_run(config(run))


def scanned(run: Path, out: Path, **flags: Any) -> tuple[Report, pd.DataFrame]:
    done = diagnose(config(run, out=out, **flags))
    return done.report, pd.read_parquet(out / "tokens.parquet")


class TestWhatInspectSays:
    @pytest.mark.parametrize("name", SPECIAL)
    def test_the_reference_and_the_faults_of_each_run_and_no_others(self, trl_runs, name):
        found = inspected(trl_runs[name])
        kind, faults = SPECIAL[name]
        assert found.reference.kind == kind
        told = {f.id for f in found.findings if f.level != "note"}
        assert told - ALSO_TRUE == faults, [f.message for f in found.findings]
        assert (found.run.framework, found.run.framework_version) == ("trl", "1.16.0")
        assert found.run.checkpoints[0].step == 1
        assert found.rollouts.eval_excluded == EVALUATED.get(name, 0)

    def test_what_kind_of_adapter_it_is(self, trl_runs):
        kinds = {name: inspected(trl_runs[name]).adapter for name in ("pissa", "dora", "rslora")}
        assert kinds["pissa"].init == "pissa"
        assert kinds["dora"].use_dora
        assert not kinds["dora"].use_rslora
        assert kinds["rslora"].use_rslora
        assert {k.rank for k in kinds.values()} == {4}
        assert all(k.target_modules == ["down_proj", "q_proj", "v_proj"] for k in kinds.values())

    def test_the_run_that_trained_nothing_is_told_with_its_evidence(self, trl_runs):
        found = inspected(trl_runs["no-op"])
        told = [f for f in found.findings if f.id == "adapter-unchanged"]
        assert [(f.level, f.checkpoint) for f in told] == [("error", step) for step in (1, 2, 3)]
        assert "is_trainable=True" in told[0].action

    def test_a_scan_of_it_does_not_call_an_adapter_inert_that_equals_its_reference(
        self, trl_runs, tmp_path
    ):
        report, _ = scanned(trl_runs["no-op"], tmp_path / "out")
        faults = [(f.id, f.checkpoint) for f in report.findings if f.level == "error"]
        assert faults == [("adapter-unchanged", step) for step in (1, 2, 3)]

    @pytest.mark.slow
    def test_before_the_first_real_step_an_idle_adapter_is_a_note(self, trl_runs, tmp_path):
        run = copied(trl_runs["bias"], tmp_path)
        path = run / "checkpoint-1" / "adapter_model.safetensors"
        idle = {
            k: 0 * v if ".lora_B." in k or "bias" in k else v for k, v in load_file(path).items()
        }
        save_file(idle, path)
        report, _ = scanned(run, tmp_path / "out")
        told = [(f.level, f.checkpoint) for f in report.findings if f.id == "adapter-inert"]
        assert told == [("note", 1)]

    def test_exact_ids_are_told_from_text(self, trl_runs):
        assert inspected(trl_runs["fresh"]).rollouts.ids_exact is True
        assert inspected(trl_runs["no-recorder"]).rollouts.ids_exact is False

    @pytest.mark.parametrize("name", sorted(EVALUATED))
    def test_every_completion_of_an_evaluation_is_left_out(self, trl_runs, name):
        found = inspected(trl_runs[name])
        rows = sum(len(table) for table in tables(trl_runs[name]).values())
        left = found.rollouts.eval_excluded + found.rollouts.duplicates_dropped
        assert found.rollouts.found + left == rows

    @pytest.mark.slow
    def test_the_report_of_a_scan_says_the_same_under_the_same_names(self, trl_runs, tmp_path):
        for name in ("continued", "evaluated"):
            before = json.loads(inspected(trl_runs[name]).to_json())
            report, _ = scanned(trl_runs[name], tmp_path / name)
            after = json.loads(report.to_json())
            assert after["reference"] == before["reference"]
            assert after["adapter"] == before["adapter"]
            for key in ("eval_excluded", "ids_exact", "found", "steps", "step_source"):
                assert after["rollouts"][key] == before["rollouts"][key], key
            without_a_model = {(f["id"], f["checkpoint"]) for f in before["findings"]}
            assert without_a_model <= {(f["id"], f["checkpoint"]) for f in after["findings"]}


class PlainModel:
    """transformers and PEFT alone, in float64; without an adapter the base as it lies on disk."""

    def __init__(self, base: str, adapter: Path | None) -> None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(adapter))
        self.model = model.to(torch.float64).eval()

    def __call__(self, prompt: list[int], completion: list[int]) -> tuple[torch.Tensor, ...]:
        """Log-probabilities (token, vocabulary) and last hidden states of the completion."""
        ids = torch.tensor([[*prompt, *completion]])
        with torch.no_grad():
            out = self.model(input_ids=ids, output_hidden_states=True)
        places = slice(len(prompt) - 1, -1)
        return out.logits[0, places], out.hidden_states[-1][0, places]


#: Run -> where a checkpoint's reference lies beside it; None is the base without PEFT.
REFERENCES = {
    "fresh": None, "chat": None, "continued": "ref", "no-op": "ref", "pissa": None, "olora": None,
    "dora": None, "rslora": None, "bias": None, "hot": None, "evaluated": None,
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_a_scan_gives_what_a_plain_forward_gives(trl_runs, tmp_path, name):
    run, step = trl_runs[name], 2
    report, tokens = scanned(run, tmp_path / "out", dtype="float64", checkpoints=str(step))
    (faithful,) = report.replay_fidelity
    assert faithful.status == "pass", faithful.reason

    checkpoint = run / f"checkpoint-{step}"
    base = json.loads((checkpoint / "adapter_config.json").read_bytes())["base_model_name_or_path"]
    beside = REFERENCES[name]
    policy = PlainModel(base, checkpoint)
    reference = PlainModel(base, checkpoint / beside if beside else None)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TINY / "base")
    temperature = 0.7 if name == "hot" else 1.0

    table = tables(run)[step + 1]  # what this checkpoint's policy sampled
    replayed = tokens[tokens["rollout_step"] == step]
    by_ids = {
        tuple(rows["token_id"]): rows.sort_values("position")
        for _, rows in replayed.groupby("rollout_id")
    }
    compared = 0
    for prompt, ids in zip(table["prompt"], table["arca_completion_ids"], strict=True):
        if isinstance(prompt, str):
            asked = tokenizer(prompt)["input_ids"]
        else:  # what the template makes of it, and no token that it does not write
            text = prompt[0]["content"] + ">"
            asked = tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = [int(i) for i in ids]
        (logits, hidden), (ref_logits, ref_hidden) = policy(asked, answer), reference(asked, answer)
        logp = (logits / temperature).log_softmax(-1)
        ref_logp = (ref_logits / temperature).log_softmax(-1)
        targets = torch.tensor(answer)[:, None]
        expected = {
            "surprisal": -logp.gather(1, targets)[:, 0],
            "entropy": -(logp.exp() * logp).sum(-1),
            "log_ratio": (logp - ref_logp).gather(1, targets)[:, 0],
            "kl_exact": (logp.exp() * (logp - ref_logp)).sum(-1),
            "residual": (hidden - ref_hidden).norm(dim=-1),
            "ref_surprisal": -ref_logp.gather(1, targets)[:, 0],
        }
        rows = by_ids[tuple(answer)]
        for column, values in expected.items():
            # float32 weights and SVDs are behind both sides; the passes are in float64.
            assert rows[column].to_numpy() == pytest.approx(values.numpy(), abs=2e-5), column
        compared += len(answer)
    assert compared > 40
    moved = replayed["residual"].max()
    assert moved == 0 if name == "no-op" else moved > 1e-3


@pytest.mark.parametrize("what", ["adapter_config.json", "chat_template.jinja"])
def test_a_changed_configuration_or_template_is_another_scan(trl_runs, tmp_path, what):
    run = copied(trl_runs["chat"], tmp_path)
    flags = {"groups": 1, "fixed_groups": 1, "checkpoints": "2"}
    scanned(run, tmp_path / "out", **flags)
    for path in run.glob(f"checkpoint-*/{what}"):
        if what.endswith(".json"):
            edit_json(path, use_rslora=True)
        else:
            path.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(ResultError, match="has changed"):
        scanned(run, tmp_path / "out", **flags)


@pytest.mark.slow
class TestWhatAMismatchLooksLike:
    """The replay against the log: right it passes, wrong it fails, and the report says by what."""

    def status(self, run: Path, out: Path, checkpoint: int, **flags: Any) -> str:
        report, _ = scanned(run, out, checkpoints=str(checkpoint), groups=64, **flags)
        (found,) = report.replay_fidelity
        told = [f.level for f in report.findings if f.id == "replay-mismatch"]
        assert told == {"fail": ["error"], "warn": ["warn"]}.get(found.status, [])
        if found.status in ("warn", "fail"):
            assert "replayed" in found.reason
            assert "logged" in found.reason
        return found.status

    def test_the_run_itself_passes(self, own_run, tmp_path):
        for step in (2, 20, 100):
            assert self.status(own_run, tmp_path / str(step), step) == "pass"

    @pytest.mark.parametrize("temperature", [0.7, 1.3])
    def test_another_temperature(self, own_run, tmp_path, temperature):
        assert self.status(own_run, tmp_path / "o", 20, temperature=temperature) == "fail"

    def test_another_chat_template(self, trl_runs, tmp_path):
        run = copied(trl_runs["chat"], tmp_path)
        assert self.status(run, tmp_path / "right", 2) == "pass"
        for path in run.glob("checkpoint-*/chat_template.jinja"):
            path.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
        assert self.status(run, tmp_path / "wrong", 2) == "fail"

    def test_another_base(self, own_run, tmp_path):
        other = tmp_path / "other"
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(own_run / "base")
        for parameter in model.parameters():
            parameter.data *= 1 + 0.3 * torch.randn(parameter.shape)
        model.save_pretrained(other)
        assert self.status(own_run, tmp_path / "o", 20, base=str(other)) == "fail"

    def test_a_lost_rslora_flag(self, own_run, tmp_path):
        # The same product by the other rule: alpha over the root of r, so the flag matters.
        path = own_run / "checkpoint-100" / "adapter_config.json"
        config = json.loads(path.read_bytes())
        scale = config["lora_alpha"] / config["r"]
        rank_root = config["r"] ** 0.5
        path.write_text(json.dumps(config | {"use_rslora": True, "lora_alpha": scale * rank_root}))
        assert self.status(own_run, tmp_path / "right", 100) == "pass"
        path.write_text(json.dumps(config | {"use_rslora": False, "lora_alpha": scale * rank_root}))
        assert self.status(own_run, tmp_path / "wrong", 100) == "fail"

    def test_another_checkpoint_of_the_run(self, own_run, tmp_path):
        state = json.loads((own_run / "trainer_state.json").read_bytes())
        entropy = {row["step"]: row["entropy"] for row in state["log_history"] if "entropy" in row}
        assert abs(entropy[21] - entropy[101]) > 3 * 0.05 * entropy[101]
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            source = own_run / "checkpoint-20" / name
            (own_run / "checkpoint-100" / name).write_bytes(source.read_bytes())
        assert self.status(own_run, tmp_path / "o", 100) == "fail"


def copied(run: Path, out: Path) -> Path:
    """A copy of a run that a test may change, its base where it was."""
    return Path(shutil.copytree(run, out / run.name))
