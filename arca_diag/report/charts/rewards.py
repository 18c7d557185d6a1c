"""How many groups have a reward to learn from, and whether credit tells good from bad."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from arca_diag.report.charts.canvas import Canvas, Panel, covering
from arca_diag.report.charts.grid import FILLS, view_key
from arca_diag.report.charts.ink import FAINT, INK, SIGNS
from arca_diag.report.charts.scene import MEMBERS, Label, Last, Scene, places, values, views
from arca_diag.report.charts.text import signed, step_name
from arca_diag.report.numbers import percent, percent_with_limits
from arca_diag.report.picture import Picture
from arca_diag.report.words import GINI
from arca_diag.results import Measurement, View
from arca_diag.signals import SIGNAL_NAMES

#: Checkpoints of a view that have a bar: first, last, and evenly spaced ones between.
BARS = 6
#: Parts of a bar from the left: what it is, how strong its ink, and its hatch.
_PARTS = (
    ("spread", 0.75, ""),
    ("all best", 0.0, "////"),
    ("all worst", 0.0, "xxxx"),
    ("other", 0.15, ""),
)


def group_parts(scene: Scene, view: View, checkpoint: Label) -> tuple[float, ...] | None:
    """Shares of groups with spread, all best, all worst, and all alike in between; or None.

    A run whose rewards are all one has groups that are best and worst at once: they count as best.
    """
    found = [
        scene.figure(f"groups_{name}", view, checkpoint)
        for name in ("without_spread", "all_best", "all_worst")
    ]
    known = [m.value for m in found if m is not None and m.value is not None]
    if len(known) < 3:
        return None
    without, best, worst = known
    worst = min(worst, without - best)
    return 1.0 - without, best, worst, max(0.0, without - best - worst)


def draw_rewards(scene: Scene) -> Iterator[Picture]:
    """`rewards`: bars a checkpoint of each view, and the reward gap of every signal."""
    bars: dict[View, list[tuple[Label, tuple[float, ...] | None]]] = {
        view: [
            (m.checkpoint, group_parts(scene, view, m.checkpoint))
            for m in scene.over_checkpoints("groups_without_spread", view)
        ]
        for view in MEMBERS
    }
    gaps = {
        (one.view, s): scene.figure("reward_gap", one.view, one.label, s)
        for one in scene.lasts
        for s in SIGNAL_NAMES
    }
    lasts = [
        one
        for one in scene.lasts
        if any(parts is not None for _, parts in bars[one.view])
        or any((m := gaps[one.view, s]) and m.value is not None for s in SIGNAL_NAMES)
    ]
    if lasts:
        yield _picture(scene, lasts, bars, gaps)


def _some(rows: Sequence[Label]) -> list[Label]:
    if len(rows) <= BARS:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (BARS - 1))] for i in range(BARS)]


def _picture(
    scene: Scene,
    lasts: Sequence[Last],
    bars: Mapping[View, list[tuple[Label, tuple[float, ...] | None]]],
    gaps: Mapping[tuple[View, str], Measurement | None],
) -> Picture:
    canvas = Canvas(4.2)
    canvas.write(0.05, 0.05, "Groups with and without spread in reward", weight="bold")
    top = 0.45
    for view in dict.fromkeys(one.view for one in lasts):
        rows = dict(bars[view])
        # The fixed set is the same completions at every checkpoint: one bar says it.
        some = _some(list(rows)) if view == "on-policy" else list(rows)[-1:]
        top = _bars(canvas, top, scene, view, {label: rows[label] for label in some}) + 0.28
    _bars_key(canvas, 3.62)
    canvas.write(4.35, 0.05, f"Reward gap: {GINI}, good less bad", weight="bold")
    _gaps(canvas, lasts, gaps)
    title = f"Groups without spread, and credit of good and bad completions, {views(lasts)}"
    alt = _alt(lasts, bars, gaps)
    return Picture(
        id="rewards",
        section="Credit and reward",
        title=title,
        view=views(lasts),
        caption=(
            "Left, shares of the groups of two completions or more whose rewards are known: with "
            "spread, all with the highest reward of the rollouts, all with the lowest, and all "
            "with another; beside each bar the share without spread, which has no advantage, with "
            "95% limits. Right, how much more concentrated the credit of good completions is than "
            "that of bad ones of the same group at like length, first and closing token aside, at "
            f"sharpening {scene.sharpening:g} with 95% limits over prompts; left of the dotted "
            f"line bad ones are more concentrated. Last checkpoints: {places(lasts)}. A gap is no "
            "proof of insight: a rare completion is a surprising one."
        ),
        alt=alt,
        svg=canvas.svg(title, alt),
    )


def _bars(
    canvas: Canvas,
    top: float,
    scene: Scene,
    view: View,
    rows: Mapping[Label, tuple[float, ...] | None],
) -> float:
    """One view's bars; where they end."""
    panel = Panel(canvas, 0.85, top + 0.2, 2.1, 0.27 * len(rows), y=(len(rows), 0))
    panel.title(view)
    for row, (label, parts) in enumerate(rows.items()):
        name = step_name(label) if view == "on-policy" else "every step"
        panel.write(0, row + 0.5, name, dx=-5, ha="right")
        m = scene.figure("groups_without_spread", view, label)
        if parts is None or m is None:
            panel.write(0, row + 0.5, "n/a: rewards are not known", dx=3)
            continue
        ends = np.concatenate([[0.0], np.cumsum(parts)])
        for (what, alpha, hatch), low, high in zip(_PARTS, ends[:-1], ends[1:], strict=True):
            if high - low > 1e-9:
                box = (low, high, row + 0.85, row + 0.15)
                fill = {"fc": INK, "alpha": alpha} if alpha else {"fc": "none", "hatch": hatch}
                panel.boxes(*box, f"{view} {row} {what.replace(' ', '-')}", ec=INK, **fill)
                panel.boxes(*box, fc="none", ec=INK, lw=0.6)
        panel.write(1, row + 0.5, percent_with_limits(m.value, m.low, m.high), dx=5)
    return top + 0.2 + 0.27 * len(rows)


