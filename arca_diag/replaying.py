"""All that needs the model: from the chosen completions to the tables that are judged."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from arca_diag import tables
from arca_diag.inputs.gather import token_pieces
from arca_diag.inputs.gathered import Inputs
from arca_diag.inputs.quantised import Quantisation
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.selection import Selection
from arca_diag.inputs.updates import Updates
from arca_diag.layers import LAYERS, layer_table
from arca_diag.progress import Progress
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Work
from arca_diag.replay.gradients import measure_gradients
from arca_diag.replay.layers import UnknownLayers, find_decoder, layer_residuals
from arca_diag.replay.noise import (
    higher_precision,
    names_of,
    noise_work,
    replay_higher,
    replay_recomposed,
)
from arca_diag.replay.passes import Passes, replay_all
from arca_diag.replay.scores import FLOAT32, FLOAT64, OTHER_BATCH, Replayed
from arca_diag.replay.subsample import subsample
from arca_diag.replay.units import Units
from arca_diag.results import Skipped


@dataclass(frozen=True, kw_only=True)
class RunReplay:
    """What the model said of the chosen completions, and what a second model is to be asked.

    Attributes:
        frames: The tables, without weights, trajectories and noise.
        passes: The first replay.
        recomposed: Some of it in another batch composition.
        again: The same, to be replayed in a higher precision.
        higher: Which; None if none fits.
        skipped: What could not be measured.
    """

    frames: tables.Tables
    passes: Passes
    recomposed: list[Replayed]
    again: list[Work]
    higher: str | None
    skipped: list[Skipped]


def replay_run(
    model: AdaptedModel,
    inputs: Inputs,
    selection: Selection,
    work: list[Work],
    *,
    batch_tokens: int,
    share: bool,
    dtype: str,
    updates: Updates,
    closely: Mapping[str, tuple[Rollout, ...]],
    units: Units,
    progress: Progress,
) -> RunReplay:
    """Replay the chosen completions under every checkpoint, and look into model and gradients.

    Args:
        model: The base with every adapter resident.
        inputs: What the run holds.
        selection: The chosen groups, their completions loaded.
        work: The same, each with the checkpoints that it is replayed under.
        batch_tokens: Padded tokens a batch.
        share: Let completions share prompts, where the architecture allows it.
        dtype: Precision of the model.
        updates: Checkpoint -> the adapter's update in every layer.
        closely: Checkpoint -> completions whose true gradients are asked for.
        units: Where finished passes are kept, and looked for before they are run.
        progress: Hears of every pass.
    """
    steps = {a.checkpoint.name: a.checkpoint.step for a in inputs.adapters}
    temperature = inputs.temperature
    again = noise_work(selection, steps)

    progress.stage("replaying")
    passes = replay_all(
        model,
        work,
        batch_tokens=batch_tokens,
        share=share,
        temperature=temperature,
        progress=progress,
        keep=names_of(again),
        units=units,
    )
    found = (
        measure_gradients(model, closely, temperature=temperature, progress=progress, units=units)
        if closely
        else []
    )
    gradients = tables.gradient_table(found)
    layers, skipped = _look_into_layers(model, selection, updates, steps, progress, units)
    progress.stage("measuring noise")
    quantised = inputs.quantisations
    higher = higher_precision(dtype, model, quantised)
    if quantised and higher is None:
        skipped.append(_no_replica(dtype, quantised))
    return RunReplay(
        frames=tables.Tables(
            tokens=tables.token_table(passes.scored, steps, *token_pieces(inputs)),
            trajectories=pd.DataFrame(columns=tables.TRAJECTORIES.names),
            rollouts=tables.rollout_table(r for g in selection.groups() for r in g.rollouts),
            gradients=gradients,
            layers=layers,
        ),
        passes=passes,
        recomposed=replay_recomposed(
            model, passes.batches, again, temperature=temperature, progress=progress, units=units
        ),
        again=again,
        higher=higher,
        skipped=skipped,
    )


def with_noise(
    found: RunReplay, inputs: Inputs, device: str, progress: Progress, units: Units
) -> tables.Tables:
    """The tables with the noise of every signal, for which the base may be loaded once more.

    The caller frees its model first.
    """
    steps = {a.checkpoint.name: a.checkpoint.step for a in inputs.adapters}
    replicas = {OTHER_BATCH: found.recomposed}
    if found.higher:
        replicas[found.higher] = replay_higher(
            inputs,
            found.again,
            found.higher,
            device,
            batch_tokens=found.passes.batch_tokens,
            progress=progress,
            units=units,
        )
    noise = tables.noise_table(replicas, steps, found.passes.scored)
    return dataclasses.replace(found.frames, noise=noise)


def _no_replica(dtype: str, quantised: list[Quantisation]) -> Skipped:
    """Why no higher precision stands beside the noise of a quantised base."""
    wanted = FLOAT64 if dtype == FLOAT32 else FLOAT32
    how = " and ".join(dict.fromkeys(map(str, quantised)))
    reason = (
        f"no replica in {wanted}: the base is quantised ({how}), and its weights are not computed "
        "with in a higher precision; rounding is measured against another batch composition alone"
    )
    return Skipped(id="noise-replica", checkpoint=None, view=None, signal=None, reason=reason)


def _look_into_layers(
    model: AdaptedModel,
    selection: Selection,
    updates: Updates,
    steps: Mapping[str, int | None],
    progress: Progress,
    units: Units,
) -> tuple[pd.DataFrame, list[Skipped]]:
    """The table of layers; empty, with the reason, where this model's cannot be told."""
    chosen = {name: subsample(selection, name) for name in steps}
    try:
        decoder = find_decoder(model.base)
        found = list(layer_residuals(model, chosen, progress, units))
    except UnknownLayers as error:
        reason = f"no layers.parquet: {error}"
        skipped = Skipped(id="layers", checkpoint=None, view=None, signal=None, reason=reason)
        return pd.DataFrame(columns=LAYERS.names), [skipped]
    table = layer_table(found, updates, steps, decoder=decoder.name, embedding=decoder.embedding)
    return table, []
