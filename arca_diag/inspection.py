"""What a run holds and what is wrong with it, without a model: `arca-diag inspect`.

Reads structure, headers, the trainer's log and the completions' records, and adapter tensors
through memory maps. No torch is imported.
"""

import dataclasses
import math

from arca_diag import __version__, findings
from arca_diag.config import ScanConfig
from arca_diag.describe import describe_adapter, describe_reference, lint_context, log_of
from arca_diag.errors import ArcaError, CheckpointError, RolloutError
from arca_diag.inputs.adapters import Adapter, check_same_kind, open_adapter
from arca_diag.inputs.arguments import number_of, temperature_of
from arca_diag.inputs.base import Base, find_base
from arca_diag.inputs.reference import choose_reference
from arca_diag.inputs.rollouts import columns
from arca_diag.inputs.rollouts.census import (
    Census,
    answered_alike,
    find_source,
    none_found,
    take_census,
)
from arca_diag.inputs.runs import Checkpoint, Run, find_run, select_checkpoints
from arca_diag.inputs.selection import default_window, group_entries, select
from arca_diag.inputs.trends import log_trends
from arca_diag.inputs.updates import LayerUpdate, Updates, layer_updates, summarise
from arca_diag.inspected import (
    FoundBase,
    FoundCheckpoint,
    FoundLayer,
    FoundRollouts,
    FoundRun,
    Inspection,
    Plan,
    TrendInfo,
)
from arca_diag.lint import lint
from arca_diag.logs import log_findings
from arca_diag.progress import Progress, Silent
from arca_diag.results import SCHEMA_VERSION, Finding


def inspect_run(
    config: ScanConfig, *, tensors: bool = True, progress: Progress | None = None
) -> Inspection:
    """Look at a run.

    Args:
        config: What was asked; options that need a model are of no effect.
        tensors: Look into the adapters' tensors too, not only at their headers.
        progress: Hears of the stages.

    Raises:
        ArcaError: There is no LoRA run, or something that was named is not there. Faults of
            what is there are findings.
    """
    progress = progress or Silent()
    progress.stage("reading the run")
    run = find_run(config.run)
    adapters, unreadable = _open(run, config)
    base = _base(config, adapters, run)
    reference = (
        choose_reference(config.reference, run, adapters, read=open_adapter) if adapters else None
    )
    progress.stage("reading the completions")
    census = _census(config, run)
    updates = _updates(adapters, progress) if tensors else None
    unlike = _unlike(adapters)
    problems = findings.together(
        (findings.unreadable(checkpoint, error) for checkpoint, error in unreadable.items()),
        [findings.unreadable(adapters[-1].checkpoint, unlike)] if unlike else [],
        lint(adapters, lint_context(base, config.cuts), updates),
        findings.refused_findings(run.refused),
        findings.ignored_findings(run.ignored),
        findings.base_findings(base if isinstance(base, Base) else None),
        findings.reference_findings(reference) if reference else (),
        findings.temperature_findings(*temperature_of(config.temperature, run)),
        log_findings(
            log_of(run, None if isinstance(census, RolloutError) else census, adapters, config.cuts)
        ),
        _about_rollouts(config, run, census),
    )
    return Inspection(
        schema_version=SCHEMA_VERSION,
        tool={"name": "arca-diag", "version": __version__},
        run=_found_run(config, run, adapters, unreadable, updates),
        base=_found_base(config, adapters, base),
        adapter=describe_adapter(adapters[-1]) if adapters else None,
        reference=describe_reference(reference) if reference else None,
        rollouts=_found_rollouts(census),
        trends=[
            TrendInfo(
                name=t.name,
                key=t.key,
                first=t.first,
                last=t.last,
                low=t.low,
                high=t.high,
                entries=t.n,
            )
            for t in log_trends(run)
        ],
        plan=None if unlike else _plan(config, run, adapters, census),
        findings=problems,
    )


