"""Scans that go on where others stopped: killed, grown, or with the cache of another."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from arca_diag import store
from arca_diag.config import ScanConfig, cache_folder
from arca_diag.pipeline import Diagnosis, diagnose
from arca_diag.progress import Silent
from arca_diag.replay.adapted import AdaptedModel
from tests.conftest import ROOT

FEW: dict[str, Any] = {"groups": 1, "fixed_groups": 2, "checkpoints": "2", "no_render": True}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every forward pass that is run."""
    run: list[int] = []
    for name in ("hidden", "hidden_of_trees"):
        own = getattr(AdaptedModel, name)

        def counted(self: Any, ids: Any, *more: Any, own: Any = own) -> Any:
            if ids.shape[1] > 8:  # fewer only try what the architecture does
                run.append(ids.numel())
            return own(self, ids, *more)

        monkeypatch.setattr(AdaptedModel, name, counted)
    return run


def scan(run: Path, out: Path, **options: Any) -> Diagnosis:
    return diagnose(ScanConfig(run=run, out=out, **(FEW | options)), Silent())


def apart_from_provenance(report: Any) -> dict[str, Any]:
    found = report if isinstance(report, dict) else json.loads(report.to_json())
    return {key: value for key, value in found.items() if key != "provenance"}


# Killed.


def killed(run: Path, out: Path, times: int, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.killing", run, out, str(times), str(seed)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    expected = apart_from_provenance(told["undisturbed"])
    assert told["undisturbed"]["provenance"]["reused_passes"] == 0
    assert len(told["kills"]) == times
    for kill in told["kills"]:
        assert not kill["finished"]
        assert apart_from_provenance(kill["report"]) == expected  # tables too, by their hashes
        reused = kill["report"]["provenance"]["reused_passes"]
        assert kill["left"] <= reused <= 2 * kill["left"]  # a unit of layers is two passes
    assert len({kill["left"] for kill in told["kills"]}) > 1
    assert max(kill["left"] for kill in told["kills"]) > 0
    assert not (out / store.UNITS).exists()


def test_a_scan_that_is_killed_is_finished_by_the_same_command(
    tiny_run: Path, tmp_path: Path
) -> None:
    killed(tiny_run, tmp_path / "out", times=2, seed=4)


@pytest.mark.slow
def test_a_scan_that_is_killed_at_any_moment_is_finished_by_the_same_command(
    tiny_run: Path, tmp_path: Path
) -> None:
    killed(tiny_run, tmp_path / "out", times=20, seed=0)


# The user's cache.


def test_a_second_scan_elsewhere_runs_no_pass_and_gives_the_same_report(
    tiny_run: Path, tmp_path: Path, cache: Path, passes: list[int]
) -> None:
    first = scan(tiny_run, tmp_path / "one", cache_dir=cache)
    ran = len(passes)
    assert ran > 0
    passes.clear()
    second = scan(tiny_run, tmp_path / "two", cache_dir=cache)
    assert passes == []
    assert apart_from_provenance(first.report) == apart_from_provenance(second.report)
    assert first.report.provenance.reused_passes == 0
    assert second.report.provenance.reused_passes == ran
    assert not (tmp_path / "two" / store.UNITS).exists()


def test_without_a_cache_every_scan_runs_everything(
    tiny_run: Path, tmp_path: Path, cache: Path, passes: list[int]
) -> None:
    scan(tiny_run, tmp_path / "one", cache_dir=cache)
    ran = list(passes)
    passes.clear()
    found = scan(tiny_run, tmp_path / "two", cache_dir=cache, no_cache=True)
    assert passes == ran
    assert found.report.provenance.reused_passes == 0
    assert not (tmp_path / "two" / store.UNITS).exists()


def test_a_new_checkpoint_costs_its_own_passes_and_no_other(
    own_run: Path, tmp_path: Path, cache: Path, passes: list[int]
) -> None:
    shutil.move(own_run / "checkpoint-100", tmp_path / "later")
    scan(own_run, tmp_path / "out", cache_dir=cache, checkpoints="all")
    passes.clear()
    shutil.move(tmp_path / "later", own_run / "checkpoint-100")
    grown = scan(own_run, tmp_path / "out", cache_dir=cache, checkpoints="all")
    assert grown.did == "measured"
    added = sum(passes)
    passes.clear()
    anew = scan(own_run, tmp_path / "anew", no_cache=True, checkpoints="all")
    # Three checkpoints and the reference on the fixed set, one and the reference on its own.
    assert added < 0.45 * sum(passes)
    assert apart_from_provenance(anew.report) == apart_from_provenance(grown.report)


@pytest.mark.parametrize(
    "other",
    [
        {"temperature": 0.7},
        pytest.param({"dtype": "float64"}, marks=pytest.mark.slow),
        pytest.param({"no_prefix_sharing": True}, marks=pytest.mark.slow),
    ],
)
def test_other_options_find_nothing_and_leave_what_is_there(
    tiny_run: Path, tmp_path: Path, cache: Path, other: dict[str, Any]
) -> None:
    scan(tiny_run, tmp_path / "one", cache_dir=cache)
    before = {p.name for p in cache.iterdir()}
    changed = scan(tiny_run, tmp_path / "two", cache_dir=cache, **other)
    plain = scan(tiny_run, tmp_path / "three", no_cache=True, **other)
    assert apart_from_provenance(changed.report) == apart_from_provenance(plain.report)
    assert before < {p.name for p in cache.iterdir()}


def test_a_cache_that_is_damaged_moves_nothing(tiny_run: Path, tmp_path: Path, cache: Path) -> None:
    first = scan(tiny_run, tmp_path / "one", cache_dir=cache)
    for number, path in enumerate(sorted(cache.iterdir())):
        content = path.read_bytes()
        path.write_bytes((b"", content[:-7], b"\0" * len(content), b"x" + content)[number % 4])
    second = scan(tiny_run, tmp_path / "two", cache_dir=cache)
    assert second.report.provenance.reused_passes == 0
    assert apart_from_provenance(first.report) == apart_from_provenance(second.report)
    third = scan(tiny_run, tmp_path / "three", cache_dir=cache)
    assert third.report.provenance.reused_passes > 0


def test_the_cache_keeps_to_its_limit(tiny_run: Path, tmp_path: Path, cache: Path) -> None:
    found = scan(tiny_run, tmp_path / "one", cache_dir=cache, cache_gib=0.0005)
    assert found.did == "measured"
    assert 0 < sum(p.stat().st_size for p in cache.iterdir()) <= 0.0005 * 2**30


def test_the_users_cache_is_where_the_platform_keeps_caches(tmp_path: Path) -> None:
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}).parent == tmp_path
    assert cache_folder({"XDG_CACHE_HOME": "not/absolute"}).is_absolute()
    assert cache_folder({}).name == "arca-diag"


def test_tables_are_those_of_plain_passes(tiny_run: Path, tmp_path: Path) -> None:
    """Sharing moves a number by rounding alone, also through the whole of a scan."""
    one, other = (
        scan(tiny_run, tmp_path / str(off), dtype="float64", no_prefix_sharing=off)
        for off in (False, True)
    )
    assert one.report.provenance.prefix_sharing
    assert not other.report.provenance.prefix_sharing
    tables = [pd.read_parquet(d.folder / "tokens.parquet") for d in (one, other)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-9, atol=1e-9)
    regimes = [
        [(v.checkpoint, v.view, v.signal, v.regime) for v in d.report.verdicts]
        for d in (one, other)
    ]
    assert regimes[0] == regimes[1]
