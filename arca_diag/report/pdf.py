"""A document as a PDF, set by typst: the page without what moves, to print or to send.

Text goes in as data and is set as strings. There is no clock and no font of the machine: the same
document gives the same bytes.
"""

import datetime
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import typst

from arca_diag.report.document import (
    Block,
    Command,
    Document,
    Facts,
    Found,
    Paragraph,
    Section,
    Table,
)
from arca_diag.report.fonts import MONO, FontSet, open_fonts
from arca_diag.report.heatmap import HeatMap
from arca_diag.report.picture import Picture
from arca_diag.report.pieces import plain
from arca_diag.report.static_heat import static_heat
from arca_diag.report.typeset import MOST, Typeset, typeset

_PAGE_MM = 180  # between the margins
_NARROW, _WIDE = 32, 80  # characters of a cell: up to here in one line; more gets no more room
_SIZES = (8.0, 7.5, 7.0, 6.5)  # of a table's letters, in points: the largest that needs no wrapping
_EM, _INSET_MM = 0.56, 2.2  # of an average character, and of a column
_ROWS = 12  # of a table that is kept on one page
_WHOLE = 1200  # characters of a finding that is kept on one page
_POINTS = re.compile(r'<svg\b[^>]*?\bwidth="([\d.]+)pt"', re.DOTALL)


def render_pdf(
    document: Document, heat: HeatMap | None, *, font: bytes | Path | None = None
) -> bytes:
    """The document as PDF, its pictures as vectors, its fonts embedded.

    Args:
        document: What it says.
        heat: Tokens to show before the first folded section; None without any.
        font: A font file for the characters that DejaVu lacks; those that this lacks too are
            shown by their code points.

    Raises:
        ArcaError: The font file cannot be used.
    """
    template = files("arca_diag.report").joinpath("templates/report.typ").read_bytes()
    with open_fonts(font) as fonts:
        data = _Setter(fonts).document(document, heat)
        return typst.compile(
            template,
            font_paths=fonts.loaded,
            ignore_system_fonts=True,
            sys_inputs={"data": json.dumps(data)},
            timestamp=_timestamp(document.made),
        )


def _timestamp(made: str) -> int:
    """Seconds since 1970 of an ISO date; 0 if it is none, or before."""
    try:
        when = datetime.datetime.fromisoformat(made)
    except ValueError:
        return 0
    return max(0, int(when.replace(tzinfo=when.tzinfo or datetime.UTC).timestamp()))


class _Setter:
    """Puts what a document says into the data of the template."""

    def __init__(self, fonts: FontSet) -> None:
        self._fonts = fonts

    def document(self, document: Document, heat: HeatMap | None) -> dict[str, Any]:
        sections = [self._section(section) for section in document.sections]
        if heat is not None:
            folded = (i for i, s in enumerate(document.sections) if s.folded)
            sections.insert(next(folded, len(sections)), self._tokens(heat))
        return {
            "families": list(self._fonts.families),
            "mono": [MONO, *self._fonts.families],
            "dated": _timestamp(document.made) > 0,
            "plain_title": plain(document.title),
            "title": self._set(document.title, most=200),
            "level": document.level,
            "verdict": self._set(document.verdict),
            "headline": self._set(document.headline, most=1000),
            "marks": self._set(" · ".join(document.marks)),
            "maker": self._set(f"{document.maker}, {document.made}"),
            "running": self._set(f"{plain(document.title, most=80)} · {document.maker}"),
            "sections": sections,
        }

    def _set(self, text: str, most: int = MOST) -> Typeset:
        return typeset(text, self._fonts.drawable, most=most)

    def _section(self, section: Section) -> dict[str, Any]:
        return {"title": self._set(section.title), "blocks": [*map(self._block, section.blocks)]}

    def _block(self, block: Block) -> dict[str, Any]:
        match block:
            case Paragraph():
                return {"kind": "paragraph", "text": self._set(block.text), "small": block.small}
            case Facts():
                return {"kind": "facts", "rows": self._pairs(block.rows)}
            case Table():
                return self._table(block)
            case Found():
                return self._found(block)
            case Command():
                return {"kind": "command", "text": self._set(block.text)}
            case Picture():
                return self._picture(block)

    def _pairs(self, pairs: Sequence[tuple[str, str]]) -> list[list[Typeset]]:
        return [[self._set(name), self._set(text)] for name, text in pairs]

    def _table(self, table: Table) -> dict[str, Any]:
        return {
            "kind": "table",
            "title": self._set(table.title),
            "head": [*map(self._set, table.head)],
            "rows": [[*map(self._set, row)] for row in table.rows],
            "caption": self._set(table.caption),
            "right": sorted(table.right),
            "whole": _stays_whole(table),
            **_columns(table),
        }

    def _found(self, found: Found) -> dict[str, Any]:
        return {
            "kind": "found",
            "whole": sum(map(len, (found.message, found.action, str(found.evidence)))) < _WHOLE,
            "id": self._set(found.id),
            "level": found.level,
            "where": self._set(found.where),
            "message": self._set(found.message),
            "follows": self._set(", ".join(found.follows)),
            "action": self._set(found.action),
            "evidence": self._pairs(found.evidence),
            "source": self._set(found.source),
        }

    def _picture(self, picture: Picture) -> dict[str, Any]:
        points = _POINTS.search(picture.svg)
        width = float(points[1]) / 72 * 25.4 if points else _PAGE_MM
        return {
            "kind": "picture",
            "title": self._set(picture.title),
            "svg": picture.svg,
            "alt": plain(picture.alt, most=2000),
            "caption": self._set(picture.caption),
            "width": min(width, _PAGE_MM),
        }

    def _tokens(self, heat: HeatMap) -> dict[str, Any]:
        return static_heat(heat, self._set, self._fonts.drawable)


def _stays_whole(table: Table) -> bool:
    """Whether it is short: a few rows of a line each."""
    cells = [cell for row in table.rows for cell in row]
    return len(table.rows) <= _ROWS and all(len(c) <= _NARROW and "\n" not in c for c in cells)


def _columns(table: Table) -> dict[str, Any]:
    """The size of the letters, and of each column 0 if it is as wide as its longest cell.

    Prose gets parts of the rest instead: it is wrapped anyhow.
    """
    longest = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
    widths = [0 if length <= _NARROW else min(length, _WIDE) for length in longest]
    if any(widths):
        return {"size": _SIZES[1], "widths": widths}
    room = _PAGE_MM - _INSET_MM * len(longest)
    fit = (s for s in _SIZES if sum(longest) * _EM * s / 72 * 25.4 <= room)
    return {"size": next(fit, _SIZES[-1]), "widths": widths}
