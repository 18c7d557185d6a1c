"""The whole scan on a small copy of the tiny sample, through the command line where it matters.

Golden figures: see tests/conftest.py for how they are written anew.
"""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import jsonschema
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from arca_diag.config import resolve
from arca_diag.diagnostics.agreement import AGREEMENTS
from arca_diag.diagnostics.uncertainty import cluster_mean
from arca_diag.errors import ArcaError, ResultError
from arca_diag.pipeline import Diagnosis, diagnose
from arca_diag.progress import Silent
from arca_diag.results import ExitCode, Measurement, Report, published_schema
from tests.conftest import ROOT, TINY, TINY_CHECKPOINTS, UNRENDERED
from tests.report.drawn import ALL
from tests.test_tables import (
    DESIGN_ROLLOUTS,
    DESIGN_TOKENS,
    DESIGN_TRAJECTORIES,
    SEVEN,
    cells,
)

GOLDEN = Path(__file__).parent / "golden" / "tiny_addition.json"
SMALL = {"groups": 2, "fixed_groups": 3}

#: Figures that come from random permutations.
DRAWN = {
    "reward_gap_p",
    "reward_gap_p_holm",
    "prefix_agreement_null",
    "type_explained_null",
    "type_overlap_null",
    "class_explained_null",
    "position_explained_null",
}
TABLES = tuple(
    f"{name}.parquet" for name in ("tokens", "trajectories", "rollouts", "noise", "layers", "log")
)
PAGES = ("report.html", "report.pdf")
PLOTS = tuple(f"plots/{name}.svg" for name in ALL)
CONCENTRATION = ("gini", "effn_ratio", "gini_corrected", "effn_corrected")


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    stdout: bytes
    stderr: str
    seconds: float


def command(
    *words: str | Path, environment: Mapping[str, str] | None = None, timeout: float = 300
) -> Done:
    """`arca-diag WORDS` in a process of its own, with this checkout's package."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ARCA_DIAG_", "PYTEST_"))}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "arca_diag", *map(str, words)],
        cwd=ROOT,
        env=kept | {"OMP_NUM_THREADS": "1"} | UNRENDERED | dict(environment or {}),
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return Done(
        done.returncode, done.stdout, done.stderr.decode(), seconds=time.monotonic() - begun
    )


class Stages(Silent):
    """Remembers what a scan said it was doing."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.tokens = 0

    def stage(self, name: str) -> None:
        self.heard.append(name)

    def advance(self, done: int) -> None:
        self.tokens += done


def scan(run: Path, progress: Stages | None = None, **flags: Any) -> Diagnosis:
    return diagnose(resolve({"run": run, **SMALL, **flags}, environ=UNRENDERED), progress)


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_bytes())
    return found


def without_provenance(folder: Path) -> dict[str, Any]:
    return {k: v for k, v in report_of(folder).items() if k != "provenance"}


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def figure(report: Report, checkpoint: int, view: str, signal: str | None, name: str) -> Any:
    (found,) = (
        m
        for m in report.measurements
        if (m.checkpoint, m.view, m.signal, m.name) == (checkpoint, view, signal, name)
        and m.sharpening in (None, 1.0)
    )
    return found


def measured_at(report: Report) -> set[int | str]:
    return {m.checkpoint for m in report.measurements}


