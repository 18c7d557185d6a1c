"""What TRL itself leaves on disk, as far as the readers depend on it.

The runs are those of tests/trl_runs.py; what their recipes say is repeated here as plain figures.
"""

import json
import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from arca_diag.inputs.pickles import read_training_args
from arca_diag.inputs.runs import find_run
from tests.conftest import ROOT, TINY
from tests.test_trl import tables

BATCH, GROUP = 8, 4
EVALUATION_PROMPTS = {"91+13>", "82+24>", "73+35>"}

#: Every run -> the files of its completions, and which of them hold completions of an evaluation.
FILES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "fresh": ((1, 2, 3, 4), ()),
    "no-recorder": ((1, 2, 3, 4), ()),
    "continued": ((1, 2, 3, 4), ()),
    "no-op": ((1, 2, 3, 4), ()),
    "pissa": ((1, 2, 3, 4), ()),
    "olora": ((1, 2, 3, 4), ()),
    "dora": ((1, 2, 3, 4), ()),
    "rslora": ((1, 2, 3, 4), ()),
    "bias": ((1, 2, 3, 4), ()),
    "hot": ((1, 2, 3, 4), ()),
    "chat": ((1, 2, 3, 4), ()),
    "reused": ((1, 2, 3, 4, 5), ()),
    "accumulated": ((1, 2, 3, 4, 5), ()),
    "sparse": ((2, 4, 5), ()),
    "evaluated": ((1, 2, 3, 4, 5), (4, 5)),
    "evaluated-mixed": ((0, 2, 3, 4, 6, 7), (0, 3, 6, 7)),
    "evaluated-reused": ((1, 2, 3, 4, 5, 6), (3, 4, 6)),
    "evaluated-after": ((1, 2, 3, 4), (4,)),
}
SAMPLES = [ROOT / "sample_runs" / name for name in ("tiny-addition", "smollm2-addition")]


def checkpoints(run: Path) -> dict[int, Path]:
    """Step -> folder."""
    folders = run.glob("checkpoint-*")
    return dict(sorted((int(path.name.rpartition("-")[2]), path) for path in folders))


def state(run: Path) -> dict[str, Any]:
    """The newest trainer state that lies in the run."""
    paths = [run / "trainer_state.json", *run.glob("checkpoint-*/trainer_state.json")]
    states = [json.loads(path.read_bytes()) for path in paths if path.is_file()]
    return max(states, key=lambda s: s["global_step"])


def logged(run: Path, key: str) -> dict[int, Any]:
    """Step -> what was logged under this key, of the entries that have it."""
    return {row["step"]: row[key] for row in state(run)["log_history"] if key in row}


def arguments(run: Path) -> dict[str, Any]:
    return read_training_args(next(iter(checkpoints(run).values())) / "training_args.bin")


