"""What a policy judges of a report: which checkpoints, in which view, for which credit."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from arca_diag.config import known_credit
from arca_diag.degeneracy import DEGENERATE
from arca_diag.errors import ConfigError, ResultError
from arca_diag.gate.names import FINDING_IDS, SIGNALS
from arca_diag.gate.policy import Policy, Rule
from arca_diag.results import CheckpointInfo, Measurement, Report, Verdict, View

Label = int | str

#: Why nothing is held to a figure or verdict of a replay that is not the run's, and what to do.
VOID = "no figure here is the run's: replay-mismatch"
VOID_ACTION = "mend the replay first: arca-diag explain replay-mismatch"
#: The rules that tell why others are inconclusive.
VOID_RULE, FEW_RULE = "replay-mismatch", "evidence-too-little"

#: The words of a verdict that name no fault.
_NO_FAULT = ("middle", "mixed", "inconclusive", "undefined")


@dataclass(frozen=True, kw_only=True)
class Scope:
    """A report, seen as a policy asks.

    Attributes:
        report: All of it.
        policy: In force.
        credit: What the run trained with: as declared now, else as the report has it.
        sharpening: The power that the report's verdicts are asked at.
        labels: The judged checkpoints, measured or not, in step order.
        unmeasured: Those of them without figures.
    """

    report: Report
    policy: Policy
    credit: str
    sharpening: float
    labels: tuple[Label, ...]
    unmeasured: tuple[Label, ...]

    @property
    def measured(self) -> tuple[Label, ...]:
        """The judged checkpoints that have figures."""
        return tuple(label for label in self.labels if label not in self.unmeasured)

    def covers(self, checkpoint: Label | None) -> bool:
        """Whether a finding there is judged; what is of no checkpoint is of the run, and is.

        With `last`, what comes after the last checkpoint is too: a newer state that cannot be
        used must not hide behind an older one.
        """
        if checkpoint is None or checkpoint in self.labels:
            return True
        last = self.labels[-1] if self.labels else None
        later = isinstance(checkpoint, int) and isinstance(last, int) and checkpoint > last
        return self.policy.checkpoint == "last" and later

    def signals(self, rule: Rule) -> tuple[str, ...]:
        """The signals that a rule holds to account."""
        if rule.signals == "all":
            return SIGNALS
        if rule.signals == "declared":
            return (self.credit,) if self.credit in SIGNALS else ()
        return tuple(rule.signals)

    def view(self, rule: Rule) -> View:
        """The view that a rule looks at."""
        return rule.view or self.policy.view

    def at(self, rule: Rule) -> tuple[Label, ...]:
        """The checkpoints that a rule looks at, measured or not."""
        return self.labels[-1:] if rule.aggregate == "last" else self.labels

    def figures(self, label: Label, view: View) -> list[Measurement]:
        """What was measured at a checkpoint in a view."""
        return self._figures.get((label, view), [])

    def verdict(self, label: Label, view: View, signal: str) -> Verdict | None:
        """The verdict on a signal, at the power that the report was asked at."""
        return self._verdicts.get((label, view, signal))

    @functools.cached_property
    def _failed(self) -> frozenset[str]:
        return frozenset(f.checkpoint for f in self.report.replay_fidelity if f.status == "fail")

    @functools.cached_property
    def _figures(self) -> dict[tuple[Label, View], list[Measurement]]:
        found: dict[tuple[Label, View], list[Measurement]] = {}
        for m in self.report.measurements:
            found.setdefault((m.checkpoint, m.view), []).append(m)
        return found

    @functools.cached_property
    def _verdicts(self) -> dict[tuple[Label, View, str], Verdict]:
        return {
            (v.checkpoint, v.view, v.signal): v
            for v in self.report.verdicts
            if v.sharpening == self.sharpening
        }

    def replay_failed(self, label: Label) -> bool:
        """Whether the replay of a checkpoint is not the run."""
        return str(label) in self._failed


def scope_of(report: Report, policy: Policy, credit: str | None = None) -> Scope:
    """What of a report a policy judges.

    Args:
        report: As read.
        policy: In force.
        credit: What the run trained with, where that is declared anew.

    Raises:
        ConfigError: There is no such credit.
        ResultError: The report has no checkpoint of that step or name, lacks what a judgement
            needs to know of it, or says what no rule could judge.
    """
    options = report.provenance.options
    sharpening = finite(options.get("sharpening"))
    if sharpening is None or sharpening <= 0:
        raise ResultError("the report does not say at which sharpening it was judged")
    declared = _declared(options.get("credit"), credit)
    _check_words(report)
    chosen = _chosen(report.run.checkpoints, policy.checkpoint)
    return Scope(
        report=report,
        policy=policy,
        credit=declared,
        sharpening=sharpening,
        labels=tuple(label_of(c) for c in chosen),
        unmeasured=tuple(label_of(c) for c in chosen if not c.measured),
    )


def _declared(saved: object, given: str | None) -> str:
    """The credit to hold the run to: a word that nothing knows would hold it to none."""
    if given is not None:
        try:
            return known_credit(given)
        except ValueError as error:
            raise ConfigError(f"credit: {error}, found {given!r:.80}") from None
    try:
        return known_credit(saved if isinstance(saved, str) else "")
    except ValueError:
        raise ResultError(
            f"the report does not say which credit the run trained with: {saved!r:.80}",
            hint="say it with --credit",
        ) from None


def finite(value: object) -> float | None:
    """A finite number, as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _check_words(report: Report) -> None:
    """Check that every fault that the report names is one that a rule can judge, and just once.

    What a newer version calls by a new name would otherwise pass unseen.
    """
    hint = "scan again with this version of arca-diag, or gate with the one that wrote the report"
    causes = [cause for verdict in report.verdicts for cause in verdict.causes]
    for identity in (*(finding.id for finding in report.findings), *causes):
        if identity not in FINDING_IDS:
            raise ResultError(f"the report names a fault {identity!r:.80} unknown here", hint=hint)
    seen = set()
    for verdict in report.verdicts:
        if verdict.regime not in DEGENERATE and verdict.regime not in _NO_FAULT:
            message = f"the report names a regime {verdict.regime!r:.80} unknown here"
            raise ResultError(message, hint=hint)
        place = (verdict.checkpoint, verdict.view, verdict.signal, verdict.sharpening)
        if place in seen:
            where = f"{verdict.signal!r:.80} at {verdict.checkpoint!r:.80}"
            raise ResultError(f"the report has two verdicts on {where}", hint="scan again")
        seen.add(place)


def label_of(checkpoint: CheckpointInfo) -> Label:
    """The step, or the name where there is none: how figures name their checkpoint."""
    return checkpoint.name if checkpoint.step is None else checkpoint.step


def _chosen(checkpoints: Sequence[CheckpointInfo], asked: Label) -> Sequence[CheckpointInfo]:
    if asked == "all":
        return checkpoints
    if asked == "last":
        return checkpoints[-1:]
    found = [c for c in checkpoints if asked in (c.step, c.name)]
    if not found:
        there = ", ".join(str(label_of(c)) for c in checkpoints)
        raise ResultError(
            f"the result has no checkpoint {asked}; it has {there or 'none'}",
            hint="give last, all, or one of these with --checkpoint",
        )
    return found
