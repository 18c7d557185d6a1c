"""How a figure becomes a measurement: with its interval, what it is from, or why there is none."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from arca_diag.diagnostics.uncertainty import Estimate, cluster_mean
from arca_diag.measurements.evidence import Place
from arca_diag.results import Measurement, View
from arca_diag.verdict import NO_SIGNAL

#: A figure with its interval, from one value a completion and the prompt of each.
Estimator = Callable[[np.ndarray, np.ndarray], Estimate]

_ALL = slice(None)


def measurement(
    place: Place,
    name: str,
    found: Estimate,
    used: pd.DataFrame,
    *,
    reason: str,
    defined: np.ndarray | slice = _ALL,
    signal: str | None = None,
    sharpening: float | None = None,
    against: str | None = None,
) -> Measurement:
    """An estimate as a measurement.

    Args:
        place: Where.
        name: Of the figure.
        found: Its value, limits and prompts.
        used: The completions that it is from.
        reason: Why there is none, where the value is NaN.
        defined: Which of them it is from, where it is not all.
        signal: Which signal, if any.
        sharpening: At which power, if any.
        against: The other signal or checkpoint, where a figure compares two.
    """
    groups, tokens = (used[c].to_numpy()[defined] for c in ("group_id", "n_tokens"))
    return _counted(place, name, found, groups, tokens, lambda: reason, signal, sharpening, against)


def figure(
    place: Place,
    name: str,
    values: np.ndarray,
    rows: pd.DataFrame,
    *,
    signal: str | None = None,
    sharpening: float | None = None,
    against: str | None = None,
    reason: str | None = None,
    estimate: Estimator = cluster_mean,
) -> Measurement:
    """A figure's mean over prompts with its interval, from one value a completion.

    Args:
        place: Where.
        name: Of the figure.
        values: One a completion, NaN where undefined.
        rows: The completions that the values are of, row for row.
        signal: Which signal, if any.
        sharpening: At which power, if any.
        against: The other signal or checkpoint, where a figure compares two.
        reason: Why there is none, if no value is defined; else the usual reasons.
        estimate: Mean and interval, of values and prompts.
    """
    # Of thousands of figures, frames of the completions that one is defined in take a while.
    defined = ~np.isnan(values)
    return _counted(
        place,
        name,
        estimate(values, rows["cluster"].to_numpy(object)),
        rows["group_id"].to_numpy()[defined],
        rows["n_tokens"].to_numpy()[defined],
        lambda: reason or why_undefined(place.view, rows),
        signal,
        sharpening,
        against,
    )


def _counted(
    place: Place,
    name: str,
    found: Estimate,
    groups: np.ndarray,
    n_tokens: np.ndarray,
    reason: Callable[[], str],
    signal: str | None,
    sharpening: float | None,
    against: str | None,
) -> Measurement:
    """An estimate with what it is from: the group and the tokens of each completion."""
    value = known(found.value)
    return Measurement(
        checkpoint=place.label,
        view=place.view,
        signal=signal,
        sharpening=sharpening,
        against=against,
        name=name,
        value=value,
        low=known(found.low),
        high=known(found.high),
        n_clusters=found.n_clusters,
        n_groups=len(set(groups.tolist())),
        n_completions=len(groups),
        n_tokens=int(n_tokens.sum()),
        reason=reason() if value is None else None,
    )


def known(value: float) -> float | None:
    """NaN is null in a report."""
    return None if math.isnan(value) else value


def why_undefined(view: View, rows: pd.DataFrame) -> str:
    """Why a figure of one signal's credit is defined in none of the completions."""
    if rows.empty:
        where = "its window of steps" if view == "on-policy" else "the fixed set"
        return f"no completion in {where}"
    if (rows["class"] == NO_SIGNAL).any():
        return "every raw score is exactly zero"
    return "every completion counts fewer than two tokens"
