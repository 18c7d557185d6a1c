"""The whole flow: inputs -> replay -> signals -> credit -> diagnostics -> verdict -> report.

The only place that knows this order.
"""

import dataclasses
import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from arca_diag import __version__, describe, fidelity, findings, judging, rendering, store, tables
from arca_diag.config import ScanConfig, cache_folder
from arca_diag.errors import ResultError
from arca_diag.fidelity.logged import logged
from arca_diag.inputs.arguments import longest_of
from arca_diag.inputs.gather import check_room, gather, load_rollouts
from arca_diag.inputs.gathered import Inputs
from arca_diag.inputs.models import SPREAD
from arca_diag.inputs.rollouts.census import sampled_here
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.rollouts.tokenise import prompt_ids
from arca_diag.inputs.runs import Run, find_run
from arca_diag.inputs.selection import Selection, default_window, group_entries, select
from arca_diag.inputs.trends import logged_points
from arca_diag.inputs.updates import layer_updates
from arca_diag.lint import lint
from arca_diag.logs import log_findings, no_spread_in_rollouts
from arca_diag.progress import Progress, Silent
from arca_diag.redaction import pseudonym, redact
from arca_diag.replay import device
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Work
from arca_diag.replay.generate import sample_completions
from arca_diag.replay.gradients import check_memory
from arca_diag.replay.loading import load_adapted
from arca_diag.replay.subsample import subsample
from arca_diag.replay.units import Shelf, Units, open_shelf
from arca_diag.replaying import replay_run, with_noise
from arca_diag.results import SCHEMA_VERSION, Report
from arca_diag.saved import read_tables


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """A report, where it lies, and what this call had to do for it; no report of a share."""

    report: Report | None
    folder: Path
    did: Literal["measured", "judged again", "nothing new", "a share of the passes"]


