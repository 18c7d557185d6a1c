"""Text as a PDF sets it: in pieces, each of which the fonts can draw and a line can hold.

A text is a string where it can be set as it is, else a list of strings, of marks, which are lists
of one string, and of 0 where a line may break that otherwise could not.
"""

import re
from collections.abc import Iterable, Iterator

from arca_diag.report.pieces import Part, visible

Piece = str | list[str] | int
Typeset = str | list[Piece]

#: Characters of a text that are set; how long the whole is stands after them.
MOST = 4000
#: A run without a space that is longer may break anywhere, a few characters apart.
_LONG = 24
_UNBROKEN = re.compile(rf"[^ \n]{{{_LONG + 1},}}")
_STEP = 6


def typeset(text: str, drawable: frozenset[int], *, most: int = MOST) -> Typeset:
    """A text with a mark for each character that would not be seen or that no font has.

    Args:
        text: Whatever it holds.
        drawable: Code points that the fonts have.
        most: How many of its characters are set.
    """
    if len(text) <= _LONG and text.isascii() and text.isprintable():
        return text
    return typeset_parts(visible(text, most=most, line_breaks=True), drawable)


def typeset_parts(parts: Iterable[Part], drawable: frozenset[int]) -> Typeset:
    """The same of a text whose unseen characters have been marked."""
    out: list[Piece] = []
    for part in parts:
        if part.mark:
            out.append([part.text])
        else:
            out += _drawn(part.text, drawable)
    return out[0] if len(out) == 1 and isinstance(out[0], str) else out


def _drawn(text: str, drawable: frozenset[int]) -> Iterator[Piece]:
    start = 0
    for place, character in enumerate(text):
        if character != "\n" and ord(character) not in drawable:
            yield from _breakable(text[start:place])
            yield [f"U+{ord(character):04X}"]
            start = place + 1
    yield from _breakable(text[start:])


def _breakable(text: str) -> Iterator[Piece]:
    done = 0
    for run in _UNBROKEN.finditer(text):
        yield from filter(None, [text[done : run.start()]])
        for place in range(run.start(), run.end(), _STEP):
            yield text[place : min(place + _STEP, run.end())]
            yield 0
        done = run.end()
    yield from filter(None, [text[done:]])
