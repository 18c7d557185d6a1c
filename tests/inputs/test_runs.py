import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.runs import Refused, find_run, select_checkpoints
from tests.inputs import SAMPLE, a_run, checkpoint, edit_json, write_adapter, write_torch_pickle


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Three checkpoints, made in an order that is neither that of steps nor that of names."""
    for step in (20, 100, 3):
        write_adapter(tmp_path / "run" / f"checkpoint-{step}")
    return tmp_path / "run"


def steps(found) -> list[int | None]:
    return [c.step for c in found.checkpoints]


class TestWhatThePathMeans:
    def test_a_run_has_its_checkpoints_by_step_not_by_name(self, run_folder):
        found = find_run(run_folder)
        assert steps(found) == [3, 20, 100]
        assert [c.name for c in found.checkpoints][-1] == "checkpoint-100"
        assert found.named is None
        assert found.root == run_folder.resolve()

    def test_one_checkpoint_of_a_run_is_the_run_with_that_checkpoint_named(self, run_folder):
        found = find_run(run_folder / "checkpoint-20")
        assert found.root == run_folder.resolve()
        assert steps(found) == [3, 20, 100]
        assert found.named is not None
        assert found.named.step == 20

    @pytest.mark.parametrize("sign", ["completions", "trainer_state.json"])
    def test_a_lone_checkpoint_beside_what_a_trainer_leaves_is_part_of_a_run(self, tmp_path, sign):
        write_adapter(tmp_path / "run" / "checkpoint-60")
        if sign == "completions":
            (tmp_path / "run" / sign).mkdir()
        else:
            (tmp_path / "run" / sign).write_text("{}")
        assert find_run(tmp_path / "run" / "checkpoint-60").root == (tmp_path / "run").resolve()

    def test_a_lone_checkpoint_among_downloads_is_a_run_of_its_own(self, tmp_path):
        write_adapter(tmp_path / "downloads" / "checkpoint-60")
        (tmp_path / "downloads" / "film.mkv").touch()
        found = find_run(tmp_path / "downloads" / "checkpoint-60")
        assert found.root.name == "checkpoint-60"
        assert steps(found) == [60]
        assert found.named == found.checkpoints[0]

    def test_a_bare_adapter_is_a_run_with_one_checkpoint_without_a_step(self, tmp_path):
        write_adapter(tmp_path / "my-lora")
        found = find_run(tmp_path / "my-lora")
        assert found.named == found.checkpoints[0]
        assert found.named.step is None
        assert found.named.label == "my-lora"
        assert found.framework == "unknown"

    def test_a_checkpoints_label_is_its_step(self):
        assert checkpoint(60).label == 60

    def test_a_trailing_slash_or_dots_in_the_path_change_nothing(self, run_folder):
        assert find_run(run_folder / "checkpoint-3" / "..").root == run_folder.resolve()

    def test_checkpoints_inside_count_before_an_adapter_beside_them(self, run_folder):
        write_adapter(run_folder)  # what save_model() leaves at the end
        assert steps(find_run(run_folder)) == [3, 20, 100]

    def test_only_folders_named_checkpoint_and_a_number_are_checkpoints(self, run_folder):
        for name in ("ref", "checkpoint-best", "checkpoint-7-old", "old-checkpoint-7"):
            write_adapter(run_folder / name)
        (run_folder / "checkpoint-8").touch()
        assert steps(find_run(run_folder)) == [3, 20, 100]

    def test_a_half_written_adapter_folder_is_still_recognised(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "adapter_config.json").write_text("{")
        assert find_run(tmp_path / "a").named is not None

    def test_no_such_path_is_refused(self, tmp_path):
        with pytest.raises(ArcaError, match=r"nowhere: no such path"):
            find_run(tmp_path / "nowhere")

    def test_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ArcaError, match=r"file: not a directory"):
            find_run(tmp_path / "file")

    @pytest.mark.parametrize("wrong", ["rum", "rn/checkpoint-3", "run/chekpoint-20"])
    def test_a_misspelt_path_names_what_may_be_meant(self, run_folder, wrong):
        with pytest.raises(ArcaError, match="no such path") as caught:
            find_run(run_folder.parent / wrong)
        meant = "checkpoint-20" if "20" in wrong else "run"
        assert caught.value.hint.endswith(f"{meant}?")

    def test_a_folder_that_holds_a_run_names_it(self, run_folder):
        with pytest.raises(ArcaError, match="no LoRA adapter here") as caught:
            find_run(run_folder.parent)
        assert caught.value.hint == f"did you mean {run_folder.resolve()}?"

    def test_a_folder_without_an_adapter_is_refused(self, tmp_path):
        with pytest.raises(ArcaError, match="no LoRA adapter here") as caught:
            find_run(tmp_path)
        assert "adapter_config.json" in caught.value.hint


class TestWhichCheckpoints:
    RUN = a_run(checkpoints=(checkpoint(3), checkpoint(20), checkpoint(100)))

    @pytest.mark.parametrize(
        ("wanted", "chosen"),
        [
            ("all", [3, 20, 100]),
            ("last", [100]),
            ("20", [20]),
            ("100,3", [3, 100]),
            (" 3 , 20 ", [3, 20]),
            ("20,20", [20]),
            ("checkpoint-20,3", [3, 20]),
        ],
    )
    def test_they_come_in_step_order_however_they_are_asked_for(self, wanted, chosen):
        assert [c.step for c in select_checkpoints(self.RUN, wanted)] == chosen

    @pytest.mark.parametrize("wanted", ["99", "3,99", "2", "first", "-3"])
    def test_one_that_is_not_there_is_refused_with_those_that_are(self, wanted):
        missing = wanted.removeprefix("3,")
        with pytest.raises(
            CheckpointError, match=rf"no checkpoint {missing} in run; there are: 3, 20, 100"
        ):
            select_checkpoints(self.RUN, wanted)

    @pytest.mark.parametrize(
        ("wanted", "meant"),
        [
            ("22", 20),
            ("002", 3),
            ("checkpoint-99", 100),
            ("60,3", 20),
            ("chekpoint-21", 20),
            ("first", 100),
            ("9" * 30, 100),
        ],
    )
    def test_the_nearest_one_is_suggested(self, wanted, meant):
        with pytest.raises(CheckpointError) as caught:
            select_checkpoints(self.RUN, wanted)
        assert caught.value.hint == f"for example --checkpoints {meant}"

    def test_one_that_cannot_be_used_says_why(self):
        bad = Refused(name="checkpoint-7", step=7, path=Path("x"), reason="shards", hint="merge")
        run = a_run(checkpoints=self.RUN.checkpoints, refused=(bad,))
        for wanted in ("7", "3,checkpoint-7"):
            with pytest.raises(CheckpointError, match="checkpoint-7: shards") as caught:
                select_checkpoints(run, wanted)
            assert caught.value.hint == "merge"

    def test_every_missing_one_is_named(self):
        with pytest.raises(CheckpointError, match="no checkpoint 98, 99 in"):
            select_checkpoints(self.RUN, "98,3,99")

    def test_a_path_to_a_checkpoint_stands_for_it_unless_steps_are_given(self):
        run = a_run(checkpoints=self.RUN.checkpoints, named=self.RUN.checkpoints[1])
        assert [c.step for c in select_checkpoints(run, "all")] == [20]
        assert [c.step for c in select_checkpoints(run, "3")] == [3]

    def test_a_bare_adapter_can_be_asked_for_by_name(self):
        bare = checkpoint(None, "my-lora")
        run = a_run(checkpoints=(bare,), named=bare)
        assert select_checkpoints(run, "my-lora") == (bare,)


class TestWhatTheTrainerSays:
    def test_the_sample_says_what_replay_needs(self):
        found = find_run(SAMPLE)
        assert found.framework == "trl"
        assert found.steps == 101
        assert found.logging_steps == 1
        assert found.training_args["num_generations"] == 16
        assert found.training_args_source == "checkpoint-100/training_args.bin"
        assert set(found.reward_columns) == {"exact_match", "arca_recorder"}
        assert found.completions == SAMPLE / "completions"

    def test_arguments_at_the_root_count_before_those_of_a_checkpoint(self, run_folder):
        for place, value in (("", 0.7), ("checkpoint-100", 0.8), ("checkpoint-3", 0.9)):
            write_torch_pickle(run_folder / place / "training_args.bin", Arguments(value))
        found = find_run(run_folder)
        assert found.training_args == {"temperature": 0.7}
        assert found.training_args_source == "training_args.bin"

    def test_else_those_of_the_last_checkpoint_that_has_them(self, run_folder):
        write_torch_pickle(run_folder / "checkpoint-20" / "training_args.bin", Arguments(0.8))
        write_torch_pickle(run_folder / "checkpoint-3" / "training_args.bin", Arguments(0.9))
        assert find_run(run_folder).training_args == {"temperature": 0.8}

    def test_without_any_file_there_are_no_facts(self, run_folder):
        found = find_run(run_folder)
        assert found.training_args == {}
        assert found.training_args_source == ""
        assert found.steps == 100  # the last checkpoint's
        assert found.logging_steps is None
        assert found.reward_columns == ()
        assert found.completions is None
        assert found.framework == "unknown"

    def test_the_runs_length_is_the_largest_that_anything_says(self, run_folder):
        (run_folder / "trainer_state.json").write_text('{"max_steps": 40, "global_step": 30}')
        assert find_run(run_folder).steps == 100
        edit_json(run_folder / "trainer_state.json", max_steps=400)
        assert find_run(run_folder).steps == 400

    def test_a_checkpoints_state_serves_where_the_run_has_none(self, run_folder):
        (run_folder / "checkpoint-20" / "trainer_state.json").write_text(
            '{"logging_steps": 5, "log_history": [{"rewards/a/mean": 1}, {"rewards/b/mean": 1}]}'
        )
        found = find_run(run_folder)
        assert found.logging_steps == 5
        assert found.reward_columns == ("a", "b")

    @pytest.mark.parametrize(
        "damaged",
        [
            b"",
            b'{"max_steps": 4',
            b"[1, 2]",
            b"\xff\xfe\x00",
            b"[" * 200_000,
            b'{"log_history": 5}',
            b'{"log_history": null}',
            b'{"log_history": [5, "x", null]}',
            b'{"logging_steps": Infinity, "max_steps": NaN}',
            b'{"logging_steps": "5", "max_steps": "x", "global_step": -1}',
        ],
        ids=lambda b: repr(b[:30]),
    )
    def test_a_damaged_state_is_ignored(self, run_folder, damaged):
        (run_folder / "trainer_state.json").write_bytes(damaged)
        found = find_run(run_folder)
        assert steps(found) == [3, 20, 100]
        assert found.steps == 100
        assert found.logging_steps is None

    def test_ratios_of_logging_steps_are_no_steps(self, run_folder):
        (run_folder / "trainer_state.json").write_text('{"logging_steps": 0.1}')
        assert find_run(run_folder).logging_steps is None

    def test_a_completions_folder_is_found_whatever_it_holds(self, run_folder):
        (run_folder / "completions").mkdir()
        found = find_run(run_folder)
        assert found.completions == run_folder.resolve() / "completions"
        assert found.framework == "unknown"
        shutil.copy(next((SAMPLE / "completions").iterdir()), found.completions)
        assert find_run(run_folder).framework == "trl"


CARD = """
## Training procedure

