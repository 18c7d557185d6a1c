"""The page: what it says, in which order, what it needs, and who can use it."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arca_diag.redaction import redact
from arca_diag.report.document import (
    Command,
    Document,
    Facts,
    Found,
    Paragraph,
    Section,
    Table,
)
from arca_diag.report.heatmap import heat_map
from arca_diag.report.html import render_html, slider_labels
from arca_diag.report.packed import DIGITS, LOWEST, pack
from arca_diag.report.picture import Picture
from arca_diag.report.pieces import plain
from arca_diag.report.summary import report_document
from arca_diag.results import Report
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import Tables
from tests.report.pages import Node, parsed
from tests.report.planted import planted
from tests.test_results import finding, measurement, verdict

COMPLETIONS = [[f"w{n}-{k}" for k in range(5 + n)] for n in range(6)]
NAMES = ("gini_corrected", "effn_corrected", "token_share_90", "mean")


def picture(name: str = "trend", section: str = "Trend over the run") -> Picture:
    """A drawing of a line and a word, as matplotlib would write it."""
    return Picture(
        id=name,
        section=section,
        title=f"A picture of {name}",
        view="fixed-set",
        caption="What is drawn, fixed-set.",
        alt="A line that rises.",
        svg=(
            '<?xml version="1.0" encoding="utf-8" standalone="no"?>\n'
            '<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="36pt" '
            'viewBox="0 0 72 36" version="1.1"><title>A picture</title>'
            '<desc>A line that rises.</desc><g id="line_1"><path d="M0 36 L72 0"/></g></svg>'
        ),
    )


def planted_report(
    completions: Sequence[Sequence[str]] = COMPLETIONS,
    steps: Sequence[int] = (2, 4),
    **given: object,
) -> tuple[Report, Tables]:
    rng = np.random.default_rng(3)
    found = [
        measurement(
            view=view,
            signal=signal,
            checkpoint=step,
            name=name,
            sharpening=None if name == "mean" else 1.0,
            value=value,
            low=value * 0.9,
            high=value * 1.1,
        )
        for view in ("on-policy", "fixed-set")
        for signal in SIGNAL_NAMES
        for step in steps
        for name in NAMES
        for value in [float(rng.lognormal(sigma=3))]
    ]
    found.append(measurement(name="gini", value=None, reason="too short"))
    fields: dict[str, object] = {
        "measurements": found,
        "verdicts": [
            verdict(checkpoint=4, view=view, signal=signal)
            for view in ("on-policy", "fixed-set")
            for signal in SIGNAL_NAMES
        ],
        "findings": [
            finding(
                id="replay-mismatch",
                level="error",
                message="the replay is not the run",
                cause_of=["credit-sparse"],
                evidence={"excess": 0.12345, "by": {"step": [2, 4]}, "n": 1234},
            ),
            finding(),
            finding(id="entropy-low", level="note", message="entropy fell"),
            finding(id="credit-sparse", level="warn", caused_by="replay-mismatch"),
        ],
    }
    return planted(completions, steps=steps, masked=[(1, 2)], **(fields | given))


def rendered(report: Report, frames: Tables) -> tuple[Document, str]:
    pictures = (picture(), picture("lorenz", "Concentration"))
    document = report_document(report, pictures)
    return document, render_html(document, heat_map(report, frames))


@pytest.fixture(scope="module")
def made() -> tuple[Report, Tables, Document, str]:
    report, frames = planted_report()
    return report, frames, *rendered(report, frames)


@pytest.fixture(scope="module")
def page(made: tuple[Report, Tables, Document, str]) -> Node:
    return parsed(made[3])


def cells(table: Node) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(c.text for c in row.all("th", "td")) for row in table.all("tr"))


class TestContent:
    def test_every_text_of_the_document_is_on_the_page(self, made, page) -> None:
        document = made[2]
        text = page.text
        told = [document.title, document.verdict, document.headline, *document.marks]
        for section in document.sections:
            told.append(section.title)
            for block in section.blocks:
                match block:
                    case Paragraph():
                        told.append(block.text)
                    case Facts():
                        told += [part for row in block.rows for part in row]
                    case Table():
                        told += [block.title, block.caption]
                    case Found():
                        told += [block.id, block.where, block.message, block.action, block.source]
                        told += [*block.follows, *(part for row in block.evidence for part in row)]
                    case Command():
                        told.append(block.text)
                    case Picture():
                        told += [block.title, block.caption]
        for words in told:
            assert " ".join(words.replace("`", "").split()) in text

    def test_the_tables_are_the_document_s_cell_by_cell(self, made, page) -> None:
        expected = [
            (block.title, (block.head, *block.rows))
            for section in made[2].sections
            for block in section.blocks
            if isinstance(block, Table)
        ]
        found = [
            (next(table.all("caption")).text, cells(table))
            for table in page.by_id("content").all("table")
            if list(table.all("caption"))
        ]
        assert found == [
            (title, tuple(tuple(" ".join(c.replace("`", "").split()) for c in r) for r in rows))
            for title, rows in expected
        ]

    def test_the_figures_are_those_of_report_json(self, made, page) -> None:
        """Read from the file and the page, by another formula than `figure`."""
        saved = json.loads(made[0].to_json())
        seen = 0
        for table in page.by_id("figures").all("table"):
            view = next(table.all("caption")).text.split(", ")[1]
            rows = {row[:2]: row[2:] for row in cells(table)[1:]}
            for m in saved["measurements"]:
                if m["view"] != view or m["name"] not in NAMES:
                    continue
                cell = rows[(m["signal"], f"step {m['checkpoint']}")][NAMES.index(m["name"])]
                told = [
                    float(t.replace(",", "")) for t in re.findall(r"\d[\d.,]*(?:e[+-]\d+)?", cell)
                ]
                for said, value in zip(told, (m["value"], m["low"], m["high"]), strict=True):
                    exact = float(f"{value:.2e}")
                    assert said == exact or (value >= 1e3 and said == round(exact))
                    seen += 1
        assert seen == 2 * 7 * 2 * 4 * 3

    def test_sections_stand_in_the_document_s_order_with_the_tokens_before_the_folded(
        self, made, page
    ):
        expected = [s.id for s in made[2].sections]
        first = next(n for n, s in enumerate(made[2].sections) if s.folded)
        expected.insert(first, "tokens")
        main = page.by_id("content")
        found = [
            c.attributes["id"]
            for c in main.children
            if isinstance(c, Node) and c.tag in ("section", "details")
        ]
        assert found == expected
        assert [a.attributes["href"] for a in next(page.all("nav")).all("a")] == [
            f"#{name}" for name in expected
        ]
        folded = [
            c.attributes["id"] for c in main.children if isinstance(c, Node) and c.tag == "details"
        ]
        assert folded == [s.id for s in made[2].sections if s.folded]

    @pytest.mark.parametrize(
        ("levels", "word"),
        [(["error"], "Error"), (["warn"], "Warning"), (["note"], "Good"), ([], "Good")],
    )
    def test_the_banner_says_its_level_by_word_sign_and_colour(self, levels, word):
        report, frames = planted_report(findings=[finding(level=level) for level in levels])
        document, text = rendered(report, frames)
        page = parsed(text)
        (banner,) = page.by_class("banner")
        assert document.level in banner.attributes["class"].split()
        assert banner.by_class("verdict")[0].text == f"{word}: {document.verdict}"
        assert len(list(banner.by_class("verdict")[0].all("svg"))) == 1

    def test_signs_differ_by_their_shape(self, page):
        drawn = {}
        for element in page.by_class("finding"):
            level = next(c for c in ("error", "warn", "note") if c in element.attributes["class"])
            drawn[level] = str([p.attributes for p in next(element.all("svg")).all()])
        assert len(drawn) == 3 == len(set(drawn.values()))

    def test_a_finding_says_what_it_rests_on_and_what_follows(self, page):
        error = next(f for f in page.by_class("finding") if "error" in f.attributes["class"])
        text = error.text
        assert "Error replay-mismatch" in text
        assert "What to do nothing to do at step 0" in text
        assert "From it follow credit-sparse" in text
        assert "excess 0.123" in text
        assert "by step 2, 4" in text
        assert "n 1,234" in text

    def test_pictures_stand_in_the_page_with_what_is_said_of_them(self, page):
        figures = list(page.all("figure"))
        assert [f.attributes["id"] for f in figures] == ["trend", "lorenz"]
        for f in figures:
            (drawing,) = f.all("svg")
            assert drawing.attributes["role"] == "img"
            assert drawing.attributes["aria-label"] == "A line that rises."
            assert next(f.all("figcaption")).text == "What is drawn, fixed-set."

    def test_without_tokens_there_is_no_heat_map(self, made):
        text = render_html(made[2], None)
        page = parsed(text)
        assert "tokens" not in {n.attributes.get("id") for n in page.all()}
        assert "heat-data" not in {n.attributes.get("id") for n in page.all()}

    def test_words_in_backticks_are_code(self, made):
        words = "run `arca-diag explain <x>` now"
        document = Document(
            title="t",
            level="good",
            verdict="v",
            headline=words,
            sections=(Section(id="a", title="A", blocks=(Paragraph(text=words),)),),
            made="2026",
            maker="m",
        )
        page = parsed(render_html(document, None))
        codes = [c.text for c in page.all("code")]
        assert codes == ["arca-diag explain <x>"] * 2


class TestFile:
    def test_the_same_document_gives_the_same_bytes(self, made) -> None:
        report, frames, document, text = made
        again = heat_map(report, frames)
        assert render_html(document, again).encode() == text.encode()
        assert render_html(report_document(report, document.pictures()), again) == text

    def test_the_policy_lets_one_script_run_and_nothing_be_fetched(self, made, page) -> None:
        (meta,) = [m for m in page.all("meta") if "http-equiv" in m.attributes]
        assert meta.attributes["http-equiv"] == "Content-Security-Policy"
        rules = dict(r.split(" ", 1) for r in meta.attributes["content"].split("; "))
        scripts = [s for s in page.all("script") if "type" not in s.attributes]
        (script,) = scripts
        digest = base64.b64encode(hashlib.sha256(script.raw.encode()).digest()).decode()
        assert rules == {
            "default-src": "'none'",
            "style-src": "'unsafe-inline'",
            "script-src": f"'sha256-{digest}'",
            "img-src": "data:",
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        head = made[3].split("<style>")[0]
        assert "<script" not in head  # the policy holds from where it stands

    def test_nothing_is_asked_of_anywhere(self, page) -> None:
        for node in page.all():
            for name, value in node.attributes.items():
                if name in ("src", "srcset", "data", "action", "poster", "background"):
                    pytest.fail(f"<{node.tag} {name}={value!r}>")
                if name in ("href", "xlink:href"):
                    assert value.startswith(("#", "data:,"))
                assert not name.startswith("on")
        for style in page.all("style"):
            assert "@import" not in style.raw
            assert "url(" not in style.raw
            assert "@font-face" not in style.raw

    def test_neither_script_nor_style_speaks_to_storage_or_network(self, page) -> None:
        (script,) = [s for s in page.all("script") if "type" not in s.attributes]
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "localStorage",
            "sessionStorage",
            "cookie",
            "fetch(",
            "XMLHttpRequest",
            "import(",
        ):
            assert word not in script.raw

    def test_ten_checkpoints_of_200_completions_are_below_3_megabytes(self) -> None:
        """Twelve are shown of them, so that no other is planted; these are as long as can be."""
        rng = np.random.default_rng(0)
        completions = [[f"Ġ{w}" for w in rng.integers(10_000, size=500)] for _ in range(12)]
        report, frames = planted_report(completions, steps=range(10, 110, 10), sharpening=2.0)
        heat = heat_map(report, frames)
        assert heat is not None
        assert (len(heat.cases), len(heat.checkpoints)) == (12, 10)
        assert min(len(case.tokens) for case in heat.cases) > 300
        size = len(render_html(report_document(report, []), heat).encode())
        assert 1_500_000 < size < 2_200_000  # the rest is for pictures

    def test_redacted_it_holds_no_text_and_no_id(self) -> None:
        secret = ["hunter2", "Ġswordfish", "9"]
        report, frames = planted([secret] * 2, prompt="what is the pass phrase?")
        ids = {str(i) for i in frames.tokens["token_id"]}
        assert min(map(len, ids)) == 4
        _, open_page = rendered(report, frames)
        assert "hunter2" in open_page
        assert "pass phrase" in open_page
        _, text = rendered(*redact(report, frames, b"salt"))
        data = parsed(text).by_id("heat-data").raw
        for word in ("hunter2", "swordfish", "pass phrase"):
            assert word not in text
        assert all(token[3] is None for c in json.loads(data)["cases"] for token in c["tokens"])
        numbers = set(re.findall(r"(?<![\w.])\d+(?![\w.])", data))
        assert not ids & numbers


class TestPacking:
    @given(
        st.lists(
            st.one_of(
                st.none(),
                st.just(0.0),
                st.floats(1e-199, 1e89, allow_subnormal=False),
                st.sampled_from([9.995, 999.5, 0.09995, 1.0, 10.0, 1e-3, 99.95, 1e23]),
            ),
            max_size=20,
        )
    )
    def test_a_figure_comes_back_with_three_digits(self, row: list[float | None]) -> None:
        packed = pack(row)
        assert isinstance(packed, str)
        assert len(packed) == 3 * len(row)
        for n, value in enumerate(row):
            code = 0
            for letter in packed[3 * n : 3 * n + 3]:
                code = code * 64 + DIGITS.index(letter)
            if value is None:
                assert code == 0
            elif value == 0:
                assert code == 1
            else:
                power, digits = divmod(code - 2, 900)
                said = float(f"{digits + 100}e{power + LOWEST - 2}")
                # Halfway cases may go either way: they are one rounding apart in binary.
                assert said == float(f"{value:.2e}") or math.isclose(
                    abs(said - value), 0.005 * 10.0 ** (power + LOWEST), rel_tol=1e-9
                )

    @pytest.mark.parametrize("value", [-1.0, 1e-300, 1e200])
    def test_a_figure_beyond_it_is_left_a_number(self, value: float) -> None:
        assert pack([1.23456, None, value]) == [1.23, None, float(f"{value:.3g}")]


class TestAccess:
    def test_language_title_and_landmarks(self, page) -> None:
        (html,) = page.all("html")
        assert html.attributes["lang"] == "en"
        assert next(page.all("title")).text
        for tag in ("header", "nav", "main", "footer"):
            assert len(list(page.all(tag))) == 1
        assert next(page.all("nav")).attributes["aria-label"]

    def test_headings_go_down_one_level_at_a_time(self, page) -> None:
        levels = [int(h.tag[1]) for h in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b - a <= 1 for a, b in pairwise(levels))

    def test_every_drawing_has_a_name_or_is_hidden(self, page) -> None:
        drawings = list(page.all("svg"))
        assert drawings
        for drawing in drawings:
            named = drawing.attributes.get("role") == "img" and drawing.attributes["aria-label"]
            assert named or drawing.attributes.get("aria-hidden") == "true"

    def test_every_control_has_a_name(self, page) -> None:
        labels = {n.attributes.get("for") for n in page.all("label")}
        controls = list(page.all("button", "select", "input", "a", "summary"))
        assert len(controls) > 20
        for control in controls:
            named = (
                control.text
                or control.attributes.get("aria-label")
                or control.attributes.get("id") in labels
            )
            assert named, control
        for button in page.all("button"):
            assert button.attributes["type"] == "button"
        for region in page.all():
            if region.attributes.get("role") in ("region", "listbox", "group"):
                assert {"aria-label", "aria-labelledby"} & set(region.attributes)

    def test_ids_are_unique_and_references_lead_somewhere(self, page) -> None:
        ids = [n.attributes["id"] for n in page.all() if "id" in n.attributes]
        assert len(ids) == len(set(ids))
        for node in page.all():
            for name in ("for", "aria-labelledby", "aria-describedby"):
                if name in node.attributes:
                    assert node.attributes[name] in ids
            if node.attributes.get("href", "").startswith("#"):
                assert node.attributes["href"][1:] in ids

    def test_tables_have_heads_of_rows_and_columns(self, page) -> None:
        for table in page.by_id("content").all("table"):
            heads = list(next(table.all("thead")).all("th"))
            assert heads
            assert all(h.attributes["scope"] == "col" for h in heads)
            for body in table.all("tbody"):
                for row in body.all("tr"):
                    assert next(row.all("th")).attributes["scope"] == "row"


def test_text_that_would_not_be_seen_is_named_wherever_it_stands(made) -> None:
    name = "run\u202e<b>\x00\u200b\ud800"
    document = Document(
        title=name,
        level="warn",
        verdict=name,
        headline=name,
        marks=(name,),
        sections=(
            Section(
                id="a",
                title=name,
                blocks=(
                    Paragraph(text=name),
                    Facts(rows=((name, name), ("", name))),
                    Table(title=name, head=(name,), rows=((name,),), caption=name),
                    Found(
                        id=name,
                        level="warn",
                        where=name,
                        message=name,
                        follows=(name,),
                        action=name,
                        evidence=((name, name),),
                        source=name,
                    ),
                    Command(text=name),
                ),
            ),
        ),
        made=name,
        maker=name,
    )
    text = render_html(document, None)
    page = parsed(text)
    assert page.text.count(plain(name)) >= 18
    assert not {"\u202e", "\x00", "\u200b", "\ud800"} & set(text)
    assert not list(page.all("b"))
    text.encode()


@pytest.mark.parametrize(
    ("names", "labelled"),
    [
        (["2", "20", "40", "60", "80", "100"], [0, 1, 2, 3, 4, 5]),
        ([str(10**5 + n) for n in range(12)], [0, 3, 5, 7, 11]),
        ([f"checkpoint-{10**9 + n}" for n in range(12)], [0, 11]),
        (["only"], [0]),
    ],
    ids=["few", "long steps", "long names", "one"],
)
def test_labels_under_the_slider_have_room(names: list[str], labelled: list[int]) -> None:
    told = slider_labels(names)
    assert len(told) == len(names)
    assert [n for n, label in enumerate(told) if label] == labelled
    for n in labelled:
        assert len(told[n]) <= 12
        assert told[n].startswith(names[n][:10])
