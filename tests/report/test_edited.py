"""A result that somebody edited, hashes and all: something to mend, never a traceback."""

import copy
import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from arca_diag import tables
from arca_diag.cli import app
from arca_diag.errors import ArcaError
from arca_diag.gate.reading import read_result
from arca_diag.gate.wholeness import check_told
from arca_diag.report.markdown import render_markdown
from arca_diag.report.summary import report_document
from arca_diag.results import Report
from arca_diag.saved import read_tables
from arca_diag.thresholds import DEFAULT
from tests.report.planted import planted

Edit = Callable[[pd.DataFrame], pd.DataFrame]
OF_CLASSES = tuple(
    f"{figure}-{side}"
    for figure in ("gini", "effn")
    for side in ("uniform", "leaning-uniform", "leaning-sparse", "sparse")
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small result that agrees with itself. Do not change it."""
    folder = tmp_path_factory.mktemp("whole") / "result"
    folder.mkdir()
    report, frames = planted([["a", "b", "c"], ["d", "e"], ["f", "g", "h"], ["i", "j"]])
    frozen = json.loads(report.to_json())
    frozen["rollouts"] |= {
        "selected": 4,
        "groups": 2,
        "clusters": 2,
        "tokens": 10,
        "fixed_set": ["g0", "g1"],
    }
    frozen["measurements"] = _figures(frames)
    frozen["verdicts"] = frozen["what_if"] = []
    frozen["provenance"]["options"] |= {"seed": 0, "thresholds": None}
    frozen["files"] = {"report.json": None}
    for name, data in frames.to_parquet().items():
        (folder / name).write_bytes(data)
        frozen["files"][name] = hashlib.sha256(data).hexdigest()
    (folder / "report.json").write_text(Report.from_json(json.dumps(frozen)).to_json(), "utf-8")
    return folder


def _figures(frames: tables.Tables) -> list[dict[str, Any]]:
    """The two figures that tables are held to, as the scan has them."""
    keys = ["checkpoint", "rollout_id"]
    counted = frames.tokens[frames.tokens["counted"]]
    out = []
    for (step, signal), rows in frames.trajectories.groupby(["checkpoint_step", "signal"]):
        rows = rows.merge(counted.groupby(keys)[signal].mean().rename("mean"), on=keys)
        rows = rows.merge(frames.rollouts[["rollout_id", "cluster"]], on="rollout_id")
        for name, power in (("gini_corrected", 1.0), ("mean", None)):
            used = rows[rows[name].notna()]
            known: dict[str, Any] = {
                "checkpoint": int(step),
                "view": "fixed-set",
                "signal": signal,
                "sharpening": power,
                "against": None,
                "name": name,
                "value": float(used.groupby("cluster")[name].mean().mean()),
                "low": None,
                "high": None,
                "n_clusters": 2,
                "n_groups": 2,
                "n_completions": len(used),
                "n_tokens": int(used["n_tokens"].sum()),
                "reason": None,
            }
            out.append(known)
    return out


@pytest.fixture
def edited(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "result"))


def write(folder: Path, document: dict[str, Any], **files: bytes) -> None:
    for name, data in files.items():
        (folder / f"{name}.parquet").write_bytes(data)
        document["files"][f"{name}.parquet"] = hashlib.sha256(data).hexdigest()
    (folder / "report.json").write_text(json.dumps(document), "utf-8")


def document_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_bytes())


def told(folder: Path) -> str:
    """What `report --md -` does, without its pictures."""
    _, report = read_result(folder)
    check_told(folder, report)
    read_tables(folder, report)
    return render_markdown(report_document(report, ()))


def set_at(column: str, value: object, row: int = 0) -> Edit:
    def edit(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.copy()
        frame[column] = [value if i == row else v for i, v in enumerate(frame[column])]
        return frame

    return edit


def test_what_nobody_edited_is_read(whole: Path) -> None:
    assert "arca-diag" in told(whole)


class TestTables:
    @pytest.mark.parametrize(
        ("name", "edit", "says"),
        [
            ("tokens", set_at("surprisal", np.nan), "surprisal of a counted token is no number"),
            ("tokens", set_at("kl_exact", np.inf), "kl_exact of a counted token is no number"),
            ("tokens", set_at("ref_entropy", np.nan), "ref_entropy of a counted token"),
            ("tokens", set_at("residual", -1.0), "residual is below 0"),
            ("tokens", set_at("w_surprisal", 2.0), "w_surprisal is no share"),
            ("tokens", set_at("surprisal", 50.0), "mean of surprisal at 2, fixed-set is"),
            ("tokens", set_at("rollout_id", None), "rollout_id is null in row 1"),
            ("tokens", set_at("position", 7), "not whole and in their order"),
            ("tokens", set_at("group_id", "g1"), "of more than one group_id"),
            ("tokens", lambda f: f.assign(checkpoint="x"), "two rows are of one checkpoint"),
            ("tokens", lambda f: pd.concat([f, f.iloc[:3]]), "two rows are of one checkpoint"),
            ("tokens", lambda f: f.iloc[:0], "has no tokens, and 3 more"),
            ("tokens", lambda f: f[f["rollout_id"] != "r1"], "completion 'r1' has no tokens"),
            ("rollouts", lambda f: f.iloc[1:], "completion 'r0' is not in rollouts.parquet"),
            ("rollouts", lambda f: pd.concat([f, f]), "two rows are of one rollout_id"),
            ("rollouts", set_at("reward", np.inf), "reward is infinite in row 1"),
            ("rollouts", set_at("n_completion_tokens", 9), "not as long as rollouts.parquet"),
            ("rollouts", set_at("rollout_step", 1), "rollout_step is not what rollouts.parquet"),
            ("rollouts", set_at("cluster", "c9"), "the report is of 2 prompts, the tables of 3"),
            ("trajectories", lambda f: f.iloc[1:], "not one row for every completion"),
            (
                "trajectories",
                lambda f: f[f["signal"] != "residual"],
                "not of the signals of this version: 'residual'",
            ),
            ("trajectories", lambda f: f.assign(sharpening=3.0), "not of sharpening 1 and 1.0"),
            ("trajectories", lambda f: f.iloc[::-1], "is not what tokens.parquet says"),
            ("trajectories", set_at("fixed_set", False), "fixed_set of one completion differs"),
            ("trajectories", set_at("gini_corrected", 0.123), "not what the report says"),
            ("trajectories", set_at("gini_corrected", np.nan), "the table of 3 with"),
            ("trajectories", set_at("effn_corrected", -np.inf), "effn_corrected is infinite"),
            ("trajectories", set_at("class", "odd"), "class 'odd' is none that is known here"),
            ("trajectories", set_at("n_tokens", 1), "n_tokens is not what tokens.parquet says"),
        ],
    )
    def test_what_no_scan_can_have_left_is_refused(
        self, edited: Path, name: str, edit: Edit, says: str
    ) -> None:
        frame = edit(pd.read_parquet(edited / f"{name}.parquet"))
        data = tables.to_parquet(frame, tables.SCHEMAS[name])
        write(edited, document_of(edited), **{name: data})
        with pytest.raises(ArcaError) as caught:
            told(edited)
        assert says in str(caught.value)
        assert "scan again with --force" in caught.value.hint

    @pytest.mark.parametrize(
        "edit",
        [
            lambda t: t.drop(["surprisal"]),
            lambda t: t.set_column(5, "position", t["position"].cast(pa.string())),
            lambda t: t.append_column("token", t["token"]),
        ],
    )
    def test_other_columns_are_refused(self, edited: Path, edit: Any) -> None:
        path = edited / "tokens.parquet"
        pq.write_table(edit(pq.read_table(path)), path)
        write(edited, document_of(edited), tokens=path.read_bytes())
        with pytest.raises(ArcaError, match="is not as this version of arca-diag writes it"):
            told(edited)

    def test_a_table_from_before_token_classes_is_read(self, edited: Path) -> None:
        path = edited / "tokens.parquet"
        pq.write_table(pq.read_table(path).drop(["token_class"]), path)
        write(edited, document_of(edited), tokens=path.read_bytes())
        assert told(edited)

    @pytest.mark.parametrize("options", [(), ("--sharpening", "2")])
    def test_swapped_tables_exit_2(self, edited: Path, options: tuple[str, ...]) -> None:
        one, other = ((edited / f"{n}.parquet").read_bytes() for n in ("tokens", "rollouts"))
        write(edited, document_of(edited), tokens=other, rollouts=one)
        done = CliRunner().invoke(app, ["report", str(edited), *options])
        assert done.exit_code == 2, done.exception
        assert "tokens.parquet: checkpoint, " in done.stderr.replace("\n", " ")


class TestReport:
    @pytest.mark.parametrize(
        ("path", "value", "says"),
        [
            ("tool", {"version": "1"}, "tool: Value error, it has no name"),
            ("provenance.base", {}, "which base it is of"),
            ("provenance.started_at", "9999-12-31T23:59:59-23:59", "of the years 1970 to 9998"),
            ("provenance.started_at", "yesterday", "no date of ISO 8601"),
            ("provenance.options.sharpening", -1.0, "at which sharpening"),
            ("provenance.options.epsilon", "x", "with which epsilon"),
            ("provenance.options.credit", ["x"], "which credit the run trained with"),
            ("thresholds", [], "by which cuts it was judged"),
            ("run.checkpoints.0.step", 10**30, "run.checkpoints.0.step"),
            ("run.checkpoints.0.step", 4, "two checkpoints of one name or step"),
            ("run.checkpoints.0.measured", False, "no checkpoint that was measured"),
            ("rollouts.selected", 5, "the report is of 5 completions, the tables of 4"),
            ("rollouts.fixed_set", ["g0"], "the fixed set is of other groups"),
        ],
    )
    def test_what_cannot_be_told_is_refused(
        self, edited: Path, path: str, value: object, says: str
    ) -> None:
        document = document_of(edited)
        here: Any = document
        *above, last = (int(p) if p.isdigit() else p for p in path.split("."))
        for key in above:
            here = here[key]
        here[last] = value
        write(edited, document)
        with pytest.raises(ArcaError) as caught:
            told(edited)
        assert says in str(caught.value)

    @pytest.mark.parametrize("cut", OF_CLASSES)
    def test_the_cuts_of_classes_must_be_there(self, edited: Path, cut: str) -> None:
        document = document_of(edited)
        document["thresholds"] = [t for t in document["thresholds"] if t["id"] != cut]
        write(edited, document)
        with pytest.raises(ArcaError, match=f"by which cuts it was judged: {cut} is not there"):
            told(edited)

    def test_a_result_from_before_a_cut_shows_those_it_has(self, edited: Path) -> None:
        """Else every cut that comes to the tool makes every result before it unreadable."""
        document = document_of(edited)
        document["thresholds"] = [t for t in document["thresholds"] if t["id"] in OF_CLASSES]
        write(edited, document)
        done = CliRunner().invoke(app, ["report", str(edited), "--html", str(edited / "page.html")])
        assert done.exit_code == 0, done.exception
        page = (edited / "page.html").read_text("utf-8")
        assert [cut.id for cut in DEFAULT if f">{cut.id}<" in page] == [*OF_CLASSES]

    def test_any_edit_is_told_or_refused(self, edited: Path) -> None:
        """A quick part of a longer hunt: any other exception would be a traceback."""
        rng, first = random.Random(7), document_of(edited)
        first["verdicts"] = []
        outcomes = []
        for _ in range(120):
            document = copy.deepcopy(first)
            _mutate(rng, document)
            write(edited, document)
            try:
                _, report = read_result(edited)
                check_told(edited, report)
                outcomes.append(bool(render_markdown(report_document(report, ()))))
            except ArcaError:
                outcomes.append(False)
        assert {True, False} == set(outcomes)


_VALUES = (None, [], {}, -1, 10**30, 1e308, "x" * 5000, "\u202e\0\x1b[31m", True, "", [None], 2.5)


def _mutate(rng: random.Random, document: dict[str, Any]) -> None:
    """Take one place of a document away, or put something there."""
    here: Any = document
    while True:
        key = rng.choice(list(here) if isinstance(here, dict) else range(len(here)))
        if not (isinstance(here[key], dict | list) and here[key]) or rng.random() < 0.2:
            break
        here = here[key]
    if rng.random() < 0.25:
        del here[key]
    else:
        here[key] = rng.choice(_VALUES)
