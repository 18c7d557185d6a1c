"""How concentrated each signal's credit is over the steps, and below it what the run logged.

One column of steps for all rows, so that cause and effect can be read down the page.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from arca_diag.report.charts.canvas import Canvas, Panel, covering, spaced
from arca_diag.report.charts.finite import left_out_words, n_infinite
from arca_diag.report.charts.ink import FAINT, INK, SIGNS
from arca_diag.report.charts.scene import Label, Scene, values
from arca_diag.report.charts.text import capital, listed, signed, step_name, tick
from arca_diag.report.numbers import unit_share
from arca_diag.report.picture import Picture
from arca_diag.report.words import EFFN, GINI, VIEW_MEANS, at, safe
from arca_diag.results import Measurement, Onset, View
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.thresholds import Cuts

SECTION = "Trend over the run"
#: What is drawn of the log where it is there, in this order: its name -> the unit or what it is of.
LOGGED = {
    "reward": "",
    "gradient norm": "",
    "entropy": ", nats",
    "length": ", tokens",
    "kl": ", as logged",
    "truncation": ", share of completions",
}
#: Points of a logged curve; a longer one is drawn by the means of runs of entries.
POINTS = 200

_COLUMNS = (
    ("gini_corrected", f"{GINI}: 1 is one token"),
    ("effn_corrected", f"{EFFN}: 1 is even"),
)
_LEFT, _PANEL, _STRIDE, _TOP = 1.6, 2.28, 3.77, 0.52
_ROW, _GAP, _LOG_ROW, _LOG_GAP = 0.6, 0.17, 0.55, 0.3


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The step axis: where each checkpoint stands.

    Attributes:
        labels: Checkpoints in the order of the report.
        places: Their steps; their ranks where one of them has no step.
        dated: Whether all have a step.
        low: Left end of the axis.
        high: Right end.
    """

    labels: tuple[Label, ...]
    places: tuple[float, ...]
    dated: bool
    low: float
    high: float

    @property
    def words(self) -> str:
        """What the axis counts."""
        return "optimizer steps" if self.dated else "checkpoint"


def step_axis(labels: Sequence[Label], logged: Sequence[int]) -> Steps:
    """The axis of these checkpoints and, where they all have a step, of the log's entries."""
    dated = all(isinstance(label, int) for label in labels)
    places = [float(label) for label in labels] if dated else [float(n) for n in range(len(labels))]
    ends = [*places, *(logged if dated else ())]
    space = 0.04 * (max(ends) - min(ends)) or 1.0
    return Steps(
        labels=tuple(labels),
        places=tuple(places),
        dated=dated,
        low=min(ends) - space,
        high=max(ends) + space,
    )


