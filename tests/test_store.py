import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from arca_diag import store
from arca_diag.errors import ResultError
from arca_diag.results import (
    AdapterInfo,
    Provenance,
    ReferenceInfo,
    Report,
    RolloutsInfo,
    RunInfo,
)
from arca_diag.saved import read_columns
from arca_diag.store import (
    MARKER,
    REPORT,
    Identity,
    check_same,
    check_version,
    look,
    prepare,
    write,
)

X = pa.schema([("x", pa.float64())])
IDENTITY = Identity(
    options={"temperature": 1.0, "groups": 16, "window": None},
    inputs={"checkpoint-2": "aa", "completions/completions_00003.parquet": "bb"},
)


def report(**given: Any) -> Report:
    fields: dict[str, Any] = {
        "schema_version": 1,
        "tool": {"name": "arca-diag", "version": "0"},
        "status": "complete",
        "provenance": Provenance(
            started_at="2026-01-01T00:00:00+00:00",
            seconds=1.0,
            reused_passes=0,
            batch_tokens=2048,
            prefix_sharing=True,
            versions={},
            device="cpu",
            dtype="float32",
            seed=0,
            options={},
            base={},
            inputs={},
        ),
        "run": RunInfo(
            name="run",
            framework="trl",
            framework_version=None,
            recognised_by="its completions",
            steps=100,
            temperature=1.0,
            temperature_source="given",
            checkpoints=[],
        ),
        "adapter": AdapterInfo(
            kind="lora",
            init="true",
            rank=4,
            alpha=8.0,
            target_modules=["q_proj"],
            use_dora=False,
            use_rslora=False,
        ),
        "reference": ReferenceInfo(kind="adapter-off", reason="plain LoRA"),
        "rollouts": RolloutsInfo(
            source="canonical",
            selected=0,
            groups=0,
            clusters=0,
            distinct=0,
            tokens=0,
            ids_exact=True,
            found=70,
            eval_excluded=0,
            duplicates_dropped=0,
            lines_skipped=0,
            left_out={},
            guessed_prompts=0,
            step_source=None,
            group_source=None,
            unknown_fields={},
            cut_off=0,
            cut_off_unknown=0,
            steps=[],
            fixed_set=[],
        ),
        "replay_fidelity": [],
        "measurements": [],
        "verdicts": [],
        "findings": [],
        "thresholds": [],
        "files": {},
    }
    return Report(**(fields | given))


