"""A saved report held to a policy: passed, failed or inconclusive, and why. No model."""

import datetime
from pathlib import Path

from arca_diag import __version__
from arca_diag.config import config_tables
from arca_diag.gate.baseline import Baseline, baseline_of, other_cuts, read_baseline, seen
from arca_diag.gate.checks import Found, OnDisk, check_cases, evidence
from arca_diag.gate.combine import outcome, verdict
from arca_diag.gate.figures import figure_cases
from arca_diag.gate.findings import capped, finding_cases
from arca_diag.gate.loading import Resolved, resolve_policy
from arca_diag.gate.names import SIGNAL_IDS
from arca_diag.gate.outcome import Asked, Case, GateResult, Judged, RuleOutcome
from arca_diag.gate.policy import Policy, Rule
from arca_diag.gate.reading import read_result
from arca_diag.gate.scope import Scope, scope_of
from arca_diag.gate.suppressions import Suppressions
from arca_diag.results import Report

__all__ = [
    "Baseline",
    "GateResult",
    "Policy",
    "load_policy",
    "load_report",
    "make_baseline",
    "run_gate",
]

_NEW = "baseline-new-findings"


def load_policy(file: Path | None = None, *, cwd: Path | None = None) -> Policy:
    """The policy of a file, or of the working directory; the profile `recommended` without one.

    Raises:
        ConfigError: Something in it that nothing reads, or a value that there is not.
    """
    return resolve_policy(
        (origin, table["gate"]) for origin, table in config_tables(file, cwd) if "gate" in table
    ).policy


def load_report(folder: Path) -> Report:
    """The report of a saved result.

    Raises:
        ResultError: There is none, or it is of another version.
    """
    return read_result(folder)[1]


def run_gate(
    report: Report,
    policy: Policy | None = None,
    baseline: Baseline | None = None,
    *,
    credit: str | None = None,
    disk: OnDisk | None = None,
    today: datetime.date | None = None,
    resolved: Resolved | None = None,
) -> GateResult:
    """Hold a report to a policy.

    Args:
        report: As a scan gives it, or `Report.from_json` of its report.json.
        policy: As from `load_policy`; the profile `recommended` by default.
        baseline: An accepted result to compare with, as from `make_baseline`; the file that the
            policy names by default.
        credit: What the run trains with, where that is another than the report says.
        disk: What lies on disk beside the result; nothing is looked at by default.
        today: The day that suppressions are judged by; the day that it is by default.
        resolved: The policy with its origins, which the outcome then names.

    Returns:
        The outcome, `exit_code` in it: 0 passed, 1 failed, 3 inconclusive.

    Raises:
        ArcaError: The report has no such checkpoint or cannot be judged, there is no such credit,
            or the policy's baseline cannot be read.
    """
    policy = policy or (resolved or resolve_policy([])).policy
    scope = scope_of(report, policy, credit)
    disk = disk or OnDisk()
    if baseline is None and policy.baseline is not None:
        baseline = read_baseline(policy.baseline)
    comparable = None if baseline and baseline.unlike(scope) else baseline
    suppressions = Suppressions(policy.suppressions, today or datetime.date.today())

    outcomes: list[RuleOutcome] = []
    for name, rule in sorted(policy.active().items(), key=lambda item: item[0] == _NEW):
        if rule.of == _NEW:  # the last: what is new is known when all else is judged
            unlike = baseline is not None and comparable is None
            cases = _new_findings(rule, comparable, outcomes, unlike=unlike)
        elif rule.kind == "check":
            cases = check_cases(rule, Found(scope=scope, disk=disk, baseline=baseline))
        elif rule.kind == "finding":
            cases = finding_cases(rule, scope)
        else:
            cases = figure_cases(rule, scope, comparable)
        origin = resolved.written_in(name) if resolved else None
        left = [suppressions.apply(name, case) for case in cases]
        outcomes.append(outcome(name, rule, left, policy, origin))
    status, code = verdict(outcomes, policy)
    return GateResult(
        tool={"name": "arca-diag", "version": __version__},
        status=status,
        exit_code=code,
        errors=sum(o.status == "failed" and o.level == "error" for o in outcomes),
        warnings=sum(o.status == "failed" and o.level == "warn" for o in outcomes),
        inconclusive=sum(o.status == "inconclusive" for o in outcomes),
        policy=Asked(
            profile=policy.profile,
            file=resolved.file if resolved else None,
            fail_on=policy.fail_on,
            inconclusive=policy.inconclusive,
            min_clusters=policy.min_clusters,
            min_tokens=policy.min_tokens,
        ),
        judged=_judged(scope, baseline, disk),
        replay_fidelity={
            f.checkpoint: f.status
            for f in report.replay_fidelity
            if f.checkpoint in map(str, scope.labels)
        },
        rules=outcomes,
        suppressions=suppressions.states(),
        notes=_notes(scope, suppressions, comparable),
    )


