"""What a gate is asked to hold a result to: rules, scope, least evidence, suppressions. As data.

Where a policy comes from is `loading.py`; what the named profiles ask is `profiles.py`.
"""

import datetime
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from arca_diag.results import View

FailOn = Literal["error", "warn", "never"]
#: What a rule's case counts as. `as-found` is the level that the report gives the finding, and
#: for a signal the one that it has as the credit that the run trains with; `at-most-warn` the
#: same, and a warning where that is an error.
RuleLevel = Literal["error", "warn", "note", "off", "as-found", "at-most-warn"]
Which = Literal["declared", "all"]
#: An increase or a decrease: 0.05 is in the figure's own unit, "20%" relative to the baseline.
Change = float | str
#: The check that compares findings with the baseline's.
NEW_FINDINGS = "baseline-new-findings"
#: What a rule is of.
Kind = Literal["finding", "measurement", "check"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rule(_Part):
    """One rule: a finding that must not be there, a figure within bounds, or one of our checks.

    `aggregate` says how judged checkpoints and signals come together: `any` fails where one is
    past, `all` only where every one is, `last` looks at the last of the checkpoints alone.
    """

    model_config = ConfigDict(strict=True)

    kind: Kind
    of: str = Field(description="Id of the finding or check, or name of the figure.")
    level: RuleLevel = "error"
    max: float | None = None
    min: float | None = None
    max_increase: Change | None = None
    max_decrease: Change | None = None
    aggregate: Literal["any", "all", "last"] = "any"
    signals: Which | tuple[str, ...] = "all"
    regimes: tuple[str, ...] = Field(
        default=(), description="Of a finding on regimes: those that it counts; none: all it has."
    )
    view: View | None = Field(default=None, description="Null: the policy's view.")
    against: str | None = Field(default=None, description="What a figure compares with.")

    @property
    def relative(self) -> bool:
        """Whether it needs a baseline."""
        return self.max_increase is not None or self.max_decrease is not None


class Suppression(_Part):
    """A known fault that is let pass for a while, and why."""

    id: str
    reason: str
    expires: datetime.date
    checkpoint: int | str | None = Field(default=None, description="Null: at every one.")
    signal: str | None = Field(default=None, description="Null: of every one.")


class Policy(_Part):
    """Everything that decides a gate, resolved."""

    profile: Literal["recommended", "strict", "lenient"] = "recommended"
    fail_on: FailOn = "error"
    inconclusive: Literal["fail", "pass"] = "fail"
    checkpoint: int | str = Field(default="last", description="last, all, a step, or a name.")
    view: View = "on-policy"
    min_clusters: Annotated[int, Field(ge=1)] = 8
    min_tokens: Annotated[int, Field(ge=0)] = 1000
    baseline: Path | None = None
    credit: str | None = Field(
        default=None, description="What the run trains with; null: as the report says."
    )
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    rules: Annotated[Mapping[str, Rule], AfterValidator(MappingProxyType)] = Field(
        default_factory=lambda: MappingProxyType({})
    )
    suppressions: tuple[Suppression, ...] = ()

    @model_validator(mode="after")
    def _something_is_asked(self) -> "Policy":
        active = self.active()
        if not active or (self.select and not any(name in active for name in self.select)):
            raise ValueError("no rule is left: a gate that asks nothing would always pass")
        return self

    def active(self) -> dict[str, Rule]:
        """The rules that are in force, by their ids, those off or deselected left out.

        Our own checks are not deselected by `select`: what is left must still not pass on nothing.
        """
        return {
            name: rule
            for name, rule in self.rules.items()
            if rule.level != "off"
            and (not self.select or name in self.select or rule.kind == "check")
            and name not in self.ignore
        }

    def comparing(self) -> list[str]:
        """Ids of the active rules that compare with a baseline."""
        return [n for n, r in self.active().items() if r.relative or r.of == NEW_FINDINGS]


def relative_part(change: Change) -> float | None:
    """0.2 for "20%"; None for a change in the figure's own unit.

    Raises:
        ValueError: The text is no percentage, or the number is negative.
    """
    if isinstance(change, str):
        number, sign, rest = change.strip().partition("%")
        try:
            share = float(number) / 100
        except ValueError:
            share = math.nan
        if not sign or rest or not 0 <= share < math.inf:
            raise ValueError(f'give a number, or a percentage such as "20%", found {change!r:.50}')
        return share
    if not 0 <= change < math.inf:
        raise ValueError(f"must not be negative, found {change}")
    return None
