"""What a scan found, as data: the report, its parts, and the exit codes. No torch in here.

`report.json` is the product; every picture and every line on a terminal is a view of it. Its
JSON Schema is `report_schema()`, published in the package as `report.schema.json`.
"""

import datetime
import enum
import json
from importlib.resources import files as package_files
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

SCHEMA_VERSION: Literal[1] = 1


def _no_boolean(version: object) -> object:
    if isinstance(version, bool):  # true equals 1 in Python, and is no number in JSON
        raise ValueError("it is no number")
    return version


#: Of every document of ours that is read again.
SchemaVersion = Annotated[Literal[1], BeforeValidator(_no_boolean)]

#: Beyond it a double skips whole numbers, and no reader of JSON need keep them.
_LARGEST = 2**53

Count = Annotated[int, Field(ge=0, le=_LARGEST)]
Step = Annotated[int, Field(ge=0, le=_LARGEST)]
View = Literal["on-policy", "fixed-set"]


class ExitCode(enum.IntEnum):
    """What a command's exit status means; the README has the same table."""

    DONE = 0
    GATE_FAILED = 1
    BAD_INPUT = 2
    NOTHING_MEASURED = 3
    BUG = 101
    INTERRUPTED = 130


class Part(BaseModel):
    """A piece of the report: frozen, and no key that the schema does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _a_moment(text: str) -> str:
    try:
        made = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("it is no date of ISO 8601") from None
    if not 1970 <= made.year < datetime.MAXYEAR:
        raise ValueError("it is not of the years 1970 to 9998")
    return text


def _a_tool(told: dict[str, str]) -> dict[str, str]:
    if absent := [key for key in ("name", "version") if not told.get(key)]:
        raise ValueError(f"it has no {' and no '.join(absent)}")
    return told


Tool = Annotated[
    dict[str, str],
    AfterValidator(_a_tool),
    Field(json_schema_extra={"required": ["name", "version"]}),
]


class Provenance(Part):
    """How the figures came about. The one block that may differ between two equal scans."""

    started_at: Annotated[str, AfterValidator(_a_moment)] = Field(
        description="ISO 8601, of the years 1970 to 9998."
    )
    seconds: float
    reused_passes: Count = Field(description="Passes of an earlier scan that were not done again.")
    batch_tokens: Count | None = Field(
        default=None,
        description="Padded tokens a batch; half of what was asked where memory gave out. Null in "
        "a report that was written before this was recorded.",
    )
    prefix_sharing: bool | None = Field(
        default=None,
        description="Whether completions of a prompt shared its pass. Null as above.",
    )
    versions: dict[str, str]
    device: str
    dtype: str
    seed: Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
    options: dict[str, Any]
    base: dict[str, Any]
    inputs: dict[str, str] = Field(description="SHA-256 of each file read, by path within the run.")


class CheckpointInfo(Part):
    """One checkpoint of the run. `measured` is false if a finding says why not."""

    name: str
    step: Step | None
    measured: bool


class RunInfo(Part):
    """The run as found on disk."""

    name: str
    framework: str
    framework_version: str | None
    recognised_by: str
    steps: Step | None = Field(description="Optimizer steps of the whole run, if known.")
    temperature: float
    temperature_source: str
    checkpoints: list[CheckpointInfo]


class AdapterInfo(Part):
    """What the adapters' configuration says."""

    kind: Literal["lora"]
    init: str
    rank: Count
    alpha: float
    target_modules: list[str]
    use_dora: bool
    use_rslora: bool


class ReferenceInfo(Part):
    """Which model stands for the reference policy, and why."""

    kind: Literal["adapter-off", "base", "ref-adapter", "init-adapter", "path"]
    reason: str


class RolloutsInfo(Part):
    """The completions that were replayed."""

    source: str
    selected: Count = Field(description="Completions replayed.")
    groups: Count
    clusters: Count = Field(description="Distinct prompts.")
    distinct: Count = Field(description="Distinct completions of distinct prompts.")
    tokens: Count = Field(description="Counted completion tokens, each completion once.")
    ids_exact: bool = Field(description="True only if every completion's ids are as sampled.")
    found: Count = Field(description="Completions in the files, duplicates and left out aside.")
    eval_excluded: Count = Field(description="Completions of evaluations that were left out.")
    duplicates_dropped: Count = Field(description="Completions of a batch that was written twice.")
    lines_skipped: Count = Field(description="Completions dropped by --skip-bad-lines.")
    left_out: dict[str, Count] = Field(description="Completions left out, by the reason why.")
    guessed_prompts: Count = Field(
        description="Selected completions whose prompt may differ from the one of the training."
    )
    step_source: str | None = Field(description="Where the steps come from; null if unknown.")
    group_source: str | None = Field(description="Where the groups come from; null if recorded.")
    unknown_fields: dict[str, Count] = Field(description="Fields nobody reads, and how often.")
    cut_off: Count = Field(description="Selected completions known to end at the length limit.")
    cut_off_unknown: Count = Field(description="Selected completions for which that is unknown.")
    steps: list[Step] = Field(description="Optimizer steps that the sampling policies had done.")
    fixed_set: list[str] = Field(description="Group ids of the fixed set.")


class Fidelity(Part):
    """Whether the replay reproduces what the run logged at a checkpoint."""

    checkpoint: str
    status: Literal["pass", "warn", "fail", "cannot-tell"]
    figures: dict[str, float | None]
    reason: str | None