def make_baseline(report: Report, policy: Policy, result: GateResult) -> Baseline:
    """The baseline that a gated report gives.

    Raises:
        ResultError: Nothing was measured.
    """
    return baseline_of(scope_of(report, policy, result.judged.credit), result.rules)


def _new_findings(
    rule: Rule, baseline: Baseline | None, outcomes: list[RuleOutcome], *, unlike: bool
) -> list[Case]:
    """Warnings and errors that the baseline does not have, one case each; not suppressed ones."""
    if unlike:
        return [
            Case(
                status="inconclusive",
                level=capped(rule, "error"),
                message="nothing is compared: the baseline is of something else",
                action="write a baseline from a like result: --update-baseline",
            )
        ]
    if baseline is None:
        return []
    before = {(f.id, f.signal) for f in baseline.findings}
    return [
        Case(
            status="failed",
            level=capped(rule, "error"),
            signal=signal,
            message=f"{identity}{f' ({signal})' if signal else ''} is new: the baseline, a result "
            f"of {baseline.run}, has it not",
            action=f"mend it (arca-diag explain {identity}), or accept it: --update-baseline",
        )
        for identity, signal in seen(outcomes, ("failed",))
        if (identity, signal) not in before
    ]


def _judged(scope: Scope, baseline: Baseline | None, disk: OnDisk) -> Judged:
    report, policy = scope.report, scope.policy
    counts = [evidence(scope, label) for label in scope.measured]
    base = report.provenance.base.get("name")
    held = {
        signal
        for rule in policy.active().values()
        if rule.of in SIGNAL_IDS
        for signal in scope.signals(rule)
    }
    return Judged(
        run=report.run.name,
        tool_version=str(report.tool.get("version")),
        checkpoints=list(scope.labels),
        view=policy.view,
        credit=scope.credit,
        signals=sorted(held),
        prompts=min((prompts for prompts, _ in counts), default=0),
        tokens=sum(tokens for _, tokens in counts),
        base=base if isinstance(base, str) else None,
        dtype=report.provenance.dtype,
        temperature=report.run.temperature,
        baseline=baseline.run if baseline else None,
        compared_with_run=disk.compared,
    )


def _notes(scope: Scope, suppressions: Suppressions, baseline: Baseline | None) -> list[str]:
    """What else a reader must know, in words."""
    told = [
        f"the suppression of {s.id} expired on {s.expires} and is not applied: {s.reason}"
        if s.state == "expired"
        else f"the suppression of {s.id} (until {s.expires}) has nothing to suppress: {s.reason}"
        for s in suppressions.states()
        if s.state != "used"
    ]
    elsewhere = [
        f for f in scope.report.findings if f.level != "note" and not scope.covers(f.checkpoint)
    ]
    if elsewhere:
        ids = ", ".join(dict.fromkeys(f.id for f in elsewhere))
        told.append(
            f"warnings and errors at other checkpoints are not judged ({ids}): --checkpoint all"
        )
    if cuts := other_cuts(scope.report):
        told.append(f"the result was judged by other cuts than the defaults: {', '.join(cuts)}")
    if baseline is not None:
        told += baseline.notes(scope)
    return told
