"""How much of the credit each class of tokens holds, and how much of the tokens it is."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from arca_diag.report.charts.canvas import Canvas, Panel
from arca_diag.report.charts.grid import FILLS, signal_places, view_key
from arca_diag.report.charts.ink import INK, SIGNS
from arca_diag.report.charts.scene import Last, Scene, left_out, places, values, views
from arca_diag.report.numbers import percent
from arca_diag.report.picture import Picture
from arca_diag.results import Measurement, View
from arca_diag.signals import SIGNAL_NAMES

_LINE = 0.19


def token_shares(last: Last, signal: str) -> dict[str, float]:
    """Class -> its share of the tokens, as shares of credit are averaged: what even credit gives.

    Of the completions that have credit by the signal; empty where classes are not known.
    """
    credit = last.credit(signal)
    names = last.tokens["token_class"][credit.known]
    if names.isna().any() or not len(names):
        return {}
    layout = credit.layout
    even = (credit.part / layout.n_tokens)[layout.completion]
    labels = names.astype("category").cat
    sums = np.bincount(labels.codes.to_numpy(int), weights=even, minlength=len(labels.categories))
    return {str(name): float(share) for name, share in zip(labels.categories, sums, strict=True)}


def draw_classes(scene: Scene) -> Iterator[Picture]:
    """`classes`: a panel a signal, a row a class, a mark a view."""
    names = list(
        dict.fromkeys(
            name
            for one in scene.lasts
            for name in scene.against("class_share", one.view, one.label)
        )
    )
    found = {
        (last.view, signal): {
            name: (
                scene.figure("class_share", last.view, last.label, signal, name),
                scene.figure("class_lift", last.view, last.label, signal, name),
            )
            for name in names
        }
        for last in scene.lasts
        for signal in SIGNAL_NAMES
    }
    lasts = [
        one
        for one in scene.lasts
        if any(
            share is not None and share.value is not None
            for signal in SIGNAL_NAMES
            for share, _ in found[one.view, signal].values()
        )
    ]
    if not lasts:
        return
    row_height = _LINE * len(lasts) + 0.07
    height = row_height * len(names)
    canvas = Canvas(2 * (height + 0.62) + 0.05)
    for row, column, signal in signal_places():
        top = 0.32 + row * (height + 0.62)
        panel = Panel(canvas, 1.0 + 2.05 * column, top, 1.05, height, y=(len(names), 0))
        panel.signed(signal)
        panel.frame()
        panel.ticks_x((0, 0.5, 1), ("0", "50%", "100%") if row or column == 3 else ())
        panel.ticks_y([n + 0.5 for n in range(len(names))], names if column == 0 else ())
        for place, last in enumerate(lasts):
            _marks(
                panel,
                found[last.view, signal],
                token_shares(last, signal),
                signal,
                place,
                len(lasts),
            )
    left, top = 1.0 + 2.05 * 3, 0.45 + height + 0.62
    view_key(canvas, left, top, lasts)
    top += 0.24 * len(lasts)
    key = Panel(canvas, left - 0.05, top - 0.08, 0.1, 0.16)
    key.upright(0.5, 0, 1, lw=1.6)
    canvas.write(left + 0.12, top + 0.045, "share of the tokens", va="baseline")
    canvas.write(left - 0.05, top + 0.2, "beside: share of credit,\n\N{MULTIPLICATION SIGN} lift")
    title = f"Credit by class of token, {views(lasts)}"
    alt = _alt(lasts, found)
    yield Picture(
        id="classes",
        section="Where the credit goes",
        title=title,
        view=views(lasts),
        caption=(
            f"Share of a completion's credit that each class of tokens holds, at sharpening "
            f"{scene.sharpening:g}, with 95% limits over prompts, cut at 0 and 100%; the upright "
            "bar is the share of the tokens, which even credit would give. "
            f"{places(lasts)}. Beside each mark the share of credit and "
            "the lift: how many times its share of tokens a class holds, of "
            f"the completions that have one.{_unknown(lasts)}{left_out(lasts)}"
        ),
        alt=alt,
        svg=canvas.svg(title, alt),
    )


def _unknown(lasts: Sequence[Last]) -> str:
    """What the class `unknown` is, for a caption, where a token is of it."""
    if not any((last.tokens["token_class"] == "unknown").any() for last in lasts):
        return ""
    return (
        " The class unknown holds tokens that cannot be read by themselves: those without text, "
        "and those of a part of a character."
    )


def _marks(
    panel: Panel,
    found: Mapping[str, tuple[Measurement | None, Measurement | None]],
    tokens: Mapping[str, float],
    signal: str,
    place: int,
    n_views: int,
) -> None:
    """One view's share of every class."""
    sign = SIGNS[signal]
    for row, (name, (share, lift)) in enumerate(found.items()):
        y = row + (place + 1) / (n_views + 1)
        if name in tokens:
            panel.upright(
                tokens[name], y - 0.18, y + 0.18, f"tokens {place} {signal} {name}", ec=INK, lw=1.6
            )
        if share is None or share.value is None:
            panel.write(1, y, "n/a", dx=4, alpha=0.7)
            continue
        _, low, high = values([share])
        of = f"{share.view} {signal} {name}"
        panel.limits_level(
            y, low.clip(0, 1), high.clip(0, 1), 5, f"limits {of}", ec=sign.colour, lw=1.2
        )
        panel.marks(
            [share.value],
            [y],
            of,
            color=sign.colour,
            marker=sign.marker,
            fillstyle=FILLS[place],
            ms=5,
            mew=0.9,
        )
        times = (
            f" \N{MULTIPLICATION SIGN}{short(lift.value)}"
            if lift and lift.value is not None
            else ""
        )
        panel.write(1, y, f"{percent(share.value)}{times}", dx=4)


def short(lift: float) -> str:
    """A lift with two digits: `1.9`, `12`, `.05`."""
    if lift >= 9.95:
        return f"{lift:.0f}"
    return f"{lift:.1f}" if lift >= 0.95 else f"{lift:.2f}".removeprefix("0")


def _alt(
    lasts: Sequence[Last],
    found: Mapping[tuple[View, str], Mapping[str, tuple[Measurement | None, Measurement | None]]],
) -> str:
    told = []
    for last in lasts:
        tops = []
        for signal in SIGNAL_NAMES:
            known = [
                (share.value, name)
                for name, (share, _) in found[last.view, signal].items()
                if share is not None and share.value is not None
            ]
            if known:
                value, name = max(known)
                tops.append(f"{signal} {name} with {percent(value)}")
        told.append(f"{last.where}: {', '.join(tops)}")
    return f"The class that holds most of the credit, {'; '.join(told)}."
