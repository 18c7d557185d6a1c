"""The difference of every figure, with its interval, and whether it is outside noise.

On the same completions it is the mean over prompts of each one's difference. On others, figures
that depend on length by construction are compared at like length, and the rest by both
intervals, as independent.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from arca_diag.compared import FigureChange, How, Label, Status
from arca_diag.comparing.opening import OF_COMPLETIONS, Opened
from arca_diag.comparing.pairing import Matched
from arca_diag.diagnostics.change import paired_change
from arca_diag.diagnostics.multiplicity import holm, one_sided_p
from arca_diag.diagnostics.uncertainty import Estimate, cluster_mean
from arca_diag.intervals import Interval, difference
from arca_diag.measurements.trend import at_like_length
from arca_diag.results import Figure, Measurement, View
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.thresholds import DEFAULT

#: Figures of a signal that are compared, first those that verdicts are made of.
OF_SIGNALS = (
    "gini_corrected",
    "effn_corrected",
    "token_share_90",
    "mean",
    "inherited_tv",
    "reward_gap",
)
#: Those of the completions alone; on the same ones there is nothing to compare.
OF_SETS = ("short_share", "groups_without_spread")
#: What depends on the number of tokens even where credit is without structure.
_BY_LENGTH = ("gini_corrected", "effn_corrected", "token_share_90")
#: Figures between 0 and 1, and what is too little of them to show in two decimals.
_BETWEEN_0_AND_1 = ("gini_corrected", "effn_corrected", "token_share_90", "inherited_tv", *OF_SETS)
_SLIGHT = 0.005
_NO_FIGURE = "the result has no such figure"


@dataclass(frozen=True, kw_only=True)
class Place:
    """One view at one pair of checkpoints: both results, and their completions held together."""

    a: Opened
    b: Opened
    at: tuple[Label, Label]
    view: View
    matched: Matched


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A difference before it is judged; `equal` if every completion has the very same value."""

    a: Figure
    b: Figure
    difference: Estimate
    how: How
    equal: bool = False


def figure_changes(places: Sequence[Place]) -> list[FigureChange]:
    """Every figure of every place, corrected for how many were asked in all of them."""
    found = [change for place in places for change in _of_place(place)]
    asked = [i for i, change in enumerate(found) if change.p is not None]
    corrected = holm(np.array([found[i].p for i in asked], dtype=float))
    for place, p in zip(asked, corrected, strict=True):
        found[place] = found[place].model_copy(update={"p_holm": float(p)})
    return found


def _of_place(place: Place) -> Iterator[FigureChange]:
    keys: list[tuple[str | None, str]] = [(s, name) for s in SIGNAL_NAMES for name in OF_SIGNALS]
    if not place.matched.sets.paired:
        keys += [(None, name) for name in OF_SETS]
    for signal, name in keys:
        sides = [_measured(place, which, signal, name) for which in (0, 1)]
        if any(sides):
            yield _judged(place, signal, name, sides, _difference(place, signal, name, sides))


def _measured(place: Place, which: int, signal: str | None, name: str) -> Measurement | None:
    """A side's figure, at the power of its credit if it is of one."""
    side = (place.a, place.b)[which]
    key = (place.at[which], place.view, signal)
    return side.figures.get((*key, side.sharpening, name)) or side.figures.get((*key, None, name))


