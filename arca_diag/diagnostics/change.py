"""How a figure of credit changes from one checkpoint to another.

On the same completions the change is paired and that is all. Where each checkpoint has completions
of its own, their lengths differ too, and the figures depend on length by construction (i.i.d.
exponential scores have e^ .54 at T = 7 and .51 at T = 40): the change is then taken at like length.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import special

from arca_diag.diagnostics.uncertainty import CONFIDENCE, Estimate, cluster_mean


@dataclass(frozen=True, kw_only=True)
class Completions:
    """A figure of one checkpoint's completions.

    Attributes:
        values: In any unit; NaN where undefined or to be left out.
        n_tokens: Counted tokens, >= 1.
        clusters: Number of each completion's prompt, the same number in both checkpoints.
    """

    values: Float[np.ndarray, " completion"]
    n_tokens: Int[np.ndarray, " completion"]
    clusters: Int[np.ndarray, " completion"]


def paired_change(
    before: Float[np.ndarray, " completion"],
    after: Float[np.ndarray, " completion"],
    clusters: Shaped[np.ndarray, " completion"],
) -> Estimate:
    """Mean over prompts of the change of a figure on the same completions, after less before.

    Args:
        before: One a completion, in any unit; NaN where undefined.
        after: The same completions at the other checkpoint.
        clusters: Each completion's prompt.

    Returns:
        In the figure's unit, with `cluster_mean`'s interval of the differences: what completions
        and prompts have in common at both checkpoints cancels.

    >>> paired_change(np.array([1.0, 4.0]), np.array([2.0, 6.0]), np.array([0, 1])).value
    1.5
    """
    return cluster_mean(after - before, clusters)


def length_stratum(n_tokens: Int[np.ndarray, " completion"]) -> Int[np.ndarray, " completion"]:
    r"""Number of the stratum of like length: floor(2 log2(T / 5)).

    A stratum's longest is at most \sqrt 2 times its shortest: 5 to 7, 8 and 9, 10 to 14, 15 to 19,
    20 to 28 and so on. The edges are fixed, so that no checkpoint moves those of another.

    Args:
        n_tokens: Counted tokens, >= 1.

    >>> length_stratum(np.array([5, 7, 8, 10, 14, 15, 20]))
    array([0, 0, 1, 2, 2, 3, 4])
    """
    return np.floor(2 * np.log2(n_tokens / 5)).astype(np.int64)


def at_common_length(
    n_tokens: Int[np.ndarray, " completion"], others: Int[np.ndarray, " other"]
) -> Bool[np.ndarray, " completion"]:
    """Which completions are in a stratum that others have too.

    Args:
        n_tokens: Counted tokens, >= 1.
        others: Those of the completions of another checkpoint.

    >>> at_common_length(np.array([5, 40]), np.array([6, 10]))
    array([ True, False])
    """
    return np.isin(length_stratum(n_tokens), length_stratum(others))


def matched_change(before: Completions, after: Completions) -> Estimate:
    r"""Change of a figure between two checkpoints' own completions at like length.

    With b_l and a_l the means over the completions in stratum l of `length_stratum`, and p_l and
    q_l the shares of each checkpoint's completions that lie there,

        D = \sum_l m_l (a_l - b_l) / \sum_l m_l,   m_l = \min(p_l, q_l):

    only strata that both have weigh anything, and none weighs more than the rarer side bears.

    The interval is the jackknife's over the n prompts of either checkpoint. A prompt that both have
    is left out of both at once: that is the pairing. With the pseudo-values n D - (n - 1) D_{-c},
    where D_{-c} is the change without prompt c, and their standard deviation s,

        D +- t_{k-1, .975} s / \sqrt{n},

    k the prompts in common strata of the checkpoint that has fewer there: with 3 prompts against
    16, t_{18} would miss the truth in 8% of cases, not in 5%.

    Args:
        before: Completions of one checkpoint.
        after: Completions of the other.

    Returns:
        In the figure's unit. NaN, of no prompt, where no stratum is common; no limits where the
        change is undefined without some prompt. `n_clusters` is k.

    Source:
        Tukey (1958), Annals of Mathematical Statistics 29:614, on the jackknife.
    """
    parts = [_defined(side) for side in (before, after)]
    prompts = np.unique(np.concatenate([side.clusters for side in parts]))
    strata = [length_stratum(side.n_tokens) for side in parts]
    every = np.unique(np.concatenate(strata))
    n = len(prompts)

    sums, counts = (np.zeros((2, len(every), n)) for _ in range(2))
    for place, (side, stratum) in enumerate(zip(parts, strata, strict=True)):
        cell = np.searchsorted(every, stratum), np.searchsorted(prompts, side.clusters)
        np.add.at(sums[place], cell, side.values)
        np.add.at(counts[place], cell, 1)

    all_sums, all_counts = (cells.sum(axis=2, keepdims=True) for cells in (sums, counts))
    value = float(_weighted(all_sums, all_counts)[0]) if n else math.nan
    if math.isnan(value):
        return Estimate(value=value, low=math.nan, high=math.nan, n_clusters=0)
    pseudo = n * value - (n - 1) * _weighted(all_sums - sums, all_counts - counts)
    inside = (counts.sum(axis=2) > 0).all(axis=0)
    fewest = int((counts[:, inside].sum(axis=1) > 0).sum(axis=1).min())
    half = math.nan
    if fewest > 1:
        error = float(pseudo.std(ddof=1)) / math.sqrt(n)
        half = float(special.stdtrit(fewest - 1, (1 + CONFIDENCE) / 2)) * error
    return Estimate(value=value, low=value - half, high=value + half, n_clusters=fewest)


def _defined(side: Completions) -> Completions:
    known = ~np.isnan(side.values)
    return Completions(
        values=side.values[known], n_tokens=side.n_tokens[known], clusters=side.clusters[known]
    )


def _weighted(
    sums: Float[np.ndarray, "side stratum draw"], counts: Float[np.ndarray, "side stratum draw"]
) -> Float[np.ndarray, " draw"]:
    """D of each draw, from the sum and the number of its values; NaN without a common stratum."""
    common = (counts > 0).all(axis=0)
    means = sums / np.where(counts > 0, counts, 1.0)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    weights = np.where(common, shares.min(axis=0), 0.0)
    total = weights.sum(axis=0)
    gaps = (weights * (means[1] - means[0])).sum(axis=0)
    return np.where(total > 0, gaps / np.where(total > 0, total, 1.0), math.nan)
