"""Bad input through the command line: exit 2, what and where and what to do, nothing written."""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import transformers
from huggingface_hub import constants as hub
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from arca_diag import store
from arca_diag.cli import app
from arca_diag.config import resolve
from arca_diag.pipeline import diagnose
from arca_diag.results import published_schema
from tests.conftest import UNRENDERED
from tests.inputs import (
    SAMPLE,
    edit_json,
    record,
    recorded,
    sample_copy,
    write_jsonl,
    write_parquet,
)

FEW = ("--groups", "1", "--fixed-groups", "1")
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No cache, configuration or settings of this machine; and what a command sets is undone."""
    for key in [key for key in os.environ if key.startswith("ARCA_DIAG_")]:
        monkeypatch.delenv(key)
    # A process of its own sets these before it imports the libraries; here they are loaded.
    for key in ("TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        monkeypatch.setenv(key, "error" if key == "TRANSFORMERS_VERBOSITY" else "1")
    transformers.utils.logging.disable_progress_bar()
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    threads, logger = torch.get_num_threads(), logging.getLogger("arca_diag")
    handlers, level = logger.handlers, logger.level
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logger.handlers, logger.level = handlers, level
    transformers.utils.logging.enable_progress_bar()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two checkpoints of the sample, to be spoilt."""
    return sample_copy(tmp_path)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a finished result in it; copied, never touched."""
    run = sample_copy(tmp_path_factory.mktemp("scanned"), checkpoints=(2,), tables=(3,))
    flags = {"run": run, "groups": 1, "fixed_groups": 1}
    diagnose(resolve(flags, environ=UNRENDERED, cwd=run.parent))
    return run


@pytest.fixture
def done(scanned: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    return shutil.copytree(scanned, tmp_path / scanned.name)


def scan(*arguments: Any, **env: str) -> Any:
    """`arca-diag scan` in this process."""
    return CliRunner().invoke(app, ["scan", *map(str, arguments)], env=env)


def scanned_json(run: Path) -> dict[str, Any]:
    """Scan a run that is good enough, and return its report."""
    result = scan(run, *FEW, "--json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def command(*arguments: Any, **how: Any) -> subprocess.Popen[str]:
    """`arca-diag` as a process of its own."""
    env = {"OMP_NUM_THREADS": "1"} | UNRENDERED | how.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "-m", "arca_diag", *map(str, arguments)],
        env={k: v for k, v in os.environ.items() if not k.startswith("ARCA_DIAG_")} | env,
        stderr=subprocess.PIPE,
        text=True,
        **({"stdout": subprocess.PIPE} | how),
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_refused(result: Any, says: str, do: str) -> None:
    """The contract of every error that a user can mend."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[-1].startswith("   do: ")
    assert says in result.stderr
    assert do in lines[-1]


def refused(run: Path, *arguments: Any, says: str, do: str = "", **env: str) -> str:
    """Scan, check the contract, and check that nothing was written."""
    before = contents(run) if run.is_dir() else {}
    result = scan(run, *FEW, *arguments, **env)
    check_refused(result, says, do)
    assert (contents(run) if run.is_dir() else {}) == before
    assert not (run / "arca-diag").exists()
    return result.stderr


class TestWhatIsNotThere:
    def test_the_run(self, tmp_path):
        refused(tmp_path / "gone", says="gone: no such path", do="output directory")

    def test_an_adapter(self, tmp_path):
        (tmp_path / "empty").mkdir()
        refused(tmp_path / "empty", says="empty: no LoRA adapter here", do="adapter_config.json")

    def test_rollouts(self, run):
        shutil.rmtree(run / "completions")
        message = refused(run, says="tiny-addition: no rollouts", do="log_completions=True")
        assert "arca_diag.trl.recorder()" in message

    def test_rollouts_in_their_folder(self, run):
        shutil.rmtree(run / "completions")
        (run / "completions").mkdir()
        refused(run, says="completions", do="log_completions=True")

    def test_rollouts_at_the_path_that_was_given(self, run):
        refused(run, "--rollouts", run / "no.jsonl", says="no.jsonl: no such path", do="file")

    def test_the_base_that_the_adapter_names(self, run):
        for step in (2, 20):
            edit_json(
                run / f"checkpoint-{step}" / "adapter_config.json",
                base_model_name_or_path="/gone/model",
            )
        message = refused(run, says="'/gone/model' (named by adapter_config.json)", do="--base")
        assert ".gguf" in message

    def test_a_hub_id_that_the_local_cache_does_not_have(self, run):
        refused(
            run,
            "--base",
            "some/model",
            says="'some/model' (named by --base)",
            do="--allow-download",
        )

    def test_a_checkpoint_that_was_asked_for(self, run):
        refused(
            run,
            "--checkpoints",
            "99",
            says="no checkpoint 99 in tiny-addition; there are: 2, 20",
            do="--checkpoints 20",
        )


