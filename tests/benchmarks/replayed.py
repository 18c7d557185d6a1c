"""Pools of the tiny trained model: its adapters as trained and weakened, replayed on its own run.

What rounding makes of a signal is known from a replay of the same tokens in float64.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from arca_diag import tables
from arca_diag.config import ScanConfig
from arca_diag.inputs.gather import gather, load_rollouts, token_pieces
from arca_diag.inputs.gathered import Inputs
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.runs import find_run
from arca_diag.inputs.selection import Group, group_entries
from arca_diag.progress import Silent
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Work, plan
from arca_diag.replay.forward import replay
from arca_diag.replay.loading import load_adapted
from arca_diag.replay.noise import (
    higher_precision,
    names_of,
    replay_higher,
    replay_recomposed,
)
from arca_diag.replay.scores import OTHER_BATCH, Replayed
from arca_diag.signals import SIGNAL_NAMES
from tests.benchmarks.planted import EACH, Pool

TINY = Path(__file__).parents[2] / "sample_runs" / "tiny-addition"
_BATCH_TOKENS = 8192


@dataclass(frozen=True, kw_only=True)
class Weakened:
    """A checkpoint of the tiny run, its B matrices scaled, replayed in some precision.

    Attributes:
        step: Of the checkpoint.
        scale: Of its update; 0 makes it inert.
        dtype: Of the replay.
        prompts: In the pool.
        stale: Whether the fixed set is what the first steps sampled, beside the checkpoint's own.
        sharpening: The configured power.
        healthy: Signals that would be sound credit here.
        times: How many runs are drawn, in multiples of what was asked for.
    """

    step: int
    scale: float = 1.0
    dtype: str = "float32"
    prompts: int = 64
    stale: bool = False
    sharpening: float = 1.0
    healthy: tuple[str, ...] = ()
    times: float = 1.0

    @property
    def name(self) -> str:
        """For tables."""
        said = f"tiny {self.step}" + ("" if self.scale == 1 else f" x {self.scale:g}")
        said += "" if self.dtype == "float32" else f" {self.dtype}"
        said += "" if self.sharpening == 1 else f" s = {self.sharpening:g}"
        return said + (" stale" if self.stale else "")

    def build(self, seed: int) -> Pool:
        """Replay it. The seed moves nothing: the run is what it is."""
        del seed
        torch.set_num_threads(1)
        logging.disable_progress_bar()
        inputs = _inputs(self)
        name = inputs.adapters[0].checkpoint.name
        steps = {name: self.step}
        own = _nearest(inputs, self.step, self.prompts)
        fixed = _nearest(inputs, 0, self.prompts) if self.stale else ()
        work = [Work(rollout=r, checkpoints=(name,)) for r in (*own, *fixed)]
        again = [Work(rollout=r, checkpoints=(name,)) for r in _one_of_each_prompt(own, fixed)]

        scored, replicas, low = _replays(inputs, self.dtype, work, again)
        _, _, exact = _replays(inputs, "float64", again, ())
        single = low if self.dtype == "float32" else _replays(inputs, "float32", again, ())[2]
        off = np.linalg.norm(single.residual - exact.residual, axis=1).sum()
        size = np.linalg.norm(exact.residual, axis=1).sum()
        return Pool(
            name=self.name,
            tokens=tables.token_table(scored, steps, *token_pieces(inputs)),
            rollouts=tables.rollout_table((*own, *fixed)),
            noise=tables.noise_table(replicas, steps, scored),
            true_noise=_rounding(low, exact),
            residual_rounding=float(off / size) if size else math.inf,
            fixed=frozenset(r.id for r in fixed),
            sharpening=self.sharpening,
            healthy=self.healthy,
        )


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """What one precision makes of some tokens, all completions end to end."""

    scores: dict[str, np.ndarray]
    residual: np.ndarray
    ref_norm: np.ndarray


def _inputs(wanted: Weakened) -> Inputs:
    config = ScanConfig(run=TINY, checkpoints=str(wanted.step))
    inputs = gather(config, find_run(TINY), frozenset())
    (adapter,) = inputs.adapters
    weak = {
        key: tensor * np.float32(wanted.scale if ".lora_B." in key else 1)
        for key, tensor in adapter.tensors.items()
    }
    return dataclasses.replace(inputs, adapters=(dataclasses.replace(adapter, tensors=weak),))


def _nearest(inputs: Inputs, step: int, prompts: int) -> tuple[Rollout, ...]:
    """`EACH` completions of that many prompts, sampled as near to a step as there are."""

    def distance(group: Group) -> tuple[int, str]:
        return abs((group.step or 0) - step), group.id

    groups = sorted(group_entries(inputs.census.entries), key=distance)[: 2 * prompts]
    of_group: dict[str, list[Rollout]] = {g.id: [] for g in groups}
    for rollout in load_rollouts(inputs, of_group.keys()):
        of_group[rollout.group_id].append(rollout)
    chosen = {rs[0].cluster: rs[:EACH] for rs in reversed(of_group.values())}  # nearest wins
    return tuple(r for rs in list(reversed(chosen.values()))[:prompts] for r in rs)


def _one_of_each_prompt(*sets: Sequence[Rollout]) -> list[Rollout]:
    first: dict[str, Rollout] = {}
    for rollouts in sets:
        here = {r.cluster: r for r in reversed(rollouts)}
        first |= {r.id: r for r in here.values()}
    return list(first.values())


def _replays(
    inputs: Inputs, dtype: str, work: list[Work], again: Sequence[Work]
) -> tuple[list[Replayed], dict[str, list[Replayed]], _Tokens]:
    """The replay of all, its replicas of some, and the vectors of those (of all without any)."""
    model, inputs = load_adapted(inputs, dtype, "cpu")
    batches = plan(work, _BATCH_TOKENS)
    keep = names_of(again)
    scored = list(replay(model, batches, temperature=1.0, progress=Silent(), keep=keep))
    chosen = [w.rollout for w in again or work]
    vectors = _vectors(model, inputs.adapters[0].checkpoint.name, chosen, scored)
    replicas = {}
    if again:
        replicas[OTHER_BATCH] = replay_recomposed(
            model, batches, list(again), temperature=1.0, progress=Silent()
        )
    if again and (higher := higher_precision(dtype, model)):
        replicas[higher] = replay_higher(
            inputs, list(again), higher, "cpu", batch_tokens=_BATCH_TOKENS, progress=Silent()
        )
    return scored, replicas, vectors


def _vectors(
    model: AdaptedModel, name: str, rollouts: Sequence[Rollout], scored: Sequence[Replayed]
) -> _Tokens:
    """Residuals as vectors, one completion at a time, and the scores that were replayed."""
    known = {s.rollout.id: s for s in scored}
    residuals = []
    with torch.inference_mode():
        for rollout in rollouts:
            ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
            first = len(rollout.prompt_ids) - 1
            hidden = []
            for resident in (name, None):
                with model.using(resident):
                    states = model.hidden(ids, torch.ones_like(ids, dtype=torch.bool))
                hidden.append(states[0, first:-1].double().numpy())
            residuals.append(hidden[0] - hidden[1])
    columns = ("logprob", "entropy", "ref_logprob", "kl_exact", "ref_norm")
    scores = {c: np.concatenate([getattr(known[r.id], c) for r in rollouts]) for c in columns}
    drops = [np.maximum(0.0, e[:-1] - e[1:]) for e in (known[r.id].entropy for r in rollouts)]
    return _Tokens(
        scores={
            "surprisal": -scores["logprob"],
            "entropy": scores["entropy"],
            "entropy_reduction": np.concatenate([np.append(d, 0.0) for d in drops]),
            "divergence": scores["logprob"] - scores["ref_logprob"],
            "kl_exact": scores["kl_exact"],
        },
        residual=np.concatenate(residuals),
        ref_norm=scores["ref_norm"],
    )


def _rounding(low: _Tokens, exact: _Tokens) -> dict[str, float]:
    """Signal -> the size of its rounding over its true size, both summed over all tokens.

    Of a residual it is the length of the difference of two vectors, and of a divergence the
    difference of two log-ratios: of their sizes alone, rounding that is all there is looks small.
    """
    found = {
        name: _share(np.abs(low.scores[name] - exact.scores[name]), np.abs(exact.scores[name]))
        for name in exact.scores
    }
    off = np.linalg.norm(low.residual - exact.residual, axis=1)
    size = np.linalg.norm(exact.residual, axis=1)
    found["residual"] = _share(off, size)
    found["relative_residual"] = _share(off / exact.ref_norm, size / exact.ref_norm)
    return {name: found[name] for name in SIGNAL_NAMES}


def _share(off: np.ndarray, size: np.ndarray) -> float:
    """0 where there is nothing and no rounding of it."""
    return float(off.sum() / size.sum()) if size.sum() else float(off.sum() > 0)
