"""A run from a stranger through the command line: a message or a finding, and never its own code.

Whatever is planted, nothing outside of the run is touched, nothing of the run is run, and the
command ends soon with exit code 0 or 2.
"""

import json
import logging
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from huggingface_hub import constants as hub
from typer.testing import CliRunner

from arca_diag import store
from arca_diag.cli import app
from tests.conftest import UNRENDERED
from tests.inputs import (
    SAMPLE,
    edit_json,
    record,
    sample_copy,
    write_jsonl,
    write_parquet,
    write_torch_pickle,
)
from tests.inputs.test_pickles import Planted

FEW = ("--groups", "1", "--fixed-groups", "1")
CHECKPOINTS = ("checkpoint-2", "checkpoint-20")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SOON = 60  # seconds: what takes for ever takes longer, however busy the machine is

#: 100,000 deep, as a list and as objects.
DEEP = "[" * 100_000 + "]" * 100_000
DEEP_OBJECT = '{"a": ' * 100_000 + "1" + "}" * 100_000
#: Ten gigabytes of header are claimed, and a few bytes are there.
HEADER = struct.pack("<Q", 10 * 2**30) + b"{}" * 100
#: A pattern that fails only after 2 to the length of a name steps.
FOR_EVER = r"([a-z_.0-9]+)+X"

#: Commits.
ONE, OTHER = "0123abcd" * 5, "4567ef01" * 5

Plant = Callable[[Path, Path], Any]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No cache and no settings of this machine; and what a command sets is undone."""
    for key in [key for key in os.environ if key.startswith("ARCA_DIAG_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    transformers.utils.logging.disable_progress_bar()
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    logger = logging.getLogger("arca_diag")
    handlers, level, threads = logger.handlers, logger.level, torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    transformers.utils.logging.enable_progress_bar()
    logger.handlers, logger.level = handlers, level


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two checkpoints of the sample, to be made hostile."""
    return sample_copy(tmp_path)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What the user has beside the run."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear all")
    return tmp_path / "mine"


def arca(*arguments: Any) -> Any:
    """A command in this process; it must end soon, by itself, and with no bug of ours."""
    began = time.monotonic()
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert time.monotonic() - began < SOON
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 2), result.stderr
    return result


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(run: Path, *arguments: Any) -> str:
    """Scan; check that it is refused as the user's to mend, with nothing written; the message."""
    result = arca("scan", run, *FEW, *arguments)
    assert result.exit_code == 2, result.stdout
    assert result.stdout == ""
    assert not (run / "arca-diag").is_dir()
    *_, error, do = result.stderr.splitlines()  # transformers may report before it fails
    assert error.startswith("error: ")
    assert do.startswith("   do: ")
    return f"{error}\n{do}"