def _difference(
    place: Place, signal: str | None, name: str, sides: Sequence[Measurement | None]
) -> _Found:
    """B less A, by the sharpest of the ways that there are data for."""
    a, b = (_figure(side) for side in sides)
    if place.a.completions is not None and place.b.completions is not None and signal is not None:
        rows = [
            side.completions.of(side.names[label], place.view, signal)
            for side, label in zip((place.a, place.b), place.at, strict=True)
            if side.completions is not None
        ]
        pairs = place.matched.pairs
        if pairs is not None and name in (*OF_COMPLETIONS, "mean"):
            before, after = (
                r[name].reindex(pairs[f"rollout_id_{k}"]).to_numpy(float)
                for r, k in zip(rows, "ab", strict=True)
            )
            both = ~np.isnan(before) & ~np.isnan(after)
            clusters = pairs["cluster"].to_numpy(object)
            if not place.matched.whole:
                a, b = (_of_estimate(cluster_mean(v, clusters)) for v in (before, after))
            return _Found(
                a=a,
                b=b,
                difference=paired_change(before, after, clusters),
                how="paired",
                equal=bool(both.any()) and bool((before[both] == after[both]).all()),
            )
        if pairs is None and name in _BY_LENGTH:
            found, _ = at_like_length(rows[0], rows[1], name, DEFAULT)
            return _Found(a=a, b=b, difference=found, how="like-length")
    # Of the same completions the same value with the same limits is no accident.
    equal = place.matched.whole and a.value is not None and a == b
    return _Found(a=a, b=b, difference=_independent(sides), how="independent", equal=equal)


def _independent(sides: Sequence[Measurement | None]) -> Estimate:
    before, after = sides
    if before is None or after is None or before.value is None or after.value is None:
        return Estimate(value=math.nan, low=math.nan, high=math.nan, n_clusters=0)
    found = difference(*(_interval(side) for side in (after, before)))
    n_clusters = min(before.n_clusters, after.n_clusters)
    return Estimate(value=found.value, low=found.low, high=found.high, n_clusters=n_clusters)


def _interval(figure: Measurement) -> Interval:
    return Interval(*(math.nan if v is None else v for v in _values(figure)))


def _values(figure: Measurement) -> tuple[float | None, float | None, float | None]:
    return figure.value, figure.low, figure.high


def _judged(
    place: Place,
    signal: str | None,
    name: str,
    sides: Sequence[Measurement | None],
    found: _Found,
) -> FigureChange:
    status, reason = _status(sides, found)
    of = found.difference
    p = None
    if status in ("changed", "within-noise"):
        side: Literal["above", "below"] = "above" if of.value > 0 else "below"
        one = one_sided_p(of.value, of.low, of.high, of.n_clusters, 0.0, side)
        p = min(1.0, 2 * one)
    return FigureChange(
        checkpoint_a=place.at[0],
        checkpoint_b=place.at[1],
        view=place.view,
        signal=signal,
        name=name,
        a=found.a,
        b=found.b,
        difference=_of_estimate(of),
        how=found.how,
        n_clusters=of.n_clusters,
        status=status,
        slight=name in _BETWEEN_0_AND_1 and max(abs(of.low), abs(of.high)) < _SLIGHT,
        p=p,
        p_holm=None,
        reason=reason,
    )


def _status(sides: Sequence[Measurement | None], found: _Found) -> tuple[Status, str | None]:
    """What a difference is called, and why it is not called a change or noise."""
    of = found.difference
    if math.isnan(of.value):
        return "undefined", _why_undefined(sides, found.how)
    if found.equal or (of.value == 0 and of.low == of.high):
        return "equal", None
    least = int(DEFAULT["clusters-least"])
    if of.n_clusters < least:
        few = f"{of.n_clusters} prompt" + ("" if of.n_clusters == 1 else "s")
        return "inconclusive", f"{few}, and a call needs {least}"
    if math.isnan(of.low + of.high):
        return "inconclusive", "the difference has no interval"
    return ("changed" if of.low > 0 or of.high < 0 else "within-noise"), None


def _why_undefined(sides: Sequence[Measurement | None], how: How) -> str:
    for which, side in zip("AB", sides, strict=True):
        if side is None:
            return f"{which}: {_NO_FIGURE}"
        if side.reason is not None:
            return f"{which}: {side.reason}"
    if how == "paired":
        return "no completion has the figure in both"
    return "no completions of like length, long enough to be judged, have the figure in both"


def _figure(measured: Measurement | None) -> Figure:
    if measured is None:
        return Figure(value=None, low=None, high=None)
    return Figure(value=measured.value, low=measured.low, high=measured.high)


def _of_estimate(found: Estimate) -> Figure:
    value, low, high = (None if math.isnan(v) else v for v in (found.value, found.low, found.high))
    return Figure(value=value, low=low, high=high)