class TestTheFiles:
    def test_each_run_has_these_files_and_one_checkpoint_of_each_step_but_the_last(self, trl_runs):
        assert {name: tuple(tables(run)) for name, run in trl_runs.items()} == {
            name: files for name, (files, _) in FILES.items()
        }
        for name, run in trl_runs.items():
            assert list(checkpoints(run)) == list(range(1, FILES[name][0][-1])), name

    def test_a_file_is_named_after_the_step_in_it(self, trl_runs):
        for name, run in trl_runs.items():
            for number, table in tables(run).items():
                assert set(table["step"]) == {number}, name

    def test_rows_of_a_group_lie_together_and_share_their_prompt(self, trl_runs):
        for name, (_, evaluated) in FILES.items():
            for number, table in tables(trl_runs[name]).items():
                if number not in evaluated:
                    assert len(table) == BATCH, (name, number)
                    prompts = table["prompt"].to_numpy().reshape(-1, GROUP)
                    assert (prompts == prompts[:, :1]).all(), (name, number)

    def test_an_advantage_is_the_reward_normalised_within_its_group(self, trl_runs):
        for number, table in tables(trl_runs["fresh"]).items():
            rewards = table["odd_digits"].to_numpy().reshape(-1, GROUP)
            spread = rewards.std(axis=1, ddof=1, keepdims=True)
            expected = (rewards - rewards.mean(axis=1, keepdims=True)) / (spread + 1e-4)
            assert table["advantage"].to_numpy() == pytest.approx(expected.ravel(), abs=1e-4), (
                number
            )

    @pytest.mark.parametrize("name", ["reused", "accumulated"])
    def test_a_batch_in_use_is_written_again_under_the_next_step(self, trl_runs, name):
        written = {k: table.drop(columns="step") for k, table in tables(trl_runs[name]).items()}
        pd.testing.assert_frame_equal(written[1], written[2])
        pd.testing.assert_frame_equal(written[3], written[4])
        assert not written[2].equals(written[3])
        assert not written[4].equals(written[5])
        assert [set(t["arca_gen_step"]) for t in written.values()] == [{0}, {0}, {2}, {2}, {4}]

    def test_the_summary_at_the_end_writes_a_file_between_two_log_entries(self, trl_runs):
        # Steps 1 and 3 are in no file; step 5 is, though only every second step is logged.
        assert [set(t["arca_gen_step"]) for t in tables(trl_runs["sparse"]).values()] == [
            *({1}, {3}, {4}),
        ]


class TestTheLog:
    def test_each_step_of_training_is_an_entry_and_the_summary_another(self, trl_runs):
        history = state(trl_runs["fresh"])["log_history"]
        assert [row["step"] for row in history] == [1, 2, 3, 4, 4]
        assert ["loss" in row for row in history] == [True, True, True, True, False]
        assert "train_runtime" in history[-1]

    def test_kl_is_logged_only_where_there_is_a_penalty(self, trl_runs):
        with_kl = {name for name, run in trl_runs.items() if logged(run, "kl")}
        assert with_kl == {"continued", "no-op", "pissa", "olora"}
        assert with_kl == {name for name, run in trl_runs.items() if arguments(run)["beta"]}

    def test_every_step_of_training_has_its_entropy(self, trl_runs):
        for name, run in trl_runs.items():
            every = arguments(run)["logging_steps"]
            last = state(run)["global_step"]
            assert set(logged(run, "entropy")) >= set(range(every, last + 1, every)), name
        # The summary takes what no entry has told yet: here the fifth step, alone.
        assert list(logged(trl_runs["sparse"], "entropy")) == [2, 4, 5]

    def test_rewards_are_logged_where_a_batch_was_sampled_and_not_where_it_was_reused(
        self, trl_runs
    ):
        for key in ("reward", "frac_reward_zero_std", "rewards/odd_digits/mean"):
            assert list(logged(trl_runs["fresh"], key)) == [1, 2, 3, 4]
            assert list(logged(trl_runs["reused"], key)) == [1, 3, 5]
            assert list(logged(trl_runs["accumulated"], key)) == [1, 3, 5]

    def test_the_share_of_groups_without_spread_is_that_of_the_file(self, trl_runs):
        found = {}
        for number, table in tables(trl_runs["fresh"]).items():
            groups = table["odd_digits"].to_numpy().reshape(-1, GROUP)
            found[number] = float((groups.max(axis=1) == groups.min(axis=1)).mean())
        assert logged(trl_runs["fresh"], "frac_reward_zero_std") == found
        assert 0 < sum(found.values()) < len(found)  # neither figure is the same in every step

    def test_the_recorders_own_mean_is_null(self, trl_runs):
        assert set(logged(trl_runs["fresh"], "rewards/arca_recorder/mean").values()) == {None}

    def test_without_a_saved_state_the_log_ends_at_the_last_checkpoint(self, trl_runs):
        assert not (trl_runs["evaluated"] / "trainer_state.json").exists()
        assert max(row["step"] for row in state(trl_runs["evaluated"])["log_history"]) == 4


