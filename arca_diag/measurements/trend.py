"""How the concentration of every signal's credit changed since the first checkpoint."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from arca_diag.diagnostics.change import (
    Completions,
    at_common_length,
    matched_change,
    paired_change,
)
from arca_diag.diagnostics.uncertainty import Estimate, cluster_share
from arca_diag.measurements.evidence import Evidence, Place
from arca_diag.measurements.figures import measurement, why_undefined
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.thresholds import Cuts

#: Name of a change -> the column of trajectories.parquet that changes.
_CHANGES = {"gini_corrected_change": "gini_corrected", "effn_corrected_change": "effn_corrected"}


def measure_trend(evidence: Evidence) -> list[Measurement]:
    """`gini_corrected_change` and `effn_corrected_change` of every signal, and `matched_share`.

    Each is of a checkpoint less the first measured one, which `against` names: the one of the
    lowest step. A checkpoint without a step has no place in the order, and no change.

    In the view `fixed-set` the change is on the same completions, and counts each once. In the view
    `on-policy` completions differ, so it is at like length (`diagnostics.change.matched_change`)
    and without those that are too short to be judged; `n_clusters` is that of the checkpoint with
    fewer prompts, and groups, completions and tokens are those of both. What differs there is the
    policy and the prompts that it was asked.

    `matched_share` is the share of this checkpoint's own completions, the short ones among them,
    of a length that the first checkpoint's have too: those that are compared at all.
    """
    dated = [(step, name) for name, step in evidence.steps.items() if step is not None]
    if not dated:
        return []
    places = list(evidence.places())
    first = {p.view: p for p in places if p.name == min(dated)[1]}
    return [
        found
        for place in places
        if place.name != first[place.view].name
        for found in _since(first[place.view], place, evidence)
    ]


def _since(first: Place, place: Place, evidence: Evidence) -> Iterator[Measurement]:
    """Every change of one checkpoint in one view."""
    why = _why_not_compared(first, place)

    def rows(at: Place, signal: str, power: float) -> pd.DataFrame:
        found = at.of(signal, power)
        return (found.iloc[:0] if why else found).reset_index(drop=True)

    against = str(first.label)
    if place.view == "on-policy":
        before, after = (rows(at, SIGNAL_NAMES[0], 1.0) for at in (first, place))
        share, used = _matched_share(before, after, evidence.cuts)
        reason = why or why_undefined(place.view, after)
        yield measurement(place, "matched_share", share, used, reason=reason, against=against)
    for signal in SIGNAL_NAMES:
        for power in evidence.powers:
            before, after = (rows(at, signal, power) for at in (first, place))
            for name, column in _CHANGES.items():
                if place.view == "on-policy":
                    found, used = at_like_length(before, after, column, evidence.cuts)
                else:
                    found, used = _on_the_same(before, after, column)
                yield measurement(
                    place,
                    name,
                    found,
                    used,
                    reason=why or _why_no_change(place, before, after, column),
                    signal=signal,
                    sharpening=power,
                    against=against,
                )


def at_like_length(
    before: pd.DataFrame, after: pd.DataFrame, column: str, cuts: Cuts
) -> tuple[Estimate, pd.DataFrame]:
    """The change at like length, and the completions of either that it is of.

    Args:
        before: A row a completion, with its `n_tokens`, its `cluster` and the column.
        after: The same of the others.
        column: The figure.
        cuts: What is too short to be judged is left out.
    """
    sides = [rows[_long_enough(rows, cuts) & rows[column].notna()] for rows in (before, after)]
    lengths = [rows["n_tokens"].to_numpy(np.int64) for rows in sides]
    both = pd.concat(sides)
    clusters = np.split(pd.factorize(both["cluster"])[0], [len(sides[0])])
    found = matched_change(
        *(
            Completions(values=rows[column].to_numpy(float), n_tokens=n_tokens, clusters=numbers)
            for rows, n_tokens, numbers in zip(sides, lengths, clusters, strict=True)
        )
    )
    common = [at_common_length(*lengths), at_common_length(*reversed(lengths))]
    return found, both[np.concatenate(common)]


def _matched_share(
    before: pd.DataFrame, after: pd.DataFrame, cuts: Cuts
) -> tuple[Estimate, pd.DataFrame]:
    """The share, and the completions that it is a share of."""
    lengths = [
        rows["n_tokens"].to_numpy(np.int64)[_long_enough(rows, cuts)] for rows in (after, before)
    ]
    inside = _long_enough(after, cuts)
    inside[inside] = at_common_length(*lengths)
    return cluster_share(inside, pd.factorize(after["cluster"])[0]), after


def _on_the_same(
    before: pd.DataFrame, after: pd.DataFrame, column: str
) -> tuple[Estimate, pd.DataFrame]:
    """The change on the same completions, and those of them that have credit at both."""
    old = after["rollout_id"].map(before.set_index("rollout_id")[column]).astype(float)
    both = after[old.notna() & after[column].notna()]
    found = paired_change(
        old[both.index].to_numpy(float),
        both[column].to_numpy(float),
        pd.factorize(both["cluster"])[0],
    )
    return found, both


def _long_enough(rows: pd.DataFrame, cuts: Cuts) -> np.ndarray:
    """Where a completion is not too short to be judged, nor for any figure."""
    n_tokens = rows["n_tokens"].to_numpy(np.int64)
    return ~cuts.passed("tokens-short", n_tokens) & (n_tokens >= 2)


def _why_not_compared(first: Place, place: Place) -> str | None:
    """Why a checkpoint has no change of any signal, whatever its credit."""
    if place.step is None:
        return "the step of the checkpoint is unknown, and so is what came before it"
    for at in (place, first):
        if at.completions.empty:
            return f"checkpoint {at.label}: {why_undefined(at.view, at.completions)}"
    return None


def _why_no_change(place: Place, before: pd.DataFrame, after: pd.DataFrame, column: str) -> str:
    """Why there is no change of one signal where others may have one."""
    for rows in (after, before):
        if rows[column].isna().all():
            return why_undefined(place.view, rows)
    if place.view == "fixed-set":
        return "no completion has credit at both checkpoints"
    return (
        "no completions of like length, long enough to be judged, have credit at both checkpoints"
    )