class TestAdaptersThatCannotBeUsed:
    """One that was named, or is the only one; in both cases nothing is left to measure."""

    def spoil(self, run: Path, how: str) -> str:
        """Spoil checkpoint-20; return what must be said of it."""
        folder = run / "checkpoint-20"
        weights = folder / WEIGHTS
        if how == "truncated":
            weights.write_bytes(weights.read_bytes()[:50_000])
            return f"checkpoint-20/{WEIGHTS} cannot be read"
        if how == "corrupt":
            weights.write_bytes(b"\xff" * 50_000)
            return f"checkpoint-20/{WEIGHTS} cannot be read"
        if how == "pickled":
            weights.rename(folder / "adapter_model.bin")
            return "checkpoint-20/adapter_model.bin is a pickle, which can run code"
        if how == "half-written":
            weights.unlink()
            return f"checkpoint-20: {WEIGHTS} is missing"
        tensors = load_file(weights)
        name = sorted(tensors)[0]
        if how == "not finite":
            tensors[name][1, 2] = float("nan")
            save_file(tensors, weights)
            return f"checkpoint-20: tensor {name} holds NaN or infinity in 1 of "
        assert how == "for another base"
        save_file(tensors | {name: torch.zeros(4, 64)}, weights)
        return (
            f"checkpoint-20 was made for another base: tensor {name} has shape [4, 64], and the "
            "base's layer model.layers.0.mlp.down_proj has shape [96, 256]"
        )

    HOW = ("truncated", "corrupt", "pickled", "half-written", "not finite", "for another base")

    @pytest.mark.parametrize("how", HOW)
    def test_the_only_one(self, run, how):
        shutil.rmtree(run / "checkpoint-2")
        refused(run, says=self.spoil(run, how))

    @pytest.mark.parametrize("how", ["truncated", "for another base"])
    def test_one_that_was_named(self, run, how):
        refused(run, "--checkpoints", "20", says=self.spoil(run, how))

    def test_one_that_was_named_among_others(self, run):
        refused(run, "--checkpoints", "2,20", says=self.spoil(run, "corrupt"))

    def test_one_that_was_named_by_its_path(self, run):
        says = self.spoil(run, "truncated")
        check_refused(scan(run / "checkpoint-20", *FEW), says, "copy or save it again")
        assert not (run / "arca-diag").exists()
        assert not (run / "checkpoint-20" / "arca-diag").exists()

    def test_the_last_when_the_last_was_asked_for(self, run):
        refused(run, "--checkpoints", "last", says=self.spoil(run, "half-written"))

    def test_all_of_several(self, run):
        (run / "checkpoint-2" / WEIGHTS).unlink()
        self.spoil(run, "truncated")
        refused(run, says="checkpoint-2: ")

    @pytest.mark.parametrize("how", ["truncated", "for another base"])
    def test_one_of_several_is_a_finding_and_the_others_are_measured(self, run, how):
        says = self.spoil(run, how)
        report = scanned_json(run)
        self.check(report, unreadable=20, measured=2, says=says)

    def test_one_that_no_other_shares_its_rollouts_with(self, run):
        """The first is spoilt, and its own set lies far from the others'."""
        shutil.copytree(SAMPLE / "checkpoint-40", run / "checkpoint-40")
        tensors = load_file(run / "checkpoint-2" / WEIGHTS)
        tensors[sorted(tensors)[0]] = torch.zeros(4, 64)
        save_file(tensors, run / "checkpoint-2" / WEIGHTS)
        report = scanned_json(run)
        self.check(report, unreadable=2, measured=20, says="checkpoint-2 was made for another base")

    def test_one_that_vanishes_while_the_scan_runs_is_still_measured(self, run, tmp_path):
        class Vandal:
            """Hears of progress, and deletes a checkpoint when its adapter was read."""

            def stage(self, name: str) -> None:
                if name == "loading the base model":
                    shutil.rmtree(run / "checkpoint-20")

            def start(self, total: int, unit: str) -> None: ...

            def advance(self, done: int) -> None: ...

            def reused(self, done: int) -> None: ...

        flags = {"run": run, "groups": 1, "fixed_groups": 1}
        report = diagnose(resolve(flags, environ=UNRENDERED, cwd=tmp_path), Vandal()).report
        assert not (run / "checkpoint-20").exists()
        assert {m.checkpoint for m in report.measurements if m.value is not None} == {2, 20}

    def check(self, report: dict[str, Any], unreadable: int, measured: int, says: str) -> None:
        finding = next(f for f in report["findings"] if f["id"] == "checkpoint-unreadable")
        assert finding["checkpoint"] == unreadable
        assert finding["level"] == "error"
        assert says in finding["message"]
        assert finding["action"]
        with_values = {m["checkpoint"] for m in report["measurements"] if m["value"] is not None}
        assert measured in with_values
        assert unreadable not in with_values
        listed = {c["step"]: c["measured"] for c in report["run"]["checkpoints"]}
        assert listed[unreadable] is False
        assert listed[measured] is True


