"""A saved report held to a policy: passed, failed or inconclusive, and why. No model."""

import datetime
from pathlib import Path

from arca_diag import __version__
from arca_diag.config_sources import config_tables, environment, gate_environment
from arca_diag.gate.baseline import (
    UNLIKE_ACTION,
    Baseline,
    baseline_of,
    read_baseline,
    seen,
)
from arca_diag.gate.checks import Found, OnDisk, check_cases, evidence
from arca_diag.gate.combine import outcome, verdict
from arca_diag.gate.figures import figure_cases
from arca_diag.gate.findings import capped, finding_cases
from arca_diag.gate.freshness import look_beside
from arca_diag.gate.loading import Resolved, resolve_policy
from arca_diag.gate.names import SIGNAL_IDS
from arca_diag.gate.outcome import Asked, Case, GateResult, Judged, RuleOutcome
from arca_diag.gate.policy import NEW_FINDINGS, Policy, Rule
from arca_diag.gate.reading import read_result
from arca_diag.gate.scope import Scope, scope_of
from arca_diag.gate.suppressions import Suppressions
from arca_diag.likeness import other_cuts
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


def load_policy(file: Path | str | None = None, *, cwd: Path | str | None = None) -> Policy:
    """The policy as `arca-diag gate` has it without options: of files and of the environment.

    The credit that they declare is in it. Other options of a scan are not: the report is judged
    by those it was made with.

    Args:
        file: Read instead of the working directory's files.
        cwd: The working directory; the process's own by default.

    Raises:
        ConfigError: Something in it that nothing reads, or a value that there is not.
    """
    tables = config_tables(None if file is None else Path(file), None if cwd is None else Path(cwd))
    layers = [(origin, table["gate"]) for origin, table in tables if "gate" in table]
    policy = resolve_policy([*layers, ("environment", gate_environment())]).policy
    options = dict(environment())
    for _, table in reversed(tables):
        options = table | options
    credit = options.get("credit")
    return policy.model_copy(update={"credit": None if credit is None else str(credit)})


def load_report(folder: Path | str) -> Report:
    """The report of a saved result.

    Raises:
        ResultError: There is none, or it is of another version.
    """
    return read_result(Path(folder))[1]


def run_gate(
    report: Report | Path | str,
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
        report: As a scan gives it; or a result's folder, of which the report is read, and what
            lies beside it is compared.
        policy: As from `load_policy`; the profile `recommended` by default.
        baseline: An accepted result to compare with, as from `make_baseline`; the file that the
            policy names by default.
        credit: What the run trains with, where that is another than policy or report say. The
            report's verdicts serve for every signal; of TRL's top_entropy only a report that was
            made with it has the findings.
        disk: What lies on disk beside a report; nothing is looked at by default.
        today: The day that suppressions are judged by; the day that it is by default.
        resolved: The policy with its origins, which the outcome then names.

    Returns:
        The outcome, `exit_code` in it: 0 passed, 1 failed, 3 inconclusive.

    Raises:
        ArcaError: The report has no such checkpoint or cannot be judged, there is no such credit,
            or the policy's baseline cannot be read.
    """
    policy = policy or (resolved or resolve_policy([])).policy
    if not isinstance(report, Report):
        folder, report = read_result(Path(report))
        disk = disk or look_beside(folder, report)
    scope = scope_of(report, policy, policy.credit if credit is None else credit)
    disk = disk or OnDisk()
    if baseline is None and policy.baseline is not None:
        baseline = read_baseline(policy.baseline)
    comparable = None if baseline and baseline.unlike(scope) else baseline
    suppressions = Suppressions(policy.suppressions, today or datetime.date.today())

    outcomes: list[RuleOutcome] = []
    for name, rule in sorted(policy.active().items(), key=lambda item: item[0] == NEW_FINDINGS):
        if rule.of == NEW_FINDINGS and baseline is not None:
            # The last: what is new is known when all else is judged.
            cases = _new_findings(rule, baseline, outcomes, unlike=comparable is None)
        elif rule.kind == "check":
            cases = check_cases(rule, Found(scope=scope, disk=disk, baseline=baseline))
        elif rule.kind == "finding":
            cases = finding_cases(rule, scope)
        else:
            cases = figure_cases(rule, scope, baseline)
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
        notes=_notes(scope, suppressions, comparable, disk),
    )


def make_baseline(report: Report, policy: Policy, result: GateResult) -> Baseline:
    """The baseline that a gated report gives.

    Raises:
        ResultError: Nothing was measured.
    """
    return baseline_of(scope_of(report, policy, result.judged.credit), result.rules)


def _new_findings(
    rule: Rule, baseline: Baseline, outcomes: list[RuleOutcome], *, unlike: bool
) -> list[Case]:
    """Warnings and errors that the baseline does not have, one case each; not suppressed ones."""
    if unlike:
        return [
            Case(
                status="inconclusive",
                level=capped(rule, "error"),
                message="nothing is compared: the baseline is of something else",
                action=UNLIKE_ACTION,
            )
        ]
    before = {(f.id, f.signal) for f in baseline.findings}
    return [
        Case(
            status="failed",
            level=capped(rule, "error"),
            signal=signal,
            message=f"{identity}{f' ({signal})' if signal else ''} is new: the baseline, a result "
            f"of {baseline.run}, has it not",
            action=f"mend it (arca-diag explain {identity}), accept it by a suppression, or "
            "start a new baseline: delete the file, then --update-baseline",
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
        compared=policy.comparing() if baseline else [],
        compared_with_run=disk.compared,
    )


def _notes(
    scope: Scope, suppressions: Suppressions, baseline: Baseline | None, disk: OnDisk
) -> list[str]:
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
    asked = {rule.of for rule in scope.policy.active().values()}
    unasked = [
        f.id
        for f in scope.report.findings
        if f.level != "note" and f.id not in asked and scope.covers(f.checkpoint)
    ]
    if unasked:
        ids = ", ".join(dict.fromkeys(unasked))
        told.append(f"no rule in force looks at {ids}, which the report has")
    if disk.gone:
        files = f"{len(disk.gone)} recorded inputs, such as {disk.gone[-1]}"
        told.append(f"not in the run now, and so not compared: {files}")
    if baseline is not None:
        told += baseline.notes(scope)
    return told