def finished(folder: Path, files: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """A finished result, as a scan leaves it."""
    files = {"tokens.parquet": b"tokens", "plots/lorenz.svg": b"<svg/>"} | (files or {})
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    whole = {REPORT: report(files={**digests, REPORT: None}).to_json().encode(), **files}
    prepare(folder, IDENTITY, keep=False)
    write(folder, IDENTITY, whole)
    return whole


def lying_in(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def changed(**given: Any) -> Identity:
    """Another identity: `given` updates options, or replaces inputs."""
    if "inputs" in given:
        return dataclasses.replace(IDENTITY, inputs=given["inputs"])
    return dataclasses.replace(IDENTITY, options={**IDENTITY.options, **given})


# What lies there.


def test_no_folder_and_an_empty_folder_hold_nothing(tmp_path: Path) -> None:
    assert look(tmp_path / "absent") is None
    assert not (tmp_path / "absent").exists()
    assert look(tmp_path) is None


def test_a_finished_result_is_found_with_what_it_was_made_from(tmp_path: Path) -> None:
    finished(tmp_path / "out")
    found = look(tmp_path / "out")
    assert found is not None
    assert found.identity == IDENTITY
    assert found.report is not None
    assert found.report.status == "complete"


def test_a_folder_prepared_and_never_finished_has_no_report(tmp_path: Path) -> None:
    prepare(tmp_path / "out", IDENTITY, keep=False)
    found = look(tmp_path / "out")
    assert found is not None
    assert found.identity == IDENTITY
    assert found.report is None


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"schema_version": 99}'])
def test_a_report_that_cannot_be_read_is_no_report(tmp_path: Path, content: bytes) -> None:
    finished(tmp_path / "out")
    (tmp_path / "out" / REPORT).write_bytes(content)
    found = look(tmp_path / "out")
    assert found is not None
    assert found.report is None


def test_a_report_of_before_batches_were_recorded_is_read(tmp_path: Path) -> None:
    whole = finished(tmp_path / "out")
    document = json.loads(whole[REPORT])
    for key in ("batch_tokens", "prefix_sharing"):
        del document["provenance"][key]
    (tmp_path / "out" / REPORT).write_text(json.dumps(document))
    found = look(tmp_path / "out")
    assert found is not None
    assert found.report is not None
    assert found.report.provenance.batch_tokens is None
    assert found.report.provenance.prefix_sharing is None


@pytest.mark.parametrize(
    ("content", "version"),
    [
        (b"{", None),
        (b"{}", None),
        (b'{"schema_version": 1}', None),
        (b'{"schema_version": 99}', 99),
    ],
)
def test_a_result_that_another_version_finished_is_not_taken_for_an_unfinished_one(
    tmp_path: Path, content: bytes, version: int | None
) -> None:
    finished(tmp_path / "out")
    (tmp_path / "out" / REPORT).write_bytes(content)
    found = look(tmp_path / "out")
    assert found is not None
    assert found.version == version
    if version is None:
        check_version(tmp_path / "out", found)
        return
    with pytest.raises(ResultError, match="schema version 99, and this is version 1") as caught:
        check_version(tmp_path / "out", found)
    assert "--force" in caught.value.hint


@pytest.mark.parametrize("name", ["notes.txt", REPORT, "tokens.parquet"])
def test_a_folder_that_holds_anything_of_others_is_refused_and_left_alone(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ResultError, match="not empty and is no result") as caught:
        look(tmp_path)
    assert "--out" in caught.value.hint
    assert lying_in(tmp_path) == {name: b"mine"}


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(ResultError, match="is not a folder"):
        look(tmp_path / "out")


def test_a_symbolic_link_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    finished(tmp_path / "elsewhere")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(ResultError, match="symbolic link"):
        look(tmp_path / "out")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ResultError, match="symbolic link"):
        look(tmp_path / "dangling")


def test_a_marker_that_is_a_symbolic_link_is_no_marker(tmp_path: Path) -> None:
    finished(tmp_path / "real")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MARKER).symlink_to(tmp_path / "real" / MARKER)
    with pytest.raises(ResultError, match="no result"):
        look(tmp_path / "out")


GOOD_MARKER = {"format": 1, "made_by": "arca-diag", "options": {}, "inputs": {}, "files": []}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "[" * 100_000,
        "{}",
        json.dumps(GOOD_MARKER | {"format": 2}),
        json.dumps(GOOD_MARKER | {"options": []}),
        json.dumps(GOOD_MARKER | {"inputs": None}),
        json.dumps(GOOD_MARKER | {"files": [1]}),
        json.dumps(GOOD_MARKER | {"files": None}),
        json.dumps({k: v for k, v in GOOD_MARKER.items() if k != "files"}),
    ],
    ids=lambda content: content[:40],
)
def test_a_damaged_marker_is_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(ResultError, match="damaged or of another version") as caught:
        look(tmp_path)
    assert MARKER in str(caught.value)


# Whether it is this scan's.


def test_the_same_scan_may_continue() -> None:
    check_same(Path("out"), IDENTITY, IDENTITY)


def test_more_inputs_are_growth() -> None:
    check_same(Path("out"), IDENTITY, changed(inputs={**IDENTITY.inputs, "checkpoint-4": "cc"}))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({**IDENTITY.inputs, "checkpoint-2": "zz"}, "checkpoint-2 has changed"),
        ({"checkpoint-2": "aa"}, "completions/completions_00003.parquet is gone"),
    ],
)
def test_a_changed_or_missing_input_is_another_scan(inputs: dict[str, str], said: str) -> None:
    with pytest.raises(ResultError, match="other inputs") as caught:
        check_same(Path("out"), IDENTITY, changed(inputs=inputs))
    assert said in str(caught.value)
    assert "--force" in caught.value.hint
    assert "--out" in caught.value.hint