def scanned(run: Path, *arguments: Any) -> dict[str, Any]:
    """Scan what can be measured in spite of all."""
    result = arca("scan", run, *FEW, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def inspected(run: Path, *arguments: Any) -> dict[str, Any]:
    """Look at a run without a model."""
    result = arca("inspect", run, *FEW, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def said(report: dict[str, Any], finding: str) -> list[str]:
    """The messages of all findings with an id."""
    return [f["message"] for f in report["findings"] if f["id"] == finding]


def in_each(change: Callable[[Path], Any]) -> Plant:
    """The same change to every checkpoint."""

    def plant(run: Path, outside: Path) -> None:
        for name in CHECKPOINTS:
            change(run / name)

    return plant


def adapter_says(**config: Any) -> Plant:
    """Other words in every adapter_config.json."""
    return in_each(lambda folder: edit_json(folder / CONFIG, **config))


def base_says(**config: Any) -> Plant:
    """Other words in the config.json of the base in the run."""
    return lambda run, outside: edit_json(run / "base" / "config.json", **config)


def written(name: str, content: str | bytes) -> Plant:
    """A file in the run, in place of another or not."""
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda run, outside: (run / name).write_bytes(raw)


def moved_out(name: str) -> Plant:
    """A link to a file or folder of the user's in place of the run's own."""

    def plant(run: Path, outside: Path) -> None:
        target = outside / Path(name).name
        shutil.move(run / name, target)
        (run / name).symlink_to(target)

    return plant


def tokenizer_says(**changes: Any) -> Plant:
    """Other parts in the tokenizer.json of the run and of its base."""

    def plant(run: Path, outside: Path) -> None:
        for folder in (run, run / "base"):
            edit_json(folder / "tokenizer.json", **changes)

    return plant


def template(text: str) -> Plant:
    """A chat template, and completions to chats that need it."""

    def plant(run: Path, outside: Path) -> None:
        shutil.rmtree(run / "completions")
        chat = [{"role": "user", "content": "1+1"}]
        answer = [{"role": "assistant", "content": "=2"}]
        row = {"step": 21, "prompt": chat, "completion": answer, "advantage": 0.5}
        rows = [row | {"exact_match": float(n % 2)} for n in range(4)]
        write_parquet(run / "completions" / "completions_00021.parquet", rows)
        filled = text.replace("OUTSIDE", str(outside))
        (run / "chat_template.jinja").write_text(filled)

    return plant


def one_huge_text(run: Path, outside: Path) -> None:
    """A table of some kilobytes that unfolds to 256 MiB in one cell."""
    table = {"step": [3], "prompt": ["a"], "completion": ["b" * 2**28], "advantage": [0.0]}
    path = run / "completions" / "completions_00003.parquet"
    pq.write_table(pa.table(table), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**20


def one_text_a_million_times(run: Path, outside: Path) -> None:
    """A text of 1 MiB that a million rows refer to: a terabyte."""
    places = pa.array([0] * 1_000_000, pa.int32())
    text = pa.DictionaryArray.from_arrays(places, pa.array(["b" * 2**20]))
    table = {"step": [3] * 1_000_000, "prompt": text, "completion": text}
    path = run / "completions" / "completions_00003.parquet"
    pq.write_table(pa.table(table), path, compression="zstd")
    assert path.stat().st_size < 2**22


def a_pipe(name: str) -> Plant:
    """A named pipe, which blocks who opens it, in place of a file."""

    def plant(run: Path, outside: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return plant


def a_circle(name: str) -> Plant:
    """A link to itself in place of a file or folder."""

    def plant(run: Path, outside: Path) -> None:
        if (run / name).is_dir():
            shutil.rmtree(run / name)
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(Path(name).name)

    return plant


def both(*plants: Plant) -> Plant:
    """Several at once."""

    def plant(run: Path, outside: Path) -> None:
        for each in plants:
            each(run, outside)

    return plant


#: Name -> what is planted, what `scan` says as it refuses it, and what `inspect` says of it.
REFUSED: dict[str, tuple[Plant, str, str]] = {
    "a header of 10 GB": (
        in_each(lambda folder: (folder / WEIGHTS).write_bytes(HEADER)),
        r"checkpoint-2/adapter_model\.safetensors cannot be read: its header claims 10,737,418,240",
        "its header claims 10,737,418,240 bytes",
    ),
    "a header of 10 GB in the base": (
        written("base/model.safetensors", HEADER),
        r"model\.safetensors: .*header too large",
        "header too large",
    ),
    "pickled weights alone": (
        in_each(lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin")),
        r"checkpoint-2/adapter_model\.bin is a pickle, which can run code",
        "adapter_model.bin is a pickle",
    ),
    "a pipe for weights": (
        both(a_pipe(f"checkpoint-2/{WEIGHTS}"), a_pipe(f"checkpoint-20/{WEIGHTS}")),
        r"adapter_model\.safetensors is missing",
        "is missing",
    ),
    "a pipe for the base's weights": (
        a_pipe("base/model.safetensors"),
        "not a regular file",
        "not a regular file",
    ),
    "a table that unfolds to one huge text": (
        one_huge_text,
        r"completions_00003\.parquet: column 'completion' holds 1 values .* 268,435,466 bytes",
        "268,435,466 bytes in one page",
    ),
    "a table that refers to one text a million times": (
        one_text_a_million_times,
        r"completions_00003\.parquet: .*(take|holds)",
        "completions_00003.parquet: ",
    ),
    "a deep adapter configuration": (
        in_each(lambda folder: (folder / CONFIG).write_text(DEEP)),
        r"checkpoint-2/adapter_config\.json: nested more than 200 deep",
        "nested more than 200 deep",
    ),
    "a deep configuration of objects": (
        in_each(lambda folder: (folder / CONFIG).write_text(DEEP_OBJECT)),
        r"checkpoint-2/adapter_config\.json: nested more than 200 deep",
        "nested more than 200 deep",
    ),
    "a deep base": (
        written("base/config.json", DEEP),
        r"config\.json is not valid: .*nested more than 200 deep",
        "nested more than 200 deep",
    ),
    "a deep generation configuration": (
        written("base/generation_config.json", DEEP),
        r"generation_config\.json is not valid: .*nested",
        "nested more than 200 deep",
    ),
    "a deep tokenizer configuration": (
        written("tokenizer_config.json", '{"a": ' + DEEP + "}"),
        r"tiny-addition/tokenizer_config\.json: nested more than 200 deep",
        "",
    ),
    "a number of thousands of digits": (
        in_each(lambda folder: (folder / CONFIG).write_text('{"r": ' + "9" * 10_000 + "}")),
        r"checkpoint-2/adapter_config\.json: a number of thousands of digits",
        "a number of thousands of digits",
    ),
    "a rank of 400 digits": (
        adapter_says(r=10**400),
        r"checkpoint-2/adapter_config\.json: r is 1000",
        "r is 1000",
    ),
    "a rank that fills the memory": (
        adapter_says(r=10**9),
        r"checkpoint-2/adapter_config\.json: a rank is 1000000000",
        "a rank is 1000000000",
    ),
    "a rank of one layer that fills the memory": (
        adapter_says(rank_pattern={"q_proj": 10**9}),
        r"checkpoint-2/adapter_config\.json: a rank is 1000000000",
        "a rank is 1000000000",
    ),
    "a billion layers": (
        base_says(num_hidden_layers=10**9),
        r"config\.json says num_hidden_layers 1000000000",
        "num_hidden_layers 1000000000",
    ),
    "a vocabulary beyond any memory": (base_says(vocab_size=10**12), "cannot be loaded", ""),
    "heads without a size": (base_says(num_key_value_heads=0), "cannot be loaded", ""),
    "a base quantised by what is not installed": (
        base_says(quantization_config={"quant_method": "gptq", "bits": 4}),
        "is quantised with gptq 4-bit, which needs a package that is not installed: optimum",
        "",
    ),
    "a base quantised by nonsense": (
        base_says(quantization_config={"quant_method": ["x"]}),
        "quantised by a method that cannot be replayed here: ",
        "",
    ),
    "kernels from the hub": (
        base_says(_attn_implementation="evil/kernels"),
        r"config\.json asks for kernels from the hub \(_attn_implementation 'evil/kernels'\)",
        "asks for kernels from the hub",
    ),
    "an index that leads out of the base": (
        written(
            "base/model.safetensors.index.json",
            json.dumps({"metadata": {}, "weight_map": {"w": "../../mine/letter.txt"}}),
        ),
        r"index\.json names a file outside of the folder: '\.\./\.\./mine/letter\.txt'",
        "names a file outside of the folder",
    ),
    "an adapter beside the base": (
        lambda run, outside: shutil.copy(run / "checkpoint-2" / CONFIG, run / "base"),
        "has an adapter in its folder",
        "has an adapter in its folder",
    ),
    "targets that match for ever": (
        adapter_says(target_modules=FOR_EVER),
        r"checkpoint-2/adapter_config\.json: a pattern in it .* not done within 5 s",
        "",
    ),
    "a rank for a pattern that matches for ever": (
        adapter_says(rank_pattern={FOR_EVER: 4}),
        r"checkpoint-2/adapter_config\.json: a pattern in it .* not done within 5 s",
        "",
    ),
    "a template that loops for ever": (
        template("{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3),
        r"completions_00021\.parquet: row 0: the chat template fails .* not done within",
        "",
    ),
    "a template that fills the memory": (
        template("{{ 'a' * 10 ** 10 }}"),
        "the template needs more memory than the limit",
        "",
    ),
    "a template that writes without end": (
        template("{% for a in range(9999) %}{{ 'a' * 1000 }}{% endfor %}"),
        "the rendered chat is longer than the limit",
        "",
    ),
    "a template that reaches for python": (
        template("{{ cycler.__init__.__globals__.os.system('touch OUTSIDE/flag') }}"),
        "the template reaches for what no template may use",
        "",
    ),
    "a tokenizer that multiplies letters": (
        tokenizer_says(
            normalizer={
                "type": "Sequence",
                "normalizers": [
                    {"type": "Replace", "pattern": {"String": "1"}, "content": "1" * 100}
                ]
                * 6,
            }
        ),
        r"tokenizer\.json: the tokenizer cannot be used",
        "",
    ),
    "a tokenizer that its library gives up on": (
        tokenizer_says(normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        r"tiny-addition/tokenizer\.json: the tokenizer cannot be used: the process ended early",
        "",
    ),
    "a link for weights": (
        both(moved_out(f"checkpoint-2/{WEIGHTS}"), moved_out("checkpoint-20")),
        r"checkpoint-2/adapter_model\.safetensors leads out of checkpoint-",
        "leads out of checkpoint-",
    ),
    "a link for all completions": (
        moved_out("completions"),
        "no rollouts: completions is a link that leads out of the run",
        "completions is a link that leads out of the run",
    ),
    "a link for one table": (
        moved_out("completions/completions_00003.parquet"),
        r"completions_00003\.parquet: a link to outside",
        "completions_00003.parquet: a link to outside",
    ),
    "a link for the tokenizer": (
        moved_out("tokenizer.json"),
        r"tiny-addition/tokenizer\.json leads out of tiny-addition",
        "",
    ),
    "a link for the base": (moved_out("base"), "leads out of tiny-addition", "leads out of"),
    "a link for the base's weights": (
        moved_out("base/model.safetensors"),
        r"base/model\.safetensors leads out of tiny-addition",
        "leads out of tiny-addition",
    ),
    "a circle for a table": (
        a_circle("completions/completions_00005.parquet"),
        r"completions_00005\.parquet: a link to outside",
        "a link to outside",
    ),
    "a circle for completions": (a_circle("completions"), "no rollouts", "no rollouts"),
    "a circle for weights": (
        both(a_circle(f"checkpoint-2/{WEIGHTS}"), a_circle(f"checkpoint-20/{WEIGHTS}")),
        r"checkpoint-2.*adapter_model\.safetensors",
        "adapter_model.safetensors",
    ),
    "a revision that is a path": (
        adapter_says(base_model_name_or_path="a/b", revision="../../../etc"),
        r"revision is '\.\./\.\./\.\./etc', which is no branch",
        "which is no branch",
    ),
}


class TestRefused:
    @pytest.mark.parametrize("name", REFUSED)
    def test_with_a_message_that_names_it(self, run, outside, name):
        plant, says, inspect_says = REFUSED[name]
        plant(run, outside)
        before = contents(outside)
        found = json.dumps(inspected(run))
        assert inspect_says in found
        message = refused(run)
        assert re.search(says, message.splitlines()[0]), message
        assert contents(outside) == before
        assert not (run / "arca-diag").exists()

    def test_a_deep_line_of_completions(self, run):
        path = write_jsonl(run / "r.jsonl", [record(0), DEEP])
        assert "r.jsonl:2: nested more than 200 deep" in refused(run, "--rollouts", path)


class TestPickles:
    @pytest.fixture
    def everywhere(self, run: Path, outside: Path) -> Path:
        """A pickle that would write a file, under every name that trainers give pickles."""
        planted = Planted(f"touch {outside / 'flag'}")
        for folder in (run, *(run / name for name in CHECKPOINTS)):
            write_torch_pickle(folder / "training_args.bin", planted)
            for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.bin"):
                (folder / name).write_bytes(pickle.dumps(planted))
        return run

    def test_none_is_unpickled(self, everywhere, outside):
        found, report = inspected(everywhere), scanned(everywhere)
        assert not (outside / "flag").exists()
        for each in (found, report):
            assert "training_args.bin holds no arguments" in said(each, "file-unreadable")[0]

    def test_each_would_have_worked(self, everywhere, outside):
        pickle.loads((everywhere / "optimizer.pt").read_bytes())
        assert (outside / "flag").exists()

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_an_archive_of_many_members_or_one_that_unfolds_says_nothing(self, run, method):
        for name in CHECKPOINTS:
            with zipfile.ZipFile(run / name / "training_args.bin", "w", method) as archive:
                if method == zipfile.ZIP_STORED:
                    for number in range(60_000):
                        archive.writestr(f"archive/{number}", b"")
                else:
                    archive.writestr("archive/data.pkl", b"0" * 2**28)
        assert "training_args.bin" in said(inspected(run), "file-unreadable")[0]


@pytest.mark.slow  # a scan a test: minutes together
class TestLeftOut:
    """Files beside the adapters: the run is measured without them, and that is said."""

    @pytest.mark.parametrize(
        "plant",
        [
            written("trainer_state.json", DEEP),
            written("trainer_state.json", '{"log_history": [{"step": ' + "9" * 10_000 + "}]}"),
            pytest.param(moved_out("trainer_state.json"), marks=pytest.mark.slow),
            pytest.param(a_circle("trainer_state.json"), marks=pytest.mark.slow),
            pytest.param(a_pipe("trainer_state.json"), marks=pytest.mark.slow),
        ],
        ids=["deep", "digits", "link", "circle", "pipe"],
    )
    def test_a_trainers_state(self, run, outside, plant):
        plant(run, outside)
        for report in (inspected(run), scanned(run)):
            assert "tiny-addition/trainer_state.json" in said(report, "file-unreadable")[0]

    def test_arguments(self, run):
        for name in CHECKPOINTS:
            (run / name / "training_args.bin").unlink()
        (run / "args.json").write_text('{"temperature": ' + DEEP + "}")
        for report in (inspected(run), scanned(run)):
            (message,) = said(report, "file-unreadable")
            assert "tiny-addition/args.json: nested more than 200 deep" in message

    def test_a_checkpoint_that_is_a_link(self, run, outside):
        moved_out("checkpoint-20")(run, outside)
        for report in (inspected(run), scanned(run)):
            assert (
                "a symbolic link that leads out of the run" in said(report, "checkpoint-sharded")[0]
            )

    def test_numbers_that_no_float_holds(self, run):
        state = json.loads((run / "trainer_state.json").read_text())
        for row in state["log_history"]:
            row |= {"entropy": 10**400, "step": 10**30}
        state |= {"max_steps": 10**400, "global_step": float("inf")}
        (run / "trainer_state.json").write_text(json.dumps(state))
        for report in (inspected(run), scanned(run)):
            assert report["run"]["steps"] == 101

    def test_an_adapter_that_names_a_module_to_import(self, run, outside, monkeypatch):
        (outside / "evil.py").write_text("raise SystemExit('imported')")
        monkeypatch.syspath_prepend(outside)
        adapter_says(
            megatron_config={"x": 1},
            megatron_core="evil",
            auto_mapping={"parent_library": "evil", "base_model_class": "Model"},
        )(run, outside)
        inspected(run)
        scanned(run)
        assert "evil" not in sys.modules

    def test_links_up_are_not_walked_for_ever(self, run):
        (run / "checkpoint-20" / "up").symlink_to("..")
        (run / "checkpoint-30").symlink_to("checkpoint-30")
        assert [c["step"] for c in scanned(run)["run"]["checkpoints"]] == [2, 20]


@pytest.mark.slow  # a scan a test: minutes together
class TestItsOwnCode:
    @pytest.fixture(params=[(), ("--trust-remote-code",)], ids=["", "trusted"])
    def flags(self, request: pytest.FixtureRequest) -> tuple[str, ...]:
        """Whoever is trusted, it is not what lies in the run."""
        return request.param

    def code(self, folder: Path, outside: Path) -> None:
        (folder / "evil.py").write_text(
            f"import pathlib; pathlib.Path({str(outside / 'flag')!r}).touch()\n"
        )

    def test_of_a_base_of_a_known_kind_is_passed_over(self, run, outside, flags):
        self.code(run / "base", outside)
        own = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
        base_says(auto_map=own)(run, outside)
        scanned(run, *flags)
        assert not (outside / "flag").exists()

    def test_of_a_base_of_its_own_kind_is_refused(self, run, outside, flags):
        self.code(run / "base", outside)
        own = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
        base_says(auto_map=own, model_type="evil")(run, outside)
        message = refused(run, *flags)
        assert "it brings code of its own, which is not run" in message
        assert "copy it elsewhere" in message
        assert not (outside / "flag").exists()

    def test_of_a_tokenizer_is_passed_over(self, run, outside, flags):
        for folder in (run, run / "base", *(run / name for name in CHECKPOINTS)):
            for name in ("tokenizer.json", "tokenizer_config.json"):
                if not (folder / name).exists():
                    shutil.copy(SAMPLE / name, folder)
            own = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
            edit_json(folder / "tokenizer_config.json", auto_map=own, tokenizer_class="Tokenizer")
            self.code(folder, outside)
        scanned(run, *flags)
        assert not (outside / "flag").exists()

    def test_of_a_tokenizer_is_not_run_where_the_base_is_trusted(self, run, outside):
        """The base lies elsewhere and may run its code; the run's tokenizer may not."""
        shutil.move(run / "base", outside / "base")
        own = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
        edit_json(run / "tokenizer_config.json", auto_map=own, tokenizer_class="Tokenizer")
        self.code(run, outside)
        scanned(run, "--base", outside / "base", "--trust-remote-code")
        assert not (outside / "flag").exists()

    def test_of_a_trusted_base_elsewhere_is_run(self, run, outside):
        """The way that is tested above does run code where it may."""
        base = outside / "base"
        shutil.move(run / "base", base)
        own = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
        edit_json(base / "config.json", auto_map=own, model_type="evil")
        self.code(base, outside)
        arca("scan", run, *FEW, "--base", base, "--trust-remote-code")
        assert (outside / "flag").exists()


class TestTheResult:
    @pytest.mark.parametrize("there", [True, False])
    @pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "--force"])
    def test_a_link_in_its_place_is_refused(self, run, outside, there, force):
        target = outside if there else outside / "gone"
        (run / "arca-diag").symlink_to(target)
        before = contents(outside)
        result = arca("scan", run, *FEW, *force)
        assert result.exit_code == 2
        assert "arca-diag is a symbolic link" in result.stderr
        assert contents(outside) == before

    def test_links_within_it_are_not_written_through(self, run, outside):
        folder = run / "arca-diag"
        (folder / "plots").mkdir(parents=True)
        marker = {"format": 1, "options": {}, "inputs": {}, "files": ["report.json"]}
        (folder / store.MARKER).write_text(json.dumps(marker))
        for name in (
            store.REPORT,
            f".{store.REPORT}.part",
            "tokens.parquet",
            ".tokens.parquet.part",
        ):
            (folder / name).symlink_to(outside / "letter.txt")
        before = contents(outside)
        scanned(run, "--force")
        assert contents(outside) == before
        assert not (folder / store.REPORT).is_symlink()

    def test_a_folder_in_it_that_leads_out_is_refused(self, run, outside):
        folder = run / "arca-diag"
        folder.mkdir()
        marker = {"format": 1, "options": {}, "inputs": {}, "files": ["plots/letter.txt"]}
        (folder / store.MARKER).write_text(json.dumps(marker))
        (folder / "plots").symlink_to(outside)
        before = contents(outside)
        result = arca("scan", run, *FEW, "--force")
        assert result.exit_code == 2
        assert "lists a file outside the folder" in result.stderr
        assert contents(outside) == before

    @pytest.mark.parametrize(
        "text",
        [DEEP, json.dumps({"format": 1, "options": {}, "inputs": {}, "files": ["a\0b"]})],
        ids=["deep", "no name"],
    )
    def test_a_marker_that_is_none(self, run, text):
        (run / "arca-diag").mkdir()
        (run / "arca-diag" / store.MARKER).write_text(text)
        result = arca("scan", run, *FEW, "--force")
        assert result.exit_code == 2
        assert "is damaged or of another version" in result.stderr


class TestConfigurationInTheRun:
    @pytest.fixture(autouse=True)
    def planted(self, run: Path) -> None:
        (run / "arca.toml").write_text('temperature = 0.5\nbase = "/evil"\n')
        (run / "pyproject.toml").write_text("[tool.arca-diag]\nseed = 7\n")

    @pytest.mark.parametrize("named", [".", "checkpoint-20", "checkpoint-20/../checkpoint-2"])
    @pytest.mark.parametrize("command", ["scan", "inspect"])
    def test_it_is_not_read_where_the_working_directory_lies_in_it(
        self, run, monkeypatch, named, command
    ):
        monkeypatch.chdir(run)
        result = arca(command, named, *FEW, "--json")
        assert result.exit_code == 0, result.stderr
        assert "arca.toml is not read: the working directory lies in the run" in result.stderr
        assert "pyproject.toml is not read" in result.stderr
        run_info = json.loads(result.stdout)
        assert run_info["run"].get("temperature", 1.0) == 1.0

    def test_nothing_is_said_where_it_would_not_have_been_read(self, run):
        assert "not read" not in arca("inspect", run).stderr


class TestTheBaseInTheCache:
    """As a process of its own, with a cache where the Hugging Face library looks for it."""

    def cached(self, home: Path, name: str, commit: str = ONE, *, main: bool = True) -> Path:
        repository = home / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / commit
        shutil.copytree(SAMPLE / "base", snapshot)
        if main:
            (repository / "refs").mkdir(exist_ok=True)
            (repository / "refs" / "main").write_text(commit)
        return snapshot

    def command(self, home: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "arca_diag", *map(str, arguments)],
            env=os.environ | {"HF_HOME": str(home), "OMP_NUM_THREADS": "1"} | UNRENDERED,
            capture_output=True,
            text=True,
            timeout=SOON * 2,
            check=False,
        )

    def test_a_hub_id_is_found_there_and_its_revision_recorded(self, run, tmp_path):
        self.cached(tmp_path / "home", "some/base")
        adapter_says(base_model_name_or_path="some/base")(run, tmp_path)
        done = self.command(tmp_path / "home", "scan", run, *FEW, "--json")
        assert done.returncode == 0, done.stderr
        assert ONE in json.dumps(json.loads(done.stdout)["provenance"])

    def test_the_revision_that_the_adapter_names_is_the_one(self, run, tmp_path):
        for commit, main in ((ONE, True), (OTHER, False)):
            self.cached(tmp_path / "home", "some/base", commit, main=main)
        adapter_says(base_model_name_or_path="some/base", revision=OTHER)(run, tmp_path)
        done = self.command(tmp_path / "home", "scan", run, *FEW, "--json")
        assert done.returncode == 0, done.stderr
        assert OTHER in json.dumps(json.loads(done.stdout)["provenance"])

    def test_the_16_bit_original_stands_in_for_unsloths_4_bits_and_that_is_a_finding(
        self, run, tmp_path
    ):
        self.cached(tmp_path / "home", "unsloth/Base")
        name = "unsloth/Base-unsloth-bnb-4bit"
        adapter_says(base_model_name_or_path=name)(run, tmp_path)
        done = self.command(tmp_path / "home", "inspect", run, "--json")
        found = json.loads(done.stdout)
        assert found["base"]["stands_for"] == name
        assert name in said(found, "base-precision-mismatch")[0]

    def test_pickled_weights_there_are_refused(self, run, tmp_path):
        snapshot = self.cached(tmp_path / "home", "some/base")
        (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
        adapter_says(base_model_name_or_path="some/base")(run, tmp_path)
        done = self.command(tmp_path / "home", "scan", run, *FEW)
        assert done.returncode == 2
        assert "has no safetensors weights" in done.stderr
