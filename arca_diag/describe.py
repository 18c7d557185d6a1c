"""What was read and how, as the descriptive sections of the report."""

import importlib.metadata
from collections.abc import Collection
from dataclasses import dataclass

from arca_diag.config import JUDGING, REPLAY, ScanConfig
from arca_diag.errors import ArcaError
from arca_diag.inputs.adapters import Adapter
from arca_diag.inputs.arguments import declared_credit, groups_a_step
from arca_diag.inputs.base import Base
from arca_diag.inputs.files import step_number
from arca_diag.inputs.gathered import Inputs
from arca_diag.inputs.reference import Reference, rewrites_base
from arca_diag.inputs.rollouts.census import Census, answered_alike
from arca_diag.inputs.runs import Run
from arca_diag.inputs.selection import Selection
from arca_diag.lint import LintContext
from arca_diag.logs import Log
from arca_diag.results import (
    AdapterInfo,
    CheckpointInfo,
    Provenance,
    ReferenceInfo,
    RolloutsInfo,
    RunInfo,
)
from arca_diag.thresholds import OF_FILES, OF_TABLES, Cuts

_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "numpy", "pandas", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a scan took, which says nothing of the run.

    Attributes:
        started_at: When, as ISO 8601.
        seconds: How long.
        devices: The kinds of device that the model computed on.
        batch_tokens: Padded tokens a batch, as they were in the end.
        prefix_sharing: Whether completions shared prompts.
        reused_passes: Passes that an earlier scan had run.
    """

    started_at: str
    seconds: float
    devices: str
    batch_tokens: int
    prefix_sharing: bool
    reused_passes: int


def options(config: ScanConfig, inputs: Inputs, dtype: str, device: str) -> dict[str, object]:
    """Replay options with what they resolved to: they say which result this is."""
    asked: dict[str, object] = config.model_dump(include=set(REPLAY))
    rollouts = config.rollouts.name if config.rollouts else None
    return asked | {
        "base": inputs.base_sha256,
        "reference": inputs.reference.kind,
        "rollouts": rollouts,
        "prompts": config.prompts.name if config.prompts else None,
        "generate": config.each if config.prompts else None,
        "generate_seed": config.seed if config.prompts else None,
        "temperature": inputs.temperature,
        "dtype": dtype,
        "device": device,
        "file_thresholds": config.thresholds_of(OF_FILES),
    }


def judging(config: ScanConfig, run: Run) -> dict[str, object]:
    """Judging options with what they resolved to: another value needs no model."""
    credit, source = declared_credit(config.credit, run)
    asked: dict[str, object] = config.model_dump(include=set(JUDGING))
    return asked | {
        "credit": credit,
        "credit_source": source,
        "thresholds": config.thresholds_of(OF_TABLES),
    }


def describe_run(inputs: Inputs, measured: Collection[str]) -> RunInfo:
    """The run as found on disk."""
    return RunInfo(
        name=inputs.run.root.name,
        framework=inputs.run.framework,
        framework_version=inputs.run.framework_version,
        recognised_by=inputs.run.recognised_by,
        steps=inputs.run.steps,
        temperature=inputs.temperature,
        temperature_source=inputs.temperature_source,
        checkpoints=[
            CheckpointInfo(name=c.name, step=c.step, measured=c.name in measured)
            for c in inputs.checkpoints
        ],
    )


def describe_adapter(adapter: Adapter) -> AdapterInfo:
    """What the adapter's configuration says."""
    return AdapterInfo(
        kind="lora",
        init=adapter.init,
        rank=adapter.rank,
        alpha=adapter.alpha,
        target_modules=list(adapter.targets),
        use_dora=adapter.use_dora,
        use_rslora=adapter.use_rslora,
    )


def describe_reference(reference: Reference) -> ReferenceInfo:
    """Which model stands for the reference policy, and why."""
    return ReferenceInfo(kind=reference.kind, reason=reference.reason)


def lint_context(base: Base | ArcaError, cuts: Cuts) -> LintContext:
    """What the rules for adapters need to know beside the adapters."""
    return LintContext(
        peft_version=importlib.metadata.version("peft"),
        base_fault=None if isinstance(base, Base) else base,
        cuts=cuts,
    )


def log_of(run: Run, census: Census | None, adapters: tuple[Adapter, ...], cuts: Cuts) -> Log:
    """The trainer's log, and what its rules need to know beside it."""
    alike = answered_alike(census) if census and census.notes.step_source else []
    late = alike[-max(1, len(alike) // 10) :]
    done = step_number(run.log[-1].get("step")) if run.log else None
    each = groups_a_step(run)
    return Log(
        rows=run.log,
        same_groups=sum(late) / len(late) if late else None,
        groups=each * done if each and done else None,
        start=next((a.init for a in adapters if rewrites_base(a)), ""),
        cuts=cuts,
    )


def describe_rollouts(inputs: Inputs, selection: Selection) -> RolloutsInfo:
    """The completions that were replayed."""
    notes = inputs.census.notes
    chosen = [r for g in selection.groups() for r in g.rollouts]
    return RolloutsInfo(
        source=inputs.census.source.label,
        selected=len(chosen),
        groups=len(selection.groups()),
        clusters=len({r.cluster for r in chosen}),
        distinct=len({(r.prompt_ids, r.completion_ids) for r in chosen}),
        tokens=sum(r.n_counted for r in chosen),
        ids_exact=bool(chosen) and all(r.ids_exact for r in chosen),
        found=len(inputs.census.entries),
        eval_excluded=notes.eval_excluded,
        duplicates_dropped=notes.duplicates,
        lines_skipped=inputs.census.lines_skipped,
        left_out=dict(sorted(notes.left_out.items())),
        unknown_fields=dict(sorted(notes.unknown_fields.items())),
        guessed_prompts=sum(r.guessed_prompt for r in chosen),
        step_source=notes.step_source or None,
        group_source=notes.group_source or None,
        cut_off=sum(r.finish_reason == "length" for r in chosen),
        cut_off_unknown=sum(r.finish_reason is None for r in chosen),
        steps=sorted({r.step for r in chosen if r.step is not None}),
        fixed_set=[g.id for g in selection.fixed],
    )


def describe_provenance(
    config: ScanConfig,
    inputs: Inputs,
    resolved: dict[str, object],
    effort: Effort,
) -> Provenance:
    """How the figures came about: an allow-list, nothing of the machine beyond versions."""
    return Provenance(
        started_at=effort.started_at,
        seconds=round(effort.seconds, 2),
        reused_passes=effort.reused_passes,
        batch_tokens=effort.batch_tokens,
        prefix_sharing=effort.prefix_sharing,
        versions={name: importlib.metadata.version(name) for name in _PACKAGES}
        | {k: v for q in inputs.quantisations for k, v in q.versions().items()},
        device=effort.devices,
        dtype=str(resolved["dtype"]),
        seed=config.seed,
        options=resolved | judging(config, inputs.run),
        base={
            "name": inputs.base_label,
            "sha256": inputs.base_sha256,
            "revision": inputs.base.revision,
            "quantisation": str(inputs.base.quantisation) if inputs.base.quantisation else None,
        },
        inputs=inputs.hashes,
    )
