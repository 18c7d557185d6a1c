"""Is the replay the run? What was replayed against what the run logged of the same tokens.

Per-token log-probabilities where the trainer or the sampler kept them; else the means of
entropy and KL that the trainer logged at the step after the checkpoint, on the very batch that
the checkpoint's policy was given. And whatever was logged: a policy is, on average, as surprised
by its own samples as its entropy says. If the replay's is not, the samples are another policy's.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from arca_diag.fidelity.logged import Logged
from arca_diag.fidelity.means import by_means
from arca_diag.fidelity.statuses import MEANING, cannot
from arca_diag.fidelity.surprise import by_surprise
from arca_diag.fidelity.tokens import by_token
from arca_diag.inputs.rollouts.census import Entry
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.results import Fidelity, Finding
from arca_diag.thresholds import DEFAULT, Cuts

_REFERENCE = (
    "entropy is as logged and KL is not: training had another reference; name it with --reference "
    "(a folder with the adapter that the run continued, say)"
)


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
            out.append(cannot(label, "the checkpoint's step is unknown"))
            continue
        found = by_token(label, at, replayed, step, cuts)
        found = found or by_means(label, at, replayed, everything, step, logged, cuts)
        out.append(by_surprise(found, at, replayed, step, cuts))
    return out


def mismatch_findings(fidelity: Sequence[Fidelity], cuts: Cuts = DEFAULT) -> list[Finding]:
    """The finding `replay-mismatch` for every checkpoint whose replay is not the run."""
    return [
        Finding(
            id="replay-mismatch",
            level="error" if found.status == "fail" else "warn",
            checkpoint=int(found.checkpoint) if found.checkpoint.isdigit() else found.checkpoint,
            signal=None,
            message=found.reason or MEANING[found.status],
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