def _open(
    run: Run, config: ScanConfig
) -> tuple[tuple[Adapter, ...], dict[Checkpoint, CheckpointError]]:
    adapters, unreadable = [], {}
    for checkpoint in select_checkpoints(run, config.checkpoints):
        try:
            adapters.append(open_adapter(checkpoint))
        except CheckpointError as error:
            unreadable[checkpoint] = error
    return tuple(adapters), unreadable


def _unlike(adapters: tuple[Adapter, ...]) -> CheckpointError | None:
    """Why the checkpoints cannot be scanned together, if they cannot."""
    try:
        if adapters:
            check_same_kind(adapters)
    except ArcaError as error:
        return CheckpointError(str(error), hint=error.hint)
    return None


def _updates(adapters: tuple[Adapter, ...], progress: Progress) -> Updates:
    """Every layer's update: this reads all tensors."""
    progress.stage("checking the adapters")
    progress.start(sum(a.size_bytes for a in adapters), "bytes")
    found = {}
    for adapter in adapters:
        found[adapter.checkpoint.name] = layer_updates(adapter)
        progress.advance(adapter.size_bytes)
    return found


def _base(config: ScanConfig, adapters: tuple[Adapter, ...], run: Run) -> Base | ArcaError:
    named = adapters[-1].base_name if adapters else ""
    revision = adapters[-1].config.get("revision") if adapters else None
    try:
        found = find_base(config.base, named, run.root, allow_download=False, revision=revision)
        return dataclasses.replace(found, quantize=config.quantize)
    except ArcaError as error:
        if config.base is not None:
            raise
        return error


def _census(config: ScanConfig, run: Run) -> Census | RolloutError:
    readers = columns.readers(config.columns, config.rollouts)
    try:
        source = find_source(config.rollouts, run, readers)
        if source is None:
            return none_found(run)
        return take_census(source, run, skip_bad_lines=config.skip_bad_lines)
    except RolloutError as error:
        return error


def _about_rollouts(config: ScanConfig, run: Run, census: Census | RolloutError) -> list[Finding]:
    if isinstance(census, RolloutError):
        absent = config.rollouts is None and find_source(None, run) is None
        return findings.missing_findings(census, absent=absent)
    return findings.rollout_findings(
        census.notes,
        retokenised=sum(not e.ids_exact for e in census.entries),
        guessed_prompts=sum(e.guessed_prompt for e in census.entries),
        completions=len(census.entries),
    )


def _found_run(
    config: ScanConfig,
    run: Run,
    adapters: tuple[Adapter, ...],
    unreadable: dict[Checkpoint, CheckpointError],
    updates: Updates | None,
) -> FoundRun:
    temperature, source = temperature_of(config.temperature, run)
    found = {
        a.checkpoint: _found_checkpoint(a, updates[a.checkpoint.name] if updates else ())
        for a in adapters
    }
    found |= {c: _bad_checkpoint(c, error) for c, error in unreadable.items()}
    return FoundRun(
        name=run.root.name,
        framework=run.framework,
        framework_version=run.framework_version,
        recognised_by=run.recognised_by,
        steps=run.steps,
        temperature=temperature,
        temperature_source=source,
        beta=number_of(run, "beta"),
        num_generations=number_of(run, "num_generations"),
        max_completion_length=number_of(run, "max_completion_length"),
        checkpoints=[found[c] for c in run.checkpoints if c in found],
        refused=[f"{r.name}: {r.reason}" for r in run.refused],
    )