class TestTheBase:
    def test_truncated_weights(self, run):
        weights = run / "base" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100_000])
        refused(run, says="base model 'tiny-addition/base' cannot be loaded", do="--base")

    def test_pickled_weights(self, run):
        (run / "base" / "model.safetensors").rename(run / "base" / "pytorch_model.bin")
        refused(run, says="has no safetensors weights", do="save_pretrained")

    def test_a_damaged_configuration(self, run):
        (run / "base" / "config.json").write_text("{")
        message = scan(run, *FEW)
        assert message.exit_code == 2
        assert "config.json is not valid" in message.stderr
        assert not (run / "arca-diag").exists()

    def test_a_damaged_tokenizer(self, run):
        path = run / "tokenizer.json"
        path.write_bytes(path.read_bytes()[:500])
        refused(run, says="tokenizer")

    @pytest.mark.parametrize(
        "config",
        [{"layers_pattern": "h"}, {"rank_pattern": [1]}, {"r": 0}],
        ids=str,
    )
    def test_an_adapter_configuration_that_peft_refuses(self, run, config):
        edit_json(run / "checkpoint-20" / "adapter_config.json", **config)
        result = scan(run, *FEW, "--checkpoints", "20")
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == 2
        assert "error: checkpoint-20: PEFT cannot load the adapter" in result.stderr
        assert not (run / "arca-diag").exists()


class TestRolloutsThatCannotBeUsed:
    def test_a_malformed_line_is_named_by_file_and_line(self, run):
        path = write_jsonl(run / "bad.jsonl", [record(0), record(1), record(2), "{", record(4)])
        message = refused(run, "--rollouts", path, says="bad.jsonl:4", do="copy again")
        assert message.startswith("error: bad.jsonl:4: not valid JSON")

    def test_several_are_said_at_once(self, run):
        good = [record(n) for n in range(6)]
        path = write_jsonl(run / "bad.jsonl", [*good[:3], "{", good[3], record(4, step=-1)])
        message = refused(run, "--rollouts", path, says="bad.jsonl:4")
        assert "bad.jsonl:6: step must be >= 0" in message

    def test_skipping_bad_lines_cannot_skip_what_has_no_group(self, run):
        path = write_jsonl(run / "bad.jsonl", [record(0), "{"])
        refused(run, "--rollouts", path, "--skip-bad-lines", says="bad.jsonl:2", do="mend")

    @pytest.mark.parametrize("number", [22, 50_000])
    def test_a_token_id_outside_the_vocabulary(self, run, number):
        path = write_jsonl(run / "r.jsonl", [record(0), record(1, completion_ids=[5, number, 2])])
        refused(
            run,
            "--rollouts",
            path,
            says=f"token id {number} is outside the base model's vocabulary of 22",
            do="--base",
        )

    @pytest.mark.parametrize("number", [22, -1])
    def test_a_recorded_token_id_outside_the_vocabulary(self, run, number):
        rows = [recorded(0), recorded(1), recorded(2)]
        rows[1]["arca_completion_ids"] = [15, 5, number, 2]
        write_parquet(run / "completions" / "completions_00003.parquet", rows)
        message = refused(run, says="completions_00003")
        assert re.search(r"completions_00003(/1|\.parquet: row 1)\b", message)

    def test_a_sequence_longer_than_the_model_has_positions(self, run):
        path = write_jsonl(run / "r.jsonl", [record(0, completion_ids=[5] * 200)])
        refused(run, "--rollouts", path, says="the base model has 128 positions", do="--base")

    def test_an_empty_completions_file(self, run):
        (run / "completions" / "completions_00020.parquet").write_bytes(b"")
        refused(run, says="completions_00020.parquet: not a readable parquet file", do="copy")

    def test_an_empty_jsonl_file(self, run):
        path = write_jsonl(run / "empty.jsonl", [])
        refused(run, "--rollouts", path, says="empty.jsonl: no rollout in it", do="empty")

    def test_a_file_of_another_kind(self, run):
        refused(run, "--rollouts", run / "trainer_state.json", says="no rollout file", do="JSONL")


