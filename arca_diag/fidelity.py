"""Is the replay the run? What was replayed against what the run logged of the same tokens.

Per-token log-probabilities where the trainer or the sampler kept them; else the means of
entropy and KL that the trainer logged at the step after the checkpoint, on the very batch that
the checkpoint's policy was given. And whatever was logged: a policy is, on average, as surprised
by its own samples as its entropy says. If the replay's is not, the samples are another policy's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import special

from arca_diag.inputs.arguments import as_number
from arca_diag.inputs.rollouts.census import Entry
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.results import Fidelity, Finding
from arca_diag.thresholds import DEFAULT, Cuts

_MEANING = {
    "pass": "the replay gives what the run logged",
    "warn": "the replay is a little off what the run logged",
    "fail": "the replay does not give what the run logged",
}
_REFERENCE = (
    "entropy is as logged and KL is not: training had another reference; name it with --reference "
    "(a folder with the adapter that the run continued, say)"
)
_Status = Literal["pass", "warn", "fail"]
_ORDER: tuple[_Status, ...] = ("pass", "warn", "fail")


@dataclass(frozen=True, kw_only=True)
class Logged:
    """What the run logged beside its rollouts.

    Attributes:
        rows: The trainer's log entries, each a mapping with `step` and figures.
        batches: Step of a log entry -> the batch that its means were taken over.
        interval: Steps that one entry averages over; None if unknown.
        partial: An entry averages over a part of its batch only: the batch is used in pieces.
        micro_batch: Completions in each part whose token means the entry averages; None if it is
            the token mean of the whole batch.
        of_another: "entropy" or "kl" -> why what was logged is of something else than the replay's.
    """

    rows: Sequence[Mapping[str, Any]]
    batches: Mapping[int, str]
    interval: int | None
    partial: bool
    micro_batch: int | None = None
    of_another: Mapping[str, str] = field(default_factory=dict)


def judge_fidelity(
    tokens: pd.DataFrame,
    rollouts: Iterable[Rollout],
    entries: Iterable[Entry],
    steps: Mapping[str, int | None],
    logged: Logged,
    cuts: Cuts = DEFAULT,
) -> list[Fidelity]:
    """Compare replay and log at every checkpoint.

    Args:
        tokens: A row a replayed token: `checkpoint`, `rollout_id`, `counted`, `surprisal`,
            `entropy`, `log_ratio`.
        rollouts: The completions that were replayed, with what was logged per token.
        entries: Every completion of the run: says whether a batch was replayed whole.
        steps: Name -> step of every measured checkpoint.
        logged: What the run logged.
        cuts: Those in force.

    Returns:
        One a checkpoint: pass, warn, fail, or cannot-tell with the reason.
    """
    replayed = {r.id: r for r in rollouts}
    everything = list(entries)
    out = []
    for name, step in steps.items():
        label = name if step is None else str(step)
        at = tokens[(tokens["checkpoint"] == name) & tokens["counted"]]
        if step is None:
            out.append(_cannot(label, "the checkpoint's step is unknown"))
            continue
        found = _by_token(label, at, replayed, step, cuts)
        found = found or _by_means(label, at, replayed, everything, step, logged, cuts)
        out.append(_by_surprise(found, at, replayed, step, cuts))
    return out


def mismatch_findings(fidelity: Sequence[Fidelity], cuts: Cuts = DEFAULT) -> list[Finding]:
    """The finding `replay-mismatch` for every checkpoint whose replay is not the run."""
    return [
        Finding(
            id="replay-mismatch",
            level="error" if found.status == "fail" else "warn",
            checkpoint=int(found.checkpoint) if found.checkpoint.isdigit() else found.checkpoint,
            signal=None,
            message=found.reason or _MEANING[found.status],
            evidence=dict(found.figures),
            action=_REFERENCE
            if _only_kl(found, cuts)
            else "check the temperature, the chat template, the base model, use_rslora in "
            "adapter_config.json, and whether checkpoint and completions belong together; until "
            "then no figure of this checkpoint is the run's",
            source="thresholds fidelity-*",
        )
        for found in fidelity
        if found.status in ("warn", "fail")
    ]


def _only_kl(found: Fidelity, cuts: Cuts) -> bool:
    """Whether entropy is as logged, and KL is not: the policy is right, the reference another."""
    entropy = found.figures.get("entropy_relative_difference")
    kl = found.figures.get("kl_relative_difference")
    return (
        entropy is not None
        and kl is not None
        and not cuts.passed("fidelity-entropy-warn", entropy)
        and bool(cuts.passed("fidelity-kl-warn", kl))
    )


def _by_token(
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
    status = _status(primary, "logprob", 0.0, cuts)
    return Fidelity(
        checkpoint=label,
        status=status,
        figures=figures,
        reason=f"{_MEANING[status]}: log-probabilities of {used:,} tokens differ by "
        f"{primary:.3g} nats on average",
    )


def _by_surprise(
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
    spread = _half_width(excess, clusters) / scale
    if not cuts.passed("fidelity-surprise-prompts", len(set(clusters))):
        return found
    allowed = spread + (0.0 if exact else cuts["fidelity-surprise-text"])
    status = _status(value, "surprise", allowed, cuts)
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
        reason = f"{_MEANING[status]}: {said}"
    else:
        reason = f"{found.reason}; {said}"
        status = max(status, found.status, key=_ORDER.index)
    return Fidelity(checkpoint=found.checkpoint, status=status, figures=figures, reason=reason)


def _by_means(
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
        return _cannot(label, "the run left no log and no log-probabilities")
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
        return _cannot(
            label,
            f"the log's entry at step {logged_here[0]} is of completions that were not replayed",
        )
    return _cannot(label, f"nothing was logged at step {step + 1} or {step}")


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
    worst: _Status = "pass"
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
            spread = _half_width(values, prompts) / scale if allowance.sampling else 0.0
            spread += allowance.unseen
        figures |= {
            f"{name}_replayed": ours,
            f"{name}_logged": written,
            f"{name}_relative_difference": gap,
        }
        if spread:
            figures[f"{name}_allowance"] = spread if math.isfinite(spread) else None
        status = _status(gap, name, spread, cuts)
        # What is allowed only because so little is known is no agreement.
        uncertain = cuts.passed(f"fidelity-{name}-fail", spread)
        if status == "pass" and cuts.passed(f"fidelity-{name}-warn", gap) and uncertain:
            unsure.append(name)
        worst = max(worst, status, key=_ORDER.index)
        of = "" if scale == abs(written) else f" of {scale:g} nats"
        said.append(f"{name} {ours:.4g} replayed, {written:.4g} logged ({gap:.1%}{of} off)")
    note = f"; {'; '.join(doubt)}" if doubt else ""
    if not said:
        what = f"the log's entry at step {at_step} has no entropy or KL to compare"
        return _cannot(label, what + note)
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
        reason=f"{_MEANING[worst]}: {', '.join(said)} at step {at_step}{note}",
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


def _half_width(values: np.ndarray, prompts: np.ndarray) -> float:
    """Half of the 95% interval of a token mean, from its spread over prompts.

    The mean is a ratio of two sums over prompts, so its residuals per prompt give its variance.
    Infinite below two prompts.
    """
    _, index = np.unique(prompts, return_inverse=True)
    count = int(index.max()) + 1
    if count < 2:
        return math.inf
    residuals = np.bincount(index, values - values.mean(), minlength=count)
    error = math.sqrt(count / (count - 1) * float(residuals @ residuals)) / len(values)
    return float(special.stdtrit(count - 1, 0.975)) * error


def _status(gap: float, name: str, spread: float, cuts: Cuts) -> _Status:
    if cuts.passed(f"fidelity-{name}-fail", gap - spread):
        return "fail"
    return "warn" if cuts.passed(f"fidelity-{name}-warn", gap - spread) else "pass"


def _cannot(label: str, reason: str) -> Fidelity:
    return Fidelity(checkpoint=label, status="cannot-tell", figures={}, reason=reason)
