"""A panel a signal, four in a row, always in the same place; the eighth place is for a key."""

from collections.abc import Iterator, Sequence
from typing import Literal

from matplotlib.lines import Line2D

from arca_diag.report.charts.canvas import Canvas
from arca_diag.report.charts.ink import INK
from arca_diag.report.charts.scene import Last
from arca_diag.signals import SIGNAL_NAMES

COLUMNS = 4
#: How the first and the second view are told apart: filled, and hollow with dashes.
FILLS: tuple[Literal["full"], Literal["none"]] = ("full", "none")


def signal_places() -> Iterator[tuple[int, int, str]]:
    """Row, column and signal."""
    for place, signal in enumerate(SIGNAL_NAMES):
        row, column = divmod(place, COLUMNS)
        yield row, column, signal


def view_key(canvas: Canvas, left: float, top: float, lasts: Sequence[Last]) -> None:
    """Which marks are of which view and checkpoint, one below the other."""
    for place, last in enumerate(lasts):
        y = canvas.height - top - 0.24 * place
        mark = Line2D([left], [y], color=INK, marker="o", ms=5, fillstyle=FILLS[place], ls="none")
        canvas.add(mark)
        canvas.write(
            left + 0.12,
            top + 0.24 * place + 0.045,
            last.heading,
            va="baseline",
        )
