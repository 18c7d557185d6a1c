"""A document as Markdown, for a pull request's comment, a step summary or an issue.

What was found comes first. Where not all fits, the last sections are left out first, and that is
said. Pictures have no place in it: it says what they are, and where they lie.
"""

import re
from collections.abc import Sequence

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
from arca_diag.report.escaping import beginning, inline, table
from arca_diag.report.picture import Picture
from arca_diag.report.pieces import plain
from arca_diag.report.words import harmless

#: GitHub takes 65,536 characters of a comment and 1 MiB of a step summary. Counted in bytes,
#: which are never fewer than characters; some room is left for what others write around it.
COMMENT_BYTES = 65_536 - 1024
SUMMARY_BYTES = 2**20 - 1024
_SIGNS = {"error": "✖ ERROR", "warn": "▲ WARNING", "note": "● NOTE", "good": "✔ GOOD"}
_MOST = 2000  # characters of one text; how long the whole is stands after them
_NAME = 80
_ELSEWHERE = "`arca-diag report` renders the whole result; `report.json` has every figure."


def render_markdown(document: Document, *, most_bytes: int = COMMENT_BYTES) -> str:
    """The document, or as much of it as fits.

    Args:
        document: What it says.
        most_bytes: How long the text may be in UTF-8.
    """
    head = _head(document)
    sections = [_section(section) for section in document.sections]
    for kept in range(len(sections), 0, -1):
        left_out = [section.title for section in document.sections[kept:]]
        text = _joined([head, *sections[:kept], _said(left_out)])
        if len(text.encode()) <= most_bytes:
            return text
    return _first_alone(head, document, most_bytes)


def _first_alone(head: str, document: Document, most_bytes: int) -> str:
    """As many blocks of the first section as fit, how many do not, and the titles of the rest."""
    first, rest = document.sections[0], document.sections[1:]
    said = _said([section.title for section in rest])
    blocks = [_block(block) for block in first.blocks]
    for kept in range(len(blocks), -1, -1):
        more = f"*{len(blocks) - kept:,} more under “{_shown(first.title)}” do not fit here.*"
        text = _joined([head, f"### {_shown(first.title)}", *blocks[:kept], more, said])
        if len(text.encode()) <= most_bytes:
            return text
    return _joined([f"## arca-diag: {_SIGNS[document.level]}", said])


def _joined(blocks: Sequence[str]) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"


def _said(left_out: Sequence[str]) -> str:
    """What is not here for want of room; empty if all is."""
    if not left_out:
        return ""
    return f"*Left out here, for want of room: {_shown(', '.join(left_out))}.* {_ELSEWHERE}"


def _head(document: Document) -> str:
    title = inline(plain(document.title, most=_NAME, line_breaks=True))
    return _joined(
        [
            f"## arca-diag: {title}",
            f"**{_SIGNS[document.level]}: {_shown(document.verdict)}**",
            _begun(document.headline),
            f"<sub>{_shown(' · '.join((*document.marks, document.maker, document.made)))}</sub>",
        ]
    ).rstrip("\n")


def _section(section: Section) -> str:
    title = _shown(section.title)
    blocks = [_block(block) for block in section.blocks]
    if section.folded:
        return _joined([f"<details><summary>{title}</summary>", *blocks, "</details>"]).rstrip("\n")
    return _joined([f"### {title}", *blocks]).rstrip("\n")


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return _begun(block.text)
        case Facts():
            rows = [(_shown(name), _shown(text)) for name, text in block.rows]
            return table(("", ""), rows)
        case Table():
            head = [_shown(word) for word in block.head]
            rows_ = [[_shown(cell) for cell in row] for row in block.rows]
            told = [f"**{_shown(block.title)}**", table(head, rows_, block.right)]
            return _joined([*told, _begun(block.caption)]).rstrip("\n")
        case Found():
            return _found(block)
        case Command():
            return _fenced(block.text)
        case Picture():
            place = f"plots/{plain(block.id, most=_NAME)}.svg"
            return f"**{_shown(block.title)}** (picture: {inline(place)}). {_shown(block.alt)}"


def _found(found: Found) -> str:
    where = f" ({_shown(found.where)})" if found.where else ""
    evidence = "; ".join(f"{name} {value}" for name, value in found.evidence)
    lines = [
        f"- **{_SIGNS[found.level]} {_shown(found.id)}**{where}: {_shown(found.message)}",
        f"  - from this follow: {_shown(', '.join(found.follows))}" if found.follows else "",
        f"  - do: {_shown(found.action)}",
        f"  - evidence: {_shown(evidence)}" if evidence else "",
        f"  - source: {_shown(found.source)}",
    ]
    return "\n".join(line for line in lines if line)


def _fenced(text: str) -> str:
    """A line to copy: no sign in it ends the fence, and none is a command of a CI system."""
    line = harmless(plain(text, most=_MOST))
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", line)), 3)
    return f"{fence}\n{line}\n{fence}"


def _shown(text: str) -> str:
    return inline(plain(text, most=_MOST, line_breaks=True))


def _begun(text: str) -> str:
    return beginning(plain(text, most=_MOST, line_breaks=True))