def logged_curves(log: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Steps and values of each of `LOGGED` that the run logged, and entries to a drawn point."""
    out = {}
    for name in LOGGED:
        rows = log[(log["name"] == name) & np.isfinite(log["value"])].sort_values(
            "step", kind="stable"
        )
        if len(rows):
            each = -(-len(rows) // POINTS)
            out[name] = (
                _means(rows["step"].to_numpy(float), each),
                _means(rows["value"].to_numpy(float), each),
                each,
            )
    return out


def _means(values: Float[np.ndarray, " entry"], each: int) -> Float[np.ndarray, " point"]:
    """The mean of every so many entries in a row; the last may be of fewer."""
    starts = np.arange(0, len(values), each)
    sums = np.add.reduceat(values, starts)
    return np.asarray(sums / np.diff(np.append(starts, len(values))))


def draw_trend(scene: Scene) -> Iterator[Picture]:
    """`trend-on-policy` and `trend-fixed-set`: of each view that has figures."""
    for view in VIEW_MEANS:
        found = {
            (signal, name): scene.over_checkpoints(name, view, signal)
            for signal in SIGNAL_NAMES
            for name, _ in _COLUMNS
        }
        if any(m.value is not None for row in found.values() for m in row):
            yield _picture(scene, view, found)


def _picture(scene: Scene, view: View, found: dict[tuple[str, str], list[Measurement]]) -> Picture:
    log = scene.frames.log
    curves = logged_curves(log)
    labels = [m.checkpoint for m in max(found.values(), key=len)]
    steps = step_axis(labels, [int(s) for xs, _, _ in curves.values() for s in (xs[0], xs[-1])])
    if not steps.dated:
        curves = {}
    onsets = {
        o.signal: o
        for o in scene.report.onsets
        if o.view == view and o.sharpening == scene.sharpening and steps.dated
    }
    rows = -(-len(curves) // 2)
    bottom = _TOP + len(SIGNAL_NAMES) * (_ROW + _GAP)
    height = bottom + 0.4 + (0.43 + rows * (_LOG_ROW + _LOG_GAP) if rows else 0.0)
    canvas = Canvas(height)
    canvas.write(0.05, 0.05, f"{view}: {VIEW_MEANS[view]}", weight="bold")
    for column, (name, title) in enumerate(_COLUMNS):
        left = _LEFT + column * _STRIDE
        canvas.write(left, _TOP - 0.2, title)
        for row, signal in enumerate(SIGNAL_NAMES):
            top = _TOP + row * (_ROW + _GAP)
            panel = Panel(canvas, left, top, _PANEL, _ROW, x=(steps.low, steps.high))
            for low, high in bands(name, scene.cuts):
                panel.band(low, high)
            _mark_onset(panel, onsets.get(signal))
            _concentration(panel, name, found[signal, name], signal, steps)
            if column == 0:
                middle = top + _ROW / 2
                canvas.sign(0.12, middle - (0.1 if signal in onsets else 0), signal)
                if signal in onsets:
                    canvas.write(0.12, middle + 0.1, onset_words(onsets[signal]), va="center")
            lowest = row == len(SIGNAL_NAMES) - 1
            _step_ticks(panel, steps, written=lowest)
            if lowest and not curves:
                panel.named(steps.words)
    _log_panels(canvas, curves, bottom, steps, onsets)
    title = f"Concentration of credit over the run, {view}"
    alt = _alt(scene, view, found)
    return Picture(
        id=f"trend-{view}",
        section=SECTION,
        title=title,
        view=view,
        caption=_caption(scene, view, found, curves, onsets, steps),
        alt=alt,
        svg=canvas.svg(title, alt),
    )


def _concentration(
    panel: Panel, name: str, found: Sequence[Measurement], signal: str, steps: Steps
) -> None:
    """One figure of one signal with its limits."""
    panel.frame()
    panel.ticks_y((0, 0.5, 1), ("0", "", "1"))
    value, low, high = values(found)
    known = np.flatnonzero(~np.isnan(value))
    if not len(known):
        panel.not_measured(next((str(m.reason) for m in found), "no checkpoint"))
        return
    where = dict(zip(steps.labels, steps.places, strict=True))
    x = np.array([where[m.checkpoint] for m in found])
    colour, marker = SIGNS[signal].colour, SIGNS[signal].marker
    panel.limits(
        x, low.clip(0, 1), high.clip(0, 1), 3.5, f"limits {name} {signal}", ec=colour, lw=1
    )
    panel.line(x, value, f"{name} {signal}", color=colour, marker=marker, ms=3.5)
    ends = ("sparse", "uniform") if name.startswith("gini") else ("uniform", "sparse")
    beside = {"dx": 4, "x": steps.high}
    panel.write(y=1, text=ends[0], alpha=0.7, va="top", **beside)
    panel.write(y=0.5, text=_with_limits(found[known[-1]]), **beside)
    panel.write(y=0, text=ends[1], alpha=0.7, va="bottom", **beside)


def bands(name: str, cuts: Cuts) -> list[tuple[float, float]]:
    """The bands of a figure's regimes outside the middle; the stronger lie on the leaning ones."""
    prefix = name.split("_")[0]
    return [
        (cuts[cut], 1.0) if cuts.side(cut) == "above" else (0.0, cuts[cut])
        for cut in (
            f"{prefix}-{r}" for r in ("leaning-uniform", "uniform", "leaning-sparse", "sparse")
        )
    ]


def onset_words(onset: Onset) -> str:
    """When most completions went to a side: beside a signal's name."""
    side = onset.side
    if onset.by is None:
        return f"{side}? unsure"
    if onset.after is None:
        return f"{side} by step {tick(onset.by)}"
    return f"{side} from {tick(onset.after)}-{tick(onset.by)}"


def _mark_onset(panel: Panel, onset: Onset | None) -> None:
    """A line at the first step that is surely past the onset, and a hatch from the last before."""
    if onset is None or onset.by is None:
        return
    if onset.after is not None:
        panel.boxes(onset.after, onset.by, 0, 1, fc="none", ec=INK, alpha=FAINT, hatch="///")
    panel.upright(onset.by, 0, 1, ec=SIGNS[onset.signal].colour, lw=1, ls=(0, (4, 2)))


def _step_ticks(panel: Panel, steps: Steps, *, written: bool) -> None:
    """A tick at every checkpoint, with as many labels as there is room for."""
    labelled = spaced(steps.places, (steps.high - steps.low) * (0.13 if steps.dated else 0.3))
    shown_at = range(len(steps.places)) if len(steps.places) <= 40 else labelled
    panel.ticks_x(
        [steps.places[i] for i in shown_at],
        [step_name(steps.labels[i]) if written and i in labelled else "" for i in shown_at],
    )


def _log_panels(
    canvas: Canvas,
    curves: dict[str, tuple[np.ndarray, np.ndarray, int]],
    bottom: float,
    steps: Steps,
    onsets: dict[str, Onset],
) -> None:
    """What the run logged, on the same steps."""
    if not curves:
        return
    canvas.write(0.05, bottom + 0.38, "Logged by the run", weight="bold")
    for place, (name, (x, y, _)) in enumerate(curves.items()):
        row, column = divmod(place, 2)
        low, high = (0.0, 1.0) if name == "truncation" else (float(y.min()), float(y.max()))
        ticks, labels = covering(low, high, 2)
        ends = ticks[0], ticks[-1]
        panel = Panel(
            canvas,
            _LEFT + column * _STRIDE,
            bottom + 0.68 + row * (_LOG_ROW + _LOG_GAP),
            _PANEL,
            _LOG_ROW,
            x=(steps.low, steps.high),
            y=ends,
        )
        panel.title(f"{name}{LOGGED[name]}")
        panel.frame()
        for onset in onsets.values():
            if onset.by is not None:
                panel.upright(onset.by, *ends, ec=SIGNS[onset.signal].colour, lw=1, ls=(0, (4, 2)))
        marked = {"marker": "o", "ms": 2.5} if len(x) < 12 else {}
        panel.line(x, y, f"log {name.replace(' ', '-')}", color=INK, lw=1, **marked)
        panel.ticks_y(ticks, labels)
        lowest = place >= len(curves) - 2
        _step_ticks(panel, steps, written=lowest)
        if lowest:
            panel.named(steps.words)


def _with_limits(m: Measurement) -> str:
    if m.low is None or m.high is None:
        return unit_share(m.value)
    return f"{unit_share(m.value)} ({signed(m.low)} to {signed(m.high)})"


def _caption(
    scene: Scene,
    view: View,
    found: dict[tuple[str, str], list[Measurement]],
    curves: dict[str, tuple[np.ndarray, np.ndarray, int]],
    onsets: dict[str, Onset],
    steps: Steps,
) -> str:
    sizes = [m for row in found.values() for m in row if m.value is not None]
    prompts, completions, tokens = (
        _range([getattr(m, key) for m in sizes])
        for key in ("n_clusters", "n_completions", "n_tokens")
    )
    parts = [
        f"{capital(GINI)} and {EFFN} of the credit of every signal at sharpening "
        f"{scene.sharpening:g} in the view {view} "
        f"({VIEW_MEANS[view]}), at {len(steps.labels)} checkpoints: {prompts} prompts, "
        f"{completions} completions and {tokens} tokens each. Points are means over prompts, "
        "upright lines with ends their 95% limits over prompts, cut at 0 and 1; beside each panel "
        "stand the last "
        "checkpoint's. Faint bands are the leaning regimes, strong ones sparse and uniform, and "
        "the middle has none; they are the cuts of one completion, a regime is what most "
        "completions have."
    ]
    if onsets:
        parts.append(
            "A dashed line is the first checkpoint from which on most completions are surely on "
            "one side, under the signal's name in words; hatched is the time since the last one "
            "that surely was not."
        )
    elif view == "on-policy":
        parts.append("Onsets are judged on the fixed set alone.")
    if curves:
        each = max(e for _, _, e in curves.values())
        thinned = f", means of {each} entries each" if each > 1 else ""
        parts.append(
            f"Below, on the same steps, what the trainer logged{thinned}: {listed(list(curves))}. "
            "What moves before concentration does may be a cause of it; a picture proves none."
        )
    elif len(scene.frames.log) and not steps.dated:
        parts.append("The log is left out: not every checkpoint has a step to place it by.")
    else:
        parts.append("The result holds nothing that the run logged.")
    drawn = scene.frames.log[scene.frames.log["name"].isin(LOGGED)]
    return " ".join(parts) + left_out_words(n_infinite(drawn, ["value"]))


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _alt(scene: Scene, view: View, found: dict[tuple[str, str], list[Measurement]]) -> str:
    told = []
    for signal in SIGNAL_NAMES:
        known = [m for m in found[signal, "gini_corrected"] if m.value is not None]
        if known:
            first, last = known[0], known[-1]
            told.append(
                f"{signal} from {unit_share(first.value)} at {safe(at(first.checkpoint))} to "
                f"{unit_share(last.value)} at {safe(at(last.checkpoint))}"
                if len(known) > 1
                else f"{signal} {unit_share(last.value)} at {safe(at(last.checkpoint))}"
            )
    return f"Corrected Gini over the run, {view}: {'; '.join(told)}."
