"""What `inspect` finds without a model, as data: the document that `inspect --json` prints."""

import json
from typing import Literal

from pydantic import Field

from arca_diag.results import (
    AdapterInfo,
    Count,
    Finding,
    Part,
    ReferenceInfo,
    SchemaVersion,
    Step,
    Tool,
)


class TrendInfo(Part):
    """One figure that the trainer logged, over the run."""

    name: str
    key: str = Field(description="Its key in the log.")
    first: float = Field(description="Mean of the first tenth of the entries.")
    last: float = Field(description="Mean of the last tenth.")
    low: float
    high: float
    entries: Count


class FoundLayer(Part):
    """How far an adapter moves one layer; `reason` says why a figure is null."""

    name: str
    norm: float | None = Field(description="Frobenius norm of the update s B A.")
    share: float | None = Field(description="Its part of the squared norm over all layers.")
    stable_rank: float | None = Field(description="||.||_F^2 / ||.||_2^2.")
    effective_rank: float | None = Field(description="exp of the entropy of singular values.")
    rank_used: Count | None
    rank_given: Count | None
    reason: str | None


class FoundCheckpoint(Part):
    """One checkpoint as `inspect` finds it; `reason` says why it cannot be read."""

    name: str
    step: Step | None
    rank: int | None
    alpha: float | None
    init: str | None
    target_modules: list[str]
    use_dora: bool | None
    use_rslora: bool | None
    size_bytes: Count | None
    update_norm: float | None = Field(description="Frobenius norm of the whole update s B A.")
    stable_rank: float | None = Field(description="Median over the layers.")
    effective_rank: float | None = Field(description="Median over the layers.")
    rank_used: Count | None = Field(description="Summed over the layers.")
    rank_given: Count | None = Field(description="Summed over the same layers.")
    layers: list[FoundLayer] = Field(description="Empty where tensors are not looked at.")
    reason: str | None


class FoundRun(Part):
    """The run as `inspect` finds it."""

    name: str
    framework: str
    framework_version: str | None
    recognised_by: str
    steps: Step | None
    temperature: float
    temperature_source: str
    beta: float | None = Field(description="Weight of the KL term; null if unknown.")
    num_generations: float | None = Field(description="Completions a group; null if unknown.")
    max_completion_length: float | None
    checkpoints: list[FoundCheckpoint]
    refused: list[str] = Field(description="States that hold no adapter, and what would make one.")


class FoundBase(Part):
    """The base model; `found` is false where it is not at hand."""

    name: str | None
    named_by: Literal["--base", "adapter_config.json"] | None
    found: bool
    stands_for: str | None = Field(description="The quantised model whose original this is.")
    reason: str | None


class FoundRollouts(Part):
    """The completions as `inspect` finds them; the keys are those of a report's `rollouts`.

    Where there are none, `reason` says why and nothing is counted.
    """

    source: str | None = None
    found: Count = 0
    groups: Count = 0
    groups_of_one_answer: Count = Field(
        default=0, description="Groups whose completions are all the same."
    )
    ids_exact: bool | None = None
    eval_excluded: Count = 0
    duplicates_dropped: Count = 0
    lines_skipped: Count = 0
    left_out: dict[str, Count] = Field(default_factory=dict)
    unknown_fields: dict[str, Count] = Field(default_factory=dict)
    step_source: str | None = None
    group_source: str | None = None
    steps: list[int] = Field(default_factory=list)
    reason: str | None = None


class Plan(Part):
    """What `scan` would do. Token counts are guesses where the completions are text."""

    checkpoints: Count
    completions: Count
    groups: Count
    tokens: Count = Field(description="Prompt and completion tokens, each completion once.")
    passes: Count = Field(description="Completions times models they are replayed under.")
    pass_tokens: Count = Field(
        description="Tokens of all passes; fewer go through a model where completions share some."
    )
    guessed: bool


class Inspection(Part):
    """What `inspect` finds without a model: the document that `inspect --json` prints."""

    schema_version: SchemaVersion
    tool: Tool
    run: FoundRun
    base: FoundBase
    adapter: AdapterInfo | None
    reference: ReferenceInfo | None
    rollouts: FoundRollouts
    trends: list[TrendInfo]
    plan: Plan | None
    findings: list[Finding]

    def to_json(self) -> str:
        """The document, two-space indented."""
        return json.dumps(self.model_dump(mode="python"), indent=2, allow_nan=False) + "\n"
