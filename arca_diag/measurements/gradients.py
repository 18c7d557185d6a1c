"""Whether a signal ranks tokens as their true gradients do, and how much of that is a tautology.

The gradient of log pi(y_t) by the adapter is J_t^T (e_y - pi). The norm of e_y - pi is nearly a
function of pi(y_t) alone, so a signal of the output follows the gradient by construction. A signal
knows something of its own where it follows the quotient of the two, or where its product with
the factor follows the gradient better than the factor alone (`gradient_factor_agreement`) does.
"""

import itertools
import math

import numpy as np
import pandas as pd

from arca_diag.diagnostics.agreement import MIN_TOKENS, rank_agreement, rank_tokens
from arca_diag.measurements.evidence import Evidence, Place
from arca_diag.measurements.figures import figure, why_undefined
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES

#: Of every signal.
AGREEMENTS = (
    "gradient_agreement",
    "gradient_agreement_factor",
    "gradient_agreement_quotient",
    "gradient_agreement_product",
)
#: Of the factor alone: the trivial baseline.
BASELINE = "gradient_factor_agreement"

#: (signal, figure): all of them.
_FIGURES: tuple[tuple[str | None, str], ...] = (
    (None, BASELINE),
    *itertools.product(SIGNAL_NAMES, AGREEMENTS),
)
_KEYS = ["checkpoint", "rollout_id"]


def measure_gradient_agreement(evidence: Evidence) -> list[Measurement]:
    r"""Spearman's rank correlation within a completion of each signal s with the true gradient g.

    With f = \|e_y - pi\|: `gradient_agreement` of s with g, `gradient_agreement_factor` of s with
    f, `gradient_agreement_quotient` of s with g / f, `gradient_agreement_product` of s f with g;
    and once, without a signal, `gradient_factor_agreement` of f with g. In [-1, 1]; undefined for
    T < 8 and where a side is constant; the quotient leaves out tokens whose f is exactly 0.

    Nothing where no gradients were measured, else the view that they were taken from.

    Source:
        `diagnostics.agreement.rank_agreement`. Not in the paper, which calls the residual a proxy
        for the gradient and does not measure it.
    """
    if evidence.gradients.empty:
        return []
    tokens = evidence.gradients.merge(
        evidence.tokens[[*_KEYS, "position", *SIGNAL_NAMES]],
        on=[*_KEYS, "position"],
        validate="one_to_one",
    )
    groups = tokens.groupby(_KEYS, sort=False)
    found = pd.DataFrame({key: _agreements(part) for key, part in groups}).T
    out = []
    for place in evidence.places():
        rows = place.completions
        measured = pd.MultiIndex.from_frame(rows[_KEYS]).isin(found.index)
        rows = rows[measured]
        n_measured = (found.index.get_level_values(0) == place.name).sum()
        elsewhere = len(rows) < n_measured or (place.view == "fixed-set" and rows["own_set"].all())
        if elsewhere:  # of no completion at all, this is true of the fixed set
            continue
        here = found.reindex(pd.MultiIndex.from_frame(rows[_KEYS]))
        for signal, name in _FIGURES:
            values = here[signal or "", name].to_numpy(float)
            reason = _why_undefined(place, rows, signal)
            out.append(figure(place, name, values, rows, signal=signal, reason=reason))
    return out


def _agreements(part: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Every figure of one completion; NaN where undefined."""
    gradient, factor = (part[c].to_numpy(float) for c in ("gradient_norm", "output_factor"))
    known = factor > 0
    quotient = gradient[known] / factor[known]
    found = {("", BASELINE): _spearman(factor, gradient)}
    for name in SIGNAL_NAMES:
        signal = part[name].to_numpy(float)
        values = (
            _spearman(signal, gradient),
            _spearman(signal, factor),
            _spearman(signal[known], quotient),
            _spearman(signal * factor, gradient),
        )
        found |= {(name, figure): v for figure, v in zip(AGREEMENTS, values, strict=True)}
    return found


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    if not len(one):
        return math.nan
    every = np.ones((1, len(one)), dtype=bool)
    ranked, against = (rank_tokens(side[None, :], every) for side in (one, other))
    return float(rank_agreement(ranked, against)[0])


def _why_undefined(place: Place, rows: pd.DataFrame, signal: str | None) -> str:
    if rows.empty:
        return why_undefined(place.view, rows)
    if (rows["n_tokens"] < MIN_TOKENS).all():
        return f"every completion whose gradients were measured counts under {MIN_TOKENS} tokens"
    what = signal or "||e_y - pi||"
    return f"{what}, or what it is compared with, is the same at every token of each completion"
