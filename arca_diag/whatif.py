"""How concentrated credit would be if it were given another way: what to turn, without a model.

A judgement of the saved tables: other powers, other floors, only the top tokens, only the most
uncertain ones. The residual is one of the signals, and gets the same yardstick.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from arca_diag.credit import credit_weights, top_entropy_weights
from arca_diag.diagnostics.agreement import rank_tokens
from arca_diag.diagnostics.concentration import effn_corrected, gini_corrected, token_share_90
from arca_diag.diagnostics.uncertainty import cluster_mean, cluster_share
from arca_diag.measurements.evidence import Evidence, Place
from arca_diag.measurements.figures import known
from arca_diag.results import Figure, Share, View, WhatIf
from arca_diag.shapes import chunks_with_span, padded
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.thresholds import Cuts
from arca_diag.verdict import INCONCLUSIVE, classify, regime_of

POWERS = (1.0, 2.0)
#: The floor of the paper's published code, and others by what part of a signal's mean they are.
FLOOR = 1e-8
FLOORS_OF_MEAN = (0.01, 0.1)
#: What TRL's `top_entropy_quantile` could be: 0.2 is that of the paper it comes from.
QUANTILES = (0.2, 0.5)

#: Checkpoint, view and signal.
Drowned = tuple[int | str, View, str]

_FIGURES = {
    "gini_corrected": gini_corrected,
    "effn_corrected": effn_corrected,
    "token_share_90": token_share_90,
}


@dataclass(frozen=True, kw_only=True)
class _Completions:
    """The counted tokens of a view's completions at one checkpoint, one behind the other.

    Attributes:
        signals: Raw scores by name.
        lengths: Counted tokens of each completion.
        clusters: Number of its prompt.
    """

    signals: Mapping[str, Float[np.ndarray, " token"]]
    lengths: Int[np.ndarray, " completion"]
    clusters: Int[np.ndarray, " completion"]


@dataclass(frozen=True, kw_only=True)
class _Way:
    """A way to give credit: w_t as `credit_weights` has it, of these scores of a signal."""

    name: str
    signal: str
    scores: Float[np.ndarray, " token"]
    epsilon: float
    sharpening: float = 1.0


def what_if(
    evidence: Evidence,
    quantile: float | None = None,
    drowned: Mapping[Drowned, str] = MappingProxyType({}),
) -> list[WhatIf]:
    """Credit given in other ways, at the last measured checkpoint in each view.

    Of each signal: `SIGNAL s=1` and `s=2` (the configured epsilon); `SIGNAL eps=E` (s = 1) with E
    the floor of the paper's code, and 1% and 10% of the signal's mean over the counted tokens of
    the view; `SIGNAL top 20%` (the ceil(T / 5) largest scores of each completion share its credit
    evenly, ties across the edge in part, and a score of zero gets none). And `top_entropy Q`: TRL's
    `top_entropy_quantile`, its batch being all completions of the view.

    `uncredited` is the share of completions that would get no credit at all: no score is above
    zero, or none of their tokens is among the most uncertain. They count as `no-signal` in the
    regime, which is named by the rule of `verdict.regime_of`. Completions that count no token are
    left out, and so is a view without completions. What rounding may have made has no regime here
    either: it is `inconclusive`, with the reason.

    Args:
        evidence: The tables of a result.
        quantile: One more for `top_entropy`: the run's own.
        drowned: Checkpoint, view and signal that is not judged for its noise -> why.
    """
    if not evidence.steps:
        return []
    dated = [(step, name) for name, step in evidence.steps.items() if step is not None]
    last = max(dated)[1] if dated else list(evidence.steps)[-1]
    out = []
    for place in evidence.places():
        if place.name == last:
            completions = _completions(evidence, place)
            out += [
                _credited(
                    way,
                    completions,
                    place,
                    evidence.cuts,
                    drowned.get((place.label, place.view, way.signal)),
                )
                for way in _ways(completions, evidence.epsilon, quantile)
            ]
    return out


def _completions(evidence: Evidence, place: Place) -> _Completions:
    tokens, rows = evidence.tokens, place.completions
    here = (tokens["checkpoint"] == place.name) & tokens["rollout_id"].isin(rows["rollout_id"])
    counted = tokens[here & tokens["counted"]]
    lengths = counted.groupby("rollout_id", sort=False).size()
    clusters = rows.set_index("rollout_id")["cluster"]
    return _Completions(
        signals={name: counted[name].to_numpy(float) for name in SIGNAL_NAMES},
        lengths=lengths.to_numpy(np.int64),
        clusters=pd.factorize(clusters.loc[lengths.index])[0],
    )


def _ways(completions: _Completions, epsilon: float, quantile: float | None) -> Iterator[_Way]:
    """Every way that is tried, in the order of the report; none without a token."""
    if not len(completions.lengths):
        return
    for name, scores in completions.signals.items():
        for power in POWERS:
            said = f"{name} s={power:g}"
            yield _Way(name=said, signal=name, scores=scores, epsilon=epsilon, sharpening=power)
        yield _Way(name=f"{name} eps={FLOOR:g}", signal=name, scores=scores, epsilon=FLOOR)
        mean = float(scores.mean())
        for part in FLOORS_OF_MEAN:
            floor = part * mean
            said = f"{name} eps={floor:.3g} ({part:.0%} of its mean)"
            yield _Way(name=said, signal=name, scores=scores, epsilon=floor)
        top = _top(scores, completions.lengths)
        yield _Way(name=f"{name} top 20%", signal=name, scores=top, epsilon=0.0)
    for share in sorted({*QUANTILES, *([] if quantile is None else [quantile])}):
        kept = _most_uncertain(completions.signals["entropy"], share)
        yield _Way(name=f"top_entropy {share:g}", signal="entropy", scores=kept, epsilon=0.0)


def _top(
    scores: Float[np.ndarray, " token"], lengths: Int[np.ndarray, " completion"]
) -> Float[np.ndarray, " token"]:
    """Membership of each completion's top 20%."""
    top = np.empty(len(scores))
    for rows, part, _ in chunks_with_span(lengths):
        mask = _mask(part)
        top[rows] = rank_tokens(padded(scores[rows], part, np.nan), mask).top[mask]
    return np.where(scores > 0, top, 0.0)