- TRL: 1.16.0
- Transformers: 5.23.0
"""


class TestWhoLeftIt:
    @pytest.mark.parametrize(
        ("files", "framework", "version", "evidence"),
        [
            ({"README.md": CARD}, "trl", "1.16.0", "README.md"),
            ({"README.md": "- TRL: <b>1</b>\n"}, "unknown", None, "checkpoint-* folders"),
            ({"trainer_state.json": '{"max_steps": 5}'}, "hf-trainer", None, "trainer_state.json"),
            ({"trainer_log.jsonl": ""}, "llama-factory", None, "trainer_log.jsonl"),
            (
                {"README.md": CARD + "\naxolotl version: `0.19.0`\n```yaml"},
                "axolotl",
                "0.19.0",
                "README.md",
            ),
            (
                {"checkpoint-20/args.json": '{"swift_version": "4.6.0"}'},
                "ms-swift",
                "4.6.0",
                "args.json",
            ),
            (
                {"args.json": "{}", "completions.jsonl": ""},
                "ms-swift",
                None,
                "args.json and completions.jsonl",
            ),
            (
                {"checkpoint-20/adapter_config.json": '{"auto_mapping": {"unsloth_fixed": true}}'},
                "unsloth",
                None,
                "auto_mapping.unsloth_fixed",
            ),
            (
                {"checkpoint-20/adapter_config.json": '{"auto_mapping": [1]}'},
                "unknown",
                None,
                "checkpoint-* folders",
            ),
        ],
    )
    def test_its_files_say(self, run_folder, files, framework, version, evidence):
        for name, text in files.items():
            (run_folder / name).write_text(text)
        found = find_run(run_folder)
        assert (found.framework, found.framework_version) == (framework, version)
        assert found.recognised_by.endswith(evidence) or evidence in found.recognised_by

    @pytest.mark.parametrize(
        ("name", "file", "framework"),
        [
            ("out_checkpoints", "x", "open-instruct"),
            ("out", "a_rollouts_000000.jsonl", "open-instruct"),
            ("out", "x", "unknown"),
        ],
    )
    def test_steps_alone_say_nothing(self, tmp_path, name, file, framework):
        for step in (3, 5):
            write_adapter(tmp_path / name / f"step_{step}")
        (tmp_path / name / file).touch()
        assert find_run(tmp_path / name).framework == framework

    @pytest.mark.parametrize(
        ("folder", "framework"),
        [
            ("global_step_3/actor/lora_adapter", "verl"),
            ("weights/step_3", "prime-rl"),
            ("global_step3_hf", "openrlhf"),
            ("step_3/policy", "nemo-rl"),
        ],
    )
    def test_the_layout_says(self, tmp_path, folder, framework):
        write_adapter(tmp_path / "run" / folder)
        assert find_run(tmp_path / "run").framework == framework

    def test_the_samples_version_is_in_its_card(self, tmp_path):
        assert find_run(SAMPLE).framework_version == "1.16.0"
        assert "completions_*.parquet" in find_run(SAMPLE).recognised_by


class TestArgumentsOfOthers:
    def test_ms_swift_writes_them_as_json_and_no_credential_is_taken(self, run_folder):
        (run_folder / "checkpoint-20" / "args.json").write_text(
            json.dumps(
                {"temperature": 0.9, "beta": None, "hub_token": "x", "top_entropy_quantile": 0.2}
            )
        )
        found = find_run(run_folder)
        assert found.training_args == {"temperature": 0.9, "top_entropy_quantile": 0.2}
        assert found.training_args_source == "checkpoint-20/args.json"

    def test_ms_swift_says_which_adapter_the_policy_was_held_to(self, run_folder):
        (run_folder / "args.json").write_text(json.dumps({"ref_adapters": ["/x/sft"], "beta": 0.1}))
        assert find_run(run_folder).training_args == {"ref_adapters": ["/x/sft"], "beta": 0.1}

    def test_llama_factory_says_which_adapters_it_merged(self, run_folder):
        (run_folder / "training_args.yaml").write_text(
            "adapter_name_or_path: saves/one,saves/two\ncreate_new_adapter: true\n"
            "ref_model: [1]\nhub_token: secret\n"
        )
        said = {"adapter_name_or_path": "saves/one,saves/two", "create_new_adapter": True}
        found = find_run(run_folder)
        assert found.training_args == said
        assert found.training_args_source == "training_args.yaml"
        write_torch_pickle(run_folder / "training_args.bin", Arguments(0.7))
        found = find_run(run_folder)
        assert found.training_args == said | {"temperature": 0.7}
        assert found.training_args_source == "training_args.bin"

    def test_nemo_rl_writes_yaml(self, tmp_path):
        write_adapter(tmp_path / "step_3" / "policy")
        (tmp_path / "step_3" / "config.yaml").write_text(
            "a: &a {b: 1}\nc: {<<: *a}\n"
            "grpo:\n  num_generations_per_prompt: 16\n  max_num_steps: x\n"
            "policy:\n  generation:\n    temperature: 0.8\n    max_new_tokens: 512\n"
            "loss_fn: {reference_policy_kl_penalty: 1e-2}\n"
        )
        found = find_run(tmp_path)
        assert found.training_args == {
            "temperature": 0.8, "max_completion_length": 512, "num_generations": 16, "beta": 0.01,
        }  # fmt: skip
        assert found.training_args_source == "step_3/config.yaml"

    def test_prime_rl_writes_toml(self, tmp_path):
        write_adapter(tmp_path / "broadcasts" / "step_3")
        (tmp_path / "broadcasts" / "step_3" / "STABLE").touch()
        (tmp_path / "configs").mkdir()
        (tmp_path / "configs" / "orchestrator.toml").write_text(
            "rollouts_per_example = 8\n[sampling]\nmax_tokens = 64\n[train.sampling]\n"
            "temperature = 0.5\nmax_completion_tokens = 32\n"
        )
        found = find_run(tmp_path)
        assert found.training_args == {
            "temperature": 0.5, "max_completion_length": 32, "num_generations": 8,
        }  # fmt: skip
        assert found.training_args_source == "configs/orchestrator.toml"

    @pytest.mark.parametrize(
        "name", ["args.json", "config.yaml", "training_args.yaml", "configs/orchestrator.toml"]
    )
    @pytest.mark.parametrize(
        "damaged",
        [
            b"",
            b"[",
            b"[" * 60_000,
            b"\xff\xfe\x00",
            b"a: *b",
            b"- 1",
            b"policy: 5",
            b"sampling = 5",
            b'{"temperature": ' + b"9" * 400 + b"}",
            b'{"temperature": 0.9}' + b" " * (17 * 2**20),
        ],
        ids=lambda b: repr(b[:20]),
    )
    def test_damaged_ones_say_nothing(self, run_folder, name, damaged):
        (run_folder / "configs").mkdir()
        (run_folder / name).write_bytes(damaged)
        found = find_run(run_folder)
        assert found.training_args == {}
        assert found.training_args_source == ""

    def test_a_file_that_leads_out_of_the_run_is_not_read(self, run_folder, tmp_path):
        (tmp_path / "secret.json").write_text('{"temperature": 0.9}')
        (run_folder / "args.json").symlink_to(tmp_path / "secret.json")
        assert find_run(run_folder).training_args == {}

    def test_a_number_beyond_all_bounds_is_left_out(self, run_folder):
        write_torch_pickle(run_folder / "training_args.bin", Arguments(10**400))
        assert find_run(run_folder).training_args == {}


class TestTheLog:
    def test_the_newest_state_counts_wherever_it_lies(self, run_folder):
        for place, step in (("", 20), ("checkpoint-3", 3), ("checkpoint-100", 100)):
            log = [{"step": n, "of": step} for n in (2, 1)]
            (run_folder / place / "trainer_state.json").write_text(
                json.dumps({"global_step": step, "logging_steps": step, "log_history": log})
            )
        found = find_run(run_folder)
        assert found.log == ({"step": 1, "of": 100}, {"step": 2, "of": 100})
        assert found.logging_steps == 100

    def test_a_damaged_newest_state_gives_way(self, run_folder):
        (run_folder / "checkpoint-100" / "trainer_state.json").write_text("{")
        (run_folder / "checkpoint-20" / "trainer_state.json").write_text(
            '{"global_step": 20, "log_history": [{"step": 1}, 5, null]}'
        )
        assert find_run(run_folder).log == ({"step": 1},)

    def test_rows_of_odd_types_do_no_harm(self, run_folder):
        rows = [{"step": s} for s in (None, "x", [1], 10**400, True, -5, 1.5, 7)]
        (run_folder / "trainer_state.json").write_text(
            json.dumps({"global_step": 10**400, "max_steps": True, "log_history": rows})
        )
        found = find_run(run_folder)
        assert len(found.log) == 8
        assert found.log[-1] == {"step": 7}
        assert found.steps == 100


def test_it_takes_no_time_and_no_model_library():
    started = time.perf_counter()
    code = (
        "import sys; from pathlib import Path; from arca_diag.inputs.runs import find_run; "
        f"import arca_diag.inputs.trends as t; t.log_trends(find_run(Path({str(SAMPLE)!r}))); "
        "print([m for m in ('torch', 'transformers', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - started < 10


class Arguments:
    """Pickled as a trainer's arguments are: an object with fields."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
