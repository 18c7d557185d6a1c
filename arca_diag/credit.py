"""From a signal to credit: weights that sum to 1 within each completion."""

import numpy as np
from jaxtyping import Bool, Float

from arca_diag.shapes import check_masked


def credit_weights(
    signal: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
    *,
    epsilon: float = 1e-8,
    sharpening: float = 1.0,
) -> Float[np.ndarray, "completion token"]:
    r"""Share of a completion's credit that each token gets.

        w_t = (alpha_t + epsilon)^s / \sum_k (alpha_k + epsilon)^s,   sums over counted tokens.

    s = 1 is the paper's rule; its published experiments used s = 2, which the paper does not
    mention. There is no clamp and no fall-back to uniform weights: a completion whose raw
    scores are all exactly zero has no credit to give, and its weights are undefined.

    Args:
        signal: Raw salience alpha >= 0, in any unit. Uncounted entries are ignored.
        mask: True where a token counts.
        epsilon: The floor added to every score; >= 0, in the signal's unit.
        sharpening: The power s, > 0.

    Returns:
        Weights in [0, 1], float64, dimensionless, summing to 1 over the counted tokens of each
        completion. NaN where a token does not count, and everywhere in a completion that
        counts no token or whose counted scores are all zero.

    Raises:
        ValueError: The shapes differ, a counted score is negative or not finite, or `epsilon`
            or `sharpening` is out of range.

    Source:
        Lafuente-Mercado, ARCA, arXiv 2606.00257v1, Eq. 8 (s = 1).
    """
    _check_floor(epsilon)
    if not (np.isfinite(sharpening) and sharpening > 0):
        raise ValueError(f"sharpening must be a finite number > 0, got {sharpening}")
    check_masked(signal, mask, minimum=0.0)

    alpha = np.where(mask, signal, 0.0)
    has_signal = (alpha > 0).any(axis=1, keepdims=True)

    # Dividing by the largest score first changes nothing but keeps the power from underflowing.
    raw = np.where(mask, alpha + epsilon, 0.0)
    largest = np.where(has_signal, raw.max(axis=1, keepdims=True, initial=0.0), 1.0)
    powered = np.where(mask, (raw / largest) ** sharpening, 0.0)
    total = np.where(has_signal, powered.sum(axis=1, keepdims=True), 1.0)
    return np.where(mask & has_signal, powered / total, np.nan)


def floor_share(
    signal: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
    *,
    epsilon: float = 1e-8,
) -> Float[np.ndarray, " completion"]:
    r"""Share of a completion's credit that is epsilon, which is the same for every token.

        T epsilon / \sum_t (alpha_t + epsilon),   over the T counted tokens.

    Near 0 the signal decides the weights; near 1 they are uniform whatever the signal says. It is
    taken at s = 1: a power does not act on the two parts of a score apart.

    Args:
        signal: Raw salience alpha >= 0, in any unit. Uncounted entries are ignored.
        mask: True where a token counts.
        epsilon: The floor added to every score; >= 0, in the signal's unit.

    Returns:
        A share in [0, 1], float64, dimensionless. NaN for T < 2 and where all counted scores are
        exactly zero: there is no credit to have a share of.

    Raises:
        ValueError: As `credit_weights`.

    >>> floor_share(np.array([[0.0, 3.0]]), np.ones((1, 2), dtype=bool), epsilon=0.5)
    array([0.25])
    """
    _check_floor(epsilon)
    check_masked(signal, mask, minimum=0.0)
    n = mask.sum(axis=1)
    total = np.where(mask, signal, 0.0).sum(axis=1)
    defined = (n >= 2) & (total > 0)
    floor = n * epsilon
    return np.where(defined, floor / np.where(defined, total + floor, 1.0), np.nan)


def top_entropy_weights(
    entropy: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
    *,
    quantile: float,
) -> Float[np.ndarray, "completion token"]:
    """Share of a completion's credit that each token gets where only the most uncertain count.

    Kept are the tokens whose entropy is at or above the (1 - quantile) quantile, linearly
    interpolated, of all counted tokens of all completions together; the kept tokens of a
    completion share its credit evenly. In float32, as TRL does it: in another precision a token
    at the threshold can fall on the other side.

    Args:
        entropy: Entropy of the policy, >= 0, in nats or any other unit. Uncounted entries are
            ignored.
        mask: True where a token counts.
        quantile: The share of tokens to keep, in [0, 1]: 1 keeps all, 0 only those of the
            largest entropy. TRL's `top_entropy_quantile`.

    Returns:
        Weights in [0, 1], float64, dimensionless, summing to 1 over a completion; 0 for a counted
        token that is not kept. NaN where a token does not count, and everywhere in a completion
        of which no token is kept.

    Raises:
        ValueError: The shapes differ, a counted entropy is negative or not finite, or `quantile`
            is out of range.

    Source:
        `GRPOTrainer.get_high_entropy_mask` of TRL 1.16; Wang et al., Beyond the 80/20 Rule,
        arXiv 2506.01939. TRL's batch is one forward pass of all processes; here it is all that
        is given.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be from 0 to 1, got {quantile}")
    check_masked(entropy, mask, minimum=0.0)
    values = np.where(mask, entropy, 0.0).astype(np.float32)
    threshold = np.quantile(values[mask], np.float32(1 - quantile)) if mask.any() else np.inf
    kept = mask & (values >= threshold)
    count = kept.sum(axis=1, keepdims=True)
    return np.where(mask & (count > 0), kept / np.maximum(count, 1), np.nan)


def _check_floor(epsilon: float) -> None:
    if not (np.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon must be a finite number >= 0, got {epsilon}")
