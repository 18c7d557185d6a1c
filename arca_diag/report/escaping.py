"""Text as Markdown shows it: as it is, and nothing of it alive.

What comes from a run or a model makes no link, no mention, no picture, no emoji, no markup and no
HTML, wherever on GitHub it is shown.
"""

import re
from collections.abc import Iterable, Sequence

from arca_diag.report.words import harmless

_MARKUP = re.compile(r"([\\`*_\[\]#|~$])")
#: Signs that readers turn into mentions, references, links and emoji wherever they stand; the
#: colons of a time of day, with its zone or without, are none.
_LIVE = re.compile(
    r"@|#(?=\w)|://|(?i:www)(?=\.)|(?i:gh)(?=-\d)|:(?!\d\d(?:[+-]\d\d)?:)(?=[\w+-]+:)"
)
_GAP = "\u200b"


def inline(text: str) -> str:
    """Text in a line or a cell: nothing in it is markup or alive."""
    return _MARKUP.sub(r"\\\1", in_html(text))


def in_html(text: str) -> str:
    """Text within HTML, where no sign is Markdown: nothing in it is HTML or alive."""
    text = harmless(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LIVE.sub(lambda m: m[0][:1] + _GAP + m[0][1:], text)


def beginning(text: str) -> str:
    """The same at the beginning of a line, where more signs are markup."""
    text = inline(text)
    digits = re.match(r"\d*", text)
    at = digits.end() if digits else 0
    sign = text[at : at + 1]
    if sign and (sign in ".)" if at else sign in "-+="):
        return f"{text[:at]}\\{text[at:]}"
    return text


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A table of cells that are Markdown already; `right` are the columns aligned right."""
    aligned = set(right)
    rule = ["--:" if column in aligned else "---" for column in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))
