"""Credit for every completion: from the table of tokens to their weights and the trajectories.

No model is needed: other epsilon, sharpening or cuts are applied to a saved table again.
"""

import numpy as np
import pandas as pd

from arca_diag.shapes import chunks_with_span, padded
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import TOKENS, TRAJECTORIES, completion_starts
from arca_diag.thresholds import DEFAULT, Cuts
from arca_diag.trajectory import COLUMNS, REFERENCE_SIGNALS, Block, give_credit


def judge(
    tokens: pd.DataFrame,
    members: pd.DataFrame,
    rollouts: pd.DataFrame,
    *,
    epsilon: float,
    sharpening: float,
    cuts: Cuts = DEFAULT,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Turn every signal into credit and measure how concentrated it is, and beside what.

    Args:
        tokens: As from `tables.token_table` or a saved tokens.parquet; rows of a completion
            together.
        members: As from `tables.memberships` or `tables.saved_memberships`.
        rollouts: As from `tables.rollout_table`: which completions are known to be cut off.
        epsilon: The floor added to every score.
        sharpening: The configured power; figures are given at 1 too.
        cuts: Those in force.

    Returns:
        The tokens with their weights at the configured sharpening, and the trajectories.
    """
    starts = completion_starts(tokens)
    lengths = np.diff(np.append(starts, len(tokens)))
    head = tokens.iloc[starts]
    counted = tokens["counted"].to_numpy(bool)
    pairs = pd.MultiIndex.from_frame(head[["checkpoint", "rollout_id"]])
    keys = head[["checkpoint", "checkpoint_step", "rollout_id", "rollout_step", "group_id"]]
    sets = members.loc[pairs]
    keys = keys.assign(
        own_set=sets["own_set"].to_numpy(bool), fixed_set=sets["fixed_set"].to_numpy(bool)
    )
    n_tokens = np.add.reduceat(counted.astype(int), starts) if len(starts) else np.empty(0, int)

    reasons = head["rollout_id"].map(rollouts.set_index("rollout_id")["finish_reason"])
    closed = (reasons != "length").to_numpy(bool)

    weights = {f"w_{name}": np.full(len(tokens), np.nan) for name in SIGNAL_NAMES}
    trajectories = []
    for name in SIGNAL_NAMES:
        raw = {field: tokens[of].to_numpy(float) for field, of in _columns_of(name).items()}
        for power in sorted({1.0, float(sharpening)}):
            columns = {column: np.full(len(starts), null) for column, null in COLUMNS.items()}
            for rows, part, span in chunks_with_span(lengths):
                found = give_credit(
                    Block(
                        mask=padded(counted[rows], part, False),
                        closed=closed[span],
                        **{field: padded(raw[field][rows], part, np.nan) for field in raw},
                    ),
                    epsilon=epsilon,
                    sharpening=power,
                    cuts=cuts,
                )
                for column, values in found.columns.items():
                    columns[column][span] = values
                if power == sharpening:
                    inside = np.arange(found.weights.shape[1]) < part[:, None]
                    weights[f"w_{name}"][rows] = found.weights[inside]
            trajectories.append(
                keys.assign(n_tokens=n_tokens, signal=name, sharpening=power, **columns)
            )
    if "token_class" not in tokens:  # results were once made without it
        weights["token_class"] = np.full(len(tokens), None)
    judged = tokens.drop(columns=list(weights), errors="ignore").assign(**weights)
    whole = pd.concat(trajectories, ignore_index=True)
    return judged[TOKENS.names], whole[TRAJECTORIES.names]


def _columns_of(signal: str) -> dict[str, str]:
    """Field of a `Block` -> the column of tokens.parquet that it holds."""
    found = {"scores": signal}
    if signal in REFERENCE_SIGNALS:
        found["reference"] = f"ref_{signal}"
    if signal == "entropy_reduction":
        found["entropies"] = "entropy"
    return found
