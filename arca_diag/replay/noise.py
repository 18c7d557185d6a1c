"""Replicas of a replay: some of its tokens again, rounded otherwise, to see what rounding does.

A small residual or a small log-ratio is a difference of large numbers, and in bfloat16 it can be
rounding alone. So how far a signal can be believed is measured on the run itself.
"""

import gc
import statistics
from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

import torch

from arca_diag.inputs.gathered import Inputs
from arca_diag.inputs.quantised import Quantisation
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.selection import Group, Selection
from arca_diag.progress import Progress
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Batch, Work, plan, recompose
from arca_diag.replay.forward import replay
from arca_diag.replay.loading import load_adapted
from arca_diag.replay.scores import FLOAT32, FLOAT64, Replayed
from arca_diag.replay.subsample import fixed_hash
from arca_diag.replay.units import Units

#: Prompts that are replayed again, if there are so many: twice what is needed to judge anything,
#: for noise over signal is skewed, and a few of it all look small.
PROMPTS = 16

#: A bigger base is not loaded in float64: in so many parameters it takes 4 GiB.
_MOST_IN_FLOAT64 = 2**29

#: Counted tokens that a completion should have: below, an order of its tokens says too little.
_ENOUGH = 8


def noise_work(selection: Selection, checkpoints: Iterable[str]) -> list[Work]:
    """The completions that are replayed again, and under which checkpoints.

    Of each checkpoint's own set and of the fixed set, one completion of each of up to `PROMPTS`
    prompts: at evenly spaced steps, of `_ENOUGH` counted tokens or more where there are such,
    and near to the median length. Names decide the rest by a fixed hash, so that neither a seed
    nor the order of files moves the choice.

    Args:
        selection: The chosen groups, their completions loaded.
        checkpoints: Names of those that are measured.
    """
    fixed = _sample(selection.fixed)
    chosen: dict[str, Rollout] = {}
    under: dict[str, list[str]] = {}
    for name in checkpoints:
        for identity, rollout in (fixed | _sample(selection.own[name])).items():
            chosen[identity] = rollout
            under.setdefault(identity, []).append(name)
    return [
        Work(rollout=chosen[identity], checkpoints=tuple(under[identity]))
        for identity in sorted(chosen)
    ]


def names_of(work: Iterable[Work]) -> frozenset[tuple[str, str]]:
    """Checkpoint and rollout of everything that is to be replayed."""
    return frozenset((name, w.rollout.id) for w in work for name in w.checkpoints)


def replay_recomposed(
    model: AdaptedModel,
    batches: list[Batch],
    work: list[Work],
    *,
    temperature: float,
    progress: Progress,
    units: Units | None = None,
) -> list[Replayed]:
    """Replay in another composition of batches: see `recompose`.

    Args:
        model: The base with every needed adapter resident.
        batches: Those of the first replay.
        work: What to replay again under what.
        temperature: Logits are divided by it.
        progress: Hears of every pass.
        units: Where finished passes are kept, and looked for before they are run.
    """
    found = replay(
        model,
        recompose(batches, work),
        temperature=temperature,
        progress=progress,
        keep=names_of(work),
        units=units,
    )
    # One that ran beside a copy of itself comes twice.
    return list({(r.checkpoint, r.rollout.id): r for r in found}.values())


def higher_precision(
    dtype: str, model: AdaptedModel, quantised: Collection[Quantisation] = ()
) -> str | None:
    """The precision that a replay is compared with; None where there is none that fits.

    Below float32 it is float32. Float32 is compared with float64 where the base is small: another
    batch composition often changes no sum there, and so shows no rounding. Quantised weights have
    no float64, and not all of them float32.
    """
    if dtype in ("bfloat16", "float16"):
        return FLOAT32 if all(q.in_float32 for q in quantised) else None
    if quantised:
        return None
    size = sum(p.numel() for p in model.base.parameters())
    return FLOAT64 if dtype == FLOAT32 and size <= _MOST_IN_FLOAT64 else None


def replay_higher(
    inputs: Inputs,
    work: list[Work],
    dtype: str,
    device: str,
    *,
    batch_tokens: int,
    progress: Progress,
    units: Units | None = None,
) -> list[Replayed]:
    """Replay in a higher precision, from the base's own weights and not from rounded ones.

    The caller frees its model first. A higher precision needs twice the room of what fitted:
    where the device lacks it, or float64, the CPU takes over.

    Args:
        inputs: Of the scan; the temperature is theirs.
        work: What to replay under what.
        dtype: As from `higher_precision`.
        device: Kind of device to try first, or `SPREAD`.
        batch_tokens: Padded tokens a batch.
        progress: Hears of every pass.
        units: Where finished passes are kept, and looked for before they are run.
    """

    def on(device: str) -> list[Replayed]:
        gc.collect()  # models hold themselves in cycles
        model, _ = load_adapted(inputs, dtype, device)
        batches = plan(work, batch_tokens)
        # Norms in float64 models of transformers are float32's: only the vectors tell.
        keep = names_of(work) if dtype == FLOAT64 else ()
        found = replay(
            model,
            batches,
            temperature=inputs.temperature,
            progress=progress,
            keep=keep,
            units=(units or Units()).under(dtype=dtype, device=model.devices),
        )
        return list(found)

    try:
        return on("cpu" if dtype == FLOAT64 and device == "mps" else device)
    except torch.OutOfMemoryError:
        pass  # outside of this block nothing holds the model that did not fit
    return on("cpu")


def _sample(groups: Iterable[Group]) -> dict[str, Rollout]:
    left = [r for group in groups for r in group.rollouts if r.n_counted]
    if not left:
        return {}
    prompt = {r.id: r.cluster for r in left}
    length = float(statistics.median(r.n_counted for r in left))
    first, last = (end(r.step or 0 for r in left) for end in (min, max))
    count = min(PROMPTS, len(set(prompt.values())))
    chosen = {}
    for place in range(count):
        step = first + (last - first) * (place + 0.5) / count
        best = min(left, key=partial(_preference, step=step, length=length))
        chosen[best.id] = best
        left = [r for r in left if prompt[r.id] != prompt[best.id]]
    return chosen


def _preference(rollout: Rollout, *, step: float, length: float) -> tuple[Any, ...]:
    return (
        rollout.n_counted < _ENOUGH,
        abs((rollout.step or 0) - step),
        abs(rollout.n_counted - length),
        fixed_hash(rollout.id),
    )
