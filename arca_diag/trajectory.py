"""What a row of trajectories.parquet says: one completion's credit under one signal, in numbers.

Beside how concentrated the credit is, the row has what its concentration is held against: the
floor, the reference, the same entropies in random order, and the tokens between the ends.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from arca_diag.credit import credit_weights, floor_share
from arca_diag.diagnostics import DIAGNOSTICS
from arca_diag.diagnostics.concentration import effn_corrected, gini_corrected
from arca_diag.diagnostics.inheritance import total_variation
from arca_diag.diagnostics.structure import gini_permuted, without_ends
from arca_diag.thresholds import Cuts
from arca_diag.verdict import classify

#: Signals that the reference has too, in the columns `ref_<name>` of tokens.parquet.
REFERENCE_SIGNALS = ("surprisal", "entropy", "entropy_reduction")
#: The columns that `give_credit` fills, and what stands there where a value is undefined.
COLUMNS: dict[str, float | None] = {
    **{diagnostic.name: math.nan for diagnostic in DIAGNOSTICS},
    "class": None,
    "floor_share": math.nan,
    "inherited_tv": math.nan,
    "gini_permuted": math.nan,
    "gini_inner": math.nan,
    "effn_inner": math.nan,
    "class_inner": None,
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """One signal over completions side by side, padded. `mask` is True where a token counts.

    Attributes:
        scores: Raw salience, >= 0.
        mask: True where a token counts.
        closed: False where a completion is known to be cut off, so that no token closes it.
        reference: The same signal under the reference; None if it has none there.
        entropies: What the scores are the falls of; None for any signal but entropy reduction.
    """

    scores: Float[np.ndarray, "completion token"]
    mask: Bool[np.ndarray, "completion token"]
    closed: Bool[np.ndarray, " completion"]
    reference: Float[np.ndarray, "completion token"] | None = None
    entropies: Float[np.ndarray, "completion token"] | None = None


@dataclass(frozen=True, kw_only=True)
class Credited:
    """The credit of a `Block`.

    Attributes:
        weights: As from `credit_weights`.
        columns: One value a completion for each of `COLUMNS`.
    """

    weights: Float[np.ndarray, "completion token"]
    columns: dict[str, np.ndarray]


def give_credit(block: Block, *, epsilon: float, sharpening: float, cuts: Cuts) -> Credited:
    """Weigh the tokens of each completion and say everything that a row has of that.

    Args:
        block: The signal.
        epsilon: The floor added to every score.
        sharpening: The power.
        cuts: Those in force.
    """
    rule = {"epsilon": epsilon, "sharpening": sharpening}
    scores, mask = block.scores, block.mask
    inside = without_ends(mask, block.closed)
    weights = credit_weights(scores, mask, **rule)
    # Anew from the scores: where only an end has one, the rest has no credit, not an even one.
    inner = credit_weights(scores, inside, **rule)

    columns = {name: np.full(len(mask), undefined) for name, undefined in COLUMNS.items()}
    columns |= {diagnostic.name: diagnostic.measure(weights, mask) for diagnostic in DIAGNOSTICS}
    columns["floor_share"] = floor_share(scores, mask, epsilon=epsilon)
    columns["gini_inner"] = gini_corrected(inner, inside)
    columns["effn_inner"] = effn_corrected(inner, inside)
    if block.reference is not None:
        reference = credit_weights(block.reference, mask, **rule)
        columns["inherited_tv"] = total_variation(weights, reference, mask)
    if block.entropies is not None:
        columns["gini_permuted"] = gini_permuted(
            block.entropies, mask, epsilon=epsilon, sharpening=sharpening
        )

    for name, gini, effn, where in (
        ("class", "gini_corrected", "effn_corrected", mask),
        ("class_inner", "gini_inner", "effn_inner", inside),
    ):
        no_signal = np.where(where, scores, 0.0).max(axis=1, initial=0.0) == 0
        columns[name] = classify(columns[gini], columns[effn], where.sum(axis=1), no_signal, cuts)
    return Credited(weights=weights, columns=columns)