def _bars_key(canvas: Canvas, top: float) -> None:
    """What the parts of a bar are."""
    for place, (what, alpha, hatch) in enumerate(_PARTS):
        row, column = divmod(place, 2)
        left = 0.85 + 1.5 * column
        key = Panel(canvas, left, top + 0.24 * row, 0.26, 0.15)
        fill = {"fc": INK, "alpha": alpha} if alpha else {"fc": "none", "hatch": hatch}
        key.boxes(0, 1, 0, 1, ec=INK, **fill)
        key.boxes(0, 1, 0, 1, fc="none", ec=INK, lw=0.6)
        key.write(1, 0.5, {"other": "all alike", "spread": "with spread"}.get(what, what), dx=5)


def _gaps(
    canvas: Canvas,
    lasts: Sequence[Last],
    gaps: Mapping[tuple[View, str], Measurement | None],
) -> None:
    """A row a signal, a mark a view."""
    known = [m for m in gaps.values() if m is not None and m.value is not None]
    _, low, high = values(known)
    ends = np.abs([m.value for m in known] + [e for e in (*low, *high) if not np.isnan(e)])
    most = min(1.0, float(max(ends, default=0.0))) or 0.1
    ticks, labels = covering(-most, most, 4)
    most = ticks[-1]
    n = len(SIGNAL_NAMES)
    panel = Panel(canvas, 5.75, 0.4, 1.75, 0.41 * n, x=(-most, most), y=(n, 0))
    panel.upright(0, 0, n, alpha=FAINT, ls=":")
    panel.frame(left=False)
    panel.ticks_x(ticks, labels)
    for row, signal in enumerate(SIGNAL_NAMES):
        sign = SIGNS[signal]
        canvas.sign(4.45, 0.4 + 0.41 * (row + 0.5), signal)
        for place, last in enumerate(lasts):
            y = row + (place + 1) / (len(lasts) + 1)
            m = gaps[last.view, signal]
            if m is None or m.value is None:
                panel.write(most, y, "n/a", dx=5, alpha=0.7)
                continue
            _, low, high = values([m])
            low, high = low.clip(-most, most), high.clip(-most, most)
            panel.limits_level(
                y, low, high, 5, f"limits {last.view} {signal}", ec=sign.colour, lw=1.2
            )
            panel.marks(
                [m.value],
                [y],
                f"gap {last.view} {signal}",
                color=sign.colour,
                marker=sign.marker,
                fillstyle=FILLS[place],
                ms=5,
                mew=0.9,
            )
            text = signed(m.value)
            if m.low is not None and m.high is not None:
                text += f" ({signed(m.low)} to {signed(m.high)})"
            panel.write(most, y, text, dx=5)
    if not known:
        reasons = [m.reason for m in gaps.values() if m is not None and m.reason]
        panel.not_measured(next(iter(reasons), "no rewards"))
    view_key(canvas, 4.45, 3.7, lasts)


def _alt(
    lasts: Sequence[Last],
    bars: Mapping[View, list[tuple[Label, tuple[float, ...] | None]]],
    gaps: Mapping[tuple[View, str], Measurement | None],
) -> str:
    told = []
    for last in lasts:
        parts = dict(bars[last.view]).get(last.label)
        told.append(
            f"{last.where}: groups without spread {percent(1 - parts[0] if parts else None)}"
        )
        known = {s: m.value for s in SIGNAL_NAMES if (m := gaps[last.view, s])}
        told[-1] += ", reward gap " + ", ".join(f"{s} {signed(v)}" for s, v in known.items())
    return f"{'; '.join(told)}."
