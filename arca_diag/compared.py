"""What a comparison of two results found, as data: the document that `compare --json` prints.

A is the one before, B the one after, and every difference is B less A. No text of prompts or
completions is in here, and nothing that only another computer would know.
"""

import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from arca_diag.results import Count, Figure, View

Label = int | str
Which = Literal["a", "b"]
How = Literal["paired", "like-length", "independent"]
Status = Literal["changed", "within-noise", "equal", "inconclusive", "undefined"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Result(_Part):
    """One of the two results."""

    label: str = Field(description="As it was given; of an absolute path the end alone.")
    run: str
    version: str = Field(description="Of the arca-diag that measured it.")
    made: str = Field(description="When it was measured, as its report says.")
    sharpening: float = Field(description="The power that its credit was judged at.")
    checkpoints: list[Label] = Field(description="Those that were measured.")
    tables: bool = Field(description="Whether its tables were at hand, and are the report's.")


class Unlike(_Part):
    """Something that differs between the results beside the policy.

    With `level` "warn" the two measure different things, and a difference of figures may come
    from that alone; with "note" they are compared all the same.
    """

    what: str
    level: Literal["warn", "note"]
    a: str | float | None
    b: str | float | None
    message: str


class Sets(_Part):
    """How the completions of one view at one pair of checkpoints were held together.

    `paired`: the same completions, and the difference of each. Else `reason` says why not.
    """

    checkpoint_a: Label
    checkpoint_b: Label
    view: View
    paired: bool
    prompts_a: Count
    prompts_b: Count
    prompts_common: Count = Field(description="Prompts with a completion that both have.")
    completions_common: Count
    reason: str | None


class FigureChange(_Part):
    """One figure in both results, and its difference with a 95% interval over prompts.

    `reason` says why there is no difference (`undefined`) or why none is called (`inconclusive`).
    """

    checkpoint_a: Label
    checkpoint_b: Label
    view: View
    signal: str | None
    name: str
    a: Figure
    b: Figure
    difference: Figure
    how: How = Field(
        description="paired: on the same completions. like-length: other completions, of lengths "
        "that both have; it need not be b - a. independent: from the limits of a and of b."
    )
    n_clusters: Count = Field(description="Prompts that the difference is over; of two, the fewer.")
    status: Status
    slight: bool = Field(
        description="Whether a share or a coefficient surely moves by less than .005, which no "
        "table with two decimals would show; a change all the same where `status` says so."
    )
    p: float | None = Field(description="Two-sided, of this figure alone; null if not asked.")
    p_holm: float | None = Field(description="Corrected for all figures that were asked.")
    reason: str | None

    @model_validator(mode="after")
    def _difference_or_reason(self) -> "FigureChange":
        if (self.status in ("inconclusive", "undefined")) == (self.reason is None):
            raise ValueError(f"{self.name}: {self.status} with reason {self.reason!r}")
        if self.status != "undefined" and self.difference.value is None:
            raise ValueError(f"{self.name}: {self.status} without a difference")
        return self

    @property
    def holds(self) -> bool:
        """Whether it is a change after Holm's correction too."""
        return self.status == "changed" and self.p_holm is not None and self.p_holm <= 0.05


class RegimeChange(_Part):
    """The verdict on one signal in both results."""

    checkpoint_a: Label
    checkpoint_b: Label
    view: View
    signal: str
    a: str | None = Field(description="The regime in A; null where there is no verdict.")
    b: str | None
    causes_gained: list[str]
    causes_lost: list[str]
    figures_changed: bool = Field(
        description="Whether G^ or e^ of the signal is outside noise there: a regime moves too "
        "where a share was near its cut, or where there are more prompts."
    )

    @property
    def moved(self) -> bool:
        """Whether regime or causes are not what they were."""
        return self.a != self.b or bool(self.causes_gained or self.causes_lost)


class FindingChange(_Part):
    """A finding of the run or of the compared checkpoints whose level is not the same in both."""

    id: str
    signal: str | None
    level_a: Literal["error", "warn", "note"] | None = Field(description="null: not in A.")
    level_b: Literal["error", "warn", "note"] | None = Field(description="null: not in B.")


class Comparison(_Part):
    """Two results side by side: what changed, and whether it is outside noise."""

    schema_version: Literal[1]
    tool: dict[str, str]
    a: Result
    b: Result
    checkpoints: list[tuple[Label, Label]] = Field(description="Of A and of B, pair by pair.")
    chosen: str = Field(description="Why these checkpoints, in words.")
    unlike: list[Unlike]
    sets: list[Sets]
    figures: list[FigureChange]
    regimes: list[RegimeChange]
    findings: list[FindingChange]

    def of(self, *statuses: Status) -> list[FigureChange]:
        """The figures of these statuses."""
        return [f for f in self.figures if f.status in statuses]

    def to_json(self) -> str:
        """The document, two-space indented. No name in it is a CI system's `##command[`."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"
        return re.sub("#(?=#)", r"\\u0023", text)


def comparison_schema() -> dict[str, Any]:
    """The JSON Schema of what `compare --json` prints; the package has it as a file."""
    schema = Comparison.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema
