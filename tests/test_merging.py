"""Shares of a scan, run apart and joined: the result of one scan, and no pass twice."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from arca_diag import store
from arca_diag.cli import app
from arca_diag.config import ScanConfig
from arca_diag.errors import ResultError
from arca_diag.merging import merge_shards
from arca_diag.pipeline import diagnose
from arca_diag.progress import Silent
from tests.test_resume import FEW, apart_from_provenance, passes

__all__ = ["passes"]

OPTIONS: dict[str, Any] = FEW | {"checkpoints": "2,20", "batch_tokens": 150}


def shard(run: Path, out: Path, which: str, **options: Any) -> Path:
    done = diagnose(ScanConfig(run=run, out=out, shard=which, **(OPTIONS | options)), Silent())
    assert done.report is None
    assert not (out / store.REPORT).exists()
    return out


def test_shares_give_what_one_scan_gives_and_run_every_pass_once(
    tiny_run: Path, tmp_path: Path, passes: list[int]
) -> None:
    whole = diagnose(ScanConfig(run=tiny_run, out=tmp_path / "whole", no_cache=True, **OPTIONS))
    once = sorted(passes)
    passes.clear()
    folders = [shard(tiny_run, tmp_path / str(n), f"{n}/3") for n in (1, 2, 3)]
    assert sorted(passes) == once
    passes.clear()
    merged = merge_shards(folders[::-1], tmp_path / "out", Silent(), no_render=True)
    assert passes == []
    assert merged.did == "measured"
    assert apart_from_provenance(merged.report) == apart_from_provenance(whole.report)
    assert merged.report is not None
    assert merged.report.provenance.reused_passes == len(once)
    assert not (tmp_path / "out" / store.UNITS).exists()


def test_shares_that_do_not_make_one_scan_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    one = shard(tiny_run, tmp_path / "one", "1/2", checkpoints="2")
    other = shard(tiny_run, tmp_path / "other", "2/2", checkpoints="2", temperature=0.5)
    for folders, said in (
        ([one], "share 2/2 is missing"),
        ([one, one], "share 2/2 is missing"),
        ([one, other], "different scans"),
        ([tmp_path], "no finished share|no result of arca-diag"),
        ([one, tmp_path / "gone"], "no finished share"),
    ):
        with pytest.raises(ResultError, match=said):
            merge_shards(folders, tmp_path / "out", Silent(), no_render=True)
    assert not (tmp_path / "out").exists()


def test_a_share_that_is_joined_goes_and_what_somebody_put_beside_it_stays(tmp_path: Path) -> None:
    for name in ("joined", "used"):
        (tmp_path / name / store.UNITS).mkdir(parents=True)
        for file in (f"{store.UNITS}/a.safetensors", store.SHARE, store.MARKER):
            (tmp_path / name / file).write_bytes(b"{}")
    (tmp_path / "used" / "notes.txt").write_text("mine")
    for name in ("joined", "used"):
        store.clear_share(tmp_path / name)
    assert not (tmp_path / "joined").exists()
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"share": 3}', '{"share": "1/2", "run": 1}'])
def test_a_damaged_share_is_an_error_that_names_the_folder(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "share"
    store.prepare(folder, store.Identity(options={}, inputs={}), keep=False)
    (folder / store.SHARE).write_text(content)
    with pytest.raises(ResultError, match=str(folder)):
        store.read_share(folder)


@pytest.mark.parametrize("which", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "1/2 "])
def test_a_share_is_i_of_n(which: str) -> None:
    with pytest.raises(ValueError, match="give i/n"):
        ScanConfig(run=Path(), shard=which)


def test_the_commands_say_where_a_share_lies_and_print_the_whole(
    tiny_run: Path, tmp_path: Path
) -> None:
    few = ["--groups", "1", "--fixed-groups", "1", "--checkpoints", "2"]
    folder = tmp_path / "share"
    first = CliRunner().invoke(
        app, ["scan", str(tiny_run), *few, "--shard", "1/1", "--out", str(folder)]
    )
    assert first.exit_code == 0
    assert first.stdout == ""
    assert "a share of the passes" in first.stderr
    out = tmp_path / "out"
    merged = CliRunner().invoke(app, ["merge", str(folder), "--out", str(out), "--json"])
    assert merged.exit_code == 0
    assert json.loads(merged.stdout) == json.loads((out / "report.json").read_bytes())


@pytest.mark.parametrize("command", [["scan", "--fail-on", "error"], ["gate"]])
def test_a_share_is_no_whole_result_for_the_gate(
    tiny_run: Path,
    tmp_path: Path,
    command: list[str],
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ARCA_DIAG_SHARD", "1/2")
    monkeypatch.setenv("ARCA_DIAG_OUT", str(tmp_path / "out"))
    said = CliRunner().invoke(app, [*command, str(tiny_run)])
    assert said.exit_code == 2
    assert "arca-diag merge" in said.stderr
    assert passes == []
