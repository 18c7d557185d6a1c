"""A result on a terminal: the headline first, then the numbers, then what was not measured."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from arca_diag.faults import ACTIONS
from arca_diag.report.card import run_card
from arca_diag.report.headline import headline, last_verdicts, no_fault
from arca_diag.report.numbers import figure, two_decimals
from arca_diag.report.sparkline import ScaleNote, Sparkline, squeezed
from arca_diag.report.verdicts import render_verdicts
from arca_diag.report.words import VIEW_MEANS, at, finding_lines, head, safe
from arca_diag.results import Measurement, Report, View
from arca_diag.signals import SIGNAL_NAMES

#: What everything fits in, however wide the terminal is.
WIDTH = 80
_SHOWN = 6  # checkpoints side by side, at most
_LABEL = len("mean surprisal, nats")
_CELL = len(".93/.05")
_GAP = 2
_MARKS = 16  # of a trend: fewer columns stand beside it before very many checkpoints share marks


def render_console(
    report: Report, folder: Path, reproduce: str, width: int = WIDTH
) -> RenderableType:
    """Everything that a scan prints.

    Args:
        report: The result.
        folder: Where its files lie, as it should be shown.
        reproduce: The next command to type.
        width: Columns that tables of figures are laid out for.
    """
    faults = [f for f in report.findings if f.level != "note"]
    # What a signal would do as credit stands in the tables of verdicts.
    notes = [
        f
        for f in report.findings
        if f.level == "note" and f.caused_by is None and not (f.signal and f.id in ACTIONS)
    ]
    parts: list[RenderableType] = [Text(safe(headline(report)), style="bold"), Text("")]
    if faults:
        parts += [*finding_lines(faults), Text("")]
    parts.append(_run_card(report))
    for view in ("on-policy", "fixed-set"):
        parts += [Text(""), *_view_table(report, view, width)]
    parts += [Text(""), _how_to_read(), Text(""), *_unmeasured_lines(report)]
    if notes:
        parts += [*finding_lines(notes), Text("")]
    if not faults and last_verdicts(report):
        parts += [Text(no_fault(report)), Text("")]
    parts += [Text(safe(f"Files    {folder}/"), no_wrap=True, overflow="ignore")]
    parts += [Text(f"         {line}") for line in _files(report)]
    parts += [Text(safe(f"Next     {reproduce}"), no_wrap=True, overflow="ignore")]
    return Group(*parts)


def _files(report: Report) -> list[str]:
    """What lies in the folder: pages to look at first, then the data."""
    pages: list[str] = [n for n in ("report.html", "report.pdf") if n in report.files]
    pages += ["plots/ (SVG)"] if any(name.startswith("plots/") for name in report.files) else []
    kept = ("tokens", "trajectories", "rollouts", "noise", "layers")
    tables = [name for name in kept if f"{name}.parquet" in report.files]
    data = "report.json" + (f"; .parquet: {', '.join(tables)}" if tables else "")
    return [", ".join(pages) or "no pages: arca-diag report DIR --html FILE makes one", data]


def _run_card(report: Report) -> Table:
    card = Table.grid(padding=(0, 2))
    card.add_column(no_wrap=True, style="bold")
    card.add_column(overflow="fold")
    for name, text in run_card(report):
        card.add_row(name, Text(safe(text)))
    return card


def _view_table(report: Report, view: View, width: int) -> list[RenderableType]:
    title = Text.assemble((view, "bold"), f": {VIEW_MEANS[view]}")
    sharpening = report.provenance.options["sharpening"]
    found = {
        (m.checkpoint, m.signal, m.name): m
        for m in report.measurements
        if m.view == view and m.sharpening in (None, sharpening)
    }
    names = list(dict.fromkeys(c for c, _, _ in found))
    if not any(m.value is not None for m in found.values()):
        reason = next((m.reason for m in found.values()), "no checkpoint")
        return [title, Text(f"  not measured: {reason}")]
    shown, places = _fitting(names, width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("G^ / e^ at", no_wrap=True)
    for name in shown:
        table.add_column(Text(head(name)), justify="right", no_wrap=True)
    if places:
        table.add_column("trend", no_wrap=True)
    for signal in SIGNAL_NAMES:
        cells = [
            _pair(
                found.get((name, signal, "gini_corrected")),
                found.get((name, signal, "effn_corrected")),
            )
            for name in shown
        ]
        trend = [found.get((name, signal, "gini_corrected")) for name in names]
        line = Sparkline(tuple(squeezed([m.value if m else None for m in trend], places)))
        table.add_row(signal, *cells, *([line] if places else []))
    table.add_section()
    below: tuple[tuple[str, str | None, str], ...] = (
        ("mean surprisal, nats", "surprisal", "mean"),
        ("mean residual", "residual", "mean"),
        ("steps apart, median", None, "step_distance_median"),
        ("steps apart, max", None, "step_distance_max"),
    )
    for label, of, key in below:
        table.add_row(label, *(number(found.get((name, of, key))) for name in shown))
    counts = [found.get((name, "surprisal", "gini_corrected")) for name in shown]
    table.add_row("prompts", *(str(m.n_clusters) if m else "" for m in counts))
    out: list[RenderableType] = [title, table]
    fewer = f"{len(shown)} of {len(names)} checkpoints shown; report.json has all"
    if places:
        told = f"  trend: G^ at all {len(names)} checkpoints, SCALE"
        told += f"; a mark is the mean of {len(names) / places:.1f}" if places < len(names) else ""
        out.append(ScaleNote(told))
    if len(shown) < len(names):
        out.append(Text(f"  {fewer}"))
    return [*out, *render_verdicts(report, view, width)]


def _how_to_read() -> Text:
    return Text(
        "G^ is the Gini coefficient of the credit within a completion, corrected for\n"
        "length (0 even, 1 one token); e^ the share of effective tokens, corrected for\n"
        "length (1 even, 0 one token). Means over prompts; report.json has their 95%\n"
        "intervals. A regime is what surely more than half of the completions have, here\n"
        "with its 95% limits over prompts: each signal and checkpoint by itself, so of\n"
        "many a few are off. Causes are corrected for how many are asked.\n"
        "`arca-diag explain WORD` says what a regime or cause is and how it is measured."
    )


def _unmeasured_lines(report: Report) -> list[RenderableType]:
    missing = list(
        dict.fromkeys(
            f"{at(m.checkpoint)}, {m.view}, {_unmeasured(report, m)}: {m.reason}"
            for m in report.measurements
            if m.name == "gini_corrected" and m.reason is not None and m.sharpening == 1.0
        )
    )
    out: list[RenderableType] = [Text(safe(f"not measured: {text}")) for text in missing[:8]]
    if len(missing) > 8:
        out.append(Text(f"not measured: {len(missing) - 8} more, in report.json"))
    return [*out, Text("")] if out else []


def _unmeasured(report: Report, like: Measurement) -> str:
    """The signals that were not measured for the same reason at the same place."""
    same = [
        m.signal
        for m in report.measurements
        if (m.name, m.checkpoint, m.view, m.sharpening, m.reason)
        == (like.name, like.checkpoint, like.view, like.sharpening, like.reason)
    ]
    return "every signal" if len(same) == len(SIGNAL_NAMES) else ", ".join(map(str, same))


def number(measurement: Measurement | None) -> str:
    """A measurement with three significant digits, or "n/a"; why not stands below the table."""
    return figure(measurement.value if measurement else None)


def _pair(gini: Measurement | None, effn: Measurement | None) -> str:
    if gini is None or effn is None or gini.value is None or effn.value is None:
        return "n/a"
    return f"{two_decimals(gini.value)}/{two_decimals(effn.value)}"


def _fitting(names: Sequence[int | str], width: int) -> tuple[list[int | str], int]:
    """The checkpoints that stand side by side, and the places for the trend of all of them.

    The first and the last are always there. A trend needs three checkpoints and room for a mark
    each, or for `_MARKS` of very many; for its sake fewer may stand beside each other.
    """
    without = _spread(names, 2)
    for beside in range(min(_SHOWN, len(names)), 1, -1):
        shown = _spread(names, beside)
        room = width - _LABEL - sum(max(len(head(name)), _CELL) + _GAP for name in shown)
        if room >= 0 and len(without) < len(shown):
            without = shown
        room -= _GAP
        if beside > 2 and room >= max(min(len(names), _MARKS), len("trend")):
            return shown, min(len(names), room)
    return without, 0


def _spread(names: Sequence[int | str], most: int) -> list[int | str]:
    """The first, the last and evenly spaced ones between."""
    if len(names) <= most:
        return list(names)
    places = [round(i * (len(names) - 1) / (most - 1)) for i in range(most)]
    return [names[place] for place in places]


def print_report(console: Console, report: Report, folder: Path, reproduce: str) -> None:
    """Print a result; text that came from a model or a file is never read as markup."""
    width = min(console.width, WIDTH)
    shown = render_console(report, folder, reproduce, width)
    if console.is_terminal:
        console.print(shown, highlight=False, crop=False, width=width)
        return
    # Into a file or a pipe: without the blanks that fill the cells of tables.
    with console.capture() as captured:
        console.print(shown, highlight=False, crop=False, width=width)
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    console.print(Text(text), highlight=False, soft_wrap=True)
