"""A figure over the checkpoints in a few characters, on one fixed scale from 0 to 1."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement as Width
from rich.text import Text

_BLOCKS = "".join(map(chr, range(0x2581, 0x2589)))
_DIGITS = "0123456789"


def sparkline(values: Sequence[float | None], marks: str = _BLOCKS) -> str:
    """A mark for each value: the scale from 0 to 1 in as many equal parts as there are marks.

    What is undefined is a gap, and what is outside the scale stands at its end.

    >>> sparkline([0.0, 0.5, None, 1.0], "0123456789")
    '05 9'
    """
    n = len(marks)
    return "".join(
        " " if value is None else marks[min(max(int(value * n), 0), n - 1)] for value in values
    )


def squeezed(values: Sequence[float | None], places: int) -> list[float | None]:
    """The values in no more places than there are: of several, the mean of the defined ones.

    >>> squeezed([0.0, 1.0, None, None, 0.25, None], 3)
    [0.5, None, 0.25]
    """
    n = len(values)
    places = min(n, places)
    out: list[float | None] = []
    for place in range(places):
        part = values[place * n // places : (place + 1) * n // places]
        defined = [value for value in part if value is not None]
        out.append(sum(defined) / len(defined) if defined else None)
    return out


@dataclass(frozen=True)
class Sparkline:
    """A sparkline for a terminal: blocks, or tenths as digits where it cannot show blocks."""

    values: tuple[float | None, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The line."""
        marks = _BLOCKS if can_show(options.encoding) else _DIGITS
        yield Text(sparkline(self.values, marks), no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Width:
        """A character a value."""
        return Width(len(self.values), len(self.values))


@dataclass(frozen=True)
class ScaleNote:
    """A line under sparklines: `told`, and what a mark is."""

    told: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The line."""
        scale = "from 0 (low) to 1 (full)" if can_show(options.encoding) else "in tenths"
        yield Text(self.told.replace("SCALE", scale))


def can_show(encoding: str) -> bool:
    """Whether a stream of this encoding carries the blocks."""
    try:
        _BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