@pytest.mark.parametrize(
    ("option", "value"), [("temperature", 0.7), ("groups", 8), ("window", 3), ("added", 1)]
)
def test_another_option_is_another_scan_and_both_values_are_named(option: str, value: Any) -> None:
    with pytest.raises(ResultError, match="other options") as caught:
        check_same(Path("out"), IDENTITY, changed(**{option: value}))
    was = IDENTITY.options.get(option)
    assert f"{option} was {was!r}, now {value!r}" in str(caught.value)
    assert "--force" in caught.value.hint


def test_options_are_the_same_after_a_round_through_the_marker(tmp_path: Path) -> None:
    prepare(tmp_path / "out", IDENTITY, keep=False)
    found = look(tmp_path / "out")
    assert found is not None
    check_same(tmp_path / "out", found.identity, IDENTITY)


# Making room.


def test_preparing_makes_the_folder_and_its_parents_with_a_marker_only(tmp_path: Path) -> None:
    prepare(tmp_path / "a" / "b" / "out", IDENTITY, keep=False)
    assert set(lying_in(tmp_path / "a" / "b" / "out")) == {MARKER}


def test_replacing_deletes_what_the_marker_lists_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(out)
    (out / "mine.txt").write_bytes(b"mine")
    (out / "plots" / "mine.svg").write_bytes(b"mine too")
    prepare(out, IDENTITY, keep=False)
    left = lying_in(out)
    assert left.pop(MARKER)
    assert left == {"mine.txt": b"mine", "plots/mine.svg": b"mine too"}


def test_continuing_leaves_the_finished_result_until_the_new_one_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(out)
    before = lying_in(out)
    prepare(out, changed(inputs={**IDENTITY.inputs, "checkpoint-4": "cc"}), keep=True)
    assert lying_in(out) == before


