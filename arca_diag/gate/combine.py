"""Cases -> one outcome a rule -> the gate's verdict and exit code."""

from collections.abc import Iterable, Sequence
from typing import Literal

from arca_diag.explanations import EXPLANATIONS
from arca_diag.explanations.gate import CHECKS
from arca_diag.gate.outcome import LEVELS, Case, RuleOutcome, Status, Verdict
from arca_diag.gate.policy import FailOn, Policy, Rule

_FIGURES = "report.json has the figure at every checkpoint; the README says what it is"
_SAYS = {e.id: e.says for e in (*EXPLANATIONS, *CHECKS)}
_GATING: dict[FailOn, tuple[str, ...]] = {"error": LEVELS[:1], "warn": LEVELS[:2], "never": ()}
#: Statuses whose level says nothing.
_QUIET: tuple[Status, ...] = ("passed", "skipped")
#: What decides where one case is enough, and where every one must be: the first that there is.
_ANY: tuple[Status, ...] = ("failed", "inconclusive", "suppressed", "passed", "skipped")
_ALL: tuple[Status, ...] = ("passed", "inconclusive", "failed", "suppressed", "skipped")


def outcome(
    name: str, rule: Rule, cases: Sequence[Case], policy: Policy, origin: str | None
) -> RuleOutcome:
    """What a rule comes to: its status, the level of the worst case that made it, and words.

    A failed or open case that is a note decides nothing.
    """
    real = [c for c in cases if c.level != "note" or c.status in _QUIET]
    order = _ALL if rule.aggregate == "all" else _ANY
    status = next((s for s in order if any(c.status == s for c in real)), "passed")
    deciding = sorted((c for c in real if c.status == status), key=lambda c: LEVELS.index(c.level))
    level = deciding[0].level if deciding and status not in _QUIET else "note"
    says = _SAYS.get(rule.of, "")
    if status == "passed":
        noted = [c for c in cases if c.status == "failed"]
        message = (
            f"noted: {noted[0].message}"
            if noted
            else "; ".join(dict.fromkeys(c.message for c in deciding[:3])) or f"not so: {says}"
        )
    else:
        message = deciding[0].message + (
            f" (and {len(deciding) - 1} more)" if len(deciding) > 1 else ""
        )
    gates = level in _GATING[policy.fail_on]
    return RuleOutcome(
        id=name,
        kind=rule.kind,
        of=rule.of,
        status=status,
        level=level,
        fails=status == "failed" and gates,
        holds=status == "inconclusive" and gates,
        message=message,
        action=deciding[0].action if deciding else None,
        help=f"arca-diag explain {rule.of}" if says else _FIGURES,
        origin=origin,
        cases=list(cases),
    )


def verdict(outcomes: Iterable[RuleOutcome], policy: Policy) -> tuple[Verdict, Literal[0, 1, 3]]:
    """The gate's word and exit code: a failure comes before what is not known."""
    outcomes = list(outcomes)
    if any(o.fails for o in outcomes):
        return "FAILED", 1
    if any(o.holds for o in outcomes):
        return "INCONCLUSIVE", 3 if policy.inconclusive == "fail" else 0
    return "PASSED", 0