class Measurement(Part):
    """One number with what it is of. Exactly one of `value` and `reason` is null.

    `value` is the unweighted mean over clusters (prompts) of the mean over their completions.
    """

    checkpoint: Step | str
    view: View
    signal: str | None
    sharpening: float | None
    against: str | None
    name: str
    value: float | None
    low: float | None
    high: float | None
    n_clusters: Count
    n_groups: Count
    n_completions: Count
    n_tokens: Count
    reason: str | None

    @model_validator(mode="after")
    def _value_or_reason(self) -> "Measurement":
        if (self.value is None) == (self.reason is None):
            raise ValueError(f"{self.name}: give a value or the reason why there is none")
        return self


class Share(Part):
    """A share of completions with its interval."""

    value: float | None
    low: float | None
    high: float | None


class Side(Share):
    """The share of completions that count towards a regime: that of the verdict where it is one.

    Where it is `mixed` or `inconclusive`, the regime that most completions count towards.
    """

    regime: str


class SettledBy(Part):
    """What would settle an inconclusive verdict."""

    clusters_more: Count | None
    reason: str


class Verdict(Part):
    """The regime of one signal at one checkpoint in one view."""

    checkpoint: Step | str
    view: View
    signal: str
    sharpening: float
    regime: str
    without_ends: str = Field(
        description="The regime if the first token and the closing end token did not count."
    )
    shares: dict[str, Share]
    side: Side | None = Field(
        default=None, description="What decided the regime; null where nothing did."
    )
    left_out: dict[str, Count]
    disagree: float | None
    n_clusters: Count
    n_groups: Count
    n_completions: Count
    n_distinct: Count
    n_tokens: Count
    causes: list[str]
    settled_by: SettledBy | None


class Onset(Part):
    """When most completions of the fixed set went to one side and stayed there, under one signal.

    They are the same completions at every checkpoint. `after` and `by` are steps of checkpoints
    and enclose the onset: surely not yet at `after`, surely so from `by` to the last. Where either
    is null, `reason` says why.
    """

    view: View
    signal: str
    sharpening: float
    side: Literal["sparse", "uniform", "no-signal"]
    after: Step | None
    by: Step | None
    n_clusters: Count
    reason: str | None

    @model_validator(mode="after")
    def _both_ends_or_reason(self) -> "Onset":
        if (self.after is None or self.by is None) == (self.reason is None):
            raise ValueError(f"{self.signal}: give both ends of the onset or the reason why not")
        return self


class Figure(Part):
    """A mean over prompts with its interval; null where it is undefined."""

    value: float | None
    low: float | None
    high: float | None


class WhatIf(Part):
    """How concentrated credit would be at the last checkpoint if it were given another way."""

    checkpoint: Step | str
    view: View
    credit: str = Field(description="A signal and how it would be turned into credit.")
    gini_corrected: Figure
    effn_corrected: Figure
    token_share_90: Figure
    uncredited: Share = Field(description="Of completions that would get no credit at all.")
    regime: str
    n_clusters: Count
    reason: str | None = Field(
        default=None, description="Why no regime is named though the figures would give one."
    )


class Finding(Part):
    """Something the reader should know. `id` is stable, kebab-case, with a hyphen in it."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)+$")]
    level: Literal["error", "warn", "note"]
    checkpoint: Step | str | None
    signal: str | None
    message: str
    evidence: dict[str, Any]
    cause_of: list[str] = []
    caused_by: str | None = None
    action: str
    source: str


class Skipped(Part):
    """Something that was not judged, and what that needs. Unknown is not clean."""

    id: str
    checkpoint: Step | str | None
    view: View | None
    signal: str | None
    reason: str


class Threshold(Part):
    """A cut as data: `value comparator` decides, `source` says where the number comes from."""

    id: str
    value: float
    comparator: Literal["<", "<=", ">", ">="]
    source: str


class Report(Part):
    """Everything a scan found; the document in `report.json`."""

    schema_version: SchemaVersion
    tool: Tool
    status: Literal["complete", "nothing-measured"]
    provenance: Provenance
    run: RunInfo
    adapter: AdapterInfo
    reference: ReferenceInfo
    rollouts: RolloutsInfo
    replay_fidelity: list[Fidelity]
    measurements: list[Measurement]
    verdicts: list[Verdict]
    onsets: list[Onset] = []
    what_if: list[WhatIf] = []
    findings: list[Finding]
    skipped: list[Skipped] = []
    thresholds: list[Threshold]
    files: dict[str, str | None] = Field(
        description="Files of the result folder and their SHA-256; null for report.json itself, "
        "and for the pages made from it, which say when it was made."
    )

    def to_json(self) -> str:
        """The document, two-space indented. JSON has no NaN: one would be our bug."""
        return json.dumps(self.model_dump(mode="python"), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Report":
        """Read a document; raises pydantic.ValidationError where it breaks the schema."""
        return cls.model_validate_json(text, strict=True)


def report_schema() -> dict[str, Any]:
    """The JSON Schema of `report.json`, from the models above."""
    schema = Report.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema


def published_schema() -> dict[str, Any]:
    """The JSON Schema file in the package."""
    text = package_files("arca_diag").joinpath("report.schema.json").read_text("utf-8")
    return json.loads(text)