@pytest.mark.parametrize("name", ["../victim.txt", "/{tmp}/victim.txt", "plots/../../victim.txt"])
def test_a_marker_cannot_name_a_file_outside_the_folder(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_bytes(b"mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "plots").mkdir()
    name = name.replace("/{tmp}", str(tmp_path))
    (out / MARKER).write_text(json.dumps(GOOD_MARKER | {"files": [name]}))
    with pytest.raises(ResultError, match="outside the folder"):
        prepare(out, IDENTITY, keep=False)
    assert victim.read_bytes() == b"mine"


def test_a_listed_file_behind_a_linked_folder_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    victim = tmp_path / "real" / "victim.txt"
    victim.write_bytes(b"mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "plots").symlink_to(tmp_path / "real", target_is_directory=True)
    (out / MARKER).write_text(json.dumps(GOOD_MARKER | {"files": ["plots/victim.txt"]}))
    with pytest.raises(ResultError, match="outside the folder"):
        prepare(out, IDENTITY, keep=False)
    assert victim.read_bytes() == b"mine"


def test_what_was_staged_takes_its_place_with_the_rest(tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = finished(out)
    digests = store.stage(
        out, {"tokens.parquet": lambda sink: [sink.write(b"n"), sink.write(b"ew")]}
    )
    assert digests == {"tokens.parquet": hashlib.sha256(b"new").hexdigest()}
    assert (out / "tokens.parquet").read_bytes() == before["tokens.parquet"]
    write(out, IDENTITY, {"plots/lorenz.svg": b"new", REPORT: before[REPORT]}, staged=list(digests))
    assert (out / "tokens.parquet").read_bytes() == b"new"
    listed = json.loads((out / MARKER).read_bytes())["files"]
    assert listed == ["tokens.parquet", "plots/lorenz.svg", REPORT]
    assert not list(out.rglob("*.part"))


def test_a_link_planted_where_a_table_is_staged_is_never_written_through(tmp_path: Path) -> None:
    victim, out = tmp_path / "victim.txt", tmp_path / "out"
    victim.write_bytes(b"mine")
    finished(out)
    (out / ".tokens.parquet.part").symlink_to(victim)
    store.stage(out, {"tokens.parquet": lambda sink: sink.write(b"new")})
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("name", [".tokens.parquet.part", f".{MARKER}.part", "tokens.parquet"])
def test_a_link_planted_in_the_folder_is_never_written_through(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_bytes(b"mine")
    out = tmp_path / "out"
    finished(out)
    (out / name).unlink(missing_ok=True)
    (out / name).symlink_to(victim)
    write(out, IDENTITY, {"tokens.parquet": b"new", REPORT: b"{}"})
    assert victim.read_bytes() == b"mine"


def test_a_place_that_cannot_be_written_is_found_out_before_the_work(tmp_path: Path) -> None:
    # A file where a folder must be: this stops even a superuser, whom no permission stops.
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResultError, match="cannot be written") as caught:
        prepare(tmp_path / "file" / "out", IDENTITY, keep=False)
    assert "--out" in caught.value.hint


# Writing.


def test_a_result_is_written_whole_with_no_half_file_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = finished(out)
    left = lying_in(out)
    marker = json.loads(left.pop(MARKER))
    assert left == files
    assert sorted(marker["files"]) == sorted(files)
    assert marker["options"] == IDENTITY.options
    assert marker["inputs"] == IDENTITY.inputs


def test_the_report_is_written_last_and_every_file_is_listed_before_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    order: list[str] = []
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        name = Path(target).relative_to(out).as_posix()
        if name != MARKER:
            assert name in json.loads((out / MARKER).read_bytes())["files"]
        order.append(name)
        replace(source, target)

    monkeypatch.setattr(store.os, "replace", watched)
    finished(out)
    assert order[-1] == REPORT
    assert sorted(order[-3:]) == sorted(["plots/lorenz.svg", REPORT, "tokens.parquet"])


def test_an_interrupted_replacement_never_leaves_a_report_beside_tables_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    finished(out)
    grown = changed(inputs={**IDENTITY.inputs, "completions/completions_00004.parquet": "cc"})
    prepare(out, grown, keep=True)
    replace = os.replace

    def pulled_out(source: Path, target: Path) -> None:
        if Path(target).name == "lorenz.svg":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(store.os, "replace", pulled_out)
    new = {"tokens.parquet": b"new", "plots/lorenz.svg": b"new", REPORT: b"{}"}
    with pytest.raises(KeyboardInterrupt):
        write(out, grown, new)
    found = look(out)
    assert found is not None
    if found.report is not None:  # then it must be the old result, all of it
        assert found.identity == IDENTITY
        assert (out / "tokens.parquet").read_bytes() == b"tokens"


# Reading tables back.


def test_a_table_is_read_back_only_as_it_was_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    frame = pd.DataFrame({"x": [1.0, 2.0]})
    finished(out, {"tokens.parquet": frame.to_parquet()})
    found = look(out)
    assert found is not None
    assert found.report is not None
    pd.testing.assert_frame_equal(read_columns(out, found.report, "tokens.parquet", X), frame)

    data = bytearray((out / "tokens.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (out / "tokens.parquet").write_bytes(data)
    with pytest.raises(ResultError, match="missing or was changed") as caught:
        read_columns(out, found.report, "tokens.parquet", X)
    assert "--force" in caught.value.hint
    (out / "tokens.parquet").unlink()
    with pytest.raises(ResultError, match="missing or was changed"):
        read_columns(out, found.report, "tokens.parquet", X)


def test_a_table_that_the_report_does_not_name_is_not_read(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(out)
    (out / "other.parquet").write_bytes(pd.DataFrame({"x": [1]}).to_parquet())
    with pytest.raises(ResultError, match=r"other\.parquet is missing or was changed"):
        read_columns(out, report(), "other.parquet", X)
