"""Two results side by side: the concentration of every credit in A and in B, with their limits."""

from collections.abc import Iterator, Sequence

from arca_diag.compared import Comparison, FigureChange, Sets
from arca_diag.report.charts.canvas import Canvas, Panel
from arca_diag.report.charts.ink import FAINT, INK, SIGNS, style
from arca_diag.report.charts.text import capital, signed
from arca_diag.report.comparison_words import place
from arca_diag.report.numbers import unit_share
from arca_diag.report.picture import Picture
from arca_diag.report.words import EFFN, GINI, at
from arca_diag.results import Figure
from arca_diag.signals import SIGNAL_NAMES

_NAMES = (("gini_corrected", GINI), ("effn_corrected", EFFN))
_WORDS = {
    "changed": "changed",
    "within-noise": "within noise",
    "equal": "equal",
    "inconclusive": "not called",
    "undefined": "n/a",
}
_ROW = 0.42
_TICKS = ((0.0, 0.25, 0.5, 0.75, 1.0), ("0", ".25", ".5", ".75", "1"))


def draw_changes(found: Comparison) -> tuple[Picture, ...]:
    """A picture for each view of each pair of checkpoints that has a figure in both."""
    with style():
        return tuple(picture for sets in found.sets for picture in _draw(found, sets))


def _draw(found: Comparison, sets: Sets) -> Iterator[Picture]:
    found_at = (sets.checkpoint_a, sets.checkpoint_b, sets.view)
    figures = {
        (f.name, f.signal): f
        for f in found.figures
        if (f.checkpoint_a, f.checkpoint_b, f.view) == found_at
    }
    signals = [s for s in SIGNAL_NAMES if any((name, s) in figures for name, _ in _NAMES)]
    if not any(_known(figures.get((name, s))) for name, _ in _NAMES for s in signals):
        return
    where = f"{sets.view}, {at(sets.checkpoint_a)} of A and {at(sets.checkpoint_b)} of B"
    title = f"Concentration of every credit, {place(sets)}"
    alt = _alt(where, signals, figures)
    canvas = Canvas(1.25 + _ROW * len(signals))
    for row, signal in enumerate(signals):
        canvas.sign(0.12, 0.5 + _ROW * (row + 0.5), signal)
    for column, (name, words) in enumerate(_NAMES):
        of_name = [figures.get((name, signal)) for signal in signals]
        _panel(canvas, 1.6 + 3.75 * column, words, signals, of_name)
    foot = 0.5 + _ROW * len(signals) + 0.5
    key = Panel(canvas, 1.6, foot, 3.0, 0.2)
    key.marks([0.03], [0.5], color=INK, marker="o", fillstyle="none", ms=5)
    key.write(0.03, 0.5, "A", dx=7)
    key.marks([0.2], [0.5], color=INK, marker="o", ms=5)
    key.write(0.2, 0.5, "B; the line under each is its 95% interval", dx=7)
    how = "on the same completions" if sets.paired else "on other completions"
    yield Picture(
        id=f"changes-{sets.checkpoint_a}-{sets.checkpoint_b}-{sets.view}",
        section="Before and after",
        title=title,
        view=sets.view,
        caption=f"{where}, {how} ({sets.prompts_a:,} prompts in A, {sets.prompts_b:,} in B): "
        "open marks are A, full marks are B, the lines their 95% intervals over prompts. At the "
        "right the difference with its own interval, and whether it is outside noise; for other "
        "completions it is taken at like length, so that it need not be that of the marks.",
        alt=alt,
        svg=canvas.svg(title, alt),
    )


def _panel(
    canvas: Canvas,
    left: float,
    words: str,
    signals: Sequence[str],
    figures: Sequence[FigureChange | None],
) -> None:
    """A row a signal: both marks with their limits, and the difference beside them."""
    panel = Panel(canvas, left, 0.5, 1.75, _ROW * len(signals), y=(len(signals), 0))
    panel.title(words)
    for quarter in (0.25, 0.5, 0.75):
        panel.upright(quarter, 0, len(signals), alpha=FAINT, ls=":")
    panel.frame(left=False)
    panel.ticks_x(*_TICKS)
    for row, (signal, change) in enumerate(zip(signals, figures, strict=True)):
        if change is None:
            panel.write(1, row + 0.5, "n/a", dx=6, alpha=0.7)
            continue
        sign = SIGNS[signal]
        for which, y, fill in (("a", row + 0.33, "none"), ("b", row + 0.67, "full")):
            one: Figure = getattr(change, which)
            if one.value is None:
                continue
            if one.low is not None and one.high is not None:
                low, high = max(0.0, one.low), min(1.0, one.high)
                panel.limits_level(y, low, high, 5, ec=sign.colour, lw=1.2)
            panel.marks(
                [one.value],
                [y],
                f"{change.name} {signal} {which}",
                color=sign.colour,
                marker=sign.marker,
                fillstyle=fill,
                ms=5,
                mew=0.9,
            )
        difference = change.difference
        told = signed(difference.value)
        if difference.low is not None and difference.high is not None:
            told += f" ({signed(difference.low)} to {signed(difference.high)})"
        changed = change.status == "changed" and not change.slight
        weight = "bold" if changed else "normal"
        panel.write(1, row + 0.33, told, dx=6, weight=weight)
        panel.write(1, row + 0.72, _called(change), dx=6, alpha=0.8)


def _called(change: FigureChange) -> str:
    """In words; a change that two decimals do not show is said to be one of those."""
    slight = " by less than .005" if change.status == "changed" and change.slight else ""
    return f"{_WORDS[change.status]}{slight}"


def _known(change: FigureChange | None) -> bool:
    return change is not None and change.a.value is not None and change.b.value is not None


def _alt(
    where: str,
    signals: Sequence[str],
    figures: dict[tuple[str, str | None], FigureChange],
) -> str:
    told = [
        f"{signal} {unit_share(f.a.value)} to {unit_share(f.b.value)}, {_called(f)}"
        for signal in signals
        if (f := figures.get(("gini_corrected", signal))) is not None
    ]
    return f"{capital(GINI)} at {where}: {'; '.join(told)}."