@pytest.fixture(scope="session")
def finished(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The scan that most tests look at, by the command line. Do not change its folder."""
    out = tmp_path_factory.mktemp("finished") / "out"
    words = ("scan", tiny_run, "--out", out, "--groups", "2", "--fixed-groups", "3", "--json")
    return out, command(*words, environment={"ARCA_DIAG_NO_RENDER": "0"})


@pytest.fixture
def copied(finished: tuple[Path, Done], tmp_path: Path) -> Path:
    """A copy of that result, to scan over."""
    return Path(shutil.copytree(finished[0], tmp_path / "copied"))


# What a scan leaves.


@pytest.mark.shapes
def test_every_annotated_shape_holds_in_a_whole_scan(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):  # they are checked
        cluster_mean(np.ones((2, 2)), np.arange(2))
    flags = {"groups": 1, "fixed_groups": 1, "checkpoints": "20", "gradients": 20}
    report = scan(tiny_run, out=tmp_path / "out", **flags).report
    assert measured_at(report) == {20}


def test_a_scan_ends_well_and_says_nothing_but_the_document_with_json(
    finished: tuple[Path, Done],
) -> None:
    out, done = finished
    assert done.code == ExitCode.DONE, done.stderr
    assert done.stdout == (out / "report.json").read_bytes()
    assert done.stderr == ""


def test_the_document_validates_against_the_published_schema(finished: tuple[Path, Done]) -> None:
    jsonschema.Draft202012Validator(published_schema()).validate(report_of(finished[0]))


def test_every_key_of_the_design_is_in_the_document(finished: tuple[Path, Done]) -> None:
    report = report_of(finished[0])
    top = """schema_version, tool, status, provenance, run, adapter, reference, rollouts,
        replay_fidelity, measurements, verdicts, onsets, what_if, findings, skipped, thresholds,
        files"""
    assert list(report) == [key.strip() for key in top.split(",")]
    assert report["provenance"]["reused_passes"] == 0
    assert set(report["reference"]) == {"kind", "reason"}
    assert {"init", "rank", "alpha"} <= set(report["adapter"])
    assert {
        "source",
        "selected",
        "groups",
        "clusters",
        "distinct",
        "tokens",
        "ids_exact",
        "eval_excluded",
        "steps",
        "fixed_set",
    } <= set(report["rollouts"])
    measurement = """checkpoint, view, signal, sharpening, against, name, value, low, high,
        n_clusters, n_groups, n_completions, n_tokens, reason"""
    for found in report["measurements"]:
        assert list(found) == [key.strip() for key in measurement.split(",")]


def test_the_document_says_what_the_run_is(finished: tuple[Path, Done]) -> None:
    report = report_of(finished[0])
    assert report["status"] == "complete"
    assert report["run"]["name"] == "tiny-addition"
    assert report["run"]["framework"] == "trl"
    assert report["run"]["temperature"] == 1.0
    assert report["run"]["temperature_source"].startswith("recorded in")
    assert report["run"]["steps"] == 101
    assert [c["step"] for c in report["run"]["checkpoints"]] == list(TINY_CHECKPOINTS)
    assert (report["adapter"]["rank"], report["adapter"]["alpha"]) == (4, 8.0)
    assert report["reference"]["kind"] == "adapter-off"
    rollouts = report["rollouts"]
    assert rollouts["ids_exact"] is True
    assert len(rollouts["fixed_set"]) == 3
    assert rollouts["selected"] == 16 * rollouts["groups"]
    assert 3 <= rollouts["groups"] <= 9
    assert report["findings"] == []


def test_every_file_of_the_design_is_there_and_listed_with_its_hash(
    finished: tuple[Path, Done],
) -> None:
    files = files_in(finished[0])
    files.pop(".arca-diag.json")
    assert set(files) == {*TABLES, *PLOTS, *PAGES, "report.json"}
    listed = report_of(finished[0])["files"]
    for name in ("report.json", *PAGES):  # they say when they were made
        assert listed.pop(name) is None
    assert listed == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name in listed
    }
    assert b"<svg" in files["plots/lorenz.svg"]


def test_every_column_of_the_design_is_in_the_tables(finished: tuple[Path, Done]) -> None:
    for name, columns in (
        ("tokens", DESIGN_TOKENS),
        ("trajectories", DESIGN_TRAJECTORIES),
        ("rollouts", DESIGN_ROLLOUTS),
    ):
        schema = pq.read_schema(finished[0] / f"{name}.parquet")
        found = dict(zip(schema.names, schema.types, strict=True))
        assert columns.items() <= found.items()


def test_both_views_are_measured_at_every_checkpoint(finished: tuple[Path, Done]) -> None:
    report = Report.from_json((finished[0] / "report.json").read_bytes())
    names = {(m.checkpoint, m.view, m.signal, m.name) for m in report.measurements}
    for step in TINY_CHECKPOINTS:
        for view in ("on-policy", "fixed-set"):
            for signal in SEVEN:
                for name in (*CONCENTRATION, "mean"):
                    assert (step, view, signal, name) in names
                    found = figure(report, step, view, signal, name)
                    assert found.value is not None
                    assert found.n_completions == (32 if view == "on-policy" else 48)
        # File N + 1 holds what checkpoint N sampled, and is in the copy.
        assert figure(report, step, "on-policy", None, "step_distance_max").value == 0
        assert figure(report, step, "fixed-set", None, "step_distance_max").value > 20


def test_every_pair_of_signals_is_compared_at_every_checkpoint(
    finished: tuple[Path, Done],
) -> None:
    data = (finished[0] / "report.json").read_bytes()
    report = Report.from_json(data)
    pairs = [m for m in report.measurements if m.against in SEVEN]
    assert len(pairs) == len(TINY_CHECKPOINTS) * 2 * 21 * len(AGREEMENTS)
    assert all(m.value is not None for m in pairs)
    assert len(data) < 2e6
    # Each is what the saved tokens say, by SciPy.
    tokens = pd.read_parquet(finished[0] / "tokens.parquet")
    rollouts = pd.read_parquet(finished[0] / "rollouts.parquet")
    at_20 = tokens[(tokens["checkpoint_step"] == 20) & (tokens["rollout_step"] == 20)]
    each = at_20[at_20["counted"]].groupby("rollout_id")[["surprisal", "residual"]]
    rho = each.apply(lambda x: x["surprisal"].corr(x["residual"], "spearman"))
    rho = rho[each.size() >= 8]
    wanted = rho.groupby(rollouts.set_index("rollout_id")["cluster"]).mean().mean()
    (one,) = (
        m
        for m in pairs
        if (m.checkpoint, m.view, m.signal, m.against, m.name)
        == (20, "on-policy", "surprisal", "residual", "rank_agreement")
    )
    assert one.value == pytest.approx(wanted, rel=1e-9)


def test_tables_and_measurements_agree(finished: tuple[Path, Done]) -> None:
    report = Report.from_json((finished[0] / "report.json").read_bytes())
    tokens = pd.read_parquet(finished[0] / "tokens.parquet")
    rollouts = pd.read_parquet(finished[0] / "rollouts.parquet")
    assert rollouts["rollout_id"].is_unique
    assert set(tokens["rollout_id"]) == set(rollouts["rollout_id"])
    assert len(rollouts) == report.rollouts.selected
    assert rollouts["n_completion_tokens"].sum() == report.rollouts.tokens
    assert rollouts["cluster"].nunique() == report.rollouts.clusters
    at_100 = tokens[tokens["checkpoint_step"] == 100]
    own = at_100[at_100["rollout_step"] == 100].merge(rollouts[["rollout_id", "cluster"]])
    each = own.groupby(["cluster", "rollout_id"])["surprisal"].mean()
    wanted = each.groupby("cluster").mean().mean()
    assert figure(report, 100, "on-policy", "surprisal", "mean").value == pytest.approx(wanted)
    # Text of a token is the tokenizer's piece: the pieces of a completion spell it.
    one = own[own["rollout_id"] == own["rollout_id"].iloc[0]]
    text = rollouts.set_index("rollout_id")["completion_text"][own["rollout_id"].iloc[0]]
    assert "".join(one["token"]).removesuffix("<eos>") == text


def test_nothing_of_this_machine_is_in_the_document(finished: tuple[Path, Done]) -> None:
    files = files_in(finished[0])
    for name in ("report.json", ".arca-diag.json"):
        text = files[name].decode()
        for private in (str(Path.home()), str(ROOT), str(finished[0].parent), os.uname().nodename):
            assert private not in text


def golden_figures(report: Report) -> list[Measurement]:
    return [
        m
        for m in report.measurements
        if m.checkpoint in (2, 100)
        and (
            (m.name in ("gini_corrected", "effn_corrected") and m.sharpening == 1.0)
            or m.name == "mean"
        )
        and m.signal in ("surprisal", "entropy_reduction", "divergence", "kl_exact", "residual")
    ]


def test_the_golden_figures_are_measured_again(
    finished: tuple[Path, Done], request: pytest.FixtureRequest
) -> None:
    report = Report.from_json((finished[0] / "report.json").read_bytes())
    keys = ("checkpoint", "view", "signal", "name", "value", "n_clusters", "n_completions")
    found = [{k: getattr(m, k) for k in keys} for m in golden_figures(report)]
    if request.config.getoption("--update-golden"):
        GOLDEN.parent.mkdir(exist_ok=True)
        lines = ",\n".join(json.dumps(row) for row in found)
        GOLDEN.write_text(f"[\n{lines}\n]\n", "utf-8")
        pytest.fail(f"{GOLDEN.name} was written anew: look at the difference")
    wanted = json.loads(GOLDEN.read_bytes())
    assert len(wanted) == len(found) == 60
    for row, expected in zip(found, wanted, strict=True):
        # float32 on another processor moves the fourth digit of a small divergence.
        assert row == expected | {"value": pytest.approx(expected["value"], rel=1e-3)}


def test_the_run_sharpens_as_it_learns(finished: tuple[Path, Done]) -> None:
    report = Report.from_json((finished[0] / "report.json").read_bytes())
    first, last = (
        figure(report, step, "on-policy", "surprisal", "gini_corrected").value for step in (2, 100)
    )
    assert last > first
    before, after = (figure(report, s, "fixed-set", "residual", "mean").value for s in (2, 100))
    assert after > 3 * before


# The same again.


def test_two_scans_give_the_same_bytes_apart_from_provenance(
    finished: tuple[Path, Done], tiny_run: Path, tmp_path: Path
) -> None:
    again = scan(tiny_run, out=tmp_path / "out", no_render=False)
    assert again.did == "measured"
    one, other = files_in(finished[0]), files_in(tmp_path / "out")
    assert one.keys() == other.keys()
    for name in (*TABLES, *PLOTS):
        assert one[name] == other[name], name
    markers = [json.loads(files[".arca-diag.json"]) for files in (one, other)]
    for marker in markers:
        del marker["report"]  # the hash of a document that says when it was made
    assert markers[0] == markers[1]
    assert without_provenance(finished[0]) == without_provenance(tmp_path / "out")
    moving = {"started_at", "seconds"}
    first, second = (report_of(f)["provenance"] for f in (finished[0], tmp_path / "out"))
    assert {k: v for k, v in first.items() if k not in moving} == {
        k: v for k, v in second.items() if k not in moving
    }


def test_how_batches_are_cut_does_not_say_which_result_it_is(copied: Path, tiny_run: Path) -> None:
    assert scan(tiny_run, out=copied, batch_tokens=77).did == "nothing new"


def test_the_same_scan_again_says_so_and_prints_the_saved_document(
    copied: Path, tiny_run: Path
) -> None:
    before = files_in(copied)
    words = ("scan", tiny_run, "--out", copied, "--groups", "2", "--fixed-groups", "3", "--json")
    done = command(*words)
    assert done.code == ExitCode.DONE, done.stderr
    assert done.stdout == before["report.json"]
    assert "nothing new" in done.stderr
    assert files_in(copied) == before


def test_a_result_of_before_batches_were_recorded_is_judged_again_and_gated(
    copied: Path, tiny_run: Path
) -> None:
    path = copied / "report.json"
    document = json.loads(path.read_bytes())
    for key in ("batch_tokens", "prefix_sharing"):
        del document["provenance"][key]
    for key in ("device_map", "quantize"):
        del document["provenance"]["options"][key]
    path.write_text(json.dumps(document))
    assert command("gate", path, "--checkpoint", "last").code != ExitCode.BAD_INPUT
    assert scan(tiny_run, out=copied).did == "nothing new"
    found = scan(tiny_run, out=copied, epsilon=1e-3)
    assert found.did == "judged again"
    assert found.report is not None
    assert found.report.provenance.prefix_sharing is None


def test_a_result_of_another_schema_is_left_alone_until_force(copied: Path, tiny_run: Path) -> None:
    path = copied / "report.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"schema_version": 2}))
    before = files_in(copied)
    with pytest.raises(ResultError, match="schema version 2"):
        scan(tiny_run, out=copied)
    assert files_in(copied) == before


def test_the_same_scan_again_loads_no_model(copied: Path, tiny_run: Path) -> None:
    stages = Stages()
    before = files_in(copied)
    assert scan(tiny_run, stages, out=copied).did == "nothing new"
    assert stages.heard == ["reading the run"]
    assert stages.tokens == 0
    assert files_in(copied) == before


def test_some_of_the_measured_checkpoints_are_nothing_new(copied: Path, tiny_run: Path) -> None:
    found = scan(tiny_run, out=copied, checkpoints="20")
    assert found.did == "nothing new"
    assert measured_at(found.report) == set(TINY_CHECKPOINTS)


def test_other_judging_options_need_no_model_and_give_what_a_fresh_scan_gives(
    copied: Path, tiny_run: Path, tmp_path: Path
) -> None:
    judging: dict[str, Any] = {
        "sharpening": 2.0,
        "epsilon": 1e-3,
        "credit": "residual",
        "thresholds": {"gini-leaning-sparse": 0.7},
    }
    stages = Stages()
    again = scan(tiny_run, stages, out=copied, **judging)
    assert again.did == "judged again"
    assert stages.heard == ["reading the run"]
    fresh = scan(tiny_run, out=tmp_path / "fresh", **judging)
    assert fresh.did == "measured"
    for name in TABLES:
        assert (copied / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes(), name
    assert without_provenance(copied) == without_provenance(tmp_path / "fresh")
    one, other = (report_of(f)["provenance"] for f in (copied, tmp_path / "fresh"))
    assert one["options"] == other["options"]
    # And that is the state from now on.
    assert scan(tiny_run, out=copied, **judging).did == "nothing new"


@pytest.mark.slow
def test_other_cuts_move_classes_and_are_in_the_report(copied: Path, tiny_run: Path) -> None:
    def classes() -> dict[str, int]:
        table = pd.read_parquet(copied / "trajectories.parquet")
        return dict(table["class"].value_counts())

    before = classes()
    cuts = {"tokens-short": 1000.0}
    assert scan(tiny_run, out=copied, thresholds=cuts).did == "judged again"
    assert classes()["short"] > before.get("short", 0)
    values = {t["id"]: t["value"] for t in report_of(copied)["thresholds"]}
    assert values["tokens-short"] == 1000
    assert report_of(copied)["provenance"]["options"]["thresholds"] == cuts
    # Without them it is the result of before.
    assert scan(tiny_run, out=copied).did == "judged again"
    assert classes() == before


def test_cuts_of_the_runs_files_decide_when_it_is_scanned(
    copied: Path, tiny_run: Path, tmp_path: Path
) -> None:
    cuts = {"layer-dominates": 0.01, "no-advantage-warn": 0.0, "fidelity-entropy-floor": 9.0}
    scan(tiny_run, out=tmp_path / "moved", checkpoints="20", groups=1, thresholds=cuts)
    before, after = report_of(copied), report_of(tmp_path / "moved")
    ids = [{f["id"] for f in r["findings"]} for r in (before, after)]
    assert ids[1] - ids[0] == {"layer-dominates", "no-advantage"}
    told = after["replay_fidelity"][0]["figures"]
    gap = abs(told["entropy_replayed"] - told["entropy_logged"])
    assert told["entropy_relative_difference"] == pytest.approx(gap / 9, rel=1e-9)
    assert {t["id"]: t["value"] for t in after["thresholds"]}.items() >= cuts.items()


def test_the_credit_is_what_was_given_else_what_the_run_recorded(
    copied: Path, tiny_run: Path
) -> None:
    def told() -> tuple[str, str]:
        options = report_of(copied)["provenance"]["options"]
        return options["credit"], options["credit_source"]

    stock = ("uniform", "stock trainers weight tokens evenly")
    assert told() == stock
    assert scan(tiny_run, out=copied, credit="top_entropy:0.2").did == "judged again"
    assert told() == ("top_entropy:0.2", "given with --credit")
    assert scan(tiny_run, out=copied).did == "judged again"
    assert told() == stock
    assert scan(tiny_run, out=copied).did == "nothing new"


def test_another_seed_is_recorded_and_moves_only_what_is_drawn(
    copied: Path, tiny_run: Path
) -> None:
    before, figures = files_in(copied), report_of(copied)
    assert scan(tiny_run, out=copied, seed=7).did == "judged again"
    after = report_of(copied)
    assert after["provenance"]["seed"] == 7
    assert after["provenance"]["options"]["seed"] == 7
    for name in TABLES:
        assert (copied / name).read_bytes() == before[name], name
    pairs = zip(figures["measurements"], after["measurements"], strict=True)
    assert {m["name"] for m, other in pairs if m != other} == DRAWN
    for found in (figures, after):
        for each in found["verdicts"]:
            each.pop("settled_by")
    assert after["verdicts"] == figures["verdicts"]


def test_figures_are_given_at_one_and_at_the_asked_sharpening(copied: Path, tiny_run: Path) -> None:
    report = scan(tiny_run, out=copied, sharpening=2.0).report
    assert {m.sharpening for m in report.measurements} == {None, 1.0, 2.0}
    by_power = {
        m.sharpening: m.value
        for m in report.measurements
        if (m.checkpoint, m.view, m.signal, m.name) == (2, "on-policy", "surprisal", "gini")
    }
    assert by_power[2.0] > by_power[1.0]


def test_a_changed_table_is_not_judged_again(copied: Path, tiny_run: Path) -> None:
    data = (copied / "tokens.parquet").read_bytes()
    (copied / "tokens.parquet").write_bytes(data[:-10] + b"0123456789")
    with pytest.raises(ResultError, match=r"tokens\.parquet is missing or was changed"):
        scan(tiny_run, out=copied, sharpening=2.0)


@pytest.mark.parametrize(
    "replaying",
    [
        {"temperature": 0.7},
        {"groups": 1},
        {"fixed_groups": 2},
        {"window": 3},
        {"dtype": "float64"},
        {"redact_text": True},
        {"skip_bad_lines": True},
        {"thresholds": {"kl-at-start": 0.1}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_replay_options_are_refused_and_change_nothing(
    copied: Path, tiny_run: Path, replaying: dict[str, Any]
) -> None:
    before = files_in(copied)
    with pytest.raises(ResultError, match="other options") as caught:
        scan(tiny_run, out=copied, **replaying)
    assert next(iter(replaying)) in str(caught.value)
    assert files_in(copied) == before


def test_refusal_is_exit_2_and_force_replaces(copied: Path, tiny_run: Path) -> None:
    (copied / "mine.txt").write_text("mine")
    words = ["scan", tiny_run, "--out", copied, "--groups", "1", "--fixed-groups", "1"]
    words += ["--checkpoints", "2"]
    done = command(*words)
    assert done.code == ExitCode.BAD_INPUT
    assert "groups was 2, now 1" in done.stderr
    assert "--force" in done.stderr
    assert done.stdout == b""
    found = scan(tiny_run, out=copied, groups=1, fixed_groups=1, checkpoints="2", force=True)
    assert found.did == "measured"
    assert measured_at(found.report) == {2}
    assert (copied / "mine.txt").read_text() == "mine"


# Growth.


def test_a_checkpoint_that_was_added_is_measured_on_the_fixed_set_of_before(
    copied: Path, own_run: Path
) -> None:
    shutil.copytree(TINY / "checkpoint-60", own_run / "checkpoint-60")
    before = Report.from_json((copied / "report.json").read_bytes())
    found = scan(own_run, out=copied)
    assert found.did == "measured"
    assert measured_at(found.report) == {*TINY_CHECKPOINTS, 60}
    assert found.report.rollouts.fixed_set == before.rollouts.fixed_set
    for step in TINY_CHECKPOINTS:
        for view in ("on-policy", "fixed-set"):
            for signal in SEVEN:
                was, now = (
                    figure(r, step, view, signal, "gini_corrected").value
                    for r in (before, found.report)
                )
                assert now == pytest.approx(was, rel=1e-3)
    assert scan(own_run, out=copied).did == "nothing new"


def test_completions_that_were_added_leave_the_fixed_set_alone(copied: Path, own_run: Path) -> None:
    # Step 82: nearer to where a fresh scan would take its third group than all that were there.
    name = "completions_00083.parquet"
    shutil.copyfile(TINY / "completions" / name, own_run / "completions" / name)
    before = Report.from_json((copied / "report.json").read_bytes())
    found = scan(own_run, out=copied)
    assert found.did == "measured"
    assert found.report.rollouts.fixed_set == before.rollouts.fixed_set
    assert f"completions/{name}" in found.report.provenance.inputs
    wanted = figure(before, 100, "fixed-set", "surprisal", "gini_corrected").value
    now = figure(found.report, 100, "fixed-set", "surprisal", "gini_corrected").value
    assert now == pytest.approx(wanted, rel=1e-3)


@pytest.mark.slow
def test_a_redacted_result_keeps_its_fixed_set_when_the_run_grows(
    own_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.rmtree(own_run / "checkpoint-100")
    before = scan(own_run, out=out, redact_text=True).report
    shutil.copytree(TINY / "checkpoint-60", own_run / "checkpoint-60")
    found = scan(own_run, out=out, redact_text=True).report
    assert found.rollouts.fixed_set == before.rollouts.fixed_set
    assert figure(found, 2, "fixed-set", "surprisal", "gini_corrected").value == pytest.approx(
        figure(before, 2, "fixed-set", "surprisal", "gini_corrected").value, rel=1e-3
    )


def test_a_redacted_result_whose_names_can_no_longer_be_told_is_refused(
    own_run: Path, tmp_path: Path
) -> None:
    """The first rollouts file is the key of the names: with another one before it, none fits."""
    out = tmp_path / "out"
    first = sorted((own_run / "completions").iterdir())[0]
    moved = first.rename(tmp_path / first.name)
    before = files_in_after(own_run, out)
    moved.rename(first)
    with pytest.raises(ResultError, match="fixed set of the earlier scan"):
        scan(own_run, out=out, redact_text=True)
    assert files_in(out) == before


def files_in_after(run: Path, out: Path) -> dict[str, bytes]:
    """The files of a fresh redacted result."""
    scan(run, out=out, redact_text=True)
    return files_in(out)


def test_asking_for_other_checkpoints_only_adds(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = scan(tiny_run, out=out, checkpoints="20")
    assert measured_at(first.report) == {20}
    second = scan(tiny_run, out=out, checkpoints="2")
    assert second.did == "measured"
    assert measured_at(second.report) == {2, 20}
    assert second.report.rollouts.fixed_set == first.report.rollouts.fixed_set
    assert [c.step for c in second.report.run.checkpoints] == [2, 20]


def test_a_changed_or_removed_input_is_another_scan(copied: Path, own_run: Path) -> None:
    before = files_in(copied)
    shutil.copyfile(
        own_run / "checkpoint-2" / "adapter_model.safetensors",
        own_run / "checkpoint-20" / "adapter_model.safetensors",
    )
    with pytest.raises(ResultError, match="checkpoint-20 has changed"):
        scan(own_run, out=copied)
    shutil.rmtree(own_run / "checkpoint-20")
    with pytest.raises(ResultError, match="checkpoint-20 is gone"):
        scan(own_run, out=copied)
    assert files_in(copied) == before


def test_a_corrupt_checkpoint_measured_around_does_not_stop_a_later_scan_of_another(
    own_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (own_run / "checkpoint-100" / "adapter_model.safetensors").write_bytes(b"half")
    first = scan(own_run, out=out)
    assert measured_at(first.report) == {2, 20}
    assert [f.id for f in first.report.findings] == ["checkpoint-unreadable"]
    # checkpoint-100 is not named here, so it is a finding still, and no error.
    assert scan(own_run, out=out, checkpoints="20").did == "nothing new"


# Where results go.


def test_scanning_one_checkpoint_of_a_run_finds_the_run(own_run: Path) -> None:
    found = scan(own_run / "checkpoint-20")
    assert found.folder == own_run.resolve() / "arca-diag"
    assert (found.folder / "report.json").is_file()
    assert {p.name for p in (own_run / "checkpoint-20").iterdir()} == {
        p.name for p in (TINY / "checkpoint-20").iterdir()
    }
    assert measured_at(found.report) == {20}
    assert found.report.run.name == "tiny-addition"
    # The result in the run's folder is not read as part of the run.
    assert scan(own_run / "checkpoint-20").did == "nothing new"


def test_demo_scans_the_sample_that_ships_and_always_anew(copied: Path) -> None:
    # Over a finished result of other options, which a scan would refuse.
    fewer = {
        "ARCA_DIAG_GROUPS": "1",
        "ARCA_DIAG_FIXED_GROUPS": "1",
        "ARCA_DIAG_CHECKPOINTS": "2,100",
    }
    done = command("demo", "--out", copied, environment=fewer)
    assert done.code == ExitCode.DONE, done.stderr
    assert done.stderr == ""
    text = done.stdout.decode()
    assert re.match(r"At step 100 \(on-policy, \d+ prompts?\), the run weights all tokens", text)
    assert "tiny-addition" in text
    assert "G^ / e^ at" in text
    assert f"{copied}" in text
    report = Report.from_json((copied / "report.json").read_bytes())
    assert report.status == "complete"
    assert measured_at(report) == {2, 100}
    assert len(report.rollouts.fixed_set) == 1


# Redaction.


def test_a_redacted_result_holds_no_prompt_no_completion_and_no_token(
    own_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    scan(own_run, out=out, redact_text=True, checkpoints="20")
    prompts, completions, names = set(), set(), set()
    for path in (own_run / "completions").glob("*.parquet"):
        table = pd.read_parquet(path)
        prompts |= set(table["prompt"])
        completions |= {text for text in table["completion"] if len(text) > 4}
        names |= {f"{path.stem}/{row}" for row in range(len(table))}
    assert len(prompts) > 50
    for name, data in files_in(out).items():
        if name.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
            text = "\n".join(cells(data))
            for column in {"token", "token_id", "prompt_text", "completion_text"} & set(
                table.column_names
            ):
                assert table.column(column).null_count == table.num_rows
        elif name.endswith(".png"):
            continue
        else:
            text = data.decode()
        for secret in (*prompts, *completions, *names):
            assert secret not in text, name


def test_a_redacted_result_has_the_figures_of_the_open_one(
    finished: tuple[Path, Done], tiny_run: Path, tmp_path: Path
) -> None:
    found = scan(tiny_run, out=tmp_path / "out", redact_text=True).report
    as_open = Report.from_json((finished[0] / "report.json").read_bytes())
    assert found.measurements == as_open.measurements
    assert scan(tiny_run, out=tmp_path / "out", redact_text=True).did == "nothing new"
    again = scan(tiny_run, out=tmp_path / "out", redact_text=True, sharpening=2.0)
    assert again.did == "judged again"


# Adapters that do nothing, completions that are too short.


def test_an_adapter_that_does_nothing_is_no_signal_and_a_finding(
    own_run: Path, tmp_path: Path
) -> None:
    path = own_run / "checkpoint-20" / "adapter_model.safetensors"
    tensors = {k: 0 * v if ".lora_B." in k else v for k, v in load_file(path).items()}
    save_file(tensors, path)
    out = tmp_path / "out"
    report = scan(own_run, out=out, checkpoints="2,20").report
    moved = ("divergence", "kl_exact", "residual", "relative_residual")
    for view in ("on-policy", "fixed-set"):
        for signal in moved:
            assert figure(report, 20, view, signal, "mean").value == 0.0
            for name in CONCENTRATION:
                found = figure(report, 20, view, signal, name)
                assert found.value is None
                assert found.reason == "every raw score is exactly zero"
        assert figure(report, 20, view, "surprisal", "gini_corrected").value is not None
        assert figure(report, 2, view, "residual", "gini_corrected").value is not None
    silent = {(v.checkpoint, v.view, v.signal) for v in report.verdicts if v.regime == "no-signal"}
    assert silent == {(20, view, signal) for view in ("on-policy", "fixed-set") for signal in moved}
    faults = [f for f in report.findings if f.level != "note"]
    assert [(f.id, f.level, f.checkpoint) for f in faults] == [("adapter-inert", "error", 20)]
    assert faults[0].cause_of == ["credit-absent"]
    absent = {f.signal for f in report.findings if f.caused_by == "adapter-inert"}
    assert absent == set(moved)
    trajectories = pd.read_parquet(out / "trajectories.parquet")
    inert = trajectories[
        (trajectories["checkpoint_step"] == 20) & trajectories["signal"].isin(moved)
    ]
    assert set(inert["class"]) == {"no-signal"}
    tokens = pd.read_parquet(out / "tokens.parquet")
    at_20 = tokens[tokens["checkpoint_step"] == 20]
    assert (at_20["residual"] == 0).all()
    assert at_20["w_residual"].isna().all()
    # Judged again, the facts are there at both powers.
    again = scan(own_run, out=out, checkpoints="2,20", sharpening=2.0)
    assert again.did == "judged again"
    silent = {(v.signal, v.sharpening) for v in again.report.verdicts if v.regime == "no-signal"}
    assert silent == {(signal, power) for signal in moved for power in (1.0, 2.0)}
    assert [f.id for f in again.report.findings if f.caused_by is None][:1] == ["adapter-inert"]
    assert all(f.caused_by for f in again.report.findings if f.id == "credit-absent")


def one_token_completions(folder: Path, mask: bool) -> Path:
    path = folder / "short.jsonl"
    lines = [
        {
            "id": str(i),
            "step": 20,
            "prompt_ids": [1, 6 + i, 14, 7, 19],
            "completion_ids": [5],
            "completion_mask": [mask],
        }
        for i in range(4)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_completions_of_one_token_alone_are_exit_3(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rollouts = one_token_completions(tmp_path, mask=True)
    words = ("scan", tiny_run, "--checkpoints", "20", "--rollouts", rollouts, "--out", out)
    done = command(*words)
    assert done.code == ExitCode.NOTHING_MEASURED, done.stderr
    report = Report.from_json((out / "report.json").read_bytes())
    assert report.status == "nothing-measured"
    found = figure(report, 20, "fixed-set", "surprisal", "gini_corrected")
    assert found.value is None
    assert found.reason == "every completion counts fewer than two tokens"


def test_completions_of_which_no_token_counts_measure_nothing(
    tiny_run: Path, tmp_path: Path
) -> None:
    rollouts = one_token_completions(tmp_path, mask=False)
    report = scan(tiny_run, out=tmp_path / "out", checkpoints="20", rollouts=rollouts).report
    assert report.status == "nothing-measured"
    assert report.rollouts.tokens == 0
    for name in ("mean", "gini_corrected"):
        found = figure(report, 20, "fixed-set", "surprisal", name)
        assert found.value is None
        assert found.reason == "every completion counts fewer than two tokens"


def test_a_scan_that_selects_nothing_measures_nothing_and_says_why(
    own_run: Path, tmp_path: Path
) -> None:
    shutil.rmtree(own_run / "completions")
    (own_run / "completions").mkdir()
    name = "completions/completions_00101.parquet"
    shutil.copyfile(TINY / name, own_run / name)
    out = tmp_path / "out"
    report = scan(own_run, out=out, checkpoints="2", fixed_groups=0).report
    assert report.status == "nothing-measured"
    found = figure(report, 2, "on-policy", "surprisal", "gini_corrected")
    assert found.reason == "no completion in its window of steps"


# Rollouts and adapters without a step.


def test_a_bare_adapter_with_rollouts_without_steps_has_the_fixed_set_alone(
    tiny_run: Path, tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(tiny_run / "checkpoint-20", tmp_path / "downloads" / "my-adapter"))
    rollouts = tmp_path / "rollouts.jsonl"
    rows = pd.read_parquet(tiny_run / "completions" / "completions_00021.parquet")
    with rollouts.open("w") as handle:
        for i, ids in enumerate(rows["arca_completion_ids"][:20]):
            prompt = [1, 5 + i % 3, 6, 14, 7, 8, 19]
            line = {"id": f"r{i}", "prompt_ids": prompt, "completion_ids": ids.tolist()}
            handle.write(json.dumps(line) + "\n")
    flags: dict[str, Any] = {"rollouts": rollouts, "base": str(tiny_run / "base")}
    out = tmp_path / "out"
    report = scan(bare, out=out, **flags).report
    assert measured_at(report) == {"my-adapter"}
    values = {
        (m.view, m.signal, m.name): m for m in report.measurements if m.sharpening in (None, 1.0)
    }
    assert values["fixed-set", "surprisal", "gini_corrected"].value is not None
    assert values["fixed-set", None, "step_distance_max"].value is None
    assert values["on-policy", "surprisal", "mean"].value is None
    assert "temperature-assumed" not in {
        f.id for f in report.findings
    }  # training_args.bin is there
    # Steps that are null survive the saved tables.
    again = scan(bare, out=out, **flags, sharpening=2.0)
    assert again.did == "judged again"
    fresh = scan(bare, out=tmp_path / "fresh", **flags, sharpening=2.0)
    assert again.report.measurements == fresh.report.measurements
    for name in TABLES:
        assert (out / name).read_bytes() == (fresh.folder / name).read_bytes()


# No half result.


def test_a_scan_that_is_refused_makes_no_folder(own_run: Path, tmp_path: Path) -> None:
    (own_run / "checkpoint-20" / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(ArcaError, match="checkpoint-20"):
        scan(own_run, out=tmp_path / "out", checkpoints="20")
    assert not (tmp_path / "out").exists()


class Interrupted(Stages):
    """Presses Ctrl-C once the model has begun to work."""

    def advance(self, done: int) -> None:
        super().advance(done)
        if self.tokens > 500:
            raise KeyboardInterrupt


def test_an_interrupted_scan_leaves_the_marker_and_no_report(
    tiny_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        scan(tiny_run, Interrupted(), out=out)
    assert set(files_in(out)) == {".arca-diag.json"}
    found = scan(tiny_run, out=out, checkpoints="2")
    assert found.did == "measured"
    assert found.report.status == "complete"


def test_an_interrupted_growth_leaves_the_finished_result_as_it_was(
    copied: Path, own_run: Path
) -> None:
    shutil.copytree(TINY / "checkpoint-60", own_run / "checkpoint-60")
    before = files_in(copied)
    with pytest.raises(KeyboardInterrupt):
        scan(own_run, Interrupted(), out=copied)
    assert files_in(copied) == before
