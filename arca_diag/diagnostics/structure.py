"""What a completion's concentration owes to how it is made, whatever the model learned.

Entropy reduction is exactly 0 at every rise of entropy, about half of all tokens, so it is sparse
by construction: its level is compared with that of the same entropies in random order. The first
token and the closing end token are special under every signal: figures are taken without them too.
"""

import hashlib

import numpy as np
from jaxtyping import Bool, Float

from arca_diag.credit import credit_weights
from arca_diag.diagnostics.concentration import gini_corrected
from arca_diag.shapes import check_shapes
from arca_diag.signals import entropy_drop

#: Permutations of each completion. Their noise adds 1/64 to the variance that the excess of a
#: structureless completion has anyhow: under 1% to the width of an interval.
PERMUTATIONS = 64
_CELLS = 2**18  # padded cells worked on at once: bounds memory, moves no number


def gini_permuted(
    entropies: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
    *,
    epsilon: float = 1e-8,
    sharpening: float = 1.0,
    seed: int = 0,
) -> Float[np.ndarray, " completion"]:
    """G^ of the credit by entropy reduction if the same entropies came in random order.

    The mean of `gini_corrected` over random permutations of a completion's counted entropies. Its
    mask stays, and with it where a turn ends. Permutations under which no entropy falls give no
    credit and are left out, as a completion of which that is true is. For i.i.d. exponential
    entropies the level is about .875 at T = 5, .784 at 16 and .763 at 40: far from 0.

    Permutations depend on the seed and on the entropies alone, so that which other completions
    are measured moves nothing. Results are always of seed 0: a cause must not hang on a draw, and
    what is left of chance is in the spread over completions, which the interval has.

    Args:
        entropies: Nats, >= 0. Uncounted entries are ignored.
        mask: True where a token counts.
        epsilon: The floor added to every score.
        sharpening: The power of the credit.
        seed: Of the permutations, >= 0.

    Returns:
        A mean of G^ in [0, 1], float64, dimensionless. NaN where none of the permutations gives
        credit: T < 2, no two counted tokens side by side, equal entropies.

    Raises:
        ValueError: The shapes differ, or a counted entropy is negative or not finite.
    """
    check_shapes(entropies, mask)
    out = np.full(len(mask), np.nan)
    step = max(1, _CELLS // (PERMUTATIONS * max(mask.shape[1], 1)))
    for first in range(0, len(mask), step):
        rows = slice(first, first + step)
        repeated = np.repeat(mask[rows], PERMUTATIONS, axis=0)
        shuffled = np.zeros(repeated.shape)
        shuffled[repeated] = np.concatenate(
            [_permuted(e[m], seed) for e, m in zip(entropies[rows], mask[rows], strict=True)]
        )
        credit = credit_weights(
            entropy_drop(shuffled, repeated), repeated, epsilon=epsilon, sharpening=sharpening
        )
        found = gini_corrected(credit, repeated).reshape(-1, PERMUTATIONS)
        defined = ~np.isnan(found)
        some = defined.any(axis=1)
        out[rows][some] = found[some].mean(axis=1, where=defined[some])
    return out


def without_ends(
    mask: Bool[np.ndarray, "completion token"],
    closed: Bool[np.ndarray, " completion"],
) -> Bool[np.ndarray, "completion token"]:
    """The mask without the first counted token and without the closing end token.

    Args:
        mask: True where a token counts.
        closed: False where a completion was cut off, so that its last token closes nothing.
    """
    before = np.cumsum(mask, axis=1)
    is_first = before == 1
    is_last = before == before[:, -1:]
    return mask & ~is_first & ~(is_last & closed[:, None])


def _permuted(entropies: Float[np.ndarray, " token"], seed: int) -> Float[np.ndarray, " value"]:
    """The entropies of one completion in `PERMUTATIONS` random orders, one after the other."""
    digest = hashlib.sha256(np.ascontiguousarray(entropies).tobytes()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(digest[:16])])
    orders = np.tile(entropies, (PERMUTATIONS, 1))
    return generator.permuted(orders, axis=1).ravel()