class TestTheAdapters:
    def test_a_copy_of_the_start_is_saved_only_where_an_adapter_was_continued(self, trl_runs):
        with_reference = {
            name
            for name, run in trl_runs.items()
            for path in checkpoints(run).values()
            if (path / "ref").exists()
        }
        assert with_reference == {"continued", "no-op"}

    @pytest.mark.parametrize("name", ["continued", "no-op"])
    def test_the_copy_is_the_adapter_that_the_run_started_from(self, trl_runs, name):
        start = load_file(TINY / "checkpoint-100" / "adapter_model.safetensors")
        for path in checkpoints(trl_runs[name]).values():
            copy = load_file(path / "ref" / "adapter_model.safetensors")
            assert copy.keys() == start.keys()
            assert all(np.array_equal(copy[key], start[key]) for key in start)

    def test_the_run_that_trains_nothing_saves_the_same_bytes_and_logs_as_if_it_learned(
        self, trl_runs
    ):
        run = trl_runs["no-op"]
        saved = {
            (path / folder / "adapter_model.safetensors").read_bytes()
            for path in checkpoints(run).values()
            for folder in (".", "ref")
        }
        assert len(saved) == 1
        assert set(logged(run, "kl").values()) == {0.0}
        assert all(norm > 0.1 for norm in logged(run, "grad_norm").values())
        learned = trl_runs["continued"]
        assert logged(run, "reward")[1] == logged(learned, "reward")[1]
        assert state(run)["log_history"][0].keys() == state(learned)["log_history"][0].keys()

    def test_where_an_adapter_learns_every_checkpoint_differs(self, trl_runs):
        for name, run in trl_runs.items():
            files = [p / "adapter_model.safetensors" for p in checkpoints(run).values()]
            different = {file.read_bytes() for file in files}
            assert len(different) == (1 if name == "no-op" else len(files)), name

    def test_the_kl_of_a_continued_adapter_starts_at_zero(self, trl_runs):
        found = logged(trl_runs["continued"], "kl")
        assert found[1] == 0
        assert found[4] > 1e-4

    @pytest.mark.parametrize("name", ["pissa", "olora"])
    def test_where_the_base_was_rewritten_the_kl_starts_far_from_zero(self, trl_runs, name):
        # The policy is still the base: the same completions, at the same entropy.
        first = tables(trl_runs[name])[1]["completion"]
        assert first.equals(tables(trl_runs["fresh"])[1]["completion"])
        entropy = logged(trl_runs["fresh"], "entropy")[1]
        assert logged(trl_runs[name], "entropy")[1] == pytest.approx(entropy, rel=1e-4)
        assert logged(trl_runs[name], "kl")[1] > 1

    @pytest.mark.parametrize(
        ("name", "setting"),
        [
            ("fresh", {}),
            ("pissa", {"init_lora_weights": "pissa"}),
            ("olora", {"init_lora_weights": "olora"}),
            ("dora", {"use_dora": True}),
            ("rslora", {"use_rslora": True}),
            ("bias", {"bias": "lora_only"}),
        ],
    )
    def test_the_configuration_says_which_kind_it_is(self, trl_runs, name, setting):
        plain = {"init_lora_weights": True, "use_dora": False, "use_rslora": False, "bias": "none"}
        for path in checkpoints(trl_runs[name]).values():
            config = json.loads((path / "adapter_config.json").read_bytes())
            assert config | plain | setting == config
            assert (config["r"], config["lora_alpha"]) == (4, 8)

    def test_the_files_hold_these_tensors_beside_a_and_b(self, trl_runs):
        beside = {}
        for name, run in trl_runs.items():
            weights = load_file(checkpoints(run)[1] / "adapter_model.safetensors")
            beside[name] = {
                key.partition("_proj.")[2]
                for key in weights
                if ".lora_A." not in key and ".lora_B." not in key
            }
        expected: dict[str, set[str]] = {name: set() for name in FILES}
        expected["dora"] = {"lora_magnitude_vector"}
        expected["bias"] = {"base_layer.bias"}  # of the base, in the adapter's file
        assert beside == expected

    def test_the_trainer_saves_the_last_adapter_beside_the_checkpoints_when_asked(self, trl_runs):
        assert {name for name, r in trl_runs.items() if (r / "adapter_config.json").exists()} == {
            "hot"
        }
        own = (trl_runs["hot"] / "adapter_model.safetensors").read_bytes()
        for path in checkpoints(trl_runs["hot"]).values():
            assert own != (path / "adapter_model.safetensors").read_bytes()


