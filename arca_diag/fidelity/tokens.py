"""The replay against log-probabilities that the trainer or the sampler kept of every token."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from arca_diag.fidelity.statuses import MEANING, status_of
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.results import Fidelity
from arca_diag.thresholds import Cuts


def by_token(
    label: str, at: pd.DataFrame, replayed: Mapping[str, Rollout], step: int, cuts: Cuts
) -> Fidelity | None:
    """Against log-probabilities per token, on what the checkpoint's own policy sampled."""
    figures: dict[str, float | None] = {}
    used = 0
    groups = dict(iter(at.groupby("rollout_id", sort=False)))
    for name, column, sign in (
        ("trainer_logprobs", "surprisal", -1.0),
        ("sampling_logprobs", "surprisal", -1.0),
        ("entropies", "entropy", 1.0),
    ):
        gaps: list[np.ndarray] = []
        for identity, rows in groups.items():
            rollout = replayed.get(str(identity))
            values = getattr(rollout, name) if rollout is not None else None
            if rollout is None or rollout.step != step or values is None or not rollout.ids_exact:
                continue
            written = np.asarray(values, dtype=float)[rows["position"].to_numpy(int)]
            gap = sign * rows[column].to_numpy(float) - written
            gaps.append(np.abs(gap[np.isfinite(gap)]))
        together = np.concatenate(gaps) if gaps else np.zeros(0)
        if together.size:
            figures[f"{name}_mean_abs_difference"] = float(together.mean())
            used = max(used, int(together.size))
    primary = next(
        (
            v
            for name in ("trainer_logprobs", "sampling_logprobs")
            if (v := figures.get(f"{name}_mean_abs_difference")) is not None
        ),
        None,
    )
    if primary is None:
        return None
    figures["tokens"] = float(used)
    status = status_of(primary, "logprob", 0.0, cuts)
    return Fidelity(
        checkpoint=label,
        status=status,
        figures=figures,
        reason=f"{MEANING[status]}: log-probabilities of {used:,} tokens differ by "
        f"{primary:.3g} nats on average",
    )
