"""A document as Markdown, for a pull request's comment, a step summary or an issue.

What was found comes first, and what comes first has the room first. What does not fit is left
out, and that is said. Pictures have no place in it: it says what they are, and where they lie.
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
from arca_diag.report.escaping import beginning, in_html, inline, table
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
_LONG_NOTE = 240  # characters of a note that stands open
_BEGINNING = 200  # of what a folded one says, that are read before it is opened
_BETWEEN = "\n\n"
_ELSEWHERE = "`arca-diag report` renders the whole result; `report.json` has every figure."


def render_markdown(document: Document, *, most_bytes: int = COMMENT_BYTES) -> str:
    """The document, or as much of it as fits.

    Sections have room in their order. Of one that does not fit as a whole there are the blocks
    that do; one without any is named at the end, and smaller ones after it may still fit.

    Args:
        document: What it says.
        most_bytes: How long the text may be in UTF-8.
    """
    out = list(document.sections)
    kept: list[str] = []
    head = _head(document)
    if _size([head, _said(out)]) > most_bytes:
        head = f"## arca-diag: {_SIGNS[document.level]}"
    for section in document.sections:
        rest = [s for s in out if s is not section]
        room = most_bytes - _size([head, *kept, _said(rest)]) - len(_BETWEEN)
        if text := _fitting(section, room):
            kept.append(text)
            out = rest
    return _joined([head, *kept, _said(out)])


def _fitting(section: Section, room: int) -> str:
    """The section, or those of its blocks that fit and how many do not; empty if none does."""
    blocks = [_block(block) for block in section.blocks]
    whole = _section(section, blocks)
    if len(whole.encode()) <= room:
        return whole
    room -= len(_section(section, [_more(section, len(blocks))]).encode())
    some = []
    for block in blocks:
        size = len(block.encode()) + len(_BETWEEN)
        if size <= room:
            some.append(block)
            room -= size
    return _section(section, [*some, _more(section, len(blocks) - len(some))]) if some else ""


def _more(section: Section, number: int) -> str:
    return f"*{number:,} more under “{_shown(section.title)}” do not fit here.*"


def _size(blocks: Sequence[str]) -> int:
    return len(_joined(blocks).encode())


def _joined(blocks: Sequence[str]) -> str:
    return _BETWEEN.join(block for block in blocks if block) + "\n"


def _said(left_out: Sequence[Section]) -> str:
    """What is not here for want of room, each named once; empty if all is."""
    if not left_out:
        return ""
    titles = "; ".join(dict.fromkeys(section.title for section in left_out))
    return f"*Left out here, for want of room: {_shown(titles)}.* {_ELSEWHERE}"


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


def _section(section: Section, blocks: Sequence[str]) -> str:
    if section.folded:
        return _folded(section.title, blocks)
    return _joined([f"### {_shown(section.title)}", *blocks]).rstrip("\n")


def _folded(title: str, blocks: Sequence[str]) -> str:
    """Blocks under a line that a reader opens; that line is HTML, and no Markdown is read in it."""
    summary = in_html(plain(title, most=_MOST, line_breaks=True))
    return _joined([f"<details><summary>{summary}</summary>", *blocks, "</details>"]).rstrip("\n")


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
    """A finding as an item of a list; of a note that is long what it says, the rest folded."""
    where = f" ({_shown(found.where)})" if found.where else ""
    evidence = "; ".join(f"{name} {value}" for name, value in found.evidence)
    told = [
        f"- from this follow: {_shown(', '.join(found.follows))}" if found.follows else "",
        f"- do: {_shown(found.action)}",
        f"- evidence: {_shown(evidence)}" if evidence else "",
        f"- source: {_shown(found.source)}",
    ]
    below = [line for line in told if line]
    if found.level == "note" and len(found.message) + sum(map(len, below)) > _LONG_NOTE:
        place = f" ({found.where})" if found.where else ""
        message = plain(found.message, most=_MOST, line_breaks=True)
        begins = message[:_BEGINNING].rpartition(" ")[0] or message[:_BEGINNING]
        cut = len(message) > _BEGINNING
        line = f"{_SIGNS[found.level]} {found.id}{place}: {f'{begins} …' if cut else message}"
        return _folded(line, [beginning(message) if cut else "", "\n".join(below)])
    head = f"- **{_SIGNS[found.level]} {_shown(found.id)}**{where}: {_shown(found.message)}"
    return "\n".join([head, *(f"  {line}" for line in below)])


def _fenced(text: str) -> str:
    """A line to copy: no sign in it ends the fence, and none is a command of a CI system."""
    line = harmless(plain(text, most=_MOST))
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", line)), 3)
    return f"{fence}\n{line}\n{fence}"


def _shown(text: str) -> str:
    return inline(plain(text, most=_MOST, line_breaks=True))


def _begun(text: str) -> str:
    return beginning(plain(text, most=_MOST, line_breaks=True))
