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
from arca_diag.measurements.evidence import Evidence, Place, why_undefined
from arca_diag.measurements.groups import measurement
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES

#: Name of a change -> the column of trajectories.parquet that changes.
_CHANGES = {"gini_corrected_change": "gini_corrected", "effn_corrected_change": "effn_corrected"}


def measure_trend(evidence: Evidence) -> list[Measurement]:
    """`gini_corrected_change` and `effn_corrected_change` of every signal, and `matched_share`.

    Each is of a checkpoint less the first measured one, which `against` names. The first is the
    one of the lowest step; a checkpoint without a step has no place in the order.

    In the view `fixed-set` the change is on the same completions, and `n_completions` counts each
    once. In the view `on-policy` completions differ, so the change is at like length (see
    `diagnostics.change.matched_change`), without those that are too short to be judged;
    `n_clusters` is that of the checkpoint with fewer prompts, and groups, completions and tokens
    are those of both. A change there is one of the policy and of what it was asked: prompts differ.

    `matched_share` is the share of this checkpoint's own completions that are of a length that the
    first checkpoint's have too, and so are compared at all.
    """
    dated = [step for step in evidence.steps.values() if step is not None]
    if not dated:
        return []
    places = list(evidence.places())
    firsts = {p.view: p for p in reversed(places) if p.step == min(dated)}
    out = []
    for place in places:
        first = firsts[place.view]
        if place.name != first.name:
            out += _changes(evidence, first, place)
    return out


def _changes(evidence: Evidence, first: Place, place: Place) -> Iterator[Measurement]:
    """Those of one checkpoint in one view."""
    on_policy = place.view == "on-policy"
    if on_policy:
        yield _matched_share(evidence, first, place)
    for signal in SIGNAL_NAMES:
        for power in evidence.powers:
            before, after = (p.of(signal, power).reset_index(drop=True) for p in (first, place))
            for name, column in _CHANGES.items():
                if on_policy:
                    found, used, reason = _at_like_length(evidence, before, after, column)
                else:
                    found, used, reason = _on_the_same(before, after, column)
                if place.step is None:
                    found, used = _NOTHING, after.iloc[:0]
                yield measurement(
                    place,
                    name,
                    found,
                    used,
                    reason=_why_none(first, place, before, after) or reason,
                    signal=signal,
                    sharpening=power,
                    against=str(first.label),
                )
