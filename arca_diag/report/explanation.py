"""An explanation on a terminal: plain sections in 80 columns."""

import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from arca_diag.explanations import CLASS_CUTS, cuts_of, used_by
from arca_diag.explanations.entry import Explanation, Term
from arca_diag.results import Threshold

_WIDEST = 80  # longer lines are hard to read, however wide the terminal


def print_explanation(console: Console, found: Explanation | Term | Threshold) -> None:
    """Print what a finding, a word of a verdict or a cut is."""
    width = min(console.width, _WIDEST)
    if isinstance(found, Threshold):
        text = render_threshold(found, width)
    elif isinstance(found, Term):
        text = render_term(found, width)
    else:
        text = render_explanation(found, width)
    console.print(text, highlight=False, soft_wrap=True)


def print_list(console: Console, explanations: Sequence[Explanation | Term], *, bare: bool) -> None:
    """Print every id with its one line; bare ids, one a line, are for programs.

    Args:
        console: Where to.
        explanations: Of which findings and words.
        bare: Nothing but ids.
    """
    if bare:
        text = Text("\n".join(e.id for e in explanations))
    else:
        longest = max(len(e.id) for e in explanations)
        width = min(console.width, _WIDEST)
        lines = [_hanging(f"{e.id:<{longest}}  ", e.says, width) for e in explanations]
        more = "arca-diag explain ID says how each is measured; a threshold's id will do as well"
        text = Text("\n".join([*lines, "", *_wrapped(more, width, indent=0)]))
    console.print(text, highlight=False, soft_wrap=True)


def render_explanation(found: Explanation, width: int = _WIDEST) -> Text:
    """Everything about a finding, in lines of `width` columns; cuts are those of the code."""
    sections = [
        ("What it means", _wrapped(found.meaning, width)),
        ("How it is measured", _wrapped(found.measured, width)),
        ("Thresholds", _cut_lines(cuts_of(found), width)),
        ("What can look like it, and the guard", _wrapped(found.confounds, width)),
        ("What to do", _numbered(found.actions, width)),
        ("Source", _wrapped(found.source, width)),
    ]
    return _page(found.id, f": {levels(found)}", found.says, sections, width)


def render_term(found: Term, width: int = _WIDEST) -> Text:
    """Everything about a word that verdicts use; cuts are those of the code."""
    sections = [
        ("The rule", _wrapped(found.rule, width)),
        ("Thresholds", _cut_lines(cuts_of(found), width)),
        ("What it looks like", _wrapped(found.looks, width)),
        ("What to do", _numbered(found.actions, width)),
        ("Source", _wrapped(found.source, width)),
    ]
    return _page(found.id, "", found.says, sections, width)


def render_threshold(cut: Threshold, width: int = _WIDEST) -> Text:
    """A cut's value, where it comes from, and what it decides."""
    decides = [f"  finding {name}" for name in used_by(cut.id)]
    if cut.id in CLASS_CUTS:
        decides += _wrapped(CLASS_CUTS[cut.id], width)
    sections = [("Source", _wrapped(cut.source, width)), ("What it decides", decides)]
    return _page(cut.id, f" {_rule(cut)}", "a threshold", sections, width)


def levels(found: Explanation) -> str:
    """Its levels in words: `error, warn or note`."""
    *others, last = found.levels
    return f"{', '.join(others)} or {last}" if others else last


def _page(
    title: str, rest: str, says: str, sections: Iterable[tuple[str, list[str]]], width: int
) -> Text:
    out = Text.assemble((title, "bold"), rest)
    out.append("\n" + "\n".join(_wrapped(says, width, indent=0)))
    for heading, lines in sections:
        if lines:
            out.append("\n\n").append(heading, style="bold")
            out.append("\n" + "\n".join(lines))
    return out


def _numbered(actions: Sequence[str], width: int) -> list[str]:
    return [_hanging(f"  {n}. ", a, width) for n, a in enumerate(actions, start=1)]


def _cut_lines(cuts: Sequence[Threshold], width: int) -> list[str]:
    return [
        line
        for cut in cuts
        for line in (f"  {cut.id} {_rule(cut)}", *_wrapped(cut.source, width, indent=6))
    ]


def _rule(cut: Threshold) -> str:
    return f"{cut.comparator} {cut.value:g}"


def _wrapped(text: str, width: int, indent: int = 2) -> list[str]:
    return _fill(text, width, " " * indent, " " * indent)


def _hanging(start: str, text: str, width: int) -> str:
    return "\n".join(_fill(text, width, start, " " * len(start)))


def _fill(text: str, width: int, first: str, rest: str) -> list[str]:
    # Settings, paths and options stay whole, so that they can be copied.
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
