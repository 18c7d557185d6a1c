"""What was read and how, as the descriptive sections of the report."""

import importlib.metadata
from collections.abc import Collection

from arca_diag.config import JUDGING, REPLAY, ScanConfig
from arca_diag.fidelity import Logged
from arca_diag.inputs.adapters import Adapter
from arca_diag.inputs.gather import Inputs
from arca_diag.inputs.selection import Selection
from arca_diag.results import (
    AdapterInfo,
    CheckpointInfo,
    Provenance,
    ReferenceInfo,
    RolloutsInfo,
    RunInfo,
)

_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "numpy", "pandas", "pyarrow")


def options(config: ScanConfig, inputs: Inputs, dtype: str, device: str) -> dict[str, object]:
    """Replay options with what they resolved to: they say which result this is."""
    asked = config.model_dump(include=set(REPLAY))
    rollouts = config.rollouts.name if config.rollouts else None
    return asked | {
        "base": inputs.base_sha256,
        "rollouts": rollouts,
        "temperature": inputs.temperature,
        "dtype": dtype,
        "device": device,
    }


def judging(config: ScanConfig) -> dict[str, object]:
    """Judging options: another value needs no model."""
    return config.model_dump(include=set(JUDGING))


def describe_run(inputs: Inputs, measured: Collection[str]) -> RunInfo:
    """The run as found on disk."""
    return RunInfo(
        name=inputs.run.root.name,
        framework=inputs.run.framework,
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
    config = adapter.config
    targets = config.get("target_modules") or []
    return AdapterInfo(
        kind="lora",
        init=str(config.get("init_lora_weights", True)).lower(),
        rank=int(config.get("r", 8)),
        alpha=float(config.get("lora_alpha", 8)),
        target_modules=[targets] if isinstance(targets, str) else sorted(map(str, targets)),
        use_dora=bool(config.get("use_dora")),
        use_rslora=bool(config.get("use_rslora")),
    )


def describe_reference(inputs: Inputs) -> ReferenceInfo:
    """The reference policy: the base with every adapter switched off."""
    with_ref = [
        a.checkpoint.name
        for a in inputs.adapters
        if (a.checkpoint.path / "ref" / "adapter_config.json").is_file()
    ]
    reason = "plain LoRA starts from the base itself"
    if with_ref:
        reason = f"uncertain: {with_ref[0]} keeps another reference in ref/, not used here"
    return ReferenceInfo(kind="adapter-off", reason=reason)


def logged(inputs: Inputs) -> Logged:
    """What the trainer logged beside the completions."""
    arguments = inputs.run.training_args
    pieces, uses = (
        arguments.get("steps_per_generation"),
        arguments.get("gradient_accumulation_steps"),
    )
    return Logged(
        rows=inputs.run.log,
        batches=inputs.census.notes.batches,
        interval=inputs.run.logging_steps,
        partial=isinstance(pieces, int) and isinstance(uses, int) and pieces > uses,
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
        ids_exact=all(r.ids_exact for r in chosen),
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
    started_at: str,
    seconds: float,
) -> Provenance:
    """How the figures came about: an allow-list, nothing of the machine beyond versions."""
    return Provenance(
        started_at=started_at,
        seconds=round(seconds, 2),
        reused_passes=0,
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        device=str(resolved["device"]),
        dtype=str(resolved["dtype"]),
        seed=config.seed,
        options=resolved | judging(config),
        base={
            "name": inputs.base_label,
            "sha256": inputs.base_sha256,
            "revision": inputs.base.revision,
        },
        inputs=inputs.hashes,
    )
