"""Pictures of a result, as PNG and SVG bytes; same tables, same bytes."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES

# Okabe-Ito colours with a marker each: colour is never the only sign.
_STYLE = dict(
    zip(
        SIGNAL_NAMES,
        zip(
            ("#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#009E73", "#000000", "#56B4E9"),
            ("o", "s", "^", "D", "v", "P", "X"),
            strict=True,
        ),
        strict=True,
    )
)
_RC: Any = {
    "svg.hashsalt": "arca-diag",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}
_POINTS = 4000  # tokens drawn in a scatter; every k-th, so that the choice is fixed
_VIEWS = (("on-policy", "own_set"), ("fixed-set", "fixed_set"))


def render_charts(
    measurements: Sequence[Measurement],
    tokens: pd.DataFrame,
    trajectories: pd.DataFrame,
    sharpening: float,
) -> dict[str, bytes]:
    """Every picture, by its path in the result folder."""
    with matplotlib.rc_context(_RC):
        figures = {
            "concentration": _concentration(measurements, sharpening),
            "lorenz": _lorenz(tokens, trajectories, sharpening),
            "residual": _residual(tokens, trajectories),
        }
        out = {}
        for name, figure in figures.items():
            FigureCanvasAgg(figure)
            for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                sink = io.BytesIO()
                figure.savefig(sink, format=kind, dpi=120, metadata=metadata)
                out[f"plots/{name}.{kind}"] = sink.getvalue()
    return out


def _concentration(measurements: Sequence[Measurement], sharpening: float) -> Figure:
    """Corrected Gini and effective tokens over steps, a column a view."""
    figure = Figure(figsize=(9, 6.4))
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    rows = (
        ("gini_corrected", "corrected Gini $\\hat{G}$"),
        ("effn_corrected", "corrected effective tokens $\\hat{e}$"),
    )
    for axes_row, (name, label) in zip(grid, rows, strict=True):
        for axes, (view, _) in zip(axes_row, _VIEWS, strict=True):
            for signal, (colour, marker) in _STYLE.items():
                points = [
                    (str(m.checkpoint), m.value)
                    for m in measurements
                    if (m.name, m.view, m.signal, m.sharpening) == (name, view, signal, sharpening)
                    and m.value is not None
                ]
                if points:
                    x = [_position(step) for step, _ in points]
                    y = [value for _, value in points]
                    axes.plot(x, y, color=colour, marker=marker, ms=4, lw=1.3, label=signal)
            axes.set_ylim(0, 1)
            axes.grid(alpha=0.25, lw=0.5)
            if not axes.lines:
                axes.text(0.5, 0.5, "nothing measured", ha="center", transform=axes.transAxes)
        axes_row[0].set_ylabel(label)
    for axes, (view, _) in zip(grid[0], _VIEWS, strict=True):
        axes.set_title(view)
    for axes in grid[1]:
        axes.set_xlabel("checkpoint (optimizer steps)")
    _legend(figure, grid[0])
    figure.suptitle(f"How concentrated each credit is (sharpening {sharpening:g})")
    return figure


def _lorenz(tokens: pd.DataFrame, trajectories: pd.DataFrame, sharpening: float) -> Figure:
    """What share of tokens holds what share of credit, mean over completions, last checkpoint."""
    figure = Figure(figsize=(9, 4.4))
    grid = figure.subplots(1, 2, sharex=True, sharey=True)
    share = np.linspace(0, 1, 101)
    for axes, (view, member) in zip(grid, _VIEWS, strict=True):
        label, rows = _last(tokens, trajectories, member)
        axes.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls=":")
        for signal, (colour, marker) in _STYLE.items():
            column = rows[f"w_{signal}"] if len(rows) else pd.Series(dtype=float)
            curves = [
                np.interp(
                    share, np.linspace(0, 1, len(w) + 1), np.append(0, np.cumsum(np.sort(w)[::-1]))
                )
                for _, w in column.groupby(rows["rollout_id"])
                if len(w) > 1 and not w.isna().any()
            ]
            if curves:
                axes.plot(
                    share,
                    np.mean(curves, axis=0),
                    color=colour,
                    marker=marker,
                    markevery=20,
                    ms=4,
                    lw=1.3,
                    label=signal,
                )
        axes.set_title(f"{view}, checkpoint {label}")
        axes.set_xlabel("share of tokens, most credited first")
        axes.grid(alpha=0.25, lw=0.5)
    grid[0].set_ylabel("share of credit")
    _legend(figure, grid)
    figure.suptitle(f"What share of tokens holds what share of credit (sharpening {sharpening:g})")
    return figure


def _residual(tokens: pd.DataFrame, trajectories: pd.DataFrame) -> Figure:
    """Each signal against the residual, token by token, at the last checkpoint."""
    view, member = _VIEWS[0] if trajectories["own_set"].any() else _VIEWS[1]
    label, rows = _last(tokens, trajectories, member)
    rows = rows.iloc[:: max(1, -(-len(rows) // _POINTS))]
    figure = Figure(figsize=(9, 5.6))
    others = [s for s in SIGNAL_NAMES if s != "residual"]
    for axes, signal in zip(figure.subplots(2, 3).flat, others, strict=True):
        colour, _ = _STYLE[signal]
        axes.scatter(rows["residual"], rows[signal], s=4, alpha=0.25, color=colour, lw=0)
        axes.set_ylabel(signal)
        axes.set_xlabel("residual")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    figure.suptitle(f"Signals against the adapter residual: {view}, checkpoint {label}")
    return figure


def _last(
    tokens: pd.DataFrame, trajectories: pd.DataFrame, member: str
) -> tuple[str, pd.DataFrame]:
    """Counted tokens of the last checkpoint that has completions in this view, and its label."""
    inside = trajectories[trajectories[member]]
    if inside.empty:
        return "none", tokens.iloc[:0]
    name = inside["checkpoint"].iloc[-1]
    step = inside["checkpoint_step"].iloc[-1]
    ids = inside.loc[inside["checkpoint"] == name, "rollout_id"].unique()
    rows = tokens[(tokens["checkpoint"] == name) & tokens["counted"]]
    return str(name if pd.isna(step) else step), rows[rows["rollout_id"].isin(ids)]


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels, of whatever was drawn."""
    drawn: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        drawn |= {str(name): h for name, h in zip(labels, handles, strict=True)}
    if drawn:
        figure.legend(
            list(drawn.values()),
            list(drawn),
            loc="outside lower center",
            ncols=4,
            frameon=False,
        )


def _position(checkpoint: str) -> float | str:
    return int(checkpoint) if checkpoint.isdecimal() else checkpoint