class TestOptions:
    def test_an_environment_variable_that_nobody_knows(self, run):
        refused(run, says="unknown key ARCA_DIAG_FOO in environment", ARCA_DIAG_FOO="1")

    def test_a_near_miss_is_guessed(self, run):
        refused(
            run,
            says="ARCA_DIAG_TEMPRATURE",
            do="ARCA_DIAG_TEMPERATURE",
            ARCA_DIAG_TEMPRATURE="1",
        )

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--temperature", "0"), "temperature (from flag)"),
            (("--temperature", "nan"), "temperature (from flag)"),
            (("--sharpening", "inf"), "sharpening (from flag)"),
            (("--epsilon", "-1"), "epsilon (from flag)"),
            (("--window", "-1"), "window (from flag)"),
            (("--batch-tokens", "0"), "batch-tokens (from flag)"),
            (("--checkpoints", "2,,20"), "checkpoints (from flag)"),
            (("--credit", "residuals"), "credit (from flag): did you mean residual? give uniform"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_a_value_out_of_range(self, run, arguments, says):
        refused(run, *arguments, says=says, do="--help")

    def test_a_value_from_the_environment(self, run):
        refused(run, says="seed (from environment)", do="--help", ARCA_DIAG_SEED="x")

    @pytest.mark.parametrize(
        "arguments",
        [("--groups", "many"), ("--device", "tpu"), ("--no-such-option",)],
        ids=" ".join,
    )
    def test_usage_that_the_parser_refuses(self, run, arguments):
        result = scan(run, *arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert arguments[0] in result.stderr
        assert "Traceback" not in result.stderr

    def test_a_device_that_is_not_there(self, run):
        absent = "mps" if sys.platform != "darwin" else "cuda"
        refused(run, "--device", absent, says=f"--device {absent}: PyTorch finds none", do="cpu")


class TestTheResultFolder:
    def test_below_a_regular_file(self, run):
        refused(
            run,
            "--out",
            run / "trainer_state.json" / "result",
            says="trainer_state.json/result cannot be written: Not a directory",
            do="--out",
        )

    def test_where_no_folder_can_be_made(self, run):
        refused(run, "--out", "/proc/nowhere", says="/proc/nowhere cannot be written", do="--out")

    def test_that_is_a_file(self, run):
        refused(run, "--out", run / "tokenizer.json", says="is not a folder", do="--out")

    def test_that_is_a_symbolic_link(self, run, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path)
        refused(run, "--out", tmp_path / "link", says="link is a symbolic link", do="--out")

    @pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "--force"])
    def test_that_holds_other_peoples_files(self, run, tmp_path, force):
        folder = tmp_path / "photos"
        folder.mkdir()
        (folder / "report.json").write_text("{}")
        refused(run, "--out", folder, *force, says="photos is not empty", do="--out")
        assert contents(folder) == {"report.json": b"{}"}

    def test_an_empty_folder_is_not_refused_before_its_time(self, run, tmp_path):
        (tmp_path / "r").mkdir()
        refused(run, "--out", tmp_path / "r", "--checkpoints", "99", says="no checkpoint 99")
        assert contents(tmp_path / "r") == {}

    @pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "--force"])
    @pytest.mark.parametrize(
        "marker",
        [
            "{",
            "[]",
            "{}",
            '{"format": 2, "options": {}, "inputs": {}, "files": []}',
            '{"format": 1, "options": {}, "inputs": {}, "files": [1]}',
            '{"format": 1, "options": [], "inputs": {}, "files": []}',
        ],
    )
    def test_with_a_damaged_marker(self, run, tmp_path, marker, force):
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / store.MARKER).write_text(marker)
        refused(run, "--out", tmp_path / "r", *force, says="is damaged or of another version")

    def test_with_a_marker_that_lists_files_outside_of_it(self, run, tmp_path):
        (tmp_path / "r").mkdir()
        marker = {"format": 1, "options": {}, "inputs": {}, "files": ["../precious"]}
        (tmp_path / "r" / store.MARKER).write_text(json.dumps(marker))
        (tmp_path / "precious").write_text("mine")
        result = scan(run, *FEW, "--out", tmp_path / "r", "--force")
        assert result.exit_code == 2
        assert "lists a file outside the folder" in result.stderr
        assert (tmp_path / "precious").read_text() == "mine"

    def again(self, done: Path, *arguments: Any, says: str, **env: str) -> None:
        """Scan over a result; it must be refused and left as it was."""
        before = contents(done)
        check_refused(scan(done, *arguments, **env), says, "--force")
        assert contents(done) == before

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--groups", "2", "--fixed-groups", "1"), "groups was 1, now 2"),
            (("--temperature", "0.5", *FEW), "temperature was 1.0, now 0.5"),
            (("--redact-text", *FEW), "redact_text was False, now True"),
            (("--dtype", "float64", *FEW), "dtype was 'float32', now 'float64'"),
        ],
        ids=["groups", "temperature", "redact", "dtype"],
    )
    def test_a_result_of_other_options_needs_force(self, done, arguments, says):
        self.again(done, *arguments, says=f"holds a result of other options: {says}")

    def test_a_switch_that_is_not_given_leaves_the_word_to_the_environment(self, done):
        self.again(done, *FEW, says="redact_text was False, now True", ARCA_DIAG_REDACT_TEXT="1")

    def test_a_result_of_another_base_needs_force(self, done):
        edit_json(done / "base" / "config.json", rms_norm_eps=1e-5)
        self.again(done, *FEW, says="holds a result of other options: base was ")

    def test_a_result_of_rollouts_that_have_changed_needs_force(self, done):
        table = "completions/completions_00003.parquet"
        write_parquet(done / table, [recorded(n) for n in range(16)])
        self.again(done, *FEW, says=f"holds a result of other inputs: {table} has changed")

    def test_a_result_of_rollouts_that_are_gone_needs_force(self, done):
        table = "completions/completions_00003.parquet"
        (done / table).rename((done / table).with_name("completions_00004.parquet"))
        self.again(done, *FEW, says=f"holds a result of other inputs: {table} is gone")

    def test_a_result_whose_table_was_changed_is_not_judged_again(self, done):
        (done / "arca-diag" / "tokens.parquet").write_bytes(b"")
        self.again(done, *FEW, "--sharpening", "2", says="tokens.parquet is missing or was changed")

    def test_force_replaces_a_result_and_nothing_else(self, done):
        (done / "arca-diag" / "notes.txt").write_text("mine")
        before = contents(done)
        result = scan(done, "--groups", "1", "--fixed-groups", "2", "--force", "--json")
        assert result.exit_code == 0, result.exception
        after = contents(done)
        assert after["arca-diag/notes.txt"] == b"mine"
        assert len(json.loads(after["arca-diag/report.json"])["rollouts"]["fixed_set"]) == 2
        assert {k: v for k, v in after.items() if not k.startswith("arca-diag/")} == {
            k: v for k, v in before.items() if not k.startswith("arca-diag/")
        }

    def test_the_same_again_says_so_and_prints_the_saved_document(self, done):
        before = contents(done)
        result = scan(done, *FEW, "--json")
        assert result.exit_code == 0, result.exception
        assert result.stdout.encode() == before["arca-diag/report.json"]
        assert "nothing new" in result.stderr
        assert contents(done) == before

    def test_no_half_written_file_is_left_beside_the_finished_ones(self, done):
        assert not list((done / "arca-diag").rglob("*.part"))


