"""Every other signal against the residual, token by token, as a density."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from arca_diag.report.charts.canvas import Canvas, Panel
from arca_diag.report.charts.finite import left_out_words, n_infinite
from arca_diag.report.charts.ink import SEQUENTIAL
from arca_diag.report.charts.scene import Last, Scene, places
from arca_diag.report.charts.text import signed, tick
from arca_diag.report.picture import Picture
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES, SIGNALS

OTHERS = tuple(name for name in SIGNAL_NAMES if name != "residual")
#: Cells across and upward, colours, and decades of a scale at most.
CELLS, COLOURS, DECADES = (26, 15), 7, 6


@dataclass(frozen=True, kw_only=True)
class LogScale:
    """A logarithmic scale in whole cells; what is below it, zero too, has a cell of its own.

    Attributes:
        low: Lower end, above 0.
        high: Upper end.
        below: Whether the first cell is for what is below `low`.
        cells: How many, that one among them.
    """

    low: float
    high: float
    below: bool
    cells: int

    def cell(self, values: Float[np.ndarray, " token"]) -> Int[np.ndarray, " token"]:
        """In which cell each value is."""
        first, span = int(self.below), np.log10(self.high / self.low)
        with np.errstate(divide="ignore"):
            part = np.log10(values / self.low) / span * (self.cells - first)
        inside = np.clip(np.floor(part), 0, self.cells - first - 1) + first
        return np.where(values < self.low, 0, inside).astype(int)

    def place(self, value: float) -> float:
        """Where a value of the scale stands, in cells."""
        first = int(self.below)
        part = np.log10(value / self.low) / np.log10(self.high / self.low)
        return first + float(part) * (self.cells - first)

    def ticks(self) -> tuple[list[float], list[str]]:
        """At most five, at powers of ten or, on a short scale, between them."""
        low, high = np.log10(self.low), np.log10(self.high)
        powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
        steps: tuple[float, ...] = (1, 2, 3, 5, 7) if high - low < 1 else (1, 2, 5)
        steps = steps if high - low < 1.7 else (1,)
        found = [s * 10.0**p for p in powers for s in steps]
        found = [v for v in found if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]
        found = found[:: -(-len(found) // 5)] if found else []
        where = [self.place(v) for v in found]
        labels = [tick(v) for v in found]
        if self.below:
            where, labels = [0.5, *where], ["less", *labels]
            if len(where) > 1 and where[1] < 2.5:
                del where[1], labels[1]
        return where, labels


def log_scale(values: Float[np.ndarray, " token"], cells: int) -> LogScale | None:
    """A scale for all of these; None where none is above 0."""
    above = values[values > 0]
    if not len(above):
        return None
    high = float(above.max()) * (1 + 1e-9)
    low = min(max(float(above.min()), high / 10.0**DECADES), high / 2)
    below = bool((values < low).any())
    return LogScale(low=low, high=high, below=below, cells=cells)


def density(
    across: LogScale, upward: LogScale, x: np.ndarray, y: np.ndarray
) -> Int[np.ndarray, "row column"]:
    """Tokens in each cell, the lowest row first."""
    cell = upward.cell(y) * across.cells + across.cell(x)
    counts = np.bincount(cell, minlength=across.cells * upward.cells)
    return counts.reshape(upward.cells, across.cells)


def levels(most: int) -> list[int]:
    """From how many tokens on a cell has the next colour; few, and in even ratios."""
    steps = np.geomspace(1, max(most, 1), min(COLOURS, most) + 1)[:-1]
    return sorted({round(step) for step in steps})


def draw_residual(scene: Scene) -> Iterator[Picture]:
    """`residual`: of the last checkpoint on its own completions, where it has some."""
    for last in scene.lasts[:1]:
        columns = {name: last.tokens[name].to_numpy(float) for name in SIGNAL_NAMES}
        across = log_scale(_finite(columns["residual"]), CELLS[0])
        if across is not None:
            yield _picture(scene, last, columns, across)


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _picture(
    scene: Scene, last: Last, columns: Mapping[str, np.ndarray], across: LogScale
) -> Picture:
    units = {signal.name: signal.unit for signal in SIGNALS}
    scales = {
        unit: log_scale(
            np.concatenate([_finite(columns[s]) for s in OTHERS if units[s] == unit]), CELLS[1]
        )
        for unit in dict.fromkeys(units[s] for s in OTHERS)
    }
    found = {}
    for signal in OTHERS:
        scale = scales[units[signal]]
        both = np.isfinite(columns[signal]) & np.isfinite(columns["residual"])
        if scale is not None and both.any():
            found[signal] = density(across, scale, columns["residual"][both], columns[signal][both])
    edges = levels(max(int(counts.max()) for counts in found.values()) if found else 1)
    canvas = Canvas(5.55)
    canvas.write(0.05, 0.05, last.heading, weight="bold")
    for place, signal in enumerate(OTHERS):
        row, column = divmod(place, 3)
        scale = scales[units[signal]]
        height = scale.cells if scale else 1
        panel = Panel(
            canvas,
            0.72 + 2.85 * column,
            0.72 + 2.3 * row,
            2.2,
            1.4,
            x=(0, across.cells),
            y=(0, height),
        )
        top = 0.42 + 2.3 * row
        canvas.sign(0.78 + 2.85 * column, top, signal)
        m = scene.pair("rank_agreement", last.view, last.label, signal, "residual")
        null = scene.pair("rank_agreement_null", last.view, last.label, signal, "residual")
        canvas.write(0.72 + 2.85 * column, top + 0.1, agreement_words(m, null))
        if scale is None or signal not in found:
            panel.frame()
            panel.not_measured("every score is zero")
            continue
        _cells(panel, found[signal], edges, signal)
        panel.frame()
        panel.ticks_x(*across.ticks())
        panel.ticks_y(*scale.ticks())
        if row == 1:
            panel.named("residual, hidden units")
        if column == 0:
            panel.named_left(f"signal, {units[signal]}", 45)
    _key(canvas, edges)
    title = f"Signals against the adapter residual, {last.view}"
    alt = _alt(scene, last)
    return Picture(
        id="residual",
        section="Agreement of signals",
        title=title,
        view=last.view,
        caption=(
            f"How many tokens have which residual and which other score. {places([last])}. Both "
            "scales are logarithmic and the same in all panels of one unit; what is below a "
            "scale, exact zeros among it, stands in the cells at its lower end. Above each panel "
            "the rank agreement (\N{GREEK SMALL LETTER RHO}, Spearman's within a completion, "
            "mean over prompts with 95% limits) and its null, the same over rotations of one side: "
            "agreement is what is beyond that."
            f"{left_out_words(n_infinite(last.tokens, SIGNAL_NAMES))}"
        ),
        alt=alt,
        svg=canvas.svg(title, alt),
    )


def _cells(panel: Panel, counts: np.ndarray, edges: list[int], signal: str) -> None:
    """A box for every run of cells of one colour."""
    level = np.searchsorted(edges, counts, side="right")
    for colour in range(1, len(edges) + 1):
        inside = np.pad(level == colour, ((0, 0), (1, 1)))
        turns = np.diff(inside.astype(int), axis=1)
        rows, starts = np.nonzero(turns == 1)
        ends = np.nonzero(turns == -1)[1]
        shade = SEQUENTIAL((colour - 1) / max(1, len(edges) - 1))
        panel.boxes(starts, ends, rows, rows + 1, f"density {signal} {colour}", fc=shade)


def _key(canvas: Canvas, edges: list[int]) -> None:
    """What the colours stand for."""
    top = 5.3
    canvas.write(0.72, top, "tokens in a cell, from", va="center")
    panel = Panel(canvas, 2.3, top - 0.08, 6.6, 0.16, x=(0, 6.6))
    for place, edge in enumerate(edges):
        shade = SEQUENTIAL(place / max(1, len(edges) - 1))
        panel.boxes(0.9 * place, 0.9 * place + 0.22, 0, 1, fc=shade)
        panel.write(0.9 * place + 0.27, 0.5, f"{edge:,}")


def agreement_words(m: Measurement | None, null: Measurement | None) -> str:
    """Rank agreement with limits and null: `rho .55 (.49 to .61), null -.02`."""
    rho = "\N{GREEK SMALL LETTER RHO}"
    if m is None or m.value is None:
        return f"{rho} n/a"
    text = f"{rho} {signed(m.value)}"
    if m.low is not None and m.high is not None:
        text += f" ({signed(m.low)} to {signed(m.high)})"
    return text if null is None or null.value is None else f"{text}, null {signed(null.value)}"


def _alt(scene: Scene, last: Last) -> str:
    told = []
    for signal in OTHERS:
        m = scene.pair("rank_agreement", last.view, last.label, signal, "residual")
        told.append(f"{signal} {signed(m.value if m else None)}")
    return f"Rank agreement with the residual, {last.where}: {', '.join(told)}."
