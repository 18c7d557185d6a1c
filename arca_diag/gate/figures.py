"""Rules on figures: a bound is judged against the interval, as in verdicts, never the point."""

from collections.abc import Sequence
from dataclasses import dataclass

from arca_diag.gate.baseline import NO_BASELINE_ACTION, UNLIKE_ACTION, Baseline, limit
from arca_diag.gate.names import SIGNALS, WITHOUT_INTERVAL
from arca_diag.gate.outcome import Case, Status
from arca_diag.gate.policy import Change, Rule
from arca_diag.gate.scope import FEW_RULE, VOID, VOID_ACTION, VOID_RULE, Label, Scope
from arca_diag.intervals import Interval, difference
from arca_diag.results import Measurement

_MORE = "replay more prompts (scan --groups, --fixed-groups)"
_CHANGE = "see what moved it (report.json has every checkpoint), or change the bound in the policy"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A side on which a figure must be, as the interval of its distance past the bound.

    Attributes:
        words: What is asked, for a reader.
        past: Least and greatest distance past it: both above 0 is surely past.
    """

    words: str
    past: tuple[float, float]

    @property
    def status(self) -> Status:
        """Surely past, surely not, or open."""
        low, high = self.past
        if low > 0:
            return "failed"
        return "passed" if high <= 0 else "inconclusive"


@dataclass(frozen=True)
class Open:
    """Why a figure cannot be held to its bound, and what to do about it."""

    says: str
    action: str = _MORE
    because: str | None = None


def figure_cases(rule: Rule, scope: Scope, baseline: Baseline | None) -> list[Case]:
    """Every figure that a rule is of, at every checkpoint it looks at."""
    view = scope.view(rule)
    cases = []
    for label in scope.at(rule):
        found = [m for m in scope.figures(label, view) if _is_meant(rule, scope, m)]
        cases += [_judged(rule, scope, m, baseline) for m in found]
        if not found and not scope.signals(rule):
            says = f"the run's credit ({scope.credit}) is no signal: nothing is held to this"
            cases.append(_case(rule, label, None, "passed", says))
            continue
        what = rule.of if rule.against is None else f"{rule.of} against {rule.against}"
        action = "measure it: another --view, or a scan that has it; or turn the rule off"
        cases += [
            _open(rule, label, None, Open(f"the result has no {what}{of} in this view", action))
            for of in _missing(rule, found)
        ]
    return cases


def _missing(rule: Rule, found: Sequence[Measurement]) -> list[str]:
    """What a rule asks for and the result has not, in words: each signal that it names, if any."""
    if not found:
        return [""]
    sides = {side for m in found for side in (m.signal, m.against)}
    if isinstance(rule.signals, str) or all(m.signal is None for m in found):
        return []
    return [f" of {s}" for s in rule.signals if s not in sides and s != rule.against]


def _is_meant(rule: Rule, scope: Scope, figure: Measurement) -> bool:
    if figure.name != rule.of or figure.sharpening not in (None, scope.sharpening):
        return False
    asked = scope.signals(rule)
    if rule.against in SIGNALS:  # a pair, which is measured in one order only
        pairs = [{signal, rule.against} for signal in asked if signal != rule.against]
        return {figure.signal, figure.against} in pairs
    if figure.signal is not None and figure.signal not in asked:
        return False
    return rule.against is None or figure.against == rule.against


def _judged(rule: Rule, scope: Scope, figure: Measurement, baseline: Baseline | None) -> Case:
    interval = _interval(figure, scope)
    if isinstance(interval, Open):
        return _open(rule, figure.checkpoint, figure, interval)
    bounds: list[Bound] = []
    unknown: list[Open] = []
    for limit_, sign, word in ((rule.max, 1, "at most"), (rule.min, -1, "at least")):
        if limit_ is not None:
            bounds.append(_fixed(interval, limit_, sign, word))
    for change, sign in ((rule.max_increase, 1), (rule.max_decrease, -1)):
        if change is not None:
            bound = _relative(figure, interval, change, sign, scope, baseline)
            if isinstance(bound, Open):
                unknown.append(bound)
            else:
                bounds.append(bound)
    if unknown and not any(bound.status == "failed" for bound in bounds):
        return _open(rule, figure.checkpoint, figure, unknown[0])
    return _worst(rule, figure, bounds)


def _worst(rule: Rule, figure: Measurement, bounds: Sequence[Bound]) -> Case:
    order: tuple[Status, ...] = ("failed", "inconclusive", "passed")
    bound = min(bounds, key=lambda b: order.index(b.status))
    says = {
        "failed": f"surely past the bound ({bound.words})",
        "inconclusive": f"the interval holds the bound ({bound.words}): not sure on which side",
        "passed": bound.words,
    }[bound.status]
    action = {"failed": _CHANGE, "inconclusive": _MORE, "passed": None}[bound.status]
    return _case(rule, figure.checkpoint, figure, bound.status, says, action, bound.words)


def _interval(figure: Measurement, scope: Scope) -> Interval | Open:
    """Value and limits; why there are none that a bound can be held against."""
    if figure.signal is not None and scope.replay_failed(figure.checkpoint):
        return Open(VOID, VOID_ACTION, VOID_RULE)
    if figure.value is None:
        return Open(figure.reason or "it has no value")
    least = scope.policy.min_clusters
    if figure.n_clusters < least:
        few = f"{figure.n_clusters} prompts, and the policy asks for {least}"
        return Open(few, because=FEW_RULE)
    if figure.low is not None and figure.high is not None:
        return Interval(figure.value, figure.low, figure.high)
    if figure.name in WITHOUT_INTERVAL:
        return Interval(figure.value, figure.value, figure.value)
    return Open("it has no interval: too few prompts", because=FEW_RULE)


def _fixed(interval: Interval, bound: float, sign: int, word: str) -> Bound:
    ends = sorted((sign * (interval.low - bound), sign * (interval.high - bound)))
    return Bound(words=f"{word} {bound:g}", past=(ends[0], ends[1]))


def _relative(
    figure: Measurement,
    interval: Interval,
    change: Change,
    sign: int,
    scope: Scope,
    baseline: Baseline | None,
) -> Bound | Open:
    """How far a figure is past what the baseline allows, with both intervals in it.

    The limits are those of `intervals.difference`, whatever prompts the two have in common.
    """
    if baseline is None:
        return Open("there is no baseline to compare with", NO_BASELINE_ACTION)
    if baseline.unlike(scope):
        return Open("the baseline is of something else", UNLIKE_ACTION)
    before = baseline.figure(figure, scope)
    if before is None:
        return Open("the baseline does not have this figure", UNLIKE_ACTION)
    if before.low is None and before.name not in WITHOUT_INTERVAL:
        return Open("the baseline's figure has no interval: too few prompts", UNLIKE_ACTION)
    allowed = limit(before, change, sign)
    if isinstance(allowed, str):
        return Open(allowed, "give max-increase or max-decrease as a number")
    gap = difference(interval, allowed) if sign > 0 else difference(allowed, interval)
    word = "above" if sign > 0 else "below"
    by = change if isinstance(change, str) else f"{change:g}"
    words = f"at most {by} {word} the baseline's {before.value:.4g}"
    return Bound(words=words, past=(gap.low, gap.high))


def _open(rule: Rule, label: Label, figure: Measurement | None, why: Open) -> Case:
    case = _case(rule, label, figure, "inconclusive", why.says, why.action)
    return case.model_copy(update={"because": why.because})


def _case(
    rule: Rule,
    label: Label,
    figure: Measurement | None,
    status: Status,
    says: str,
    action: str | None = None,
    bound: str | None = None,
) -> Case:
    name = rule.of
    told = says
    if figure is not None:
        parts = [p for p in (figure.signal, figure.against) if p is not None]
        name = f"{rule.of} of {' and '.join(parts)}" if parts else rule.of
        told = f"{name} is {shown(figure)}: {says}" if figure.value is not None else says
    return Case(
        status=status,
        level="note" if rule.level not in ("error", "warn") else rule.level,
        checkpoint=label,
        signal=figure.signal if figure else None,
        view=figure.view if figure else rule.view,
        observed=figure.value if figure else None,
        low=figure.low if figure else None,
        high=figure.high if figure else None,
        n_clusters=figure.n_clusters if figure else None,
        bound=bound,
        message=told,
        action=action,
    )


def shown(figure: Measurement) -> str:
    """A figure with its interval and the prompts it is over."""
    told = f"{figure.value or 0.0:.3g}"
    if figure.low is not None and figure.high is not None:
        told += f" ({figure.low:.3g} to {figure.high:.3g}, {figure.n_clusters} prompts)"
    return told
