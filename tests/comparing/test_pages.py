"""A comparison as page, PDF, Markdown and picture: the figures of the comparison, and no more."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from arca_diag.cli import app
from arca_diag.comparing import compare_results
from arca_diag.report.charts.changes import draw_changes
from arca_diag.signals import SIGNAL_NAMES
from tests.comparing.planted import noise, result

PLAIN = noise(0) + 0.5


def written(svg: str) -> list[str]:
    """Every text of a picture."""
    root = ElementTree.fromstring(svg)
    return ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]


class TestPicture:
    def test_both_views_say_every_difference_with_its_limits_and_status(
        self, tmp_path: Path
    ) -> None:
        gini = {"surprisal": PLAIN + 0.1, "residual": PLAIN + noise(4), "entropy": PLAIN * np.nan}
        a, b = result(tmp_path / "a", PLAIN), result(tmp_path / "b", gini)
        found = compare_results(a, b)
        pictures = draw_changes(found)
        assert [p.view for p in pictures] == ["fixed-set", "on-policy"]
        for picture in pictures:
            told = written(picture.svg)
            assert set(SIGNAL_NAMES) <= set(told)
            assert picture.view in picture.caption
            for change in found.figures:
                if change.view != picture.view or change.name != "gini_corrected":
                    continue
                value, low, high = (
                    change.difference.value,
                    change.difference.low,
                    change.difference.high,
                )
                if value is None:
                    continue
                # .10 (.08 to .12), by hand
                words = [f"{abs(v):.2f}"[1:] for v in (value, low, high) if v is not None]
                hit = [t for t in told if all(w in t for w in words)]
                assert hit, (change.signal, words, told)
            assert told.count("changed") >= 1
            assert told.count("n/a") >= 1  # entropy, in B undefined

    def test_nothing_is_drawn_where_nothing_is_in_both(self, tmp_path: Path) -> None:
        a, b = result(tmp_path / "a", PLAIN), result(tmp_path / "b", PLAIN * np.nan)
        assert draw_changes(compare_results(a, b)) == ()

    def test_it_is_the_same_twice(self, tmp_path: Path) -> None:
        found = compare_results(result(tmp_path / "a", PLAIN), result(tmp_path / "b", PLAIN + 0.1))
        assert draw_changes(found) == draw_changes(found)
        assert len({p.id for p in draw_changes(found)}) == 2


def call(*words: Any) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, words)])


class TestForms:
    def test_every_form_is_written_and_says_what_changed(self, tmp_path: Path) -> None:
        a, b = result(tmp_path / "a", PLAIN), result(tmp_path / "b", PLAIN + 0.3)
        html, pdf, md = (tmp_path / f"c.{kind}" for kind in ("html", "pdf", "md"))
        done = call(a, b, "--html", html, "--pdf", pdf, "--md", md)
        assert done.exit_code == 0, done.output
        assert done.stdout == ""
        assert "70 figures changed" in html.read_text("utf-8")
        assert "70 figures changed" in md.read_text("utf-8")
        assert "plots/" not in md.read_text("utf-8")  # no such file is written
        assert "Before and after" not in md.read_text("utf-8")
        assert "Before and after" in html.read_text("utf-8")
        assert pdf.read_bytes().startswith(b"%PDF-")
        first = (html.read_bytes(), pdf.read_bytes())
        assert call(a, b, "--html", html, "--pdf", pdf).exit_code == 0
        assert (html.read_bytes(), pdf.read_bytes()) == first

    def test_redacted_no_form_holds_what_files_are_called(self, tmp_path: Path) -> None:
        a, b = result(tmp_path / "a"), result(tmp_path / "b")
        report = b / "report.json"
        text = report.read_text("utf-8").replace('"source": "', '"source": "secret ', 1)
        assert "secret" in text
        report.write_text(text, "utf-8")
        md, html = tmp_path / "c.md", tmp_path / "c.html"
        assert call(a, b, "--md", md, "--html", html).exit_code == 0
        assert "secret" in md.read_text("utf-8")
        assert "secret" in html.read_text("utf-8")
        assert call(a, b, "--md", md, "--html", html, "--redact-text").exit_code == 0
        assert "secret" not in md.read_text("utf-8")
        assert "secret" not in html.read_text("utf-8")

    @pytest.mark.parametrize("name", ["report.json", "tokens.parquet"])
    def test_nothing_is_written_over_a_result(self, tmp_path: Path, name: str) -> None:
        a = result(tmp_path / "a")
        before = (a / name).read_bytes()
        done = call(a, a, "--html", a / name)
        assert done.exit_code == 2
        assert "would be written over" in done.stderr.replace("\n", " ")
        assert (a / name).read_bytes() == before
