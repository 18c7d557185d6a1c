"""The replay against the means of entropy and KL that the trainer logged of a batch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from arca_diag.fidelity.logged import Logged
from arca_diag.fidelity.statuses import MEANING, ORDER, Status, cannot, half_width, status_of
from arca_diag.inputs.arguments import as_number
from arca_diag.inputs.rollouts.census import Entry
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.results import Fidelity
from arca_diag.thresholds import Cuts


def by_means(
    label: str,
    at: pd.DataFrame,
    replayed: Mapping[str, Rollout],
    entries: Sequence[Entry],
    step: int,
    logged: Logged,
    cuts: Cuts,
) -> Fidelity:
    """Against the log's means: the entry after the checkpoint, else the one at it."""
    if not logged.rows:
        return cannot(label, "the run left no log and no log-probabilities")
    for at_step in (step + 1, step):
        row = next(
            (r for r in logged.rows if r.get("step") == at_step and ("entropy" in r or "kl" in r)),
            None,
        )
        batch = logged.batches.get(at_step)
        members = {e.id for e in entries if batch and e.batch == batch}
        mine = at[at["rollout_id"].isin(members)]
        if row is None or mine.empty:
            continue
        ids = mine["rollout_id"].unique()
        guessed = sum(not replayed[i].ids_exact for i in ids)
        missing = len(members - replayed.keys())
        averaged = (logged.interval or 1) > 1
        doubt = []
        told = {name: why for name, why in logged.of_another.items() if name in row}
        doubt += [f"the logged {name} is not compared: {why}" for name, why in told.items()]
        row = {key: value for key, value in row.items() if key not in told}
        if guessed:
            doubt.append(f"{guessed} completions were tokenised again from text, without their end")
        if at_step == step:
            doubt.append("nothing was logged one step on, so the entry is of the policy before")
        if averaged:
            doubt.append(f"the entry averages {logged.interval} steps and the batch is the last")
        if logged.partial:
            doubt.append("the entry is of a part of the batch")
        if missing:
            here = len(members) - missing
            doubt.append(f"{here} of the batch's {len(members)} completions were replayed")
        allowance = _Allowance(
            sampling=bool(missing) or averaged or logged.partial,
            # The end token that text does not hold is at most about as far from the mean as
            # the mean is from 0.
            unseen=guessed / len(mine),
        )
        clusters = {i: replayed[i].cluster for i in ids}
        return _compare(
            label, mine, clusters, row, at_step, allowance, logged.micro_batch, doubt, cuts
        )
    logged_here = [s for s in (step + 1, step) if any(r.get("step") == s for r in logged.rows)]
    if logged_here:
        return cannot(
            label,
            f"the log's entry at step {logged_here[0]} is of completions that were not replayed",
        )
    return cannot(label, f"nothing was logged at step {step + 1} or {step}")


@dataclass(frozen=True, kw_only=True)
class _Allowance:
    """What a difference may be beside the tolerance: `unseen` is relative."""

    sampling: bool
    unseen: float


def _compare(
    label: str,
    mine: pd.DataFrame,
    clusters: Mapping[str, str],
    row: Mapping[str, Any],
    at_step: int,
    allowance: _Allowance,
    micro_batch: int | None,
    doubt: list[str],
    cuts: Cuts,
) -> Fidelity:
    ratio = mine["log_ratio"].to_numpy(float)
    series = {"entropy": mine["entropy"].to_numpy(float)}
    with np.errstate(over="ignore"):
        series["kl"] = np.exp(-ratio) + ratio - 1  # k3, the estimator that trainers log
    prompts = mine["rollout_id"].map(clusters).to_numpy(object)
    figures: dict[str, float | None] = {"log_step": float(at_step)}
    worst: Status = "pass"
    said: list[str] = []
    unsure: list[str] = []
    for name, values in series.items():
        written = as_number(row.get(name))
        if written is None or not math.isfinite(written) or not np.isfinite(values).all():
            continue
        ours = _batch_mean(values, mine["rollout_id"].to_numpy(object), micro_batch, written)
        # Rounding does not shrink with the mean: a few undecided tokens carry both.
        scale = max(abs(written), cuts[f"fidelity-{name}-floor"])
        if name == "kl" and cuts.passed("fidelity-kl-floor", max(abs(written), abs(ours))):
            gap, spread = 0.0, 0.0
        else:
            gap = abs(ours - written) / scale
            spread = half_width(values, prompts) / scale if allowance.sampling else 0.0
            spread += allowance.unseen
        figures |= {
            f"{name}_replayed": ours,
            f"{name}_logged": written,
            f"{name}_relative_difference": gap,
        }
        if spread:
            figures[f"{name}_allowance"] = spread if math.isfinite(spread) else None
        status = status_of(gap, name, spread, cuts)
        # What is allowed only because so little is known is no agreement.
        uncertain = cuts.passed(f"fidelity-{name}-fail", spread)
        if status == "pass" and cuts.passed(f"fidelity-{name}-warn", gap) and uncertain:
            unsure.append(name)
        worst = max(worst, status, key=ORDER.index)
        of = "" if scale == abs(written) else f" of {scale:g} nats"
        said.append(f"{name} {ours:.4g} replayed, {written:.4g} logged ({gap:.1%}{of} off)")
    note = f"; {'; '.join(doubt)}" if doubt else ""
    if not said:
        what = f"the log's entry at step {at_step} has no entropy or KL to compare"
        return cannot(label, what + note)
    if unsure and worst == "pass":
        return Fidelity(
            checkpoint=label,
            status="cannot-tell",
            figures=figures,
            reason=f"{', '.join(said)} at step {at_step}: too little of the batch was replayed "
            f"to say whether that is chance{note}",
        )
    return Fidelity(
        checkpoint=label,
        status=worst,
        figures=figures,
        reason=f"{MEANING[worst]}: {', '.join(said)} at step {at_step}{note}",
    )


def _batch_mean(
    values: np.ndarray, completions: np.ndarray, micro_batch: int | None, written: float
) -> float:
    """The mean of a batch as its trainer takes it.

    Of parts of one completion each it is the mean of the completions' means. Of larger parts,
    whose make-up is not known, it lies between that and the mean over tokens: what was written,
    if that does, else the nearer end.
    """
    by_token = float(values.mean())
    if micro_batch is None:
        return by_token
    _, index = np.unique(completions, return_inverse=True)
    by_completion = float((np.bincount(index, values) / np.bincount(index)).mean())
    if micro_batch == 1:
        return by_completion
    low, high = sorted((by_token, by_completion))
    return min(max(written, low), high)
