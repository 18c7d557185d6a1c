"""How much of every signal is rounding, from a few completions that were replayed again."""

import math

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from arca_diag.diagnostics.agreement import MIN_TOKENS, rank_agreement, rank_tokens
from arca_diag.diagnostics.uncertainty import cluster_mean, cluster_mean_skewed
from arca_diag.measurements.evidence import Evidence, Place
from arca_diag.measurements.figures import figure, why_undefined
from arca_diag.replay.scores import OTHER_BATCH
from arca_diag.results import Measurement
from arca_diag.shapes import check_masked, chunks_with_span, padded
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import completion_starts

_FIGURES = {"noise_share": cluster_mean_skewed, "noise_rank_agreement": cluster_mean}
_COMPLETION = ["checkpoint", "rollout_id"]
_TOKEN = [*_COMPLETION, "position"]


def noise_share(
    apart: Float[np.ndarray, "completion token"],
    one: Float[np.ndarray, "completion token"],
    other: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
) -> Float[np.ndarray, " completion"]:
    r"""How far a signal differs between two replays of the same tokens, over its own size.

    With the scores a_t and b_t of a completion's counted tokens and d_t, how far they are apart,

        \sum_t d_t / \sum_t \max(|a_t|, |b_t|).

    0 where both replays give the same numbers, which happens: in float64, and in float32 where
    another batch does not change the order of the sums. About 1 for pure rounding.

    Args:
        apart: d_t >= 0. Not |a_t - b_t| where scores hide what differs: see `measure_noise`.
        one: Scores, >= 0 for every signal there is, in any unit.
        other: The same in the other replay.
        mask: True where a token counts.

    Returns:
        A share >= 0, dimensionless. NaN where every counted score is exactly 0 both times.

    Raises:
        ValueError: The shapes differ, or a counted score is NaN or infinite.
    """
    for scores in (apart, one, other):
        check_masked(scores, mask)
    d, a, b = (np.where(mask, scores, 0.0) for scores in (apart, one, other))
    size = np.maximum(np.abs(a), np.abs(b)).sum(axis=1)
    return d.sum(axis=1) / np.where(size > 0, size, np.nan)


def measure_noise(evidence: Evidence) -> list[Measurement]:
    """`noise_share` and `noise_rank_agreement` of every signal against every replica.

    The second is Spearman's rank correlation of a completion's tokens with themselves in the
    replica (see `rank_agreement`): 1 where rounding moves no order, NaN below 8 tokens. The
    interval of the first allows for skewness.

    How far two replays are apart is |a - b|, but for what the scores' sizes hide. A residual of
    pure rounding has nearly the same norm every time: against another batch and against float64
    it is the norm of the difference of the two residual vectors, in another batch over sqrt(2)
    since both are rounded alike. Below float32 the norm in float32 is the truth. And a divergence
    is the size of a log-ratio, whose sign rounding turns: it is that of the signed log-ratios.

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
            here, replayed = found.reindex(keys[again]), rows[again]
            for signal in SIGNAL_NAMES:
                for name, estimate in _FIGURES.items():
                    values = here[signal, name].to_numpy(float)
                    reason = _why_undefined(place, rows, replayed, name)
                    out.append(
                        figure(
                            place,
                            name,
                            values,
                            replayed,
                            signal=signal,
                            against=replica,
                            reason=reason,
                            estimate=estimate,
                        )
                    )
    return out


def _figures(evidence: Evidence) -> pd.DataFrame:
    """A row a checkpoint, completion and replica, a column a signal and figure."""
    again = evidence.noise
    tokens = evidence.tokens[evidence.tokens["rollout_id"].isin(again["rollout_id"].unique())]
    first = tokens[[*_TOKEN, "counted", *SIGNAL_NAMES, "log_ratio"]]
    both = again.merge(first, on=_TOKEN, how="left", suffixes=("_again", ""), validate="m:1")

    starts = completion_starts(both)
    lengths = np.diff(np.append(starts, len(both)))
    counted = both["counted"].to_numpy(bool)
    apart = {signal: _apart(both, signal) for signal in SIGNAL_NAMES}
    found = {(s, name): np.full(len(starts), np.nan) for s in SIGNAL_NAMES for name in _FIGURES}
    for rows, part, span in chunks_with_span(lengths):
        mask = padded(counted[rows], part, False)
        for signal in SIGNAL_NAMES:
            one, other = (
                padded(both[column].to_numpy(float)[rows], part, np.nan)
                for column in (signal, f"{signal}_again")
            )
            ranked = rank_tokens(one, mask), rank_tokens(other, mask)
            between = padded(apart[signal][rows], part, np.nan)
            found[signal, "noise_share"][span] = noise_share(between, one, other, mask)
            found[signal, "noise_rank_agreement"][span] = rank_agreement(*ranked)
    index = pd.MultiIndex.from_frame(both.iloc[starts][[*_COMPLETION, "replica"]])
    return pd.DataFrame(found, index=index)


def _apart(both: pd.DataFrame, signal: str) -> np.ndarray:
    """How far the two replays are apart at every token."""
    column = "log_ratio" if signal == "divergence" else signal
    sizes = (both[column] - both[f"{column}_again"]).abs().to_numpy(float)
    if f"{signal}_apart" not in both:
        return np.asarray(sizes)
    vectors = both[f"{signal}_apart"].to_numpy(float)
    vectors = np.where(both["replica"] == OTHER_BATCH, vectors / math.sqrt(2), vectors)
    return np.where(np.isnan(vectors), sizes, vectors)


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
