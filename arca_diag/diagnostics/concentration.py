"""How unevenly credit is spread over the tokens of a completion.

Every function maps `(completion, token)` credit to one number a completion. `mask` is True
where a token counts, arithmetic is float64, and a completion for which the number is undefined
gets NaN. Never 0: 0 would read as "perfectly even". Undefined means: fewer than two counted
tokens, or no credit at all (weights that are NaN or all zero).
"""

import numpy as np
from jaxtyping import Bool, Float

from arca_diag.shapes import check_masked, check_shapes


def gini(
    weights: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
) -> Float[np.ndarray, " completion"]:
    r"""Gini coefficient of each completion's token weights.

    0 when all T counted tokens share the credit equally; 1 - 1/T when one token holds it all.
    With the counted weights sorted ascending, w_(1) <= ... <= w_(T),

        G = \sum_i (2i - T - 1) w_(i)  /  (T \sum_i w_(i)),

    half the relative mean absolute difference. Its range depends on T: compare `gini_corrected`.

    Args:
        weights: Non-negative credit, in any unit (G is scale-free). Uncounted entries are ignored.
        mask: True where a token counts.

    Returns:
        G in [0, 1 - 1/T], float64, dimensionless. NaN for T < 2 and where there is no credit.

    Raises:
        ValueError: The shapes differ, or a counted weight is negative or infinite.

    Source:
        Damgaard & Weiner (2000), Ecology 81:1139-1142. The ARCA paper reports it, undefined there.

    >>> one_token_has_it_all = np.array([[0.0, 0.0, 0.0, 8.0]])
    >>> gini(one_token_has_it_all, np.ones((1, 4), dtype=bool))
    array([0.75])
    """
    credit, defined, n = _credit(weights, mask)
    width = credit.shape[1]

    # Uncounted places hold 0, so they sort to the front and add nothing to either sum;
    # ranks start at 1 after them.
    ascending = np.sort(credit, axis=1)
    rank = np.arange(1, width + 1) - (width - n)[:, None]
    numerator = ((2 * rank - n[:, None] - 1) * ascending).sum(axis=1)
    value = _divide(numerator, n * ascending.sum(axis=1), defined)
    return np.maximum(value, 0.0)  # equal weights can round to -1e-17; NaN stays NaN


def effn_ratio(
    weights: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
) -> Float[np.ndarray, " completion"]:
    r"""Effective number of credited tokens as a share of the counted tokens, EffN / T.

    1 when all T counted tokens share the credit equally; 1/T when one token holds it all.

        EffN / T = (\sum_t w_t)^2 / (T \sum_t w_t^2),   = 1 / (T \sum_t w_t^2) for weights
        that sum to 1 (the inverse Simpson index over T).

    Its range depends on T: compare `effn_corrected`.

    Args:
        weights: Non-negative credit, in any unit (scale-free). Uncounted entries are ignored.
        mask: True where a token counts.

    Returns:
        EffN/T in [1/T, 1], float64, dimensionless. NaN for T < 2 and where there is no credit.

    Raises:
        ValueError: The shapes differ, or a counted weight is negative or infinite.

    Source:
        Hill (1973), Ecology 54:427-432, order 2. The ARCA paper reports it as EffN/T.

    >>> effn_ratio(np.array([[0.0, 0.0, 0.0, 8.0]]), np.ones((1, 4), dtype=bool))
    array([0.25])
    """
    credit, defined, n = _credit(weights, mask)
    value = _divide(credit.sum(axis=1) ** 2, n * (credit**2).sum(axis=1), defined)
    return np.minimum(value, 1.0)  # equal weights can round to 1 + 1e-16


def gini_corrected(
    weights: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
) -> Float[np.ndarray, " completion"]:
    """`gini` stretched to the same range at every length: G^ = G T / (T - 1).

    0 uniform, 1 one token, for any T >= 2. At T = 7 the plain G cannot pass .857, so a cut such
    as "G > .9" could never fire. This corrects the range, not the spread: for i.i.d. exponential
    scores G^ is distributed as the mean of T - 1 uniforms on (0, 1), whose mean is 1/2.

    Returns:
        G^ in [0, 1], float64, dimensionless. Undefined and errors as `gini`.

    >>> gini_corrected(np.array([[0.0, 0.0, 0.0, 8.0]]), np.ones((1, 4), dtype=bool))
    array([1.])
    """
    n = np.maximum(mask.sum(axis=1), 2)
    return np.minimum(gini(weights, mask) * n / (n - 1), 1.0)


def effn_corrected(
    weights: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
) -> Float[np.ndarray, " completion"]:
    """`effn_ratio` stretched to the same range at every length: e^ = (EffN - 1) / (T - 1).

    1 uniform, 0 one token, for any T >= 2. Biased at small T: i.i.d. exponential scores give
    .54 at T = 7 and .51 at T = 40, so compare completions at matched length.

    Returns:
        e^ in [0, 1], float64, dimensionless. Undefined and errors as `effn_ratio`.

    >>> effn_corrected(np.array([[0.0, 0.0, 0.0, 8.0]]), np.ones((1, 4), dtype=bool))
    array([0.])
    """
    n = np.maximum(mask.sum(axis=1), 2)
    return np.maximum((effn_ratio(weights, mask) * n - 1) / (n - 1), 0.0)


def token_share_90(
    weights: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
) -> Float[np.ndarray, " completion"]:
    """The smallest share of counted tokens that together hold 90% of the credit.

    0.9 for uniform weights over many tokens, 1/T when one token holds it all: the figure of the
    headline, read off the Lorenz curve. Tokens are whole: a token that is needed counts fully.

    Args:
        weights: Non-negative credit, in any unit (scale-free). Uncounted entries are ignored.
        mask: True where a token counts.

    Returns:
        A share in [1/T, 1], float64, dimensionless. NaN for T < 2 and where there is no credit.

    Raises:
        ValueError: The shapes differ, or a counted weight is negative or infinite.

    >>> token_share_90(np.array([[1.0, 1.0, 9.0, 9.0]]), np.ones((1, 4), dtype=bool))
    array([0.5])
    """
    credit, defined, n = _credit(weights, mask)
    held = np.cumsum(-np.sort(-credit, axis=1), axis=1)
    # A token less than 1e-12 short of 90% is there: ten equal weights need nine, not ten.
    needed = (held < (0.9 - 1e-12) * held[:, -1:]).sum(axis=1) + 1.0
    return _divide(needed, n.astype(float), defined)


def _credit(
    weights: Float[np.ndarray, "completion token"], mask: Bool[np.ndarray, "completion token"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights over the largest, 0 where nothing counts; where a figure is defined; and T."""
    check_shapes(weights, mask)
    absent = (np.isnan(weights) & mask).any(axis=1)  # credit_weights: nothing to give
    usable = mask & ~absent[:, None]
    check_masked(weights, usable, minimum=0.0)
    credit = np.where(usable, weights, 0.0).astype(np.float64)
    # Every figure is scale-free; over the largest weight, nothing over- or underflows.
    peak = credit.max(axis=1, keepdims=True, initial=0.0)
    credit /= np.where(peak > 0, peak, 1.0)
    n = mask.sum(axis=1)
    return credit, (n >= 2) & (credit > 0).any(axis=1), n


def _divide(numerator: np.ndarray, denominator: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """The quotient where it is defined, NaN elsewhere."""
    out = np.full(len(defined), np.nan)
    np.divide(numerator, denominator, out=out, where=defined)
    return out
