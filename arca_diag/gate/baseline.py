"""A baseline: an accepted result's figures and findings, and what they are of, in a small file.

Figures carry their intervals, so that a comparison knows both sides' uncertainty. What the result
was of is kept beside them, so that unlike things are refused and not compared in silence.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from arca_diag.errors import ResultError
from arca_diag.gate.outcome import RuleOutcome, Status
from arca_diag.gate.policy import Change, relative_part
from arca_diag.gate.scope import Label, Scope, finite
from arca_diag.intervals import Interval
from arca_diag.likeness import made_of, measured_by
from arca_diag.results import SCHEMA_VERSION, Measurement, SchemaVersion, View

#: Figures that every baseline keeps; and those that the policy has rules on.
_ALWAYS = (
    "gini_corrected",
    "effn_corrected",
    "token_share_90",
    "mean",
    "short_share",
    "groups_without_spread",
)
_LIMIT = 64 * 2**20

NO_BASELINE_ACTION = (
    "name one (--baseline F), or write one from an accepted result: --baseline F --update-baseline"
)
UNLIKE_ACTION = "write it anew from an accepted result: delete the file, then --update-baseline"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BaselineFigure(_Part):
    """One figure, by what it is of."""

    checkpoint: int | str
    view: View
    signal: str | None
    against: str | None
    name: str
    value: float
    low: float | None
    high: float | None
    n_clusters: int

    @model_validator(mode="after")
    def _ordered(self) -> "BaselineFigure":
        if (self.low is None) != (self.high is None):
            raise ValueError(f"{self.name}: one limit without the other")
        if self.low is not None and self.high is not None:
            slack = 1e-9 * max(1.0, abs(self.value))
            if not self.low - slack <= self.value <= self.high + slack:
                raise ValueError(f"{self.name}: the value lies outside its interval")
        return self


class BaselineFinding(_Part):
    """A warning or an error that the accepted result has."""

    id: str
    signal: str | None


class Baseline(_Part):
    """An accepted result. `alike` must be equal for a comparison; `also` is said if it is not."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    run: str
    checkpoint: int | str = Field(description="How checkpoints were chosen: last, all, or one.")
    last: int | str = Field(description="The last of the judged checkpoints.")
    alike: dict[str, str | float | None]
    also: dict[str, str | None]
    findings: list[BaselineFinding]
    figures: list[BaselineFigure]

    def figure(self, now: Measurement, scope: Scope) -> BaselineFigure | None:
        """The figure of the same thing, at the same step; of `last`, at the baseline's last."""
        step: Label = now.checkpoint
        if scope.policy.checkpoint == "last" and step == scope.labels[-1]:
            step = self.last
        for figure in self.figures:
            same = (figure.checkpoint, figure.view, figure.signal, figure.against, figure.name)
            if same == (step, now.view, now.signal, now.against, now.name):
                return figure
        return None

    def unlike(self, scope: Scope) -> list[str]:
        """What differs that must not, in words."""
        now = _alike(scope)
        return [
            f"{key} was {self.alike.get(key)!r:.80} and is {now.get(key)!r:.80}"
            for key in sorted(now.keys() | self.alike.keys())
            if self.alike.get(key) != now.get(key)
        ]

    def notes(self, scope: Scope) -> list[str]:
        """What differs and is compared all the same, in words."""
        now = _also(scope)
        told = [
            f"the baseline is of other {key}: {self.also.get(key)!r:.80}, now {now[key]!r:.80}"
            for key in sorted(now)
            if self.also.get(key) != now[key]
        ]
        if scope.labels and self.last != scope.labels[-1]:
            told.append(f"the baseline is of checkpoint {self.last}, this is {scope.labels[-1]}")
        return told

    def to_json(self) -> str:
        """The file: one figure a line, so that a change of one is a change of one line."""
        document = self.model_dump(mode="json")
        rows = {key: document.pop(key) for key in ("findings", "figures")}
        head = json.dumps(document, indent=1, allow_nan=False)[:-2]
        for key, parts in rows.items():
            lines = ",\n  ".join(json.dumps(p, allow_nan=False) for p in parts)
            head += f',\n "{key}": [' + (f"\n  {lines}\n ]" if parts else "]")
        return head + "\n}\n"


def baseline_of(scope: Scope, outcomes: Iterable[RuleOutcome]) -> Baseline:
    """A result as a baseline: its judged checkpoints in both views.

    Raises:
        ResultError: It has no checkpoint.
    """
    if not scope.measured:
        raise ResultError("nothing was measured: no baseline can be made of it")
    names = {*_ALWAYS, *(r.of for r in scope.policy.rules.values() if r.kind == "measurement")}
    figures = [
        BaselineFigure(
            **m.model_dump(
                include={"checkpoint", "view", "signal", "against", "name", "value", "low", "high"}
            ),
            n_clusters=m.n_clusters,
        )
        for m in scope.report.measurements
        if m.name in names
        and m.value is not None
        and m.checkpoint in scope.labels
        and m.sharpening in (None, scope.sharpening)
    ]
    return Baseline(
        run=scope.report.run.name,
        checkpoint=scope.policy.checkpoint,
        last=scope.labels[-1],
        alike=_alike(scope),
        also=_also(scope),
        findings=[BaselineFinding(id=rule, signal=signal) for rule, signal in seen(outcomes)],
        figures=figures,
    )


def seen(
    outcomes: Iterable[RuleOutcome], statuses: Sequence[Status] = ("failed", "suppressed")
) -> list[tuple[str, str | None]]:
    """Warnings and errors among findings, by id and signal."""
    found = {
        (o.of, case.signal): None
        for o in outcomes
        if o.kind == "finding"
        for case in o.cases
        if case.status in statuses and case.level != "note"
    }
    return sorted(found, key=lambda key: (key[0], key[1] or ""))


def read_baseline(path: Path) -> Baseline:
    """A baseline file.

    Raises:
        ResultError: It is absent, too large, or no baseline of this version.
    """
    try:
        if path.stat().st_size > _LIMIT:
            raise ResultError(f"{path} is too large to be a baseline")
        return Baseline.model_validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise ResultError(
            f"the baseline {path} cannot be read: {error.strerror}",
            hint="write one from an accepted result: gate DIR --baseline F --update-baseline",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        raise ResultError(
            f"{path} is no baseline of this version: {at or 'the document'}: {first['msg']}",
            hint=UNLIKE_ACTION,
        ) from None


def limit(before: BaselineFigure, change: Change, sign: int) -> Interval | str:
    """What the baseline allows, with its interval: its figure, moved by an allowed change."""
    low = before.value if before.low is None else before.low
    high = before.value if before.high is None else before.high
    share = relative_part(change)
    if share is None:
        shift = sign * float(change)
        return Interval(before.value + shift, low + shift, high + shift)
    if before.value == 0:
        return "the baseline's figure is 0: give an absolute bound, not a percentage"
    factor = 1 + sign * share * (1 if before.value > 0 else -1)
    ends = sorted((low * factor, high * factor))
    return Interval(before.value * factor, ends[0], ends[1])


def _alike(scope: Scope) -> dict[str, str | float | None]:
    of = measured_by(scope.report)
    return {
        **of,
        "epsilon": finite(of["epsilon"]),
        "sharpening": scope.sharpening,
        "view": scope.policy.view,
    }


def _also(scope: Scope) -> dict[str, str | None]:
    return {**made_of(scope.report), "credit": scope.credit}
