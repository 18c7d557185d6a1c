"""A result that holds text, redacted when it is rendered: no form holds any of it."""

import re
from html import unescape
from pathlib import Path

import pytest

from arca_diag.redaction import redact
from arca_diag.report.heatmap import heat_map
from arca_diag.report.html import render_html
from arca_diag.report.markdown import render_markdown
from arca_diag.report.pdf import render_pdf
from arca_diag.report.summary import report_document
from arca_diag.results import Report
from arca_diag.tables import Tables
from tests.report.documents import words_of
from tests.report.planted import planted
from tests.test_console import made

WORDS = [["Quokka", "Ġzymurgy", "Ġvexillology"], ["Ġjentacular", "Ġsnollygoster", "!"]]
PROMPT = "borborygmus floccinaucinihilipilification"


def held() -> tuple[Report, Tables]:
    """A result with text in its tables and, as a report can, in its names."""
    report, frames = planted(WORDS, prompt=PROMPT)
    whole = made(surprisal=("inconclusive", "leaning-sparse", "sparse"))
    whole = whole.model_copy(
        update={
            "run": report.run,
            "rollouts": whole.rollouts.model_copy(
                update={"fixed_set": ["g0"], "unknown_fields": {"taradiddle": 3}}
            ),
        }
    )
    frames.rollouts["finish_reason"] = "gobbledygook"
    return whole, frames


def forms(report: Report, frames: Tables, folder: Path) -> dict[str, str]:
    document, heat = report_document(report, []), heat_map(report, frames)
    return {
        "html": unescape(render_html(document, heat)),
        "pdf": words_of(render_pdf(document, heat)),
        "markdown": render_markdown(document, most_bytes=10**9),
        "json": report.to_json(),
    }


def texts(frames: Tables) -> set[str]:
    """Every word of a prompt or a completion, every piece's letters, and every token id."""
    pieces = {p.strip("Ġ!") for p in frames.tokens["token"] if p.strip("Ġ!")}
    ids = {str(int(i)) for i in frames.tokens["token_id"]}
    return pieces | set(PROMPT.split()) | {"gobbledygook", "taradiddle"} | ids


class TestRedaction:
    def test_no_form_holds_any_text(self, tmp_path: Path) -> None:
        report, frames = held()
        hidden = forms(*redact(report, frames, b"salt"), tmp_path)
        for name, form in hidden.items():
            for text in texts(frames):
                assert not re.search(rf"(?<![0-9a-f]){re.escape(text)}(?![0-9a-f])", form, re.I), (
                    f"{name} holds {text}"
                )

    def test_without_it_the_pdf_does(self, tmp_path: Path) -> None:
        report, frames = held()
        shown = forms(report, frames, tmp_path)["pdf"]
        assert all(word in shown for word in ("Quokka", "zymurgy", "borborygmus", "gobbledygook"))

    @pytest.mark.parametrize("name", ["r0", "g0"])
    def test_names_of_completions_are_hashes(self, name: str, tmp_path: Path) -> None:
        report, frames = held()
        hidden = forms(*redact(report, frames, b"salt"), tmp_path)
        assert not any(re.search(rf"\b{name}\b", form) for form in hidden.values())

    def test_tokens_are_shown_by_their_class(self, tmp_path: Path) -> None:
        report, frames = held()
        shown = forms(*redact(report, frames, b"salt"), tmp_path)["pdf"]
        assert "eachtokenisshownbyitsclass" in shown
        assert "word" in shown