def diagnose(config: ScanConfig, progress: Progress | None = None) -> Diagnosis:
    """Scan a run: read it, replay it, measure it, and write the result folder.

    Over an existing result: the same and complete is left as it is; other judging options are
    applied to its saved tables without a model; a run that grew is measured again on the same
    fixed set; anything else is refused unless `config.force`.

    Raises:
        ArcaError: Something in what was given that the user can mend.
    """
    progress = progress or Silent()
    begun, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")

    progress.stage("reading the run")
    run = find_run(config.run)
    name = f"arca-diag-{config.shard.replace('/', '-of-')}" if config.shard else "arca-diag"
    folder = config.out or run.root / name
    found = store.look(folder)
    earlier = None if config.force else found
    if earlier:
        store.check_version(folder, earlier)
    before = earlier.report if earlier else None
    inputs = gather(config, run, also=_names(before))
    dtype, where = device.resolve(config.dtype, config.device)
    place = SPREAD if config.device_map else where
    options = describe.options(config, inputs, dtype, where)
    identity = store.Identity(options=options, inputs=inputs.hashes)
    if earlier and before:
        store.check_same(folder, earlier.identity, identity)
        grown = earlier.identity.inputs != inputs.hashes
        if not grown and _names(before) >= {c.name for c in inputs.checkpoints}:
            return _judge_saved(config, run, before, folder, identity)

    if not inputs.prompts:
        selection = _choose(config, inputs, before)
        rollouts_read = load_rollouts(inputs, {g.id for g in selection.groups()})
    progress.stage("loading the base model")
    model, inputs = load_adapted(inputs, dtype, place)
    if inputs.prompts:
        inputs, rollouts_read = _sample(config, model, inputs, progress)
        selection = _choose(config, inputs, before)
    selection = selection.only(a.checkpoint.name for a in inputs.adapters).filled(rollouts_read)

    steps = {a.checkpoint.name: a.checkpoint.step for a in inputs.adapters}
    closely = {name: subsample(selection, name, tokens=config.gradients) for name in steps}
    if config.gradients:
        check_memory(model, closely)
    store.prepare(folder, identity, keep=before is not None)
    units = Units(
        shelf=_shelf(config, inputs, folder),
        conditions={
            "base": inputs.base_sha256,
            "dtype": dtype,
            "device": model.devices,
            "attention": model.attention,
            "quantised": [(str(q), q.versions()) for q in inputs.quantisations],
        },
        share=config.share,
    )
    updates = {a.checkpoint.name: layer_updates(a) for a in inputs.adapters}
    found_in_model = replay_run(
        model,
        inputs,
        selection,
        _work(inputs, selection),
        batch_tokens=config.batch_tokens or device.BATCH_TOKENS[where],
        share=not config.no_prefix_sharing,
        dtype=dtype,
        updates=updates,
        closely=closely if config.gradients else {},
        units=units,
        progress=progress,
    )
    devices = model.devices
    del model  # for the noise the base comes again, in a higher precision
    raw = with_noise(found_in_model, inputs, place, progress, units)
    raw = dataclasses.replace(raw, log=tables.log_table(logged_points(inputs.run)))
    if config.shard:
        store.write_share(folder, config.shard, run.root, config.asked())
        return Diagnosis(report=None, folder=folder, did="a share of the passes")

    progress.stage("measuring")
    credit = str(describe.judging(config, inputs.run)["credit"])
    judgement = judging.judge(raw, tables.memberships(selection, steps), steps, config, credit)
    faithful = fidelity.judge_fidelity(
        judgement.frames.tokens,
        (r for g in selection.groups() for r in g.rollouts),
        inputs.census.entries,
        steps,
        logged(inputs),
        config.cuts,
    )
    log = describe.log_of(inputs.run, inputs.census, inputs.adapters, config.cuts)
    report = Report(
        schema_version=SCHEMA_VERSION,
        tool={"name": "arca-diag", "version": __version__},
        status="complete",
        provenance=describe.describe_provenance(
            config,
            inputs,
            options,
            describe.Effort(
                started_at=started_at,
                devices=devices,
                seconds=time.monotonic() - begun,
                batch_tokens=found_in_model.passes.batch_tokens,
                prefix_sharing=found_in_model.passes.shared,
                reused_passes=units.shelf.reused,
            ),
        ),
        run=describe.describe_run(inputs, steps),
        adapter=describe.describe_adapter(inputs.adapters[-1]),
        reference=describe.describe_reference(inputs.reference),
        rollouts=describe.describe_rollouts(inputs, selection),
        replay_fidelity=faithful,
        **judgement.parts(),
        findings=judging.all_findings(
            judgement,
            [
                *findings.input_findings(inputs, selection),
                *lint(inputs.adapters, describe.lint_context(inputs.base, config.cuts), updates),
                *log_findings(log),
                *no_spread_in_rollouts(log, judgement.measurements),
                *findings.inert_findings(judgement.verdicts, inputs.reference),
                *fidelity.mismatch_findings(faithful, config.cuts),
            ],
            faithful,
            credit=credit,
            sharpening=config.sharpening,
            reference=inputs.reference.kind,
        ),
        skipped=[*found_in_model.skipped, *judgement.skipped],
        thresholds=list(config.cuts),
        files={},
    )
    frames = judgement.frames
    if config.redact_text:
        report, frames = redact(report, frames, inputs.salt)
    return _write(config, report, frames, folder, identity, did="measured")


def _judge_saved(
    config: ScanConfig, run: Run, before: Report, folder: Path, identity: store.Identity
) -> Diagnosis:
    """Apply judging options to the saved tables; a result of the same options stays as it is."""
    asked = describe.judging(config, run)
    if asked.items() <= before.provenance.options.items():
        return Diagnosis(report=before, folder=folder, did="nothing new")
    saved = read_tables(folder, before)
    report, frames = judging.again(before, saved, config, asked)
    return _write(config, report, frames, folder, identity, did="judged again")


def _sample(
    config: ScanConfig, model: AdaptedModel, inputs: Inputs, progress: Progress
) -> tuple[Inputs, tuple[Rollout, ...]]:
    """Completions for a run that kept none, sampled from each of its checkpoints."""
    asked = prompt_ids(inputs.prompts, inputs.tokenizer, inputs.run).ids
    longest = config.max_new_tokens or longest_of(inputs.run)
    check_room(inputs.base, asked.values(), longest)
    sampled = tuple(
        sample_completions(
            model,
            [a.checkpoint for a in inputs.adapters],
            inputs.prompts,
            asked,
            each=config.each,
            longest=longest,
            temperature=inputs.temperature,
            seed=config.seed,
            tokenizer=inputs.tokenizer,
            end_tokens=inputs.end_tokens,
            progress=progress,
        )
    )
    census = sampled_here(inputs.census.source.path, sampled)
    return dataclasses.replace(inputs, census=census), sampled


