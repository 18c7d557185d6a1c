"""What a gate found, as data: every rule with its cases, the exit code, and what was judged.

`GateResult` is the document that `arca-diag gate --format json` prints; its JSON Schema is
`gate_schema()`, published in the package as `gate.schema.json`.
"""

import datetime
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from arca_diag.degeneracy import Level
from arca_diag.results import View

#: `skipped`: there was nothing to look at, such as no baseline; it decides nothing.
Status = Literal["passed", "failed", "inconclusive", "suppressed", "skipped"]
Verdict = Literal["PASSED", "FAILED", "INCONCLUSIVE"]
#: The worst first.
LEVELS: tuple[Level, ...] = ("error", "warn", "note")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Case(_Part):
    """One thing that a rule looked at."""

    status: Status
    level: Level
    checkpoint: int | str | None = None
    signal: str | None = None
    view: View | None = None
    observed: float | None = None
    low: float | None = None
    high: float | None = None
    n_clusters: Annotated[int, Field(ge=0)] | None = None
    bound: str | None = Field(default=None, description="What a figure is held to, in words.")
    message: str
    action: str | None = Field(default=None, description="What to do; null where it passed.")
    because: str | None = Field(
        default=None, description="The rule that tells why it is inconclusive, if one does."
    )
    suppressed: str | None = Field(default=None, description="Reason and date of a suppression.")


class RuleOutcome(_Part):
    """One rule. A failed case that is a note leaves the rule passed."""

    id: str
    kind: Literal["finding", "measurement", "check"]
    of: str
    status: Status
    level: Level = Field(description="Of the worst case that made the status.")
    fails: bool = Field(description="Whether it makes the gate fail: failed, at fail_on or above.")
    holds: bool = Field(description="Whether it leaves the gate open: so at fail_on or above.")
    message: str
    action: str | None
    help: str
    origin: str | None = Field(description="The file that wrote it out; null for a profile's.")
    cases: list[Case]

    def deciding(self) -> list[Case]:
        """The cases that made the status, the worst first; where it passed, all that passed."""
        made = [c for c in self.cases if c.status == self.status]
        real = [c for c in made if c.level != "note" or self.status == "passed"]
        return sorted(real, key=lambda c: LEVELS.index(c.level))


class SuppressionState(_Part):
    """A suppression of the policy, and what became of it."""

    id: str
    reason: str
    expires: datetime.date
    checkpoint: int | str | None
    signal: str | None
    state: Literal["used", "unused", "expired"]


class Judged(_Part):
    """What was judged."""

    run: str
    tool_version: str
    checkpoints: list[int | str]
    view: View
    credit: str
    signals: list[str] = Field(description="Signals that the profile's rules hold to account.")
    prompts: int = Field(description="The fewest of a judged checkpoint.")
    tokens: int = Field(description="Counted tokens over the judged checkpoints, in the view.")
    base: str | None
    dtype: str
    temperature: float
    baseline: str | None
    compared: list[str] = Field(description="Rules that compare with the baseline.")
    compared_with_run: bool = Field(description="Whether the run was at hand to compare hashes.")


class Asked(_Part):
    """The settings of the policy."""

    profile: str
    file: str | None
    fail_on: Literal["error", "warn", "never"]
    inconclusive: Literal["fail", "pass"]
    min_clusters: int
    min_tokens: int


class GateResult(_Part):
    """Everything that a gate found."""

    schema_version: Literal[1] = 1
    tool: dict[str, str]
    status: Verdict
    exit_code: Literal[0, 1, 3]
    errors: int = Field(description="Rules that failed as errors.")
    warnings: int = Field(description="Rules that failed as warnings.")
    inconclusive: int = Field(description="Rules that are inconclusive.")
    policy: Asked
    judged: Judged
    replay_fidelity: dict[str, str] = Field(description="Judged checkpoint -> status.")
    rules: list[RuleOutcome]
    suppressions: list[SuppressionState]
    notes: list[str] = Field(description="What else to know: not judged, expired, unlike.")

    def failed(self) -> list[RuleOutcome]:
        """Rules that failed, worst first; of one level those that name a cause come first."""
        return sorted(self.of_status("failed"), key=lambda r: LEVELS.index(r.level))

    def of_status(self, status: Status) -> list[RuleOutcome]:
        """Rules of a status, in the policy's order."""
        return [r for r in self.rules if r.status == status]

    def to_json(self) -> str:
        """The document, two-space indented. No text in it is a CI system's `##command[`."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"
        return re.sub("#(?=#)", r"\\u0023", text)


def gate_schema() -> dict[str, Any]:
    """The JSON Schema of the document, from the models above."""
    schema = GateResult.model_json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema
