"""Rules on findings: what the report found of run, adapters and replay, and of each signal.

Faults of the run are the report's findings as they stand. A signal's are read from its verdict
(regime and causes), so that any view and any credit can be judged, whatever was declared when the
report was made: the level is the one that the fault has if the run trains on the signal.
"""

from collections.abc import Sequence

from arca_diag.degeneracy import DEGENERATE, Level, level_of
from arca_diag.explanations import EXPLANATIONS
from arca_diag.gate.names import REGIME_IDS, SIGNAL_IDS
from arca_diag.gate.outcome import Case
from arca_diag.gate.policy import Rule
from arca_diag.gate.scope import FEW_RULE, VOID, VOID_ACTION, VOID_RULE, Label, Scope
from arca_diag.results import Finding, Verdict, View
from arca_diag.thresholds import DEFAULT

_BY_ID = {e.id: e for e in EXPLANATIONS}
#: Causes that decide whatever the others are: an inert adapter has its own finding.
_INERT = "adapter-inert"
_OPEN = ("inconclusive", "undefined")


def finding_cases(rule: Rule, scope: Scope) -> list[Case]:
    """Every case of a rule on a finding: there, or not known.

    Where it surely is not there is no case, but under `all`, which asks for every place.
    """
    cases = [
        _of_run(rule, finding)
        for finding in scope.report.findings
        if finding.id == rule.of and _is_of_run(finding) and _covers(rule, scope, finding)
    ]
    if rule.of in SIGNAL_IDS:
        for label in scope.at(rule):
            if label in scope.unmeasured:
                continue
            for signal in scope.signals(rule):
                cases += _of_signal(rule, scope, label, signal)
    if rule.of == "no-advantage" and not cases:
        cases += _rewards_unknown(rule, scope)
    if rule.aggregate == "all":
        cases += _elsewhere(rule, scope, cases)
    return cases


def _is_of_run(finding: Finding) -> bool:
    """Whether a finding is judged as it stands; a signal's is read from its verdict."""
    return finding.signal is None or finding.id not in SIGNAL_IDS


def _covers(rule: Rule, scope: Scope, finding: Finding) -> bool:
    before = finding.checkpoint in scope.labels[:-1]
    return scope.covers(finding.checkpoint) and not (rule.aggregate == "last" and before)


def _elsewhere(rule: Rule, scope: Scope, cases: Sequence[Case]) -> list[Case]:
    """Passed cases for the checkpoints and signals that have none of the others."""
    signals: tuple[str | None, ...] = scope.signals(rule) if rule.of in SIGNAL_IDS else (None,)
    seen = {(c.checkpoint, c.signal) for c in cases}
    whole = any(c.checkpoint is None for c in cases)  # of the run: there is no elsewhere
    return [
        Case(status="passed", level="note", checkpoint=label, signal=signal, message="not so here")
        for label in scope.measured
        for signal in signals
        if not whole and (label, signal) not in seen
    ]


def capped(rule: Rule, found: Level) -> Level:
    """The level of a case: the rule's, or as found."""
    if rule.level == "as-found":
        return found
    if rule.level == "at-most-warn":
        return "warn" if found == "error" else found
    return "note" if rule.level == "off" else rule.level


def _of_run(rule: Rule, finding: Finding) -> Case:
    return Case(
        status="failed",
        level=capped(rule, finding.level),
        checkpoint=finding.checkpoint,
        message=finding.message,
        action=finding.action,
    )


def _of_signal(rule: Rule, scope: Scope, label: Label, signal: str) -> list[Case]:
    view = scope.view(rule)
    verdict = scope.verdict(label, view, signal)
    if verdict is None:
        return [_unknown(rule, label, signal, view, f"no verdict on {signal} in this view")]
    if scope.replay_failed(label):
        return [_unknown(rule, label, signal, view, VOID, VOID_ACTION, VOID_RULE)]
    causes = [cause for cause in verdict.causes if cause != _INERT]
    chain = [*causes, *([DEGENERATE[verdict.regime]] if verdict.regime in DEGENERATE else [])]
    if verdict.regime in _classes(rule) or rule.of in causes:
        first = chain[0] == rule.of and _INERT not in verdict.causes
        level = level_of(verdict.regime, causes, declared=first)
        return [_there(rule, scope, verdict, level)]
    if rule.of in REGIME_IDS and verdict.regime in _OPEN and not _surely_not(rule, verdict, scope):
        why = verdict.settled_by.reason if verdict.settled_by else f"the regime is {verdict.regime}"
        return [_unknown(rule, label, signal, view, why, because=FEW_RULE)]
    for skipped in scope.report.skipped:
        place = (skipped.id, skipped.checkpoint, skipped.view, skipped.signal)
        if place == (rule.of, label, view, signal):
            return [_unknown(rule, label, signal, view, f"not asked: {skipped.reason}")]
    return []


def _classes(rule: Rule) -> list[str]:
    """The regimes that a rule counts; none if its finding is not one of them."""
    classes = [name for name, found in DEGENERATE.items() if found == rule.of]
    return [name for name in classes if not rule.regimes or name in rule.regimes]


def _surely_not(rule: Rule, verdict: Verdict, scope: Scope) -> bool:
    """Whether a regime that is not settled is surely none of these: too few completions of them.

    The sum of the upper limits bounds the share of the classes together; the cut is the one that
    the report was judged by. Where no number of
    prompts would settle it, rounding may have made the shares, and they say nothing.
    """
    if verdict.settled_by is None or verdict.settled_by.clusters_more is None:
        return False
    classes = _classes(rule)
    highs = [verdict.shares[name].high for name in classes if name in verdict.shares]
    known = [high for high in highs if high is not None]
    cuts = {cut.id: cut.value for cut in scope.report.thresholds}
    half = cuts.get("share-majority", DEFAULT["share-majority"])
    return len(known) == len(classes) and sum(known) < half


def _there(rule: Rule, scope: Scope, verdict: Verdict, level: Level) -> Case:
    """A fault of a signal, in the report's own words where it has any for this view.

    Of a credit that is declared anew they would say what if.
    """
    anew = verdict.signal == scope.credit != scope.report.provenance.options.get("credit")
    words = next(
        (
            f
            for f in scope.report.findings
            if not anew
            and (f.id, f.checkpoint, f.signal) == (rule.of, verdict.checkpoint, verdict.signal)
            and f.evidence.get("view") == verdict.view
        ),
        None,
    )
    says = f"{verdict.signal.replace('_', ' ')}: {_BY_ID[rule.of].says}"
    if rule.of in REGIME_IDS:
        says += f" ({verdict.regime})"
    return Case(
        status="failed",
        level=capped(rule, level),
        checkpoint=verdict.checkpoint,
        signal=verdict.signal,
        view=verdict.view,
        n_clusters=verdict.n_clusters,
        message=says if words is None else words.message,
        action=_BY_ID[rule.of].actions[0] if words is None else words.action,
    )


def _unknown(
    rule: Rule,
    label: Label,
    signal: str | None,
    view: View | None,
    why: str,
    action: str = "measure what is missing, or turn the rule off in the policy",
    because: str | None = None,
) -> Case:
    return Case(
        status="inconclusive",
        level=capped(rule, _BY_ID[rule.of].levels[0]),
        checkpoint=label,
        signal=signal,
        view=view,
        message=why,
        action=action,
        because=because,
    )


def _rewards_unknown(rule: Rule, scope: Scope) -> Sequence[Case]:
    """No finding is a pass only if rewards were there to be judged, in the log or in the groups."""
    spread = [m for m in scope.report.measurements if m.name == "groups_without_spread"]
    if any(m.value is not None for m in spread):
        return []
    why = spread[0].reason if spread else "the report has no figure on rewards"
    last = scope.labels[-1] if scope.labels else 0
    return [_unknown(rule, last, None, None, f"whether groups differ in reward is unknown: {why}")]
