"""How alike every two signals rank the tokens: a matrix with a view on either side."""

from collections.abc import Iterator
from typing import Any

from arca_diag.report.charts.canvas import Canvas, Panel
from arca_diag.report.charts.ink import DIVERGING, FAINT, INK, on
from arca_diag.report.charts.scene import Last, Scene, places, views
from arca_diag.report.charts.text import signed
from arca_diag.report.picture import Picture
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES

_LEFT, _TOP, _CELL, _ROW = 1.42, 0.8, 1.07, 0.42


def matrix(scene: Scene, lasts: tuple[Last, ...]) -> dict[tuple[int, int], Measurement | None]:
    """Row and column -> the agreement of these two signals.

    Below the diagonal of the first view, above it of the second; of the same where there is one.
    """
    below, above = lasts[0], lasts[-1]
    out = {}
    for row, one in enumerate(SIGNAL_NAMES):
        for column, other in enumerate(SIGNAL_NAMES):
            if row != column:
                last = below if row > column else above
                found = scene.pair("rank_agreement", last.view, last.label, one, other)
                out[row, column] = found
    return out


def draw_agreement(scene: Scene) -> Iterator[Picture]:
    """`agreement`: rank agreement of every two signals at the last checkpoint of each view."""
    if not scene.lasts:
        return
    cells = matrix(scene, scene.lasts)
    if all(m is None or m.value is None for m in cells.values()):
        return
    n = len(SIGNAL_NAMES)
    canvas = Canvas(_TOP + n * _ROW + 0.1)
    panel = Panel(canvas, _LEFT, _TOP, n * _CELL, n * _ROW, x=(0, n), y=(n, 0))
    for place, signal in enumerate(SIGNAL_NAMES):
        canvas.sign(0.12, _TOP + (place + 0.5) * _ROW, signal)
        name = signal.replace("_", "_\n") if len(signal) > 10 else signal
        panel.write(place + 0.5, 0, name, dy=4, ha="center", va="bottom", linespacing=1.0)
    for (row, column), m in cells.items():
        _cell(panel, row, column, m)
    for place in range(n):
        panel.write(place + 0.5, place + 0.5, "\N{MIDDLE DOT}", ha="center")
    _key(canvas, scene)
    title = f"Rank agreement of all signals, {views(scene.lasts)}"
    alt = _alt(scene, cells)
    halves = (
        f"Below the diagonal {scene.lasts[0].view}, above it {scene.lasts[1].view}. "
        if len(scene.lasts) > 1
        else ""
    )
    yield Picture(
        id="agreement",
        section="Agreement of signals",
        title=title,
        view=views(scene.lasts),
        caption=(
            f"Rank agreement (Spearman's, within completions of at least 8 tokens) of every two "
            f"signals, with 95% limits over prompts. {halves}{places(scene.lasts)}. "
            "1 is the same order of tokens, 0 none in common, -1 the reverse; n/a is undefined. "
            f"{_null(scene)}"
        ),
        alt=alt,
        svg=canvas.svg(title, alt),
    )


def _cell(panel: Panel, row: int, column: int, m: Measurement | None) -> None:
    if m is None or m.value is None:
        panel.boxes(
            column + 0.02,
            column + 0.98,
            row + 0.03,
            row + 0.97,
            fc="none",
            ec=INK,
            lw=0.6,
            alpha=FAINT,
        )
        panel.write(column + 0.5, row + 0.5, "n/a", ha="center", alpha=0.7)
        return
    shade = DIVERGING((m.value + 1) / 2)
    panel.boxes(
        column + 0.02, column + 0.98, row + 0.03, row + 0.97, f"cell {row} {column}", fc=shade
    )
    how: dict[str, Any] = {"ha": "center", "color": on(shade)}
    if m.low is None or m.high is None:
        panel.write(column + 0.5, row + 0.5, signed(m.value), weight="bold", **how)
        return
    panel.write(column + 0.5, row + 0.3, signed(m.value), weight="bold", **how)
    panel.write(column + 0.5, row + 0.72, f"{signed(m.low)} to {signed(m.high)}", **how)


def _key(canvas: Canvas, scene: Scene) -> None:
    """Which half is which, and a scale of colours."""
    lasts = scene.lasts
    top = 0.13
    if len(lasts) > 1:
        halves = [
            f"{side}: {one.heading}"
            for side, one in zip(("below the diagonal", "above it"), lasts, strict=True)
        ]
        canvas.write(0.05, top, "; ".join(halves), va="center", weight="bold")
    else:
        canvas.write(0.05, top, lasts[0].heading, va="center", weight="bold")
    panel = Panel(canvas, 7.25, top - 0.08, 1.4, 0.16)
    steps = 14
    for step in range(steps):
        panel.boxes(step / steps, (step + 1) / steps, 0, 1, fc=DIVERGING((step + 0.5) / steps))
    panel.write(0, 0.5, "-1", dx=-3, ha="right")
    panel.write(1, 0.5, "1", dx=3)


def _null(scene: Scene) -> str:
    """How large agreement is by chance."""
    found = [
        m.value
        for last in scene.lasts
        for place, one in enumerate(SIGNAL_NAMES)
        for other in SIGNAL_NAMES[place + 1 :]
        if (m := scene.pair("rank_agreement_null", last.view, last.label, one, other))
        and m.value is not None
    ]
    if not found:
        return ""
    return f"By chance (rotations of one side) it is {signed(min(found))} to {signed(max(found))}."


def _alt(scene: Scene, cells: dict[tuple[int, int], Measurement | None]) -> str:
    of_last: dict[str, tuple[float, str]] = {}
    for (row, column), m in cells.items():
        if m is not None and m.value is not None and (row > column or len(scene.lasts) > 1):
            pair = f"{SIGNAL_NAMES[row]} and {SIGNAL_NAMES[column]} ({m.view})"
            of_last[pair] = (m.value, pair)
    (least, unlike), (most, alike) = min(of_last.values()), max(of_last.values())
    return (
        f"Rank agreement of every two signals: most alike {alike} with {signed(most)}, "
        f"least alike {unlike} with {signed(least)}."
    )