def test_nothing_measured_is_3_and_says_why(run: Path) -> None:
    """No counted token at all: the scan did its work, and there is not one figure."""
    nothing = {"completion_mask": [False] * 3, "group_id": "g"}
    path = write_jsonl(run / "r.jsonl", [record(n, **nothing) for n in range(2)])
    result = scan(run, *FEW, "--rollouts", path, "--checkpoints", "2", "--json")
    assert result.exit_code == 3, result.exception
    report = json.loads(result.stdout)
    assert report["status"] == "nothing-measured"
    assert all(m["reason"] for m in report["measurements"] if m["signal"])


class TestAsAProcess:
    def test_a_users_error(self, tmp_path):
        process = command("scan", tmp_path / "gone", cwd=tmp_path)
        out, err = process.communicate()
        assert process.returncode == 2
        assert out == ""
        assert err.startswith(f"error: {tmp_path / 'gone'}: no such path\n   do: ")
        assert err.count("\n") == 2

    def test_a_bug_of_ours_is_101_and_shows_its_traceback(self, tmp_path):
        (tmp_path / "sitecustomize.py").write_text(
            "import arca_diag.config\n"
            "def planted(*_, **__):\n    raise RuntimeError('planted')\n"
            "arca_diag.config.resolve = planted\n"
        )
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        process = command("scan", tmp_path, cwd=tmp_path, env={"PYTHONPATH": path})
        out, err = process.communicate()
        assert process.returncode == 101
        assert out == ""
        assert "Traceback" in err
        assert "RuntimeError: planted" in err

    def test_ctrl_c_is_130_and_leaves_no_report(self, tmp_path):
        run = sample_copy(tmp_path)
        marker = run / "arca-diag" / store.MARKER
        process = command(
            *("scan", run, "--groups", "16", "--batch-tokens", "64"),
            cwd=tmp_path,
            # A shell starts what it puts into the background deaf to Ctrl-C, its children too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        until = time.monotonic() + 60
        while not marker.is_file() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        # Python loses one that falls into a destructor, and says so: then it is pressed again.
        for _ in range(5):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
                break
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert out == ""
        lost, found, told = err.partition("interrupted")
        assert found
        assert not lost or lost.startswith("Exception ignored in")
        assert "Traceback" not in told
        earlier = store.look(run / "arca-diag")
        assert earlier is not None
        assert earlier.report is None
        assert not (run / "arca-diag" / store.REPORT).exists()

    def test_json_is_all_that_is_on_stdout_and_it_fits_the_schema(self, tmp_path):
        run = sample_copy(tmp_path, checkpoints=(2,), tables=(3,))
        process = command("scan", run, *FEW, "--json", "-v", cwd=tmp_path)
        out, err = process.communicate()
        assert process.returncode == 0, err
        jsonschema.validate(json.loads(out), published_schema())
        assert out == (run / "arca-diag" / "report.json").read_text("utf-8")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("scan", "RUN", *FEW, "--json"),
            ("scan", "RUN", *FEW),
            ("scan", "--help"),
            ("--version",),
        ],
        ids=["json", "console", "help", "version"],
    )
    def test_a_reader_that_has_gone_is_quiet_and_no_failure(self, done, arguments):
        reader, writer = os.pipe()
        os.close(reader)  # sooner than `| head -1` would
        process = command(
            *(done if a == "RUN" else a for a in arguments), stdout=writer, cwd=done.parent
        )
        os.close(writer)
        _, err = process.communicate()
        assert process.returncode == 0, err
        assert "Traceback" not in err
        assert "BrokenPipe" not in err

    def test_a_reader_that_has_gone_does_not_hide_an_error(self, tmp_path):
        reader, writer = os.pipe()
        os.close(reader)
        process = command("scan", tmp_path / "gone", "--json", stdout=writer, cwd=tmp_path)
        os.close(writer)
        _, err = process.communicate()
        assert process.returncode == 2
        assert err.startswith("error: ")

    @pytest.mark.parametrize(
        "arguments", [("--help",), ("scan", "--help"), ("--version",)], ids=" ".join
    )
    def test_help_imports_nothing_heavy(self, arguments):
        code = (
            "import sys\n"
            "from arca_diag.cli import main\n"
            "sys.argv = ['arca-diag', *sys.argv[1:]]\n"
            "try:\n    main()\n"
            "except SystemExit as done:\n"
            "    heavy = {'torch', 'transformers', 'peft', 'pandas', 'matplotlib', 'pyarrow'}\n"
            "    print(sorted(heavy & set(sys.modules)), done.code, file=sys.stderr)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stderr == "[] 0\n"


def test_the_way_to_spoil_a_run_is_not_what_spoils_it(run: Path) -> None:
    """The copy as it is can be scanned: each refusal above is of the one thing changed."""
    report = scanned_json(run)
    assert [c["measured"] for c in report["run"]["checkpoints"]] == [True, True]
    assert [f["level"] for f in report["findings"] if f["level"] == "error"] == []
