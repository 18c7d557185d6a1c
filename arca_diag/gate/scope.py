"""What a policy judges of a report: which checkpoints, in which view, for which credit."""

from collections.abc import Sequence
from dataclasses import dataclass

from arca_diag.errors import ResultError
from arca_diag.gate.names import SIGNALS
from arca_diag.gate.policy import Policy, Rule
from arca_diag.results import CheckpointInfo, Measurement, Report, Verdict, View

Label = int | str


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
        return [m for m in self.report.measurements if m.checkpoint == label and m.view == view]

    def verdict(self, label: Label, view: View, signal: str) -> Verdict | None:
        """The verdict on a signal, at the power that the report was asked at."""
        for verdict in self.report.verdicts:
            place = (verdict.checkpoint, verdict.view, verdict.signal)
            if place == (label, view, signal) and verdict.sharpening == self.sharpening:
                return verdict
        return None

    def replay_failed(self, label: Label) -> bool:
        """Whether the replay of a checkpoint is not the run."""
        return any(
            f.status == "fail" and f.checkpoint == str(label) for f in self.report.replay_fidelity
        )


def scope_of(report: Report, policy: Policy, credit: str | None = None) -> Scope:
    """What of a report a policy judges.

    Args:
        report: As read.
        policy: In force.
        credit: What the run trained with, where that is declared anew.

    Raises:
        ResultError: The report has no checkpoint of that step or name, or lacks what a judgement
            needs to know of it.
    """
    options = report.provenance.options
    declared, sharpening = credit or options.get("credit"), options.get("sharpening")
    if not isinstance(declared, str) or isinstance(sharpening, bool):
        raise ResultError("the report does not say which credit the run trained with")
    if not isinstance(sharpening, int | float):
        raise ResultError("the report does not say at which sharpening it was judged")
    chosen = _chosen(report.run.checkpoints, policy.checkpoint)
    return Scope(
        report=report,
        policy=policy,
        credit=declared,
        sharpening=float(sharpening),
        labels=tuple(_label(c) for c in chosen),
        unmeasured=tuple(_label(c) for c in chosen if not c.measured),
    )


def _label(checkpoint: CheckpointInfo) -> Label:
    return checkpoint.name if checkpoint.step is None else checkpoint.step


def _chosen(checkpoints: Sequence[CheckpointInfo], asked: Label) -> Sequence[CheckpointInfo]:
    if asked == "all":
        return checkpoints
    if asked == "last":
        return checkpoints[-1:]
    found = [c for c in checkpoints if asked in (c.step, c.name)]
    if not found:
        there = ", ".join(str(_label(c)) for c in checkpoints)
        raise ResultError(
            f"the result has no checkpoint {asked}; it has {there or 'none'}",
            hint="give last, all, or one of these with --checkpoint",
        )
    return found
