"""A document as one HTML page that needs nothing else: no network, no storage, no other file.

Text of a run is hostile. Jinja escapes all of it, what would not be seen or would move other text
is named, data for the script is escaped JSON, and the page's policy lets that one script run,
by its hash, and nothing be fetched.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from arca_diag.report.charts.inline import for_page
from arca_diag.report.charts.text import shown
from arca_diag.report.document import Document, Section
from arca_diag.report.heatmap import Case, HeatMap, Token
from arca_diag.report.numbers import figure
from arca_diag.report.packed import DIGITS, LOWEST, pack
from arca_diag.report.picture import Picture
from arca_diag.report.pieces import plain
from arca_diag.report.words import at, count

#: What a level is called; its colour and its sign say the same.
WORDS = {"error": "Error", "warn": "Warning", "note": "Note", "good": "Good"}
#: Characters under the heat-map's slider in a window of 320 pixels, and of one label there.
_SLIDER, _LABEL = 38, 12
_CODE = re.compile(r"`([^`]+)`")
#: What would end a script element or begin a comment, and what older readers take for line ends.
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&'\u2028\u2029"}


def render_html(document: Document, heat: HeatMap | None) -> str:
    """The page.

    Args:
        document: What it says.
        heat: The tokens it shows; None leaves that part out.

    Returns:
        A whole HTML document; the same document and tokens give the same text.
    """
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            document=document,
            sections=_sections(document, heat),
            heat=heat,
            heat_json=None if heat is None else Markup(_json(_data(heat))),
            words=WORDS,
            css=Markup(_file("page.css")),
            script=Markup(script),
            script_hash=Markup(f"sha256-{digest}"),
        )
    )


@cache
def _file(name: str) -> str:
    return (files("arca_diag.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _templates() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        loader=FunctionLoader(_file),
        keep_trailing_newline=True,
    )
    environment.filters |= {"prose": _prose, "together": _together, "drawn": _drawn}
    environment.tests["kind"] = lambda block, name: type(block).__name__ == name
    return environment


def _seen(value: Any) -> Any:
    """Every text of the page with nothing invisible in it."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return plain(value, most=len(value), line_breaks=True)


def _prose(text: str) -> Markup:
    """Escaped text in which `words in backticks` are code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(_seen(text)))))


def _together(rows: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Names with all their lines: one without a name goes on with the one before."""
    out: list[tuple[str, list[str]]] = []
    for name, text in rows:
        if name or not out:
            out.append((name, [text]))
        else:
            out[-1][1].append(text)
    return out


def _drawn(picture: Picture) -> Markup:
    return Markup(for_page(picture.svg, f"{picture.id}-"))


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """The section with the tokens, among those of the document."""

    intro: str
    labels: tuple[str, ...]
    id: str = "tokens"
    title: str = "Tokens"
    heat: bool = True


def _sections(document: Document, heat: HeatMap | None) -> list[Section | _Tokens]:
    """In the document's order; the tokens stand before what is folded."""
    sections: list[Section | _Tokens] = list(document.sections)
    if heat is not None:
        place = next((n for n, s in enumerate(document.sections) if s.folded), len(sections))
        sections.insert(place, _tokens(heat))
    return sections


def _tokens(heat: HeatMap) -> _Tokens:
    left = heat.n_checkpoints_left_out
    return _Tokens(
        intro=(
            f"{count(len(heat.cases), 'completion')}, chosen for how concentrated their credit is "
            f"at {_named(heat)[-1]}. The stronger the colour, the more of the signal is on the "
            "token; a colour means the same at every checkpoint and in every completion, up to "
            f"the 99th percentile of the tokens shown. Credit is at s = {figure(heat.sharpening)}."
            + (f" {count(left, 'checkpoint')} between these are in tokens.parquet." if left else "")
            + (" Tokens are redacted and shown by their class." if heat.redacted else "")
        ),
        labels=slider_labels(
            [
                name if step is None else str(step)
                for name, step in zip(heat.checkpoints, heat.steps, strict=True)
            ]
        ),
    )


def slider_labels(names: Sequence[str]) -> tuple[str, ...]:
    """What stands under each place of a slider: both ends, and of the rest what there is room for.

    Long names are cut, since the whole one is said beside the slider; the others are empty.
    """
    cut = [shown(name, _LABEL) for name in names]
    if len(cut) < 2:
        return tuple(cut)
    out = [cut[0], *[""] * (len(cut) - 2), cut[-1]]
    free, end = float(len(cut[0])), _SLIDER - len(cut[-1])
    for place, label in enumerate(cut[1:-1], start=1):
        middle = _SLIDER * place / (len(cut) - 1)
        if middle - len(label) / 2 > free and middle + len(label) / 2 < end:
            out[place] = label
            free = middle + len(label) / 2
    return tuple(out)


def _named(heat: HeatMap) -> list[str]:
    return [
        at(name if step is None else step)
        for name, step in zip(heat.checkpoints, heat.steps, strict=True)
    ]


def _data(heat: HeatMap) -> dict[str, Any]:
    """What the page's script draws."""
    classes = sorted({t.token_class for c in heat.cases for t in c.tokens if t.token_class})
    place = {name: n for n, name in enumerate(classes)}
    return {
        "digits": DIGITS,
        "lowest": LOWEST,
        "signals": [
            [name, heat.units[name], heat.scales[name][1], heat.credit_scales[name][1]]
            for name in heat.signals
        ],
        "checkpoints": [
            [plain(name), step] for name, step in zip(heat.checkpoints, heat.steps, strict=True)
        ],
        "classes": [plain(name) for name in classes],
        "cases": [
            {
                "facts": _facts(case),
                "prompt": case.prompt,
                "left": f"{count(case.n_left_out, 'token')} more, in tokens.parquet."
                if case.n_left_out
                else "",
                "counted": case.n_counted,
                "tokens": [_token(token, place) for token in case.tokens],
                "values": _rows(heat, case.values),
                "weights": _rows(heat, case.weights),
            }
            for case in heat.cases
        ],
    }


def _facts(case: Case) -> str:
    told = [
        case.rollout_id,
        f"group {case.group}",
        "" if case.step is None else f"sampled at step {case.step}",
        "fixed set" if case.fixed else "on-policy",
        "" if case.reward is None else f"reward {figure(case.reward)}",
        "" if case.advantage is None else f"advantage {figure(case.advantage)}",
        f"ended by {case.finish_reason}" if case.finish_reason else "",
        f"{count(case.n_counted, 'counted token')}",
    ]
    return " · ".join(text for text in told if text)


def _token(token: Token, classes: dict[str, int]) -> list[Any]:
    """Its parts, a mark in a list of its own; class; counts 1, breaks 2, goes on 4; id."""
    parts = [[part.text] if part.mark else part.text for part in token.parts]
    flags = token.counted + 2 * token.breaks + 4 * token.goes_on
    return [parts, classes.get(token.token_class or "", -1), flags, token.token_id]


def _rows(heat: HeatMap, of: dict[str, dict[str, tuple[float | None, ...]]]) -> list[Any]:
    """A list a checkpoint, in it a row of packed figures a signal; None where not replayed."""
    return [
        [pack(of[name][signal]) if signal in of[name] else None for signal in heat.signals]
        if name in of
        else None
        for name in heat.checkpoints
    ]


def _json(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends that."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPED)
