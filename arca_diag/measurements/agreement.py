"""What every two signals have in common on the same tokens."""

import itertools

import numpy as np
import pandas as pd

from arca_diag.diagnostics.agreement import AGREEMENTS, MIN_TOKENS, rank_tokens
from arca_diag.measurements.evidence import Evidence, Place
from arca_diag.measurements.figures import figure, why_undefined
from arca_diag.results import Measurement
from arca_diag.shapes import chunks_with_span, padded
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import completion_starts

#: Every figure of every pair: (signal, against, figure).
_PAIRED = tuple(
    (signal, against, name)
    for signal, against in itertools.combinations(SIGNAL_NAMES, 2)
    for name in AGREEMENTS
)


def measure_agreement(evidence: Evidence) -> list[Measurement]:
    """The figures of `AGREEMENTS` for every pair of signals.

    `signal` is the one that `SIGNAL_NAMES` has first, `against` the other.
    """
    agreements = _agreements(evidence.tokens)
    out = []
    for place in evidence.places():
        rows = place.completions
        here = agreements.reindex(pd.MultiIndex.from_frame(rows[["checkpoint", "rollout_id"]]))
        for signal, against, name in _PAIRED:
            values = here[signal, against, name].to_numpy(float)
            reason = _why_undefined(place, rows, name)
            out.append(
                figure(place, name, values, rows, signal=signal, against=against, reason=reason)
            )
    return out


def _agreements(tokens: pd.DataFrame) -> pd.DataFrame:
    """A row a checkpoint and completion, a column for each of `_PAIRED`; NaN where undefined."""
    starts = completion_starts(tokens)
    lengths = np.diff(np.append(starts, len(tokens)))
    counted = tokens["counted"].to_numpy(bool)
    found = {key: np.full(len(starts), np.nan) for key in _PAIRED}
    for rows, part, span in chunks_with_span(lengths):
        mask = padded(counted[rows], part, False)
        ranked = {
            name: rank_tokens(padded(tokens[name].to_numpy(float)[rows], part, np.nan), mask)
            for name in SIGNAL_NAMES
        }
        for (signal, against, name), values in found.items():
            values[span] = AGREEMENTS[name](ranked[signal], ranked[against])
    head = tokens.iloc[starts][["checkpoint", "rollout_id"]]
    return pd.DataFrame(found, index=pd.MultiIndex.from_frame(head))


def _why_undefined(place: Place, rows: pd.DataFrame, name: str) -> str:
    if rows.empty:
        return why_undefined(place.view, rows)
    if (rows["n_tokens"] < MIN_TOKENS).all():
        return f"every completion counts fewer than {MIN_TOKENS} tokens"
    still = "the same at every token"
    if name == "rank_agreement_partial":
        still += ", or in the order of the tokens,"
    return f"one of the two is {still} in every completion of {MIN_TOKENS} tokens or more"
