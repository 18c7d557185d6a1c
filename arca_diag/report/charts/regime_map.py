"""Every completion of the last checkpoint by how concentrated its credit is, in two figures."""

from collections.abc import Iterator

import numpy as np

from arca_diag.report.charts.canvas import Canvas, Panel
from arca_diag.report.charts.finite import finite, left_out_words, n_infinite
from arca_diag.report.charts.ink import BAND, INK, SIGNS
from arca_diag.report.charts.scene import Last, Scene, of_signals, places, values, views
from arca_diag.report.charts.text import capital
from arca_diag.report.numbers import unit_share
from arca_diag.report.picture import Picture
from arca_diag.report.words import EFFN, GINI
from arca_diag.results import Measurement, View
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.thresholds import Cuts

#: Completions of a signal that are drawn in a panel; of more, every so many.
POINTS = 100
_FIGURES = ("gini_corrected", "effn_corrected")


def points(last: Last, signal: str) -> tuple[np.ndarray, np.ndarray, int]:
    """G^ and e^ of completions that have both, evenly thinned, and of how many they are."""
    rows = finite(last.rows[last.rows["signal"] == signal])
    rows = rows[rows["gini_corrected"].notna() & rows["effn_corrected"].notna()]
    some = rows.iloc[:: max(1, -(-len(rows) // POINTS))]
    gini, effn = (some[name].to_numpy(float) for name in _FIGURES)
    return gini, effn, len(rows)


def regions(cuts: Cuts) -> dict[str, tuple[float, float, float, float]]:
    """Class -> left, right, bottom and top of where its completions lie, milder classes first.

    Both figures must be past their cut, so all but `middle` are corners.
    """
    return {
        "leaning-sparse": (cuts["gini-leaning-sparse"], 1.0, 0.0, cuts["effn-leaning-sparse"]),
        "sparse": (cuts["gini-sparse"], 1.0, 0.0, cuts["effn-sparse"]),
        "leaning-uniform": (0.0, cuts["gini-leaning-uniform"], cuts["effn-leaning-uniform"], 1.0),
        "uniform": (0.0, cuts["gini-uniform"], cuts["effn-uniform"], 1.0),
    }


def draw_regime_map(scene: Scene) -> Iterator[Picture]:
    """`regime-map`: G^ against e^, a panel a view."""
    found = {last.view: {s: points(last, s) for s in SIGNAL_NAMES} for last in scene.lasts}
    lasts = [one for one in scene.lasts if any(n for *_, n in found[one.view].values())]
    if not lasts:
        return
    canvas = Canvas(4.6)
    for column, last in enumerate(lasts):
        left = 0.5 + 4.4 * column
        canvas.write(left, 0.05, last.heading, weight="bold")
        _panel(Panel(canvas, left, 0.3, 3.9, 3.3), scene, last, found[last.view])
    drawn = of_signals({s: 1 for one in lasts for s, p in found[one.view].items() if p[2]})
    for place, signal in enumerate(drawn):
        row, column = divmod(place, 4)
        canvas.sign(0.6 + 2.1 * column, 4.15 + 0.24 * row, signal)
    title = f"Regime map: each completion at the last checkpoint, {views(lasts)}"
    alt = _alt(scene, lasts)
    yield Picture(
        id="regime-map",
        section="Concentration",
        title=title,
        view=views(lasts),
        caption=(
            f"{capital(GINI)} against {EFFN}, a point a completion "
            f"and signal. {places(lasts)}. Sharpening {scene.sharpening:g}. "
            f"{_thinned(found)}A large mark is the mean over prompts with its 95% limits, cut at 0 "
            "and 1. In a shaded corner both figures are past their cuts: faint is leaning, strong "
            "is sparse or uniform; everywhere else is the middle. Top left is even credit, "
            "bottom right credit on one token. A regime is what surely more than half of "
            "the completions have."
            f"{left_out_words(sum(n_infinite(one.rows, _FIGURES) for one in lasts))}"
        ),
        alt=alt,
        svg=canvas.svg(title, alt),
    )


def _panel(
    panel: Panel, scene: Scene, last: Last, found: dict[str, tuple[np.ndarray, np.ndarray, int]]
) -> None:
    for name, (left, right, bottom, top) in regions(scene.cuts).items():
        panel.boxes(left, right, bottom, top, fc=INK, alpha=BAND)
        words = f"{name}, {name.removeprefix('leaning-')}"
        if name == "leaning-uniform":
            panel.write(right, 1, words, dx=4, dy=-4, va="top", alpha=0.75)
        if name == "leaning-sparse":
            panel.write(1, top, words, dy=4, ha="right", va="bottom", alpha=0.75)
    panel.write(0.06, 0.06, "elsewhere: middle", va="bottom", alpha=0.75)
    for signal, (gini, effn, _) in found.items():
        sign = SIGNS[signal]
        panel.marks(
            gini,
            effn,
            f"{last.view} {signal}",
            color=sign.colour,
            marker=sign.marker,
            ms=3.5,
            mew=0,
            alpha=0.5,
        )
    for signal, (gini_mean, effn_mean) in means(scene, last).items():
        of = f"mean {last.view} {signal}"
        (x, left, right), (y, low, high) = values([gini_mean]), values([effn_mean])
        sign = SIGNS[signal]
        panel.limits_level(
            y, left.clip(0, 1), right.clip(0, 1), 9, f"{of} G", ec=sign.colour, lw=1.4
        )
        panel.limits(x, low.clip(0, 1), high.clip(0, 1), 9, f"{of} e", ec=sign.colour, lw=1.4)
        panel.marks(
            x, y, f"{of} mark", color=sign.colour, marker=sign.marker, ms=9, mew=0.8, mec=INK
        )
    panel.frame()
    for ticks in (panel.ticks_x, panel.ticks_y):
        ticks((0, 0.25, 0.5, 0.75, 1), ("0", ".25", ".5", ".75", "1"))
    panel.named(GINI)
    panel.named_left(EFFN)


def means(scene: Scene, last: Last) -> dict[str, tuple[Measurement, Measurement]]:
    """G^ and e^ of each signal, means over prompts, where both are known."""
    out = {}
    for signal in SIGNAL_NAMES:
        gini, effn = (scene.figure(name, last.view, last.label, signal) for name in _FIGURES)
        if gini and effn and gini.value is not None and effn.value is not None:
            out[signal] = (gini, effn)
    return out


def _thinned(found: dict[View, dict[str, tuple[np.ndarray, np.ndarray, int]]]) -> str:
    of = [(len(x), n) for signals in found.values() for x, _, n in signals.values()]
    if all(drawn == n for drawn, n in of):
        return ""
    return f"At most {POINTS} completions a signal are drawn, evenly taken from all. "


def _alt(scene: Scene, lasts: list[Last]) -> str:
    told = []
    for last in lasts:
        of = [
            f"{s} {unit_share(g.value)}/{unit_share(e.value)}"
            for s, (g, e) in means(scene, last).items()
        ]
        told.append(f"{last.where}: {', '.join(of)}")
    return f"Mean corrected Gini and effective tokens: {'; '.join(told)}."
