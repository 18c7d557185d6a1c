"""What a result says as a document: in order, whole, and with the figures of report.json."""

import shlex
from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from arca_diag.cli import app
from arca_diag.report.document import Facts, Found, Paragraph, Table
from arca_diag.report.picture import Picture
from arca_diag.report.reproduce import scan_command
from arca_diag.report.summary import report_document
from arca_diag.results import Fidelity, Report, Skipped
from tests.report.drawn import ALL
from tests.test_console import OPTIONS, made
from tests.test_results import finding, measurement, report, verdict


def whole(**given: object) -> Report:
    """A report with options, as every scan leaves them."""
    base = made(surprisal=("inconclusive", "leaning-sparse", "sparse"))
    return base.model_copy(update=given)


def section(found: Report, name: str):
    return next(s for s in report_document(found, []).sections if s.id == name)


def picture(name: str, heading: str) -> Picture:
    return Picture(
        id=name, section=heading, title=name, view="on-policy", caption="", alt="", svg="<svg/>"
    )


class TestBanner:
    def test_nothing_wrong_is_good(self) -> None:
        document = report_document(whole(), [])
        assert (document.level, document.verdict) == ("good", "no fault found")

    def test_the_worst_finding_decides_and_all_are_counted(self) -> None:
        found = [finding(level="warn"), finding(level="error"), finding(level="warn")]
        document = report_document(whole(findings=found), [])
        assert (document.level, document.verdict) == ("error", "1 error, 2 warnings")

    def test_a_consequence_is_not_counted(self) -> None:
        found = [finding(level="error", caused_by="replay-mismatch"), finding(level="warn")]
        document = report_document(whole(findings=found), [])
        assert (document.level, document.verdict) == ("warn", "1 warning")

    def test_notes_alone_are_no_fault(self) -> None:
        assert report_document(whole(findings=[finding(level="note")]), []).level == "good"

    def test_nothing_measured_is_not_good(self) -> None:
        document = report_document(whole(status="nothing-measured"), [])
        assert (document.level, document.verdict) == ("error", "nothing measured")

    def test_measured_and_without_a_verdict_is_not_good(self) -> None:
        bare = whole(verdicts=[])
        document = report_document(bare, [])
        assert (document.level, document.verdict) == ("error", "nothing measured")
        assert not any("No fault" in str(b) for b in section(bare, "findings").blocks)

    def test_no_fault_says_what_was_asked_and_how_much_was_not(self) -> None:
        told = str(section(whole(skipped=[]), "findings").blocks[0])
        assert "no error and no warning, in the adapters" in told
        assert "could not be asked" not in told

    def test_a_replay_that_is_not_the_run_comes_before_all_else(self) -> None:
        failed = Fidelity(checkpoint="60", status="fail", figures={}, reason="another base")
        document = report_document(whole(replay_fidelity=[failed]), [])
        assert (document.level, document.verdict) == ("error", "the replay is not the run")


class TestFindings:
    def test_worst_first_and_said_once_for_all_checkpoints(self) -> None:
        found = [
            finding(id="a-note", level="note", checkpoint=None),
            finding(id="an-error", level="error", checkpoint=2, message="one"),
            finding(id="an-error", level="error", checkpoint=30, message="two"),
            finding(id="a-warning", level="warn", signal="surprisal"),
            finding(id="a-consequence", level="error", caused_by="an-error"),
        ]
        blocks = list(section(whole(findings=found), "findings").blocks)
        assert [b.id for b in blocks if isinstance(b, Found)] == ["an-error", "a-warning", "a-note"]
        first, warning = blocks[0], blocks[1]
        assert first.where == "step 2, step 30"
        assert first.message == "two (figures of step 30)"
        assert warning.where == "surprisal, step 0"

    def test_many_checkpoints_are_not_all_named(self) -> None:
        found = [finding(level="warn", checkpoint=n, signal="entropy") for n in range(5, 205, 5)]
        (told,) = (b for b in section(whole(findings=found), "findings").blocks if b.id)
        assert told.where == "entropy, steps 5, 10, 15, ... 200 (40 steps)"

    def test_evidence_is_every_leaf_and_what_is_undefined_is_no_number(self) -> None:
        evidence = {"share": 0.12345, "of": {"n": 1200, "low": None}, "keys": ["a", "b"]}
        (block,) = (
            b
            for b in section(whole(findings=[finding(evidence=evidence)]), "findings").blocks
            if isinstance(b, Found)
        )
        assert block.evidence == (
            ("share", "0.123"),
            ("of n", "1,200"),
            ("of low", "n/a"),
            ("keys", "a, b"),
        )

    def test_without_a_fault_it_says_so(self) -> None:
        blocks = section(whole(findings=[finding(level="note")]), "findings").blocks
        assert isinstance(blocks[0], Paragraph)
        assert "No fault" in blocks[0].text


