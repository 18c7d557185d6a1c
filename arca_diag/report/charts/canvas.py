"""A figure laid out in inches from its upper left corner, and drawn to SVG alone.

Panels are drawn on the figure itself: axes of matplotlib's take most of a picture's time, and
laying them out by trial takes it several times. Whoever draws keeps within a panel's limits.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from arca_diag.report.charts.ink import BAND, FAINT, INK, SIGNS
from arca_diag.report.charts.svg import CLASS, compact
from arca_diag.report.charts.text import tick

WIDTH = 9.0
#: How far the ends of limits stick out on either side of a mark, in points.
OVERHANG = 1.6
#: A point in inches.
POINT = 1 / 72


class Canvas:
    """A picture to be drawn on; all places are in inches from the upper left corner."""

    def __init__(self, height: float) -> None:
        self.height = height
        self._figure = Figure(figsize=(WIDTH, height))

    def add(self, artist: Artist, of: str = "") -> None:
        """Draw something that is in inches from the lower left corner; `of` says what it is."""
        artist.set_transform(self._figure.dpi_scale_trans)
        if of:
            artist.set_gid(f"{CLASS}{of}")
        self._figure.add_artist(artist)

    def write(self, left: float, top: float, text: str, **how: Any) -> None:
        """Text whose upper left corner is at a place."""
        how = {"va": "top", "ha": "left"} | how
        self._figure.text(
            left, self.height - top, text, transform=self._figure.dpi_scale_trans, **how
        )

    def sign(self, left: float, top: float, signal: str) -> None:
        """A signal's marker, its middle at a place, and its name to the right."""
        sign = SIGNS[signal]
        y = [self.height - top]
        self.add(Line2D([left], y, color=sign.colour, marker=sign.marker, ms=5, ls="none"))
        self.write(left + 0.11, top + 0.045, signal, va="baseline")

    def svg(self, title: str, alt: str) -> str:
        """The finished document."""
        sink = io.StringIO()
        backend: Any = FigureCanvasSVG(self._figure)
        backend.print_svg(
            sink, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
        return compact(sink.getvalue(), title, alt)


class Panel:
    """A part of a canvas with scales of its own."""

    def __init__(
        self,
        canvas: Canvas,
        left: float,
        top: float,
        width: float,
        height: float,
        x: tuple[float, float] = (0.0, 1.0),
        y: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """Place it.

        Args:
            canvas: What it is a part of.
            left: Of its upper left corner.
            top: Of its upper left corner.
            width: Of what is drawn on, without ticks.
            height: Of the same.
            x: What its left and right edge stand for.
            y: What its lower and upper edge stand for.
        """
        self.canvas = canvas
        self.width, self.height = width, height
        self._left, self._bottom = left, canvas.height - top - height
        self._x, self._y = x, y

    def across(self, x: Any) -> Any:
        """Where a value stands, in inches from the left of the canvas."""
        low, high = self._x
        return self._left + self.width * (np.asarray(x, float) - low) / (high - low)

    def upward(self, y: Any) -> Any:
        """Where a value stands, in inches from the bottom of the canvas."""
        low, high = self._y
        return self._bottom + self.height * (np.asarray(y, float) - low) / (high - low)

    def line(self, x: Any, y: Any, of: str = "", **how: Any) -> None:
        """A line with or without markers; NaN is a gap."""
        self.canvas.add(Line2D(self.across(x), self.upward(y), **how), of)

    def marks(self, x: Any, y: Any, of: str = "", **how: Any) -> None:
        """Markers alone."""
        self.line(x, y, of, ls="none", **how)

    def limits(self, x: Any, low: Any, high: Any, mark: float, of: str = "", **how: Any) -> None:
        """Upright lines from limit to limit with ends that stick out behind a mark.

        An interval may be smaller than the mark of its value, and would be hidden by it.

        Args:
            x: Where they stand.
            low: Lower limits; those with NaN are left out.
            high: Upper limits.
            mark: Size of the mark, in points.
            of: What they are of.
            how: As matplotlib's patches have it.
        """
        x, low, high = np.broadcast_arrays(self.across(x), self.upward(low), self.upward(high))
        reach = (mark / 2 + OVERHANG) * POINT
        self._segments(_barred(np.stack([x, low, x, high], axis=-1), reach, 0.0), how, of)

    def limits_level(
        self, y: Any, low: Any, high: Any, mark: float, of: str = "", **how: Any
    ) -> None:
        """The same, level."""
        y, low, high = np.broadcast_arrays(self.upward(y), self.across(low), self.across(high))
        reach = (mark / 2 + OVERHANG) * POINT
        self._segments(_barred(np.stack([low, y, high, y], axis=-1), 0.0, reach), how, of)

    def upright(self, x: Any, low: Any, high: Any, of: str = "", **how: Any) -> None:
        """Upright lines; those with NaN are left out."""
        x, low, high = np.broadcast_arrays(self.across(x), self.upward(low), self.upward(high))
        self._segments(np.stack([x, low, x, high], axis=-1), how, of)

    def level(self, y: Any, low: Any, high: Any, **how: Any) -> None:
        """Level lines; those with NaN are left out."""
        y, low, high = np.broadcast_arrays(self.upward(y), self.across(low), self.across(high))
        self._segments(np.stack([low, y, high, y], axis=-1), how)

    def boxes(self, left: Any, right: Any, low: Any, high: Any, of: str = "", **how: Any) -> None:
        """Boxes between two pairs of values; all of one look."""
        a, b, c, d = np.broadcast_arrays(
            self.across(left), self.across(right), self.upward(low), self.upward(high)
        )
        corners = np.stack([a, c, b, c, b, d, a, d, a, c], axis=-1).reshape(-1, 2)
        codes = np.tile(
            [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY],
            corners.shape[0] // 5,
        )
        if len(corners):
            self.canvas.add(PathPatch(Path(corners, codes), **({"lw": 0} | how)), of)

    def ribbon(self, x: Any, low: Any, high: Any, of: str = "", **how: Any) -> None:
        """What lies between two lines; nothing where a limit is NaN."""
        x, low, high = self.across(x), self.upward(low), self.upward(high)
        known = ~np.isnan(low) & ~np.isnan(high)
        if known.sum() > 1:
            x, low, high = x[known], low[known], high[known]
            corners = np.column_stack(
                [np.concatenate([x, x[::-1]]), np.concatenate([low, high[::-1]])]
            )
            self.canvas.add(PathPatch(Path(corners, closed=False), lw=0, **how), of)

    def band(self, low: float, high: float) -> None:
        """A faint band over the whole width; one on another is darker."""
        self.boxes(*self._x, low, high, fc=INK, alpha=BAND)

    def guide(self, y: float, **how: Any) -> None:
        """A faint line over the whole width."""
        self.level(y, *self._x, **({"alpha": FAINT, "lw": 0.7, "ls": ":"} | how))

    def write(
        self, x: float, y: float, text: str, dx: float = 0, dy: float = 0, **how: Any
    ) -> None:
        """Text at a place, moved right and up by so many points."""
        left = float(self.across(x)) + dx * POINT
        top = self.canvas.height - float(self.upward(y)) - dy * POINT
        self.canvas.write(left, top, text, **({"va": "center"} | how))

    def title(self, text: str, **how: Any) -> None:
        """Text above the panel, from its left edge."""
        self.write(self._x[0], self._y[1], text, dy=5, **({"va": "baseline"} | how))

    def signed(self, signal: str) -> None:
        """A signal's marker and name above the panel."""
        top = self.canvas.height - self._bottom - self.height - 0.12
        self.canvas.sign(self._left + 0.06, top, signal)

    def named(self, text: str) -> None:
        """What the lower edge stands for, below its ticks."""
        self.write(sum(self._x) / 2, self._y[0], text, dy=-15, va="top", ha="center")

    def named_left(self, text: str, space: float = 26) -> None:
        """What the left edge stands for, so many points left of it."""
        middle = sum(self._y) / 2
        self.write(self._x[0], middle, text, dx=-space, ha="center", rotation=90)

    def frame(self, *, left: bool = True, bottom: bool = True) -> None:
        """The lines that ticks stand on."""
        if bottom:
            self.level(self._y[0], *self._x, lw=0.7)
        if left:
            self.upright(self._x[0], *self._y, lw=0.7)

    def ticks_x(self, places: Sequence[float], labels: Sequence[str] = ()) -> None:
        """Ticks below, with labels or without."""
        foot = float(self.upward(self._y[0]))
        x = self.across(places)
        ends = np.full_like(x, foot)
        self._segments(np.stack([x, ends, x, ends - 2.5 * POINT], axis=-1), {"lw": 0.7})
        for place, label in zip(places, labels, strict=False):
            if label:
                self.write(place, self._y[0], label, dy=-4.5, va="top", ha="center")

    def ticks_y(self, places: Sequence[float], labels: Sequence[str] = ()) -> None:
        """Ticks at the left, with labels or without."""
        y = self.upward(places)
        ends = np.full_like(y, self._left)
        self._segments(np.stack([ends, y, ends - 2.5 * POINT, y], axis=-1), {"lw": 0.7})
        for place, label in zip(places, labels, strict=False):
            if label:
                self.write(self._x[0], place, label, dx=-4.5, ha="right", va="center")

    def not_measured(self, reason: str) -> None:
        """Say why nothing is drawn here."""
        text = wrapped(f"not measured: {reason}", max(12, int(self.width / 0.078)))
        self.write(
            sum(self._x) / 2, sum(self._y) / 2, text, ha="center", alpha=0.8, linespacing=1.1
        )

    def _segments(
        self, ends: Float[np.ndarray, "segment 4"], how: dict[str, Any], of: str = ""
    ) -> None:
        ends = np.atleast_2d(ends)
        ends = ends[~np.isnan(ends).any(axis=-1)]
        if len(ends):
            codes = np.tile([Path.MOVETO, Path.LINETO], len(ends))
            path = Path(ends.reshape(-1, 2), codes)
            self.canvas.add(PathPatch(path, **({"fill": False, "ec": INK, "lw": 0.7} | how)), of)


def _barred(
    ends: Float[np.ndarray, "*line 4"], across: float, upward: float
) -> Float[np.ndarray, "segment 4"]:
    """Lines, each with a bar at either end that reaches so far to both sides of it."""
    ends = np.atleast_2d(ends)
    ends = ends[~np.isnan(ends).any(axis=-1)]
    side = np.array([across, upward])
    bars = [np.hstack([end - side, end + side]) for end in (ends[:, :2], ends[:, 2:])]
    return np.vstack([ends, *bars])


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most so many characters, where words allow it."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def covering(low: float, high: float, most: int) -> tuple[list[float], list[str]]:
    """Round numbers from at or below one end to at or above the other, and how they are written.

    They are `most` steps apart or one more; an axis from the first to the last holds all that is
    drawn.
    """
    if high <= low:
        low, high = padded(low, high)
    found = MaxNLocator(most).tick_values(low, high)
    space = 1e-9 * (high - low)
    first = max(float(v) for v in found if v <= low + space)
    last = min(float(v) for v in found if v >= high - space)
    places = [float(v) for v in found if first <= v <= last]
    steps = len(places) - 1
    places = places[
        :: next(n for n in range(1, steps + 1) if steps % n == 0 and steps / n < most + 2)
    ]
    return places, [tick(0.0 if math.isclose(v, 0, abs_tol=1e-12) else v) for v in places]


def padded(low: float, high: float, part: float = 0.06) -> tuple[float, float]:
    """Limits with some space beyond what is drawn; never of no width."""
    space = part * (high - low) or abs(high) * part or 1.0
    return low - space, high + space


def spaced(places: Sequence[float], least: float) -> list[int]:
    """Which of ascending places keep a label where two must be `least` apart; the last does."""
    kept: list[int] = []
    for index in range(len(places) - 1, -1, -1):
        if not kept or places[kept[-1]] - places[index] >= least:
            kept.append(index)
    return kept[::-1]
