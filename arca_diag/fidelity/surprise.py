"""The replay against itself: can the policy have sampled what is said to be its own?"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from arca_diag.fidelity.statuses import MEANING, ORDER, half_width, status_of
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.results import Fidelity
from arca_diag.thresholds import Cuts


def by_surprise(
    found: Fidelity, at: pd.DataFrame, replayed: Mapping[str, Rollout], step: int, cuts: Cuts
) -> Fidelity:
    """What was found, and whether the replayed policy can have sampled its own samples.

    The mean over tokens of surprisal - entropy is 0 under the policy that sampled them, whatever
    that is. Only what is surely above it counts: the replayed policy finds unlikely what was
    sampled, to another prompt or by another base or step. Cutting off the tail (top-p) puts it
    below, as sampling at a lower temperature does.
    """
    own = [i for i in at["rollout_id"].unique() if replayed[i].step == step]
    if any(r.step == step and not any(r.mask) for r in replayed.values()):
        return found  # what was cut off is masked: the rest is not a sample of all that was drawn
    exact = [i for i in own if replayed[i].ids_exact]
    ids = exact or own
    mine = at[at["rollout_id"].isin(ids)]
    excess = (mine["surprisal"] - mine["entropy"]).to_numpy(float)
    entropy = float(mine["entropy"].mean()) if len(mine) else math.nan
    if not (len(excess) and np.isfinite(excess).all() and math.isfinite(entropy)):
        return found
    scale = max(entropy, cuts["fidelity-surprise-floor"])
    value = float(excess.mean()) / scale
    clusters = mine["rollout_id"].map({i: replayed[i].cluster for i in ids}).to_numpy(object)
    spread = half_width(excess, clusters) / scale
    if not cuts.passed("fidelity-surprise-prompts", len(set(clusters))):
        return found
    allowed = spread + (0.0 if exact else cuts["fidelity-surprise-text"])
    status = status_of(value, "surprise", allowed, cuts)
    figures = found.figures | {
        "surprise_relative_excess": value,
        "surprise_relative_excess_low": value - spread if math.isfinite(spread) else None,
    }
    if status == "pass":
        return found.model_copy(update={"figures": figures})
    said = (
        f"what is said to be its own samples surprises it by {value:.0%} more than its entropy "
        f"({entropy:.3g} nats) allows: another policy sampled them"
    )
    if found.status not in ("warn", "fail"):
        reason = f"{MEANING[status]}: {said}"
    else:
        reason = f"{found.reason}; {said}"
        status = max(status, found.status, key=ORDER.index)
    return Fidelity(checkpoint=found.checkpoint, status=status, figures=figures, reason=reason)
