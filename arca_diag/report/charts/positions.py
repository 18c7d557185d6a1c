"""Where in a completion the credit lies: its first token, its last, and tenths of the way."""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from arca_diag.diagnostics.agnosticism import POSITIONS
from arca_diag.report.charts.canvas import Canvas, Panel
from arca_diag.report.charts.classes import short
from arca_diag.report.charts.grid import FILLS, signal_places, view_key
from arca_diag.report.charts.ink import SIGNS
from arca_diag.report.charts.scene import Last, Scene, places, values, views
from arca_diag.report.picture import Picture
from arca_diag.results import View
from arca_diag.signals import SIGNAL_NAMES

_Found = Mapping[tuple[View, str], tuple[np.ndarray, np.ndarray, np.ndarray]]


def lifts(scene: Scene, last: Last, signal: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value and limits of the lift at each of `POSITIONS`; NaN where it is not known."""
    out = np.full((3, len(POSITIONS)), np.nan)
    for place, name in enumerate(POSITIONS):
        m = scene.figure("position_lift", last.view, last.label, signal, name)
        if m is not None:
            out[:, place] = np.concatenate(values([m]))
    return out[0], out[1], out[2]


def square_ticks(most: float) -> list[int]:
    """At most five squares for a scale of square roots: 0, 1, and up to one at or above `most`."""
    top = next(n for n in itertools.count(2) if n * n >= most)
    return [0, 1, *sorted({max(2, round(top * part)) ** 2 for part in (0.5, 0.75, 1)})]


def draw_positions(scene: Scene) -> Iterator[Picture]:
    """`positions`: a panel a signal, a line a view, on one scale."""
    found = {(one.view, s): lifts(scene, one, s) for one in scene.lasts for s in SIGNAL_NAMES}
    lasts = [
        one
        for one in scene.lasts
        if not all(np.isnan(found[one.view, s][0]).all() for s in SIGNAL_NAMES)
    ]
    if not lasts:
        return
    most = max(float(np.nanmax(v, initial=1.0)) for v, _, _ in found.values())
    keep = square_ticks(most)
    top_value = float(np.sqrt(keep[-1]))
    canvas = Canvas(3.8)
    n = len(POSITIONS)
    for row, column, signal in signal_places():
        panel = Panel(
            canvas,
            0.62 + 2.12 * column,
            0.32 + 1.95 * row,
            1.85,
            1.25,
            x=(-0.5, n - 0.5),
            y=(0, top_value),
        )
        panel.signed(signal)
        panel.guide(1.0)
        panel.frame()
        panel.ticks_y([np.sqrt(v) for v in keep], [str(v) for v in keep] if column == 0 else ())
        panel.ticks_x(range(n), ["first", *[""] * 4, "middle", *[""] * 5, "last"])
        if column == 0:
            panel.named_left("lift", 24)
        for place, last in enumerate(lasts):
            _line(panel, found[last.view, signal], signal, place, len(lasts), top_value, last.view)
    view_key(canvas, 0.7 + 2.12 * 3, 0.32 + 1.95 + 0.3, lasts)
    canvas.write(
        0.64 + 2.12 * 3,
        0.32 + 1.95 + 0.3 + 0.24 * len(lasts) - 0.02,
        "dotted: even credit, lift 1",
    )
    title = f"Credit by place in the completion, {views(lasts)}"
    alt = _alt(scene, lasts, found)
    yield Picture(
        id="positions",
        section="Where the credit goes",
        title=title,
        view=views(lasts),
        caption=(
            "How many times its share of the tokens the first token, each tenth of those between, "
            f"and the last hold of the credit, at sharpening {scene.sharpening:g}, with 95% limits "
            f"over prompts; 1 is even credit. {places(lasts)}. The scale is that of square roots "
            "and the same in all panels; limits beyond it are cut."
        ),
        alt=alt,
        svg=canvas.svg(title, alt),
    )


def _line(
    panel: Panel,
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    signal: str,
    place: int,
    n_views: int,
    top: float,
    view: str,
) -> None:
    value, low, high = found
    if np.isnan(value).all():
        panel.write(
            len(POSITIONS) / 2 - 0.5, top * (0.75 - 0.2 * place), f"n/a {view}", ha="center"
        )
        return
    x = np.arange(len(value)) + 0.18 * (place - (n_views - 1) / 2)
    low, high = (np.sqrt(end.clip(0, top**2)) for end in (low, high))
    sign = SIGNS[signal]
    panel.limits(x, low, high, 3.5, f"limits {view} {signal}", ec=sign.colour, lw=0.8, alpha=0.7)
    panel.line(
        x,
        np.sqrt(value),
        f"{view} {signal}",
        color=sign.colour,
        marker=sign.marker,
        ms=3.5,
        lw=1,
        ls=("-", (0, (2, 1.5)))[place],
        fillstyle=FILLS[place],
    )


def _alt(scene: Scene, lasts: list[Last], found: _Found) -> str:
    told = []
    for last in lasts:
        peaks = []
        for signal in SIGNAL_NAMES:
            value = found[last.view, signal][0]
            if not np.isnan(value).all():
                place = int(np.nanargmax(value))
                peaks.append(f"{signal} {POSITIONS[place]} with {short(value[place])}")
        told.append(f"{last.where}: {', '.join(peaks)}")
    return f"The place with the highest lift of credit, {'; '.join(told)}."
