"""A comparison on a terminal: what changed first, then what did not, in 80 columns."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from arca_diag.compared import Comparison, FigureChange, Sets
from arca_diag.report.comparison_words import (
    ALWAYS,
    HOW_TO_READ,
    finding_words,
    headline,
    name,
    place,
    regime_words,
    sides,
    title,
    why_not,
)
from arca_diag.report.console import WIDTH
from arca_diag.report.numbers import figure as number
from arca_diag.report.words import count, safe

_STYLE = {"warn": "bold yellow", "note": "bold"}


def render_comparison(found: Comparison) -> RenderableType:
    """Everything that `compare` prints."""
    parts: list[RenderableType] = [Text(safe(headline(found)), style="bold"), Text("")]
    if found.unlike:
        for one in found.unlike:
            told = Text.assemble(
                (f"{one.level} ", _STYLE[one.level]), safe(f"{one.what}: {one.message}")
            )
            parts.append(told)
        parts.append(Text(""))
    card = Table.grid(padding=(0, 2))
    card.add_column(no_wrap=True, style="bold")
    card.add_column(overflow="fold")
    for label, text in sides(found):
        card.add_row(label, Text(safe(text)))
    parts.append(card)
    for sets in found.sets:
        parts += [Text(""), *_view(found, sets)]
    if found.findings:
        parts.append(Text(""))
        parts += [Text(safe(line)) for line in finding_words(found.findings)]
    if found.of("changed", "within-noise", "inconclusive"):
        parts += [Text(""), Text(HOW_TO_READ)]
    return Group(*parts)


def print_comparison(console: Console, found: Comparison) -> None:
    """Print it; no name in it is ever read as markup."""
    width = min(console.width, WIDTH)
    console.print(render_comparison(found), highlight=False, crop=False, width=width)


def _view(found: Comparison, sets: Sets) -> list[RenderableType]:
    here = (sets.checkpoint_a, sets.checkpoint_b, sets.view)
    figures = [f for f in found.figures if (f.checkpoint_a, f.checkpoint_b, f.view) == here]
    head = Text.assemble((safe(place(sets)), "bold"), safe(title(sets)))
    out: list[RenderableType] = [head]
    out += _table(figures)
    equal = [f for f in figures if f.status == "equal"]
    if equal:
        which = "all" if len(equal) == len(figures) else f"{len(equal)} of"
        told = f"exactly equal: {which} {count(len(figures), 'figure')}"
        out.append(Text(f"  {told}"))
    out += [_indented(line) for line in why_not(figures)]
    moved = [
        r for r in found.regimes if (r.checkpoint_a, r.checkpoint_b, r.view) == here and r.moved
    ]
    if moved:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for regime in moved:
            table.add_row(Text(safe(regime.signal)), Text(safe(regime_words(regime))))
        out += [Text("regimes and causes, from A to B"), table]
    elif any((r.checkpoint_a, r.checkpoint_b, r.view) == here for r in found.regimes):
        out.append(Text("  regimes and causes: the same"))
    return out


def _indented(line: str) -> Padding:
    return Padding(Text(safe(line)), (0, 0, 0, 2), expand=False)


def _table(figures: Sequence[FigureChange]) -> list[RenderableType]:
    """What changed, then what may have, then G^ and e^ that did not; slight changes in a line."""
    changed = [f for f in figures if f.status == "changed"]
    noise = [f for f in figures if f.status == "within-noise"]
    shown = [f for f in noise if f.name in ALWAYS]
    parts = (
        ("changed, corrected", [f for f in changed if f.holds and not f.slight]),
        ("changed, uncorrected", [f for f in changed if not f.holds and not f.slight]),
        ("within noise", shown),
    )
    out: list[RenderableType] = []
    if any(rows for _, rows in parts):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("figure", overflow="fold")
        for column in ("A", "B", "B - A"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("95%", no_wrap=True)
        for words, rows in parts:
            if rows:
                table.add_row(Text(words, style="bold"))
            for one in rows:
                table.add_row(Text(safe(f"  {name(one)}")), *_cells(one))
        out.append(table)
    more = "more " if shown else ""
    for words, rest in (
        ("changed by less than .005: ", [f for f in changed if f.slight]),
        (f"{more}within noise: ", [f for f in noise if f not in shown]),
    ):
        if rest:
            out.append(Text(f"  {words}{count(len(rest), 'figure')}, in --json"))
    return out


def _cells(one: FigureChange) -> tuple[str, ...]:
    of = one.difference
    limits = f"{number(of.low)} to {number(of.high)}"
    return number(one.a.value), number(one.b.value), number(of.value), limits
