"""How much of every signal is rounding, from a few completions that were replayed again."""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from arca_diag.diagnostics.agreement import MIN_TOKENS, rank_agreement, rank_tokens
from arca_diag.measurements.evidence import Evidence, Place, figure, why_undefined
from arca_diag.replay.scores import OTHER_BATCH
from arca_diag.results import Measurement
from arca_diag.shapes import check_masked, padded
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import chunks_with_span, completion_starts

_FIGURES = ("noise_share", "noise_rank_agreement")
_COMPLETION = ["checkpoint", "rollout_id"]
_TOKEN = [*_COMPLETION, "position"]


def noise_share(
    one: Float[np.ndarray, "completion token"],
    other: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
) -> Float[np.ndarray, " completion"]:
    r"""How far a signal differs between two replays of the same tokens, over its own size.

    With the scores a_t and b_t of a completion's counted tokens,

        \sum_t |a_t - b_t| / \sum_t \max(|a_t|, |b_t|).

    0 where both replays give the same numbers, which happens: in float64, and in float32 where
    another batch does not change the order of the sums. 1 where one gives nothing but zeros and
    the other does not.

    What rounding gives both replays alike it does not see. A norm of pure rounding is nearly
    the same each time, so a residual may be rounding alone and have a small share against
    another batch; against a higher precision it has a large one.

    Args:
        one: Scores, >= 0 for every signal there is, in any unit.
        other: The same in the other replay.
        mask: True where a token counts.

    Returns:
        A share in [0, 1], dimensionless. NaN where every counted score is exactly 0 both times.

    Raises:
        ValueError: The shapes differ, or a counted score is NaN or infinite.
    """
    check_masked(one, mask)
    check_masked(other, mask)
    a, b = (np.where(mask, scores, 0.0) for scores in (one, other))
    size = np.maximum(np.abs(a), np.abs(b)).sum(axis=1)
    return np.abs(a - b).sum(axis=1) / np.where(size > 0, size, np.nan)


def measure_noise(evidence: Evidence) -> list[Measurement]:
    """`noise_share` and `noise_rank_agreement` of every signal against every replica.

    The second is Spearman's rank correlation of a completion's tokens with themselves in the
    replica (see `rank_agreement`): 1 where rounding moves no order, NaN below 8 tokens.

    Only the completions that were replayed again are measured. Against another batch there is
    always a figure, null where no noise was measured; against float32 where that was replayed.
    """
    found = _figures(evidence)
    replicas = list(dict.fromkeys([OTHER_BATCH, *evidence.noise["replica"]]))
    out = []
    for place in evidence.places():
        for replica in replicas:
            rows = place.completions
            keys = pd.MultiIndex.from_frame(rows[_COMPLETION].assign(replica=replica))
            again = keys.isin(found.index)
            here = found.reindex(keys[again])
            for signal in SIGNAL_NAMES:
                for name in _FIGURES:
                    values = here[signal, name].to_numpy(float)
                    reason = _why_undefined(place, rows, rows[again], name)
                    out.append(
                        figure(
                            place,
                            name,
                            values,
                            rows[again],
                            signal=signal,
                            against=replica,
                            reason=reason,
                        )
                    )
    return out


def _figures(evidence: Evidence) -> pd.DataFrame:
    """A row a checkpoint, completion and replica, a column a signal and figure."""
    again = evidence.noise
    tokens = evidence.tokens[evidence.tokens["rollout_id"].isin(again["rollout_id"].unique())]
    first = tokens[[*_TOKEN, "counted", *SIGNAL_NAMES]]
    both = again.merge(first, on=_TOKEN, how="left", suffixes=("_again", ""), validate="m:1")

    starts = completion_starts(both)
    lengths = np.diff(np.append(starts, len(both)))
    counted = both["counted"].to_numpy(bool)
    found = {(s, name): np.full(len(starts), np.nan) for s in SIGNAL_NAMES for name in _FIGURES}
    for rows, part, span in chunks_with_span(lengths):
        mask = padded(counted[rows], part, False)
        for signal in SIGNAL_NAMES:
            one, other = (
                padded(both[column].to_numpy(float)[rows], part, np.nan)
                for column in (signal, f"{signal}_again")
            )
            ranked = rank_tokens(one, mask), rank_tokens(other, mask)
            found[signal, "noise_share"][span] = noise_share(one, other, mask)
            found[signal, "noise_rank_agreement"][span] = rank_agreement(*ranked)
    index = pd.MultiIndex.from_frame(both.iloc[starts][[*_COMPLETION, "replica"]])
    return pd.DataFrame(found, index=index)


def _why_undefined(place: Place, rows: pd.DataFrame, again: pd.DataFrame, name: str) -> str:
    if rows.empty:
        return why_undefined(place.view, rows)
    if again.empty:
        return "no noise was measured"
    if name == "noise_share":
        return "exactly zero both times"
    if (again["n_tokens"] < MIN_TOKENS).all():
        return f"every completion counts fewer than {MIN_TOKENS} tokens"
    return f"the same at every token in every completion of {MIN_TOKENS} tokens or more"