def _most_uncertain(
    entropy: Float[np.ndarray, " token"], quantile: float
) -> Float[np.ndarray, " token"]:
    """1 for a token that TRL would keep, else 0.

    The threshold is of all tokens together, whose they are aside: here they are one completion.
    """
    together = entropy[None, :]
    weights = top_entropy_weights(together, np.ones(together.shape, dtype=bool), quantile=quantile)
    return (weights[0] > 0).astype(float)


def _credited(
    way: _Way, completions: _Completions, place: Place, cuts: Cuts, drowned: str | None
) -> WhatIf:
    lengths, clusters = completions.lengths, completions.clusters
    figures = {name: np.empty(len(lengths)) for name in _FIGURES}
    without = np.empty(len(lengths), dtype=bool)
    for rows, part, span in chunks_with_span(lengths):
        mask = _mask(part)
        scores = padded(way.scores[rows], part, 0.0)
        weights = credit_weights(scores, mask, epsilon=way.epsilon, sharpening=way.sharpening)
        without[span] = (scores == 0).all(axis=1)
        for name, measure in _FIGURES.items():
            figures[name][span] = measure(weights, mask)
    classes = classify(figures["gini_corrected"], figures["effn_corrected"], lengths, without, cuts)
    share = cluster_share(without, clusters)
    return WhatIf(
        checkpoint=place.label,
        view=place.view,
        credit=way.name,
        uncredited=Share(value=share.value, low=known(share.low), high=known(share.high)),
        regime=INCONCLUSIVE if drowned else regime_of(classes, clusters, cuts).regime,
        n_clusters=share.n_clusters,
        reason=drowned,
        **{name: _mean(values, clusters) for name, values in figures.items()},
    )


def _mask(lengths: Int[np.ndarray, " completion"]) -> np.ndarray:
    return np.arange(lengths.max(initial=0)) < lengths[:, None]


def _mean(
    values: Float[np.ndarray, " completion"], clusters: Int[np.ndarray, " completion"]
) -> Figure:
    found = cluster_mean(values, clusters)
    return Figure(value=known(found.value), low=known(found.low), high=known(found.high))
