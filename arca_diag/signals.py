"""Per-token signals, in nats: the raw salience that a credit rule would weight tokens by.

Everything is taken at the position that PREDICTS a token, from what a replay left behind:
log-probabilities, entropies and hidden states of the adapted policy and of the reference.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from arca_diag.shapes import check_masked

PAPER = "Lafuente-Mercado, ARCA, arXiv 2606.00257v1"


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """What a replay knows of each token. All arrays are `(completion, token)`, float64.

    Attributes:
        logprob: log pi_theta(y_t | y_<t, x), nats, <= 0.
        entropy: Entropy of pi_theta over the full vocabulary at that position, nats, >= 0.
        ref_logprob: log pi_ref(y_t | y_<t, x), nats.
        ref_entropy: Entropy of pi_ref, nats.
        kl_exact: KL(pi_theta || pi_ref) over the full vocabulary, nats, >= 0.
        residual: L2 norm of h_adapted - h_ref, in the hidden state's own units.
        ref_norm: L2 norm of h_ref.
        mask: True where a token counts.
    """

    logprob: Float[np.ndarray, "completion token"]
    entropy: Float[np.ndarray, "completion token"]
    ref_logprob: Float[np.ndarray, "completion token"]
    ref_entropy: Float[np.ndarray, "completion token"]
    kl_exact: Float[np.ndarray, "completion token"]
    residual: Float[np.ndarray, "completion token"]
    ref_norm: Float[np.ndarray, "completion token"]
    mask: Bool[np.ndarray, "completion token"]


def surprisal(scores: TokenScores) -> Float[np.ndarray, "completion token"]:
    """-log pi_theta(y_t), nats, >= 0. Source: ARCA, Eq. 10."""
    return -scores.logprob


def entropy(scores: TokenScores) -> Float[np.ndarray, "completion token"]:
    """Entropy H_t of pi_theta over the full vocabulary, nats, in [0, log V]. Source: ARCA, Eq. 11.

    Not a credit signal in the paper; trainers do weight by it (TRL's `top_entropy_quantile`).
    """
    return scores.entropy


def entropy_reduction(scores: TokenScores) -> Float[np.ndarray, "completion token"]:
    """max(0, H_t - H_{t+1}), nats, under the policy. See `entropy_drop`. Source: Eqs. 12, 13."""
    return entropy_drop(scores.entropy, scores.mask)


def divergence(scores: TokenScores) -> Float[np.ndarray, "completion token"]:
    """|log pi_theta(y_t) - log pi_ref(y_t)|, nats, >= 0. Source: ARCA, Eq. 14.

    Of the sampled token only: the size of a log-ratio, not a KL divergence.
    """
    with np.errstate(invalid="ignore"):  # whatever stands in the padding never matters
        return np.abs(scores.logprob - scores.ref_logprob)


def kl_exact(scores: TokenScores) -> Float[np.ndarray, "completion token"]:
    """KL(pi_theta || pi_ref) over the full vocabulary, nats, >= 0. Not in the paper."""
    return scores.kl_exact


def residual(scores: TokenScores) -> Float[np.ndarray, "completion token"]:
    """L2 norm of h_adapted - h_ref, >= 0, in the hidden state's units. Source: ARCA, Eq. 15.

    h is the last hidden state after the final norm, the vector the language-model head reads.
    """
    return scores.residual


def relative_residual(scores: TokenScores) -> Float[np.ndarray, "completion token"]:
    """`residual` over the L2 norm of h_ref, >= 0, dimensionless. Not in the paper.

    Infinite or NaN where h_ref is exactly 0, which a final norm never gives on a real model:
    `credit_weights` refuses it.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return scores.residual / scores.ref_norm


def entropy_drop(
    entropies: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
) -> Float[np.ndarray, "completion token"]:
    """Entropy that the next token of the same assistant turn takes away, never below 0.

    max(0, H_t - H_{t+1}), where t + 1 must be counted too: text between two turns (a tool's
    answer) is no drop, so the last counted token of each turn gets 0, and so does the last
    token of a completion, whether it closed or was cut off.

    Returns:
        Nats, >= 0; NaN where a token does not count.

    Raises:
        ValueError: The shapes differ, or a counted entropy is negative or not finite.
    """
    check_masked(entropies, mask, minimum=0.0)
    safe = np.where(mask, entropies, 0.0)
    followed = np.zeros_like(mask)
    followed[:, :-1] = mask[:, :-1] & mask[:, 1:]
    drop = np.zeros_like(safe)
    drop[:, :-1] = np.maximum(0.0, safe[:, :-1] - safe[:, 1:])
    return np.where(mask, np.where(followed, drop, 0.0), np.nan)


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One way to score tokens. `name` is a column of tokens.parquet, `w_<name>` its weights."""

    name: str
    measure: Callable[[TokenScores], Float[np.ndarray, "completion token"]]
    unit: str
    source: str


SIGNALS = (
    Signal(name="surprisal", measure=surprisal, unit="nats", source=f"{PAPER}, Eq. 10"),
    Signal(
        name="entropy_reduction",
        measure=entropy_reduction,
        unit="nats",
        source=f"{PAPER}, Eqs. 12, 13",
    ),
    Signal(name="divergence", measure=divergence, unit="nats", source=f"{PAPER}, Eq. 14"),
    Signal(name="residual", measure=residual, unit="hidden units", source=f"{PAPER}, Eq. 15"),
    Signal(name="entropy", measure=entropy, unit="nats", source=f"{PAPER}, Eq. 11"),
    Signal(name="kl_exact", measure=kl_exact, unit="nats", source="not in the paper"),
    Signal(
        name="relative_residual", measure=relative_residual, unit="1", source="not in the paper"
    ),
)
SIGNAL_NAMES = tuple(signal.name for signal in SIGNALS)