def plain_entropy(
    base: str, adapter: Path | None, table: pd.DataFrame, temperature: float
) -> float:
    """Mean entropy of the completions' tokens, nats, by transformers and PEFT alone."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    total, count = 0.0, 0
    for prompt, completion in zip(table["prompt"], table["arca_completion_ids"], strict=True):
        ids = tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *completion]])).logits[0, len(ids) - 1 : -1]
        logp = (logits.double() / temperature).log_softmax(-1)
        total -= float((logp.exp() * logp).sum())
        count += len(completion)
    return total / count


class TestWhoSampledAFile:
    @pytest.mark.parametrize(
        "name", ["fresh", "continued", "pissa", "olora", "dora", "rslora", "bias", "hot"]
    )
    def test_file_k_has_the_entropy_that_was_logged_for_step_k_under_checkpoint_k_less_1(
        self, trl_runs, name
    ):
        run, temperature = trl_runs[name], 0.7 if name == "hot" else 1.0
        config = json.loads((run / "checkpoint-2" / "adapter_config.json").read_bytes())
        base, entropies = config["base_model_name_or_path"], logged(run, "entropy")
        table = tables(run)[3]

        def entropy(step: int) -> float:
            return plain_entropy(base, checkpoints(run)[step], table, temperature)

        assert entropy(2) == pytest.approx(entropies[3], rel=1e-4)
        for other in (1, 3):
            assert entropy(other) != pytest.approx(entropies[3], rel=1e-3)

    def test_the_first_file_is_the_bases(self, trl_runs):
        run = trl_runs["fresh"]
        found = plain_entropy(str(TINY / "base"), None, tables(run)[1], 1.0)
        assert found == pytest.approx(logged(run, "entropy")[1], rel=1e-4)


def kept(
    steps: int,
    *,
    uses: int = 1,
    log: int = 1,
    evaluate: int | None = None,
    delay: int = 0,
    on_start: bool = False,
    rows: int = 0,
) -> dict[int, list[int]]:
    """File -> the step at which each of its rows was sampled, as TRL's code has it.

    One queue of the last `BATCH` completions, of training and of evaluation alike, is written
    out by every log entry, by every evaluation and by the summary, under the step at that time.

    Args:
        steps: Optimizer steps.
        uses: Steps that each batch is used for.
        log: Steps between log entries.
        evaluate: Steps between evaluations; the last step is evaluated too.
        delay: Steps before the first of them.
        on_start: Whether there is an evaluation before the first step.
        rows: Completions of an evaluation.
    """
    queue: deque[int] = deque(maxlen=BATCH)
    files = {}
    if on_start:
        queue.extend([0] * rows)
        files[0] = list(queue)
    for step in range(1, steps + 1):
        if (step - 1) % uses == 0:
            queue.extend([step - 1] * BATCH)
        if step % log == 0 or step == steps:
            files[step] = list(queue)
        if evaluate and step >= delay and (step % evaluate == 0 or step == steps):
            queue.extend([step] * rows)
            files[step] = list(queue)
    return files


def evaluation_files(run: Path, *, recorded: bool) -> set[int]:
    """The files with completions of an evaluation, told by the run's files alone.

    A file is one if the log has an entry of an evaluation of its step; if no state that lies
    there reaches its step and the schedule asks for an evaluation; if a row was sampled after as
    many steps as the file's; or if it repeats such a file.

    Args:
        run: The run's folder.
        recorded: Whether to look at the recorder's columns.
    """
    newest, settings = state(run), arguments(run)
    told = {
        row["step"]
        for row in newest["log_history"]
        if "learning_rate" not in row and any(key.startswith("eval_") for key in row)
    }
    found, contents = set(), set()
    for number, table in tables(run).items():
        scheduled = (
            number > newest["global_step"]
            and settings["eval_strategy"] == "steps"
            and (number % newest["eval_steps"] == 0 or number == newest["max_steps"])
        )
        later = recorded and (table.get("arca_gen_step", -1) >= table["step"]).any()
        content = table[["prompt", "completion", "advantage"]].to_json()
        if number in told or scheduled or later or content in contents:
            found.add(number)
            contents.add(content)
    return found


class TestEvaluations:
    def test_these_files_hold_rows_of_the_evaluation_prompts(self, trl_runs):
        for name, (_, evaluated) in FILES.items():
            found = {
                number
                for number, table in tables(trl_runs[name]).items()
                if table["prompt"].isin(EVALUATION_PROMPTS).any()
            }
            assert found == set(evaluated), name

    def test_more_than_the_trainer_keeps_leave_no_row_of_training(self, trl_runs):
        for number in (4, 5):
            table = tables(trl_runs["evaluated"])[number]
            assert set(table["prompt"]) <= EVALUATION_PROMPTS
            assert len(table) == BATCH  # of twelve: the first prompt's are lost

    def test_fewer_stand_behind_what_is_left_of_a_batch_whose_first_group_is_torn(self, trl_runs):
        table = tables(trl_runs["evaluated-mixed"])[3]
        prompts = table["prompt"].tolist()
        assert [prompts.count(p) for p in dict.fromkeys(prompts)] == [2, GROUP, 2]
        assert set(prompts[-2:]) <= EVALUATION_PROMPTS
        assert not set(prompts[:-2]) & EVALUATION_PROMPTS
        # The one before the first step has nothing before it.
        assert len(tables(trl_runs["evaluated-mixed"])[0]) == 2

    def test_what_an_evaluation_left_is_written_again_under_a_step_without_one(self, trl_runs):
        files = tables(trl_runs["evaluated-reused"])
        assert files[4].drop(columns="step").equals(files[3].drop(columns="step"))
        assert 4 not in logged(trl_runs["evaluated-reused"], "eval_loss")

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("fresh", kept(4)),
            ("reused", kept(5, uses=2)),
            ("accumulated", kept(5, uses=2)),
            ("sparse", kept(5, log=2)),
            ("evaluated", kept(5, evaluate=2, delay=3, rows=12)),
            ("evaluated-mixed", kept(7, log=2, evaluate=3, on_start=True, rows=2)),
            ("evaluated-reused", kept(6, uses=2, evaluate=3, rows=4)),
        ],
    )
    def test_every_row_comes_from_the_one_queue(self, trl_runs, name, expected):
        found = {k: t["arca_gen_step"].tolist() for k, t in tables(trl_runs[name]).items()}
        assert found == expected

    def test_only_an_evaluated_row_is_sampled_after_as_many_steps_as_its_file_says(self, trl_runs):
        for name, run in trl_runs.items():
            for number, table in tables(run).items():
                if "arca_gen_step" in table and (name, number) != ("evaluated-reused", 4):
                    evaluated = table["prompt"].isin(EVALUATION_PROMPTS)
                    assert (evaluated == (table["arca_gen_step"] == number)).all(), (name, number)

    def test_the_log_tells_of_an_evaluation_and_how_many_prompts_it_had(self, trl_runs):
        expected = {"evaluated": {4: 3}, "evaluated-mixed": {0: 1, 3: 1, 6: 1, 7: 1}}
        for name, prompts in expected.items():
            seconds = logged(trl_runs[name], "eval_runtime")
            rate = logged(trl_runs[name], "eval_samples_per_second")
            assert {k: round(seconds[k] * rate[k]) for k in seconds} == prompts

    def test_the_trainers_arguments_tell_the_schedule_and_the_state_the_steps(self, trl_runs):
        for name, run in trl_runs.items():
            scheduled = FILES[name][1] != () and name != "evaluated-after"
            assert arguments(run)["eval_strategy"] == ("steps" if scheduled else "no"), name
        assert state(trl_runs["evaluated"])["eval_steps"] == 2
        assert state(trl_runs["fresh"])["eval_steps"] == 500  # a default that means nothing
        assert arguments(trl_runs["evaluated-mixed"])["num_generations_eval"] == 2
        assert "num_generations_eval" not in arguments(trl_runs["evaluated"])  # was None

    def test_the_rule_finds_them_and_no_other(self, trl_runs):
        found = {name: evaluation_files(run, recorded=True) for name, run in trl_runs.items()}
        assert found == {name: set(evaluated) for name, (_, evaluated) in FILES.items()}

    def test_without_a_recorder_one_escapes_that_no_file_tells_of(self, trl_runs):
        found = {name: evaluation_files(run, recorded=False) for name, run in trl_runs.items()}
        truth = {name: set(evaluated) for name, (_, evaluated) in FILES.items()}
        assert found == truth | {"evaluated-after": set()}

    @pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
    @pytest.mark.parametrize("recorded", [True, False])
    def test_the_rule_finds_none_in_the_samples(self, sample, recorded):
        assert len(tables(sample)) > 10
        assert evaluation_files(sample, recorded=recorded) == set()

    def test_the_logged_mean_reward_is_that_of_a_file_of_training_only(self, trl_runs):
        # One batch a step and an entry of each step, so file and entry are of the same rows.
        for name, (numbers, evaluated) in FILES.items():
            means = logged(trl_runs[name], "rewards/odd_digits/mean")
            if arguments(trl_runs[name])["logging_steps"] > 1:
                continue
            for number in set(numbers) & set(means):
                mean = tables(trl_runs[name])[number]["odd_digits"].mean()
                same = math.isclose(mean, means[number], rel_tol=1e-5)
                assert same == (number not in evaluated), (name, number)


class TestTheReader:
    def test_the_run_is_recognised_with_its_checkpoints_and_arguments(self, trl_runs):
        run = find_run(trl_runs["fresh"])
        assert run.framework == "trl"
        assert run.steps == 4
        assert run.logging_steps == 1
        assert [c.step for c in run.checkpoints] == [1, 2, 3]
        assert set(run.reward_columns) == {"odd_digits", "arca_recorder"}
        assert run.training_args_source == "checkpoint-3/training_args.bin"
        expected = {
            "temperature": 1.0,
            "beta": 0.0,
            "num_generations": GROUP,
            "num_iterations": 1,
            "steps_per_generation": 1,
            "generation_batch_size": BATCH,
            "max_completion_length": 20,
            "loss_type": "dapo",
            "scale_rewards": "group",
            "eval_strategy": "no",
            "logging_strategy": "steps",
            "seed": 0,
        }
        assert run.training_args | expected == run.training_args

    def test_the_arguments_that_matter_are_read_from_each_run(self, trl_runs):
        def read(name: str, key: str) -> Any:
            return find_run(trl_runs[name]).training_args[key]

        assert read("hot", "temperature") == 0.7
        assert read("continued", "beta") == 0.05
        assert read("reused", "num_iterations") == 2
        assert read("accumulated", "steps_per_generation") == 2
        assert read("sparse", "logging_steps") == 2

    def test_neither_the_reference_nor_the_last_adapter_is_a_checkpoint(self, trl_runs):
        for name in ("continued", "hot"):
            assert [c.step for c in find_run(trl_runs[name]).checkpoints] == [1, 2, 3]