def _shelf(config: ScanConfig, inputs: Inputs, folder: Path) -> Shelf:
    """Where finished passes are kept: for other scans too, or beside the result until it is whole.

    What a base's own code does is no part of any hash: its passes serve this scan alone.
    """
    shared = None
    if not config.no_cache and not config.shard and not inputs.base.trusted:
        limit = int(config.cache_gib * 2**30)
        shared = open_shelf(config.cache_dir or cache_folder(), limit)
    return shared or open_shelf(folder / store.UNITS) or Shelf()


def _choose(config: ScanConfig, inputs: Inputs, before: Report | None) -> Selection:
    groups = group_entries(inputs.census.entries)
    window = config.window
    if window is None:  # what a checkpoint sampled here is its own, and nothing else is
        window = 0 if inputs.prompts else default_window(inputs.run, groups)
    kept = before.rollouts.fixed_set if before else []
    if config.redact_text:  # the report knows groups by their pseudonyms
        names = {pseudonym(g.id, inputs.salt): g.id for g in groups}
        kept = [names.get(name, "") for name in kept]
    if not {g.id for g in groups}.issuperset(kept):
        raise ResultError(
            "the fixed set of the earlier scan is no longer in the run's completions",
            hint="choose another folder with --out, or replace that result with --force",
        )
    chosen = select(
        groups,
        tuple(a.checkpoint for a in inputs.adapters),
        own_groups=config.groups,
        fixed_groups=config.fixed_groups,
        window=window,
        keep_fixed=tuple(kept),
    )
    if not inputs.prompts:
        return chosen
    # Sampled here, a completion is its checkpoint's own whether or not that has a step.
    own = {
        name: found or tuple(g for g in groups if g.id.startswith(f"{name}/"))[: config.groups]
        for name, found in chosen.own.items()
    }
    return dataclasses.replace(chosen, own=own)


def _work(inputs: Inputs, selection: Selection) -> list[Work]:
    """Each chosen completion once, with the checkpoints that it is replayed under."""
    wanted: dict[str, list[str]] = {}
    for adapter in inputs.adapters:
        for group in selection.for_checkpoint(adapter.checkpoint.name):
            wanted.setdefault(group.id, []).append(adapter.checkpoint.name)
    fixed = {group.id for group in selection.fixed}
    return [
        Work(rollout=rollout, checkpoints=tuple(wanted[group.id]), fixed=group.id in fixed)
        for group in selection.groups()
        for rollout in group.rollouts
    ]


def _write(
    config: ScanConfig,
    report: Report,
    frames: tables.Tables,
    folder: Path,
    identity: store.Identity,
    did: Literal["measured", "judged again"],
) -> Diagnosis:
    """Render pages to memory, then write everything, tables a part at a time."""
    measured = any(m.value is not None for m in report.measurements if m.name == "gini")
    status = "complete" if measured else "nothing-measured"
    report = report.model_copy(update={"status": status})
    files = {} if config.no_render else rendering.result_files(report, frames)
    staged = store.stage(folder, frames.writers())
    made = (rendering.HTML, rendering.PDF)  # they say when, and so differ from scan to scan
    listed: dict[str, str | None] = {
        name: None if name in made else hashlib.sha256(data).hexdigest()
        for name, data in files.items()
    }
    report = report.model_copy(update={"files": {**staged, **listed, store.REPORT: None}})
    files |= {store.REPORT: report.to_json().encode()}
    store.write(folder, identity, files, staged=list(staged))
    store.clear_units(folder)
    return Diagnosis(report=report, folder=folder, did=did)


def _names(report: Report | None) -> frozenset[str]:
    return frozenset(c.name for c in report.run.checkpoints) if report else frozenset()
