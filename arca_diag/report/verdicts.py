"""The verdicts of one view on a terminal: the last checkpoint's, how they came about, and why."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from arca_diag.degeneracy import DEGENERATE
from arca_diag.report.headline import last_verdicts
from arca_diag.report.numbers import percent_with_limits
from arca_diag.report.words import at, safe
from arca_diag.results import Report, SettledBy, Verdict, View
from arca_diag.verdict import INCONCLUSIVE

_ROOM = 72  # columns of a terminal, below which a table of verdicts loses what is in it
_STRETCHES = 6  # of one regime each, in a line; of more, the first and the last


def render_verdicts(report: Report, view: View, width: int) -> list[RenderableType]:
    """The regime of every signal at the last checkpoint, what made it so, and what was before."""
    found = last_verdicts(report, view)
    if not found:
        return []
    told = remarks(report, view)
    lines = [Padding(Text(safe(line)), (0, 0, 0, 2), expand=False) for line in told]
    way = _steps_table([*earlier_verdicts(report, view), *found])
    return [Text(""), *_last(found, width), *way, *lines]


def _last(found: Sequence[Verdict], width: int) -> list[RenderableType]:
    """A table of verdicts, or a line each where it has no room."""
    title = Text(safe(f"verdict at {at(found[0].checkpoint)}"))
    if width < _ROOM:
        cells = [(v.regime, share(v), because(v)) for v in found]
        told = [", ".join(filter(None, words)) for words in cells]
        lines = [Text(safe(f"{v.signal}: {t}")) for v, t in zip(found, told, strict=True)]
        return [title, *(Padding(line, (0, 0, 0, 2), expand=False) for line in lines)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(title)
    table.add_column("regime", no_wrap=True)
    table.add_column("completions, 95%", no_wrap=True)
    table.add_column("because", overflow="fold")
    for verdict in found:
        table.add_row(verdict.signal, verdict.regime, share(verdict), because(verdict))
    return [table]


def earlier_verdicts(report: Report, view: View) -> list[Verdict]:
    """Those of a view at the configured sharpening before its last checkpoint."""
    found = last_verdicts(report, view)
    return [
        v
        for v in report.verdicts
        if found
        and (v.view, v.sharpening) == (view, found[0].sharpening)
        and v.checkpoint != found[0].checkpoint
    ]


def remarks(report: Report, view: View) -> list[str]:
    """What would settle the unsettled, causes at other checkpoints, and onsets: a line each."""
    unsettled: dict[str, list[SettledBy]] = {}
    for verdict in last_verdicts(report, view):
        if verdict.settled_by is not None:
            unsettled.setdefault(verdict.regime, []).append(verdict.settled_by)
    told = [f"{regime}: {_settling(why)}" for regime, why in unsettled.items()]
    told += _causes_of(earlier_verdicts(report, view))
    return told + (_onsets(report) if view == "fixed-set" else [])


def share(verdict: Verdict) -> str:
    """How many completions are so, with the limits over prompts: `97% (88 to 100)`."""
    side = verdict.side
    if side is None or side.value is None:
        return ""
    return percent_with_limits(side.value, side.low, side.high)


def because(verdict: Verdict) -> str:
    """The causes, and what else a reader of the regime should know."""
    told = [", ".join(verdict.causes)] if verdict.causes else []
    if not told and verdict.regime in DEGENERATE:
        told.append("no cause found")
    if verdict.side is not None and verdict.side.regime != verdict.regime:
        told.append(f"most: {verdict.side.regime}")
    if verdict.without_ends not in (verdict.regime, INCONCLUSIVE):
        told.append(f"{verdict.without_ends} without first and end token")
    return "; ".join(told)


def over_steps(verdicts: Iterable[Verdict]) -> list[tuple[str, str]]:
    """Signal and its regimes for each whose regime was another before, and the rest in one."""
    way: dict[str, list[tuple[int | str, str]]] = {}
    for v in verdicts:
        way.setdefault(v.signal, []).append((v.checkpoint, v.regime))
    if max((len(steps) for steps in way.values()), default=0) < 2:
        return []
    moved = {signal: steps for signal, steps in way.items() if len({r for _, r in steps}) > 1}
    rows = [(signal, _stretches(steps)) for signal, steps in moved.items()]
    if len(moved) < len(way):
        rows.append(("the others" if moved else "every signal", "the same at every checkpoint"))
    return rows


def _steps_table(verdicts: Iterable[Verdict]) -> list[RenderableType]:
    rows = over_steps(verdicts)
    if not rows:
        return []
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for signal, steps in rows:
        table.add_row(signal, Text(safe(steps)))
    return [Text("over the checkpoints"), table]


def _stretches(steps: Sequence[tuple[int | str, str]]) -> str:
    """`step 2 inconclusive -> 30 to 60 sparse`."""
    parts = []
    for regime, same in groupby(steps, key=lambda step: step[1]):
        names = [name for name, _ in same]
        parts.append(f"{_from_to(names)} {regime}")
    parts[0] = f"step {parts[0]}" if isinstance(steps[0][0], int) else parts[0]
    if len(parts) > _STRETCHES:
        half = _STRETCHES // 2
        left_out = f"({len(parts) - _STRETCHES} more, in report.json)"
        parts = [*parts[:half], left_out, *parts[-half:]]
    return " -> ".join(parts)


def _from_to(names: Sequence[int | str]) -> str:
    return f"{names[0]}" if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _causes_of(earlier: Sequence[Verdict]) -> list[str]:
    """The causes at the other checkpoints, a line for those that held of the same signals."""
    signals: dict[tuple[str, int | str], list[str]] = {}
    for v in earlier:
        for cause in v.causes:
            signals.setdefault((cause, v.checkpoint), []).append(v.signal)
    order = list(dict.fromkeys(v.checkpoint for v in earlier))
    lines = []
    for cause in dict.fromkeys(cause for cause, _ in signals):
        here = [(name, tuple(signals.get((cause, name), ()))) for name in order]
        for of, same in groupby(here, key=lambda place: place[1]):
            names = [name for name, _ in same]
            if of:
                where = at(names[0]) if len(names) == 1 else _several(names)
                lines.append(f"{cause} at {where}: {', '.join(of)}")
    return lines


def _several(names: Sequence[int | str]) -> str:
    return f"{'steps ' if isinstance(names[0], int) else ''}{_from_to(names)}"


def _onsets(report: Report) -> list[str]:
    """When credit went to one side and stayed there."""
    told: dict[str, list[str]] = {}
    for onset in report.onsets:
        if onset.by is None:
            continue
        when = f"from {at(onset.by)} on"
        when += " or before" if onset.after is None else f", not yet at {at(onset.after)}"
        side = "no signal" if onset.side == "no-signal" else f"on the {onset.side} side"
        told.setdefault(f"{side} {when}", []).append(onset.signal)
    return [f"{when}: {', '.join(signals)}" for when, signals in told.items()]


def _settling(unsettled: Sequence[SettledBy]) -> str:
    """Why signals are inconclusive and what would settle them: of several, the hardest."""
    hardest = max(unsettled, key=lambda s: math.inf if s.clusters_more is None else s.clusters_more)
    which = "" if len(unsettled) == 1 else "of the last to settle: "
    more = hardest.clusters_more
    told = "" if more is None else f"; {more:,} more prompts like these would settle it"
    return f"{which}{hardest.reason}{told}"
