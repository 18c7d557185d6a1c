"""A saved result judged again: the same whatever the seed, other words under other options."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from arca_diag import judging, tables
from arca_diag.config import ScanConfig, resolve
from arca_diag.pipeline import diagnose
from arca_diag.results import Report
from arca_diag.saved import read_tables
from tests.conftest import UNRENDERED

SEEDS = range(1, 21)

SMALL = {"groups": 12, "fixed_groups": 12}


@pytest.fixture(scope="module")
def scanned(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("judging") / "out"
    done = diagnose(resolve({"run": tiny_run, "out": out, **SMALL}, environ=UNRENDERED))
    return done.report, done.folder


def judged(report: Report, folder: Path, **options: object) -> judging.Judgement:
    saved = read_tables(folder, report)
    steps = {c.name: c.step for c in report.run.checkpoints if c.measured}
    config = ScanConfig(run=folder, **options)
    return judging.judge(saved, tables.saved_memberships(saved.trajectories), steps, config)


def words(found: judging.Judgement) -> dict[tuple[object, ...], tuple[str, tuple[str, ...]]]:
    """Regime and causes of every verdict."""
    return {
        (v.checkpoint, v.view, v.signal, v.sharpening): (v.regime, tuple(v.causes))
        for v in found.verdicts
    }


def test_tables_judged_again_give_what_the_scan_gave(scanned: tuple[Report, Path]) -> None:
    report, folder = scanned
    found = judged(report, folder)
    assert found.verdicts == report.verdicts
    assert found.measurements == report.measurements
    assert found.onsets == report.onsets
    assert found.what_if == report.what_if


@pytest.mark.slow
def test_other_seeds_flip_no_settled_verdict(scanned: tuple[Report, Path]) -> None:
    report, folder = scanned
    first = words(judged(report, folder))
    settled = {key for key, (regime, _) in first.items() if regime != "inconclusive"}
    assert len(settled) > 20
    assert any(causes for _, causes in first.values())
    moved = 0
    for seed in SEEDS:
        again = judged(report, folder, seed=seed)
        said = words(again)
        assert {key: said[key] for key in settled} == {key: first[key] for key in settled}, seed
        moved += again.measurements != report.measurements
    assert moved == len(SEEDS)  # the seed does drive what is drawn


@pytest.mark.slow
def test_two_scans_of_the_same_run_give_the_same_verdicts(
    scanned: tuple[Report, Path], tiny_run: Path, tmp_path: Path
) -> None:
    report, _ = scanned
    again = diagnose(
        resolve({"run": tiny_run, "out": tmp_path / "out", **SMALL}, environ=UNRENDERED)
    )
    assert again.report.verdicts == report.verdicts
    assert again.report.findings == report.findings


def test_a_declared_credit_turns_notes_into_faults_without_a_model(
    scanned: tuple[Report, Path], tiny_run: Path, tmp_path: Path
) -> None:
    report, folder = scanned
    assert {f.level for f in report.findings if f.signal} == {"note"}
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    flags = {"run": tiny_run, "out": out, "credit": "entropy_reduction", **SMALL}
    done = diagnose(resolve(flags, environ=UNRENDERED))
    assert done.did == "judged again"
    faults = [f for f in done.report.findings if f.level in ("error", "warn")]
    assert {f.signal for f in faults if f.signal} == {"entropy_reduction"}
    assert {f.id for f in done.report.findings} >= {f.id for f in report.findings}
    others = [f for f in done.report.findings if f.signal is None]
    assert others == [f for f in report.findings if f.signal is None]


def test_a_run_that_trains_its_most_uncertain_tokens_is_told_what_stays_without_credit(
    scanned: tuple[Report, Path], tiny_run: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(scanned[1], tmp_path / "out"))
    flags = {"run": tiny_run, "out": out, "credit": "top_entropy:0.07", **SMALL}
    report = diagnose(resolve(flags, environ=UNRENDERED)).report
    ways = {w.credit for w in report.what_if}
    assert "top_entropy 0.07" in ways
    told = [f for f in report.findings if "top_entropy:0.07" in f.message]
    assert [f.id for f in told] == ["credit-sparse"]
    (way, *_) = (w for w in report.what_if if w.credit == "top_entropy 0.07")
    assert told[0].evidence["uncredited"]["value"] == way.uncredited.value
    assert told[0].level == ("warn" if (way.uncredited.low or 0) > 0.5 else "note")


def test_another_cut_is_applied_to_saved_tables(scanned: tuple[Report, Path]) -> None:
    report, folder = scanned
    strict = judged(report, folder, thresholds={"gini-sparse": 0.9999})
    before = words(judged(report, folder))
    assert any(regime == "sparse" for regime, _ in before.values())
    assert not any(regime == "sparse" for regime, _ in words(strict).values())


def test_what_may_be_rounding_has_no_regime_no_onset_and_none_if_credited_otherwise(
    scanned: tuple[Report, Path],
) -> None:
    report, folder = scanned
    saved = read_tables(folder, report)
    loud = dataclasses.replace(saved, noise=saved.noise.assign(surprisal=3.0))
    steps = {c.name: c.step for c in report.run.checkpoints if c.measured}
    members = tables.saved_memberships(saved.trajectories)
    found = judging.judge(loud, members, steps, ScanConfig(run=folder))
    assert "surprisal" in {o.signal for o in report.onsets}
    assert "surprisal" not in {o.signal for o in found.onsets}
    for one in found.what_if:
        own = one.credit.startswith("surprisal ")
        assert (one.reason is not None) == own
        assert not own or (one.regime, "rounding is" in str(one.reason)) == ("inconclusive", True)
    drowned = [v for v in found.verdicts if v.signal == "surprisal"]
    assert {(v.regime, v.side) for v in drowned} == {("inconclusive", None)}


def test_an_older_result_without_the_newer_tables_is_judged(scanned: tuple[Report, Path]) -> None:
    report, folder = scanned
    saved = read_tables(folder, report)
    older = dataclasses.replace(
        saved,
        noise=tables.noise_table({}, {}),
        tokens=saved.tokens.drop(columns="token_class"),
    )
    steps = {c.name: c.step for c in report.run.checkpoints if c.measured}
    members = tables.saved_memberships(saved.trajectories)
    found = judging.judge(older, members, steps, ScanConfig(run=folder))
    missing = {s.reason for s in found.skipped if s.id == "numeric-noise"}
    assert missing == {"no noise was measured"}
    classes = [m for m in found.measurements if m.name == "class_explained"]
    assert {m.value for m in classes} == {None}
