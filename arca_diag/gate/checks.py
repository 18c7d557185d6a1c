"""Our own checks: whether the result is such that a rule may pass on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from arca_diag.gate.baseline import UNLIKE_ACTION, Baseline
from arca_diag.gate.findings import capped
from arca_diag.gate.outcome import Case, Status
from arca_diag.gate.policy import Rule
from arca_diag.gate.scope import Label, Scope, label_of


@dataclass(frozen=True, kw_only=True)
class OnDisk:
    """What lies where the result says that its inputs and tables are.

    Attributes:
        compared: Whether the run is at hand, so that hashes were compared.
        stale: What has changed in the run since, in words.
        gone: Recorded inputs that lay in the run and do not now: there is nothing to compare.
        foreign: What does not belong to this result, in words.
    """

    compared: bool = False
    stale: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Found:
    """What checks look at beside the report."""

    scope: Scope
    disk: OnDisk
    baseline: Baseline | None


def check_cases(rule: Rule, found: Found) -> list[Case]:
    """Every case of a check; empty where all is well."""
    return [
        Case(
            status=status,
            level=capped(rule, "error"),
            checkpoint=label,
            message=message,
            action=action,
        )
        for status, label, message, action in _CHECKS[rule.of](found)
    ]


_Told = tuple[Status, Label | None, str, str | None]
#: Of the checks of a baseline where there is none.
NO_BASELINE: _Told = ("skipped", None, "no baseline was named", None)


def _incomplete(found: Found) -> list[_Told]:
    scope = found.scope
    told: list[_Told] = []
    if scope.report.status != "complete" or not scope.labels:
        told.append(
            ("inconclusive", None, "nothing at all was measured", "see the scan's own message")
        )
    return told + [
        (
            "inconclusive",
            label,
            "this checkpoint was not measured",
            "mend it (the report's findings say what is wrong), or judge another: --checkpoint",
        )
        for label in scope.unmeasured
    ]


def _too_little(found: Found) -> list[_Told]:
    scope, policy = found.scope, found.scope.policy
    told: list[_Told] = []
    for label in scope.measured:
        prompts, tokens = evidence(scope, label)
        if not prompts:
            other = "fixed-set" if policy.view == "on-policy" else "on-policy"
            message = f"no completion was measured here in the view {policy.view}"
            action = f"judge the other view (--view {other}), or log completions with their steps"
            told.append(("inconclusive", label, message, action))
        elif prompts < policy.min_clusters or tokens < policy.min_tokens:
            message = (
                f"{prompts} prompts and {tokens:,} tokens; the policy asks for "
                f"{policy.min_clusters} and {policy.min_tokens:,}"
            )
            action = "replay more groups (scan --groups, --fixed-groups), or ask for less"
            told.append(("inconclusive", label, message, action))
    return told


def evidence(scope: Scope, label: Label) -> tuple[int, int]:
    """Prompts and counted tokens that were measured at a checkpoint, in the policy's view."""
    figures = [m for m in scope.figures(label, scope.policy.view) if m.name == "gini"]
    prompts = max((m.n_clusters for m in figures), default=0)
    return prompts, max((m.n_tokens for m in figures), default=0)


def _stale(found: Found) -> list[_Told]:
    disk = found.disk
    if not (disk.compared or disk.stale or disk.gone):
        return [("skipped", None, "the run is not at hand", None)]
    action = "scan again, over this result with --force"
    told: list[_Told] = [("inconclusive", None, what, action) for what in disk.stale]
    judged = {c.name: label_of(c) for c in found.scope.report.run.checkpoints}
    return told + [
        (
            "inconclusive",
            label,
            f"{name} is gone from the run: whether it is what was measured is unknown",
            "gate a copy of the result outside the run, if what was measured will do",
        )
        for name, label in judged.items()
        if label in found.scope.measured and any(name in Path(file).parts for file in disk.gone)
    ]


def _foreign(found: Found) -> list[_Told]:
    action = "gate the folder that one scan wrote, where it wrote it or copied whole"
    return [("inconclusive", None, what, action) for what in found.disk.foreign]


def _unchecked(found: Found) -> list[_Told]:
    told: list[_Told] = []
    known = {f.checkpoint: f for f in found.scope.report.replay_fidelity}
    for label in found.scope.measured:
        fidelity = known.get(str(label))
        if fidelity is None or fidelity.status == "cannot-tell":
            why = (fidelity.reason if fidelity else None) or "no check was made"
            action = "log completions with their steps, or log-probabilities; or turn this off"
            told.append(("inconclusive", label, f"whether the replay is the run: {why}", action))
    return told


def _unlike(found: Found) -> list[_Told]:
    if found.baseline is None:
        return [NO_BASELINE]
    return [
        ("inconclusive", None, f"the baseline is of something else: {what}", UNLIKE_ACTION)
        for what in found.baseline.unlike(found.scope)
    ]


def _new(found: Found) -> list[_Told]:
    """New findings are known only when all other rules are: `gating.py` asks for them last."""
    return [NO_BASELINE] if found.baseline is None else []


_CHECKS: dict[str, Callable[[Found], list[_Told]]] = {
    "result-incomplete": _incomplete,
    "evidence-too-little": _too_little,
    "result-stale": _stale,
    "result-foreign": _foreign,
    "replay-unchecked": _unchecked,
    "baseline-unlike": _unlike,
    "baseline-new-findings": _new,
}
