"""Text of a model and of a run's folder on the page: nothing of it acts, nothing of it is lost."""

import json
import re

import pytest

from arca_diag.report.heatmap import HeatMap, heat_map
from arca_diag.report.html import render_html
from arca_diag.report.pieces import plain
from arca_diag.report.summary import report_document
from arca_diag.results import Report
from tests.report.hostile import HOSTILE
from tests.report.pages import Node, parsed
from tests.report.planted import planted
from tests.test_results import finding

#: Elements of a page that was made of harmless text.
ELEMENTS = frozenset(
    re.findall(
        r"\w+",
        "html head meta link title style body a header div h1 button p svg path circle span ul li "
        "nav main section h2 h3 article code dl dt dd details summary table caption thead tbody "
        "tr th td pre footer script noscript label input output select option i aside abbr",
    )
)
#: A table can hold no lone surrogate, as no file in UTF-8 can.
TOKENS = tuple(h for h in HOSTILE if "\ud800" not in h)


@pytest.fixture(scope="module")
def text() -> str:
    report, frames = planted([TOKENS, ["a", "b"]], prompt="".join(h[:300] for h in TOKENS))
    frames.rollouts["finish_reason"] = HOSTILE[0]
    return render_html(report_document(report, []), heat_map(report, frames))


@pytest.fixture(scope="module")
def page(text: str) -> Node:
    return parsed(text)


def test_no_element_and_no_attribute_comes_of_it(page: Node) -> None:
    assert {node.tag for node in page.all()} <= ELEMENTS
    for node in page.all():
        assert not [name for name in node.attributes if name.startswith("on")]
    assert [s.attributes.get("type") for s in page.all("script")] == ["application/json", None]


def test_every_token_is_whole_on_the_page(page: Node) -> None:
    data = json.loads(page.by_id("heat-data").raw)
    case = next(c for c in data["cases"] if len(c["tokens"]) == len(TOKENS))
    for piece, (parts, *_) in zip(TOKENS, case["tokens"], strict=True):
        shown = "".join(part if isinstance(part, str) else part[0] for part in parts)
        assert shown == (plain(piece) or "∅")
    long = next("".join(map(str, t[0])) for t in case["tokens"] if "100,000" in str(t[0]))
    assert long.startswith("x" * 100)


def test_the_prompt_is_on_the_page(page: Node) -> None:
    data = json.loads(page.by_id("heat-data").raw)
    for word in (
        "</script><script>window.hacked=1</script>",
        "{{7*7}}",
        "[/INST]",
        "U+202Egnp.exe",
    ):
        assert word in data["cases"][0]["prompt"]


def test_nothing_ends_the_script_element(text: str) -> None:
    data = text.split('id="heat-data">')[1].split("</script>")[0]
    assert not set(data) & set("<>&\u2028\u2029")
    assert json.loads(data)["cases"]


def test_what_cannot_be_seen_or_moves_text_is_nowhere(text: str) -> None:
    for character in "\x00\x1b\x07\x85\u200b\u200d\u202e\u2066\u2067\u2069\u2028\u2029\ufeff\ud800":
        assert character not in text
    text.encode()


def test_a_long_token_does_not_make_a_large_page(text: str) -> None:
    assert len(text) < 300_000
    assert "x" * 2000 not in text


@pytest.fixture(scope="module")
def harmless() -> tuple[Report, HeatMap | None]:
    report, frames = planted([["a", "b"]])
    return report, heat_map(report, frames)


@pytest.mark.parametrize("name", [h[:300] for h in HOSTILE if h], ids=range(len(HOSTILE) - 1))
def test_names_of_a_run_are_text(harmless: tuple[Report, HeatMap | None], name: str) -> None:
    """Wherever a report holds a string that a folder or a file may have chosen."""
    report, heat = harmless
    info = report.run.model_copy(update={"name": name, "temperature_source": name})
    found = [finding(message=name, action=name, evidence={name: name})]
    report = report.model_copy(update={"run": info, "findings": found})
    page = parsed(render_html(report_document(report, []), heat))
    assert {node.tag for node in page.all()} <= ELEMENTS
    shown = " ".join(plain(name, most=len(name), line_breaks=True).replace("`", "").split())
    assert page.text.count(shown) >= 5
    assert len(list(page.all("script"))) == 2
    for node in page.all():
        assert not [a for a in node.attributes if a.startswith("on")]
