"""Whether credit knows the reward: is it spread otherwise over good completions than over bad?

The comparison is within a group (one prompt, one policy) and at like length, because prompts differ
in how hard they are, and most figures of credit depend on length by construction.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from arca_diag.diagnostics.uncertainty import cluster_mean

#: Completions are of like length up to this ratio of counted tokens.
STRETCH = 1.25
#: Draws from the null. The smallest p-value is 1/2000: seven of them are held together.
PERMUTATIONS = 1999

#: An advantage below this part of its group's largest is rounding of a reward on the mean.
_ON_THE_MEAN = 1e-6
#: Of a statistic's own scale: permutations that give the same number but for rounding tie.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class RewardGap:
    """How good completions differ from bad ones, and how likely that is by chance.

    Attributes:
        value: In the figure's unit, above 0 where good completions have more; NaN if no stratum
            has both.
        low: Lower limit of the 95% interval over clusters; NaN below two.
        high: Upper limit.
        p: Two-sided, in [1 / (PERMUTATIONS + 1), 1]; NaN where `value` is.
        n_clusters: Prompts that were compared.
        used: The completions that were.
    """

    value: float
    low: float
    high: float
    p: float
    n_clusters: int
    used: Bool[np.ndarray, " completion"]


def advantage_sides(
    advantages: Float[np.ndarray, " completion"], groups: Int[np.ndarray, " completion"]
) -> Int[np.ndarray, " completion"]:
    """1 for a good completion (its advantage is above 0), -1 for a bad one, 0 for neither.

    Neither is one whose advantage is 0 but for rounding, measured by the largest of its group, and
    every one of a group in which an advantage is unknown (NaN). A group whose rewards are all the
    same can lie off its rounded mean, but then on one side of it.

    Args:
        advantages: In any unit that is the same within a group; reward less the group's mean.
        groups: Number of each completion's group.

    >>> advantage_sides(np.array([0.5, 1e-9, -0.5, 0.3, np.nan]), np.array([0, 0, 0, 1, 1]))
    array([ 1,  0, -1,  0,  0])
    """
    sides = np.zeros(len(advantages), dtype=np.int64)
    for group in np.unique(groups):
        members = groups == group
        size = np.abs(advantages[members]).max()
        if not np.isnan(size):
            far = np.abs(advantages[members]) > _ON_THE_MEAN * size
            sides[members] = np.where(far, np.sign(advantages[members]), 0)
    return sides


def length_strata(
    n_tokens: Int[np.ndarray, " completion"], groups: Int[np.ndarray, " completion"]
) -> Int[np.ndarray, " completion"]:
    """Number of the stratum of each completion: those of one group and of like length.

    From a group's shortest completion on, a stratum takes all that are at most `STRETCH` times
    its first; the next longer one begins another. Only lengths decide, so the cut is the same
    whatever the rewards.

    Args:
        n_tokens: Counted tokens.
        groups: Number of each completion's group.

    >>> length_strata(np.array([32, 10, 12, 13, 12]), np.array([0, 0, 0, 0, 1]))
    array([2, 0, 0, 1, 3])
    """
    strata = np.empty(len(n_tokens), dtype=np.int64)
    stratum, group, first = -1, None, 0
    for place in np.lexsort((n_tokens, groups)):
        if groups[place] != group or n_tokens[place] > STRETCH * first:
            stratum, group, first = stratum + 1, groups[place], n_tokens[place]
        strata[place] = stratum
    return strata


def reward_gap(
    values: Float[np.ndarray, " completion"],
    sides: Int[np.ndarray, " completion"],
    n_tokens: Int[np.ndarray, " completion"],
    groups: Int[np.ndarray, " completion"],
    clusters: Int[np.ndarray, " completion"],
    *,
    rng: np.random.Generator,
) -> RewardGap:
    """Mean difference of a figure between good and bad completions at like length.

    In each stratum of `length_strata` that has both sides: mean over the good less mean over the
    bad. These are averaged over a group's strata, then over a prompt's groups, then over prompts.

    The null is that advantages are handed out at random within a group among completions of like
    length. (Handed out over all lengths, a reward that goes with length would look like one that
    goes with credit, and other strata would be compared in every draw.) It centres
    the statistic on 0. With B draws,

        p = (1 + #{|draw| >= |observed|}) / (B + 1),

    which is at most q with a chance of at most q if the null holds. scipy.stats.permutation_test
    can shuffle a whole sample or swap within pairs, not shuffle within strata.

    The interval speaks of other prompts, the p-value of these: it can be small where the prompts
    differ among themselves so much that the interval holds 0.

    The test is of the null only. A small p-value is no proof that the credit serves the learning,
    and a large one over few prompts none that it does not. What is left of length within a stratum
    is not taken away.

    Args:
        values: The figure, in any unit; NaN where undefined.
        sides: 1 good, -1 bad, 0 neither.
        n_tokens: Counted tokens.
        groups: Number of each completion's group.
        clusters: Number of each completion's prompt.
        rng: Draws the permutations.

    Source:
        Phipson & Smyth (2010), Statistical Applications in Genetics and Molecular Biology 9:39,
        on the 1 that is added.
    """
    used = ~np.isnan(values) & (sides != 0)
    strata = np.full(len(values), -1)
    strata[used] = length_strata(n_tokens[used], groups[used])
    used &= np.isin(strata, np.intersect1d(strata[sides > 0], strata[sides < 0]))
    if not used.any():
        nan = math.nan
        return RewardGap(value=nan, low=nan, high=nan, p=nan, n_clusters=0, used=used)

    stratum_of, first, stratum = np.unique(strata[used], return_index=True, return_inverse=True)
    good = sides[used] > 0
    parts = np.where(
        good, 1 / np.bincount(stratum, good)[stratum], -1 / np.bincount(stratum, ~good)[stratum]
    )
    gaps = np.bincount(stratum, parts * values[used], minlength=len(stratum_of))

    _, first_stratum, group = np.unique(groups[used][first], return_index=True, return_inverse=True)
    strata_in = np.bincount(group)
    group_gaps = np.bincount(group, gaps) / strata_in
    group_clusters = clusters[used][first][first_stratum]
    found = cluster_mean(group_gaps, group_clusters)

    # The statistic is a weighted sum of the values, and the null shuffles the weights in a stratum.
    _, cluster = np.unique(group_clusters, return_inverse=True)
    each = 1 / (strata_in * np.bincount(cluster)[cluster] * found.n_clusters)
    weights = parts * each[group][stratum]
    p = _permuted_p(weights, values[used], stratum, rng)
    return RewardGap(
        value=found.value,
        low=found.low,
        high=found.high,
        p=p,
        n_clusters=found.n_clusters,
        used=used,
    )


def _permuted_p(
    weights: Float[np.ndarray, " completion"],
    values: Float[np.ndarray, " completion"],
    strata: Int[np.ndarray, " completion"],
    rng: np.random.Generator,
) -> float:
    """Two-sided p-value of sum(weights * values), weights shuffled within strata."""
    by_stratum = np.argsort(strata, kind="stable")
    weights, values = weights[by_stratum], values[by_stratum]
    # A whole number for the stratum and a random fraction: sorting shuffles within strata alone.
    keys = strata[by_stratum] + rng.random((PERMUTATIONS, len(weights)))
    draws = np.abs(weights[np.argsort(keys, axis=1)] @ values)
    observed = abs(weights @ values) - _ROUNDING * (np.abs(weights) @ np.abs(values))
    return float((1 + (draws >= observed).sum()) / (PERMUTATIONS + 1))
