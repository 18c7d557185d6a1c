"""What the trainer's own log gives away, without a model: a rule a fault, in `RULES`.

Each rule takes the log's rows and says nothing or one finding. A signal that behaves as it does
in runs that learn is at most a note: entropy that falls while the reward rises is learning.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special

from arca_diag.inputs.arguments import as_number
from arca_diag.results import Finding, Measurement
from arca_diag.thresholds import DEFAULT, Cuts

_SOURCE = "the trainer's log"
_ROUNDED = 0.005  # of shares that are printed in percent
_MORE_SPREAD = (
    "mix in prompts that are sometimes solved, sample more completions a group, or grade the "
    "reward more finely"
)


@dataclass(frozen=True, kw_only=True)
class Log:
    """What the rules read.

    Attributes:
        rows: The trainer's log entries in step order.
        same_groups: Share of the last tenth of the groups whose completions are all the same;
            None if the completions are not known.
        groups: Groups that the rows are of, all together; None if unknown: at least one a row.
        start: How the adapters were initialised, where that took part of the base into them.
        cuts: Those in force.
    """

    rows: Sequence[Mapping[str, Any]]
    same_groups: float | None = None
    groups: float | None = None
    start: str = ""
    cuts: Cuts = DEFAULT

    def series(self, key: str) -> np.ndarray:
        """The finite values of a key, in step order."""
        found = (as_number(row.get(key)) for row in self.rows)
        return np.array([v for v in found if v is not None and math.isfinite(v)], dtype=float)

    def ends(self, key: str) -> tuple[float, float] | None:
        """Means over the first and the last tenth, at least one entry each; None below two."""
        values = self.series(key)
        if len(values) < 2:
            return None
        tenth = max(1, len(values) // 10)
        return float(values[:tenth].mean()), float(values[-tenth:].mean())


def no_advantage(log: Log) -> Finding | None:
    """Groups whose completions all earn the same give every token an advantage of 0."""
    values = log.series("frac_reward_zero_std")
    if not len(values):
        return None
    low, mean = _lower_limit(values, log.groups), float(values.mean())
    ends = log.ends("frac_reward_zero_std") or (mean, mean)
    reward = log.ends("reward")
    evidence = {"mean": mean, "low": low, "first": ends[0], "last": ends[1], "entries": len(values)}
    evidence |= {"reward_first": reward[0], "reward_last": reward[1]} if reward else {}
    level: Literal["error", "warn", "note"] = "note"
    if log.cuts.passed("no-advantage-error", low):
        level = "error"
    elif log.cuts.passed("no-advantage-warn", low):
        level = "warn"
    elif not log.cuts.passed("no-advantage-warn", ends[1]):
        return None
    when = "over the run" if level != "note" else "at the end"
    share = mean if level != "note" else ends[1]
    return _finding(
        "no-advantage",
        level,
        f"{share:.0%} of groups {when} have no spread in reward: they teach nothing",
        evidence,
        _MORE_SPREAD,
    )


def no_spread_in_rollouts(log: Log, measurements: Iterable[Measurement]) -> list[Finding]:
    """The same of the groups that were replayed, unless the log has said it.

    Of the fixed set, which is spread over the run; the rewards are the same at every checkpoint.
    What the log has is not enough: TRL takes eight equal rewards of 1.2 for a group with spread,
    for their deviation rounds to 1e-7 and not to 0, and under `scale_rewards="batch"` it is the
    batch's.
    """
    if no_advantage(log) is not None:
        return []
    found = {m.name: m for m in measurements if m.view == "fixed-set" and m.value is not None}
    share = found.get("groups_without_spread")
    if share is None or share.low is None or share.n_clusters < log.cuts["clusters-least"]:
        return []
    level: Literal["error", "warn"]
    if log.cuts.passed("no-advantage-error", share.low):
        level = "error"
    elif log.cuts.passed("no-advantage-warn", share.low):
        level = "warn"
    else:
        return []
    best, worst = (
        found[name].value if name in found else None
        for name in ("groups_all_best", "groups_all_worst")
    )
    return [
        _finding(
            "no-advantage",
            level,
            f"{share.value:.0%} of the replayed groups have no spread in reward "
            f"({best or 0:.0%} all best, {worst or 0:.0%} all worst): they teach nothing",
            {
                "share": share.value,
                "low": share.low,
                "high": share.high,
                "groups": share.n_groups,
                "prompts": share.n_clusters,
                "all_best": best,
                "all_worst": worst,
            },
            _MORE_SPREAD,
        ).model_copy(update={"source": "the rewards of the replayed completions"})
    ]


def entropy_collapsed(log: Log) -> Finding | None:
    """Entropy lost, one answer a group, and nothing gained for it."""
    entropy, reward = log.ends("entropy"), log.ends("reward")
    if entropy is None or reward is None or entropy[0] <= 0:
        return None
    ratio = entropy[1] / entropy[0]
    if not log.cuts.passed("entropy-collapse-ratio", ratio):
        return None
    evidence = {
        "first": entropy[0],
        "last": entropy[1],
        "reward_first": reward[0],
        "reward_last": reward[1],
        "same_groups": log.same_groups,
    }
    level: Literal["error", "warn", "note"] = "note"
    if _rises(log):
        said = f"while the policy still learned: the reward rose from {reward[0]:.3g} to "
        said += f"{reward[1]:.3g}{_still_differ(log)}"
    elif log.same_groups is None:
        level = "warn"
        said = f"while the reward did not rise; the groups' answers are unknown{_still_differ(log)}"
    elif log.cuts.passed("entropy-collapse-distinct", log.same_groups):
        level, said = "error", "while groups fell to one answer and the reward did not rise"
    else:
        said = f"while the reward did not rise{_still_differ(log)}"
    action = (
        "nothing, unless the reward has stopped rising"
        if level == "note"
        else "lower the learning rate, raise the temperature or add an entropy bonus, and go back "
        "to the last checkpoint before the fall"
    )
    return _finding(
        "entropy-collapsed" if level == "error" else "entropy-low",
        level,
        f"mean entropy fell to {ratio:.0%} of where it began ({entropy[0]:.3g} to "
        f"{entropy[1]:.3g} nats) {said}",
        evidence,
        action,
    )


def sampler_mismatch(log: Log) -> Finding | None:
    """Sampler and trainer disagree about the same tokens."""
    values = log.series("sampling/sampling_logp_difference/mean")
    if not len(values):
        return None
    mean = float(values.mean())
    if not log.cuts.passed("sampler-mismatch-warn", mean):
        return None
    return _finding(
        "sampler-mismatch",
        "error" if log.cuts.passed("sampler-mismatch-error", mean) else "warn",
        f"log-probabilities of sampler and trainer differ by {mean:.3g} nats on average: the "
        "gradient is of another policy than the one that sampled",
        {"mean": mean, "max": float(values.max()), "entries": len(values)},
        "check precision, temperature and token ids on both sides; importance sampling only hides "
        "it",
    )


def reference_apart(log: Log) -> Finding | None:
    """KL to the reference before the first step: the run did not start from its reference."""
    first = next((r for r in log.rows if r.get("step") == 1), None)
    kl = as_number(first.get("kl")) if first else None
    if kl is None or not math.isfinite(kl) or not log.cuts.passed("kl-at-start", kl):
        return None
    if log.start:
        return _finding(
            "reference-apart",
            "warn",
            f"the first step logged a KL of {kl:.3g} nats: init_lora_weights={log.start!r} took "
            "part of the base into the adapter, and the trainer measures KL from what was left, "
            "so that the penalty (beta) pulls the policy there",
            {"kl": kl, "init": log.start},
            "train with init_lora_weights=True, or without the penalty (beta=0.0)",
        )
    return _finding(
        "reference-apart",
        "warn",
        f"the first step logged a KL of {kl:.3g} nats: the policy did not start at its reference",
        {"kl": kl},
        "is the reference the model that training started from? A run that continued an adapter, "
        "and PiSSA or OLoRA, are measured against another one by some trainers",
    )


def nothing_moves(log: Log) -> Finding | None:
    """Gradients or learning rates that are exactly 0, or no numbers, from the first to the last."""
    gradients, rates = log.series("grad_norm"), log.series("learning_rate")
    written = [v for row in log.rows if (v := as_number(row.get("grad_norm"))) is not None]
    broken = sum(not math.isfinite(v) for v in written)
    if written and broken:
        return _finding(
            "gradients-broken",
            "error" if broken == len(written) else "warn",
            f"the gradient norm is NaN or infinite in {broken} of {len(written)} entries",
            {"broken": broken, "entries": len(written)},
            "lower the learning rate, clip gradients, and look at the first entry that breaks",
        )
    for name, values in (("gradient norm", gradients), ("learning rate", rates)):
        if len(values) > 1 and not values.any():
            return _finding(
                "nothing-moves",
                "error",
                f"the {name} is exactly 0 in all {len(values)} entries: nothing is trained",
                {"entries": len(values)},
                "check that the adapter is trainable, that the reward varies within groups, and "
                "the learning-rate schedule",
            )
    return None


def truncated(log: Log) -> Finding | None:
    """Most completions end at the length limit."""
    ends = log.ends("completions/clipped_ratio")
    if ends is None or not log.cuts.passed("completions-truncated", ends[1]):
        return None
    return _finding(
        "completions-truncated",
        "warn",
        f"{ends[1]:.0%} of late completions were cut off at the length limit, by the trainer's log",
        {"first": ends[0], "last": ends[1]},
        "raise max_completion_length, or reward finishing",
    )


#: Every rule; a new one is a function above, an entry here, a test and a row in the README.
RULES: tuple[Callable[[Log], Finding | None], ...] = (
    nothing_moves,
    no_advantage,
    entropy_collapsed,
    sampler_mismatch,
    reference_apart,
    truncated,
)


def log_findings(log: Log) -> list[Finding]:
    """What every rule has to say."""
    return [found for rule in RULES if (found := rule(log)) is not None]


def _finding(
    identity: str,
    level: Literal["error", "warn", "note"],
    message: str,
    evidence: dict[str, Any],
    action: str,
) -> Finding:
    return Finding(
        id=identity,
        level=level,
        checkpoint=None,
        signal=None,
        message=message,
        evidence=evidence,
        action=action,
        source=_SOURCE,
    )


def _lower_limit(values: np.ndarray, groups: float | None) -> float:
    """Lower limit of the 95% interval of a mean share; 0 where a single entry says nothing.

    Student's over the entries. It is too high of a few entries near 1, which are skewed: where the
    number of groups is known, Clopper and Pearson's for as many holds if that is lower, and where
    all agree it is the only one, of at least a group an entry.
    """
    mean, agree = float(values.mean()), bool((values == 1).all())
    if len(values) < 2 and not agree:
        return 0.0
    half = 0.0
    if not agree:
        error = float(values.std(ddof=1)) / math.sqrt(len(values))
        half = float(special.stdtrit(len(values) - 1, 0.975)) * error
        if groups is None:
            return max(0.0, mean - half)
    of = groups or len(values)
    exact = special.betaincinv(mean * of, (1 - mean) * of + 1, 0.025) if mean else 0.0
    return max(0.0, min(float(exact), mean - half))


def _still_differ(log: Log) -> str:
    """What is known of how much completions of a late group still differ, and their rewards.

    Answers that are the same earn the same: where more groups earn different rewards than hold
    several answers, both cannot hold, and that is said.
    """
    several = None if log.same_groups is None else 1 - log.same_groups
    zero = log.ends("frac_reward_zero_std")
    known = []
    if several is not None:
        known.append(f"{several:.0%} of the late groups that were kept hold several answers")
    if zero:
        known.append(f"by the log {1 - zero[1]:.0%} of the late groups earn different rewards")
    if several is not None and zero and 1 - zero[1] > several + _ROUNDED:
        known.append(
            "which is more than can: TRL misses groups of equal rewards where the deviation is "
            "rounded, or is that of the batch"
        )
    return f"; {', '.join(known)}" if known else ""


def _rises(log: Log) -> bool:
    """Whether the reward of the last tenth is above that of the first beyond their scatter.

    Welch's test, one-sided at 2.5%; with less than two entries a side, the bare difference.
    """
    values = log.series("reward")
    tenth = max(1, len(values) // 10)
    first, last = values[:tenth], values[-tenth:]
    gain = float(last.mean() - first.mean())
    if tenth < 2:
        return gain > 0
    parts = [float(side.var(ddof=1)) / tenth for side in (first, last)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return gain > 0
    freedom = sum(parts) ** 2 / sum(part**2 / (tenth - 1) for part in parts)
    return gain > error * float(special.stdtrit(freedom, 0.975))
