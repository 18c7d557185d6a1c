"""Where in the network the residual arises: every layer's, at several checkpoints."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from arca_diag.report.charts.canvas import Canvas, Panel, covering, padded
from arca_diag.report.charts.finite import finite, left_out_words, n_infinite
from arca_diag.report.charts.ink import SEQUENTIAL
from arca_diag.report.charts.scene import Scene
from arca_diag.report.charts.text import shown
from arca_diag.report.numbers import figure
from arca_diag.report.picture import Picture
from arca_diag.report.words import at, count

#: Checkpoints that are drawn: first, last, and evenly spaced ones between.
SHOWN = 5
_MARKERS = ("o", "s", "^", "D", "v")
_ROWS = (
    ("residual_mean", "residual: norm of the difference, hidden units"),
    ("relative_residual_mean", "relative residual: over the norm of the reference's state"),
    ("update_norm", "norm of the adapter's update in the layer"),
)
_DRAWN = (*(column for column, _ in _ROWS), "residual_low", "residual_high")


def chosen(names: Sequence[str]) -> list[str]:
    """The checkpoints that are drawn."""
    if len(names) <= SHOWN:
        return list(names)
    return [names[round(i * (len(names) - 1) / (SHOWN - 1))] for i in range(SHOWN)]


def draw_layers(scene: Scene) -> Iterator[Picture]:
    """`layers`: three figures over the layers, a line a checkpoint."""
    infinite = n_infinite(scene.frames.layers, _DRAWN)
    table = finite(scene.frames.layers)
    if table.empty or table["residual_mean"].isna().all():
        return
    names = list(dict.fromkeys(table["checkpoint"]))
    drawn = chosen(names)
    parts = [table[table["checkpoint"] == name].sort_values("layer") for name in drawn]
    whens = [
        at(str(name) if pd.isna(step) else int(step))
        for name, step in ((p["checkpoint"].iloc[0], p["checkpoint_step"].iloc[0]) for p in parts)
    ]
    low, high = int(table["layer"].min()), int(table["layer"].max())
    canvas = Canvas(5.55)
    for row, (column, words) in enumerate(_ROWS):
        highest = [
            float(np.nanmax(table[c].to_numpy(float), initial=0.0))
            for c in ((column, "residual_high") if row == 0 else (column,))
        ]
        ticks, labels = covering(0, max(highest) or 1.0, 3)
        panel = Panel(
            canvas,
            0.7,
            0.3 + 1.75 * row,
            6.75,
            1.25,
            x=padded(low, high, 0.02),
            y=(0, ticks[-1]),
        )
        panel.title(words)
        panel.frame()
        panel.ticks_y(ticks, labels)
        panel.ticks_x(*layer_ticks(low, high) if row == 2 else layer_ticks(low, high)[:1])
        if table[column].isna().all():
            panel.not_measured("undefined at every layer")
        for place, part in enumerate(parts):
            _line(panel, part, column, place, len(parts))
    panel.named("layer: in is what goes into the first, out what the head reads")
    for place, label in enumerate(whens):
        top = 0.6 + 0.26 * place
        canvas.add(
            Line2D(
                [7.62, 7.8, 7.98],
                [canvas.height - top] * 3,
                color=_colour(place, len(parts)),
                marker=_MARKERS[place],
                markevery=[1],
            )
        )
        canvas.write(8.05, top + 0.045, shown(label, 13), va="baseline")
    view = _view(scene, names)
    title = f"Where in the network the residual arises, {view}"
    alt = _alt(parts[-1], whens[-1], view)
    yield Picture(
        id="layers",
        section="Where the residual arises",
        title=title,
        view=view,
        caption=(
            "Of every layer's output, how far the adapter moves it, at "
            f"{count(len(drawn), 'checkpoint')}{'' if drawn == names else f' of {len(names)}'}; "
            "below, the Frobenius norm of the "
            f"adapter's own update in that layer. View {view}: {_sample(table)} a checkpoint, "
            "means over prompts; bands are 95% limits over prompts, of the residual alone. A "
            "layer's residual is what all layers up to it have moved, carried on by the base, so "
            f"where the curve climbs it arises.{left_out_words(infinite)}"
        ),
        alt=alt,
        svg=canvas.svg(title, alt),
    )


def layer_ticks(low: int, high: int) -> tuple[list[float], list[str]]:
    """The ends by what they are, and few numbers between."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if (high - low) / s <= 14)
    places = [n for n in range(0, high) if n % step == 0 and high - n >= step * 0.6]
    return [float(low), *map(float, places), float(high)], [
        "in" if low == -1 else str(low),
        *map(str, places),
        "out",
    ]


def _colour(place: int, n: int) -> tuple[float, float, float, float]:
    """Early to late, without the ends that a light or a dark page would swallow."""
    return SEQUENTIAL(0.1 + 0.65 * place / max(1, n - 1))


def _line(panel: Panel, part: pd.DataFrame, column: str, place: int, n: int) -> None:
    x, y = part["layer"].to_numpy(float), part[column].to_numpy(float)
    colour = _colour(place, n)
    if column == "residual_mean":
        low, high = (part[f"residual_{end}"].to_numpy(float) for end in ("low", "high"))
        panel.ribbon(x, low.clip(0), high, f"band {place}", fc=colour, alpha=0.22)
    panel.line(
        x,
        y,
        f"{column} {place}",
        color=colour,
        marker=_MARKERS[place],
        ms=3.5,
        markevery=max(1, len(x) // 16),
    )


def _view(scene: Scene, names: Sequence[str]) -> str:
    """A checkpoint without completions of its own is looked at on those of the fixed set."""
    rows = scene.frames.trajectories
    own = set(rows.loc[rows["own_set"].astype(bool), "checkpoint"].unique())
    if own.issuperset(names):
        return "on-policy"
    return "fixed-set" if own.isdisjoint(names) else "on-policy and fixed-set"


def _sample(table: pd.DataFrame) -> str:
    def span(column: str) -> str:
        low, high = int(table[column].min()), int(table[column].max())
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    return f"{span('n_clusters')} prompts with a completion each and {span('n_tokens')} tokens"


def _alt(part: pd.DataFrame, label: str, view: str) -> str:
    largest = part.iloc[int(np.nanargmax(part["residual_mean"].to_numpy(float)))]
    last = part.iloc[-1]
    return (
        f"Residual by layer at {shown(label, 40)}, {view}: {figure(last['residual_mean'])} at the "
        f"output, largest {figure(largest['residual_mean'])} at layer {int(largest['layer'])}."
    )