def _found_checkpoint(adapter: Adapter, updates: tuple[LayerUpdate, ...]) -> FoundCheckpoint:
    whole = summarise(updates)
    return FoundCheckpoint(
        name=adapter.checkpoint.name,
        step=adapter.checkpoint.step,
        rank=adapter.rank,
        alpha=adapter.alpha,
        init=adapter.init,
        target_modules=list(adapter.targets),
        use_dora=adapter.use_dora,
        use_rslora=adapter.use_rslora,
        size_bytes=adapter.size_bytes,
        update_norm=whole.norm if updates else None,
        stable_rank=whole.stable_rank,
        effective_rank=whole.effective_rank,
        rank_used=whole.rank_used if updates else None,
        rank_given=whole.rank_given if updates else None,
        layers=[
            FoundLayer(
                name=u.layer.name,
                norm=_known(u.norm),
                share=_known(share),
                stable_rank=_known(u.stable_rank),
                effective_rank=_known(u.effective_rank),
                rank_used=u.rank_used,
                rank_given=u.rank_given,
                reason=u.reason or (None if u.norm else "its update is exactly zero"),
            )
            for u, share in zip(updates, whole.shares, strict=True)
        ],
        reason=None,
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _bad_checkpoint(checkpoint: Checkpoint, error: CheckpointError) -> FoundCheckpoint:
    return FoundCheckpoint(
        name=checkpoint.name,
        step=checkpoint.step,
        rank=None,
        alpha=None,
        init=None,
        target_modules=[],
        use_dora=None,
        use_rslora=None,
        size_bytes=None,
        update_norm=None,
        stable_rank=None,
        effective_rank=None,
        rank_used=None,
        rank_given=None,
        layers=[],
        reason=str(error),
    )


def _found_base(
    config: ScanConfig, adapters: tuple[Adapter, ...], base: Base | ArcaError
) -> FoundBase:
    named = config.base or (adapters[-1].base_name if adapters else "")
    found = isinstance(base, Base)
    return FoundBase(
        name=named or None,
        named_by=("--base" if config.base else "adapter_config.json") if named else None,
        found=found,
        stands_for=(base.stands_for or None) if isinstance(base, Base) else None,
        reason=None if found else str(base),
    )


def _found_rollouts(census: Census | RolloutError) -> FoundRollouts:
    if isinstance(census, RolloutError):
        return FoundRollouts(reason=str(census))
    entries, notes = census.entries, census.notes
    return FoundRollouts(
        source=census.source.label,
        found=len(entries),
        groups=len({e.group_id for e in entries}),
        groups_of_one_answer=sum(answered_alike(census)),
        ids_exact=all(e.ids_exact for e in entries),
        eval_excluded=notes.eval_excluded,
        duplicates_dropped=notes.duplicates,
        lines_skipped=census.lines_skipped,
        left_out=dict(sorted(notes.left_out.items())),
        unknown_fields=dict(sorted(notes.unknown_fields.items())),
        step_source=notes.step_source or None,
        group_source=notes.group_source or None,
        steps=sorted({e.step for e in entries if e.step is not None}),
    )


def _plan(
    config: ScanConfig, run: Run, adapters: tuple[Adapter, ...], census: Census | RolloutError
) -> Plan | None:
    """What `scan` would replay; None where it would stop."""
    if isinstance(census, RolloutError) or not adapters:
        return None
    groups = group_entries(census.entries)
    window = config.window if config.window is not None else default_window(run, groups)
    chosen = select(
        groups,
        tuple(a.checkpoint for a in adapters),
        own_groups=config.groups,
        fixed_groups=config.fixed_groups,
        window=window,
    )
    sizes = {e.id: e.tokens for e in census.entries}
    under = {g.id: 1 for g in chosen.groups()}  # the reference
    for adapter in adapters:
        for group in chosen.for_checkpoint(adapter.checkpoint.name):
            under[group.id] += 1
    picked = chosen.groups()
    return Plan(
        checkpoints=len(adapters),
        completions=sum(len(g.members) for g in picked),
        groups=len(picked),
        tokens=sum(sizes[m] for g in picked for m in g.members),
        passes=sum(under[g.id] * len(g.members) for g in picked),
        pass_tokens=sum(under[g.id] * sizes[m] for g in picked for m in g.members),
        guessed=any(e.guessed_size for e in census.entries),
    )
