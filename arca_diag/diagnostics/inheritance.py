"""How far a policy's credit is from the one that its reference would give the same tokens.

A signal that the reference has too can have its profile from there: the adapter then decides
nothing. The paper's Proposition 1 bounds this distance early in training.
"""

import numpy as np
from jaxtyping import Bool, Float

from arca_diag.shapes import check_masked, check_shapes


def total_variation(
    weights: Float[np.ndarray, "completion token"],
    other: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
) -> Float[np.ndarray, " completion"]:
    r"""Share of a completion's credit that lies on other tokens under the second weights.

        TV = 1/2 \sum_t |w_t - w'_t|,   over counted tokens.

    0 where both weigh every token alike, 1 where no token has credit under both.

    Args:
        weights: Credit that sums to 1 over the counted tokens, as from `credit_weights`.
            Uncounted entries are ignored.
        other: The same of the reference.
        mask: True where a token counts.

    Returns:
        TV in [0, 1], float64, dimensionless. NaN for T < 2, where any two weights are equal, and
        where either side has no credit (weights that are NaN).

    Raises:
        ValueError: The shapes differ, or a counted weight is negative or infinite.

    >>> here, there = np.array([[0.5, 0.5, 0.0]]), np.array([[0.0, 0.5, 0.5]])
    >>> total_variation(here, there, np.ones((1, 3), dtype=bool))
    array([0.5])
    """
    check_shapes(weights, mask)
    check_shapes(other, mask)
    absent = ((np.isnan(weights) | np.isnan(other)) & mask).any(axis=1)
    usable = mask & ~absent[:, None]
    for side in (weights, other):
        check_masked(side, usable, minimum=0.0)
    apart = np.where(usable, weights, 0.0) - np.where(usable, other, 0.0)
    moved = np.minimum(np.abs(apart).sum(axis=1) / 2, 1.0)  # two sums of 1 round
    return np.where((mask.sum(axis=1) >= 2) & ~absent, moved, np.nan)