class TestFigures:
    def test_every_figure_is_the_reports_with_its_limits_or_its_reason(self) -> None:
        figures = [
            measurement(checkpoint=2, name="gini_corrected", value=0.5, low=0.25, high=0.75),
            measurement(checkpoint=2, name="effn_corrected", value=None, reason="3 prompts"),
            measurement(checkpoint=2, name="mean", sharpening=None, value=1234.5),
            measurement(checkpoint=2, name="gini_corrected", sharpening=2.0, value=0.9),
        ]
        table = section(whole(measurements=figures), "figures").blocks[0]
        assert isinstance(table, Table)
        row = next(r for r in table.rows if r[:2] == ("surprisal", "step 2"))
        assert row[2:] == ("0.5 (0.25 to 0.75)", "n/a: 3 prompts", "", "1,230", "8")

    def test_a_view_without_figures_says_why(self) -> None:
        gone = [measurement(view="fixed-set", name="gini", value=None, reason="no fixed set")]
        blocks = section(whole(measurements=gone, verdicts=[]), "verdicts-fixed-set").blocks
        assert "not measured: no fixed set" in [b.text for b in blocks if isinstance(b, Paragraph)]

    def test_verdicts_are_the_last_checkpoints_and_their_way(self) -> None:
        blocks = section(whole(), "verdicts-on-policy").blocks
        last, way = (b for b in blocks if isinstance(b, Table))
        assert last.title == "Verdicts at step 60, on-policy"
        assert last.rows[0][:3] == ("surprisal", "sparse", "90% (80 to 100)")
        assert way.rows == (("surprisal", "step 2 inconclusive -> 30 leaning-sparse -> 60 sparse"),)


def test_what_was_not_judged_is_listed_with_why() -> None:
    skipped = [
        Skipped(id="credit-inherited", checkpoint=c, view="on-policy", signal="entropy", reason="x")
        for c in range(9)
    ]
    table, *_ = section(whole(skipped=skipped), "not-judged").blocks
    assert isinstance(table, Table)
    assert table.rows[0][:2] == ("credit-inherited", "x")
    assert table.rows[0][2].count("on-policy, entropy") == 6
    assert table.rows[0][2].endswith("; 3 more, in report.json")


def test_pictures_stand_under_their_headings_in_order() -> None:
    drawn = [picture("a", "First"), picture("b", "Second one"), picture("c", "First")]
    document = report_document(whole(), drawn)
    assert [p.id for p in document.pictures()] == ["a", "c", "b"]
    assert [s.id for s in document.sections if s.title in ("First", "Second one")] == [
        "first",
        "second-one",
    ]


def test_every_threshold_stands_there_with_its_source_and_a_changed_one_is_said() -> None:
    found = report()
    changed = found.thresholds[0].model_copy(update={"value": 0.123})
    document = whole(thresholds=[changed, *found.thresholds[1:]])
    table = next(b for b in section(document, "method").blocks if isinstance(b, Table))
    assert [r[0] for r in table.rows] == [t.id for t in found.thresholds]
    assert "0.123 (default" in table.rows[0][1]
    assert all(row[3] for row in table.rows)


def test_the_command_is_one_that_scan_takes() -> None:
    options = OPTIONS | {"groups": 3, "device": "cpu", "temperature": 0.7, "redact_text": True}
    provenance = whole().provenance.model_copy(update={"options": options})
    words = shlex.split(scan_command(whole(provenance=provenance)))
    assert words[:2] == ["arca-diag", "scan"]
    assert words[words.index("--groups") + 1] == "3"
    assert words[words.index("--temperature") + 1] == "0.7"
    assert "--redact-text" in words
    shown = CliRunner().invoke(app, ["scan", "--help"], env={"COLUMNS": "200"}).stdout
    assert [w for w in words if w.startswith("--") and w not in shown] == []


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="a row has not 2 cells"):
        Table(title="t", head=("a", "b"), rows=(("1",),))


def test_the_run_card_is_the_consoles_and_more() -> None:
    (facts,) = section(whole(), "run").blocks
    assert isinstance(facts, Facts)
    names = [name for name, _ in facts.rows]
    assert names[0] == "Run"
    assert {"Settings", "Views", "Credit", "Reference"} <= set(names)


def test_the_same_report_gives_the_same_document() -> None:
    assert report_document(whole(), []) == report_document(whole(), [])
    assert report_document(whole(), []) != report_document(whole(verdicts=[verdict()]), [])


def absent(found: Report, pictures: Sequence[Picture]) -> dict[str, str]:
    blocks = next(
        s for s in report_document(found, pictures).sections if s.id == "not-judged"
    ).blocks
    tables = [b for b in blocks if isinstance(b, Table) and b.title.startswith("Pictures")]
    return {what: why for table in tables for what, why in table.rows}


def test_a_picture_that_there_is_none_of_is_said_with_the_reason() -> None:
    heading = "a heading"
    all_of_them = [picture(name, heading) for name in ALL]
    assert absent(whole(), all_of_them) == {}
    fewer = [p for p in all_of_them if p.id not in ("layers", "types", "trend-on-policy")]
    older = whole(files={"report.json": None})
    assert absent(older, fewer) == {
        "most credited token types": "no token's text is known",
        "where the residual arises": "this result has no layers.parquet: it was left before scans "
        "kept one",
    }
    assert set(absent(whole(verdicts=[]), []).values()) == {"nothing was measured"}


def test_of_a_model_whose_layers_cannot_be_told_the_page_has_the_scans_reason() -> None:
    why = Skipped(id="layers", checkpoint=None, view=None, signal=None, reason="no layers: odd")
    told = absent(whole(skipped=[why]), [])
    assert told["where the residual arises"] == "no layers: odd"


def test_of_a_redacted_result_it_says_that_texts_were_left_out() -> None:
    options = whole().provenance.options | {"redact_text": True}
    hidden = whole().provenance.model_copy(update={"options": options})
    told = absent(whole(provenance=hidden), [])
    assert told["most credited token types"] == "texts and ids of tokens are redacted"
