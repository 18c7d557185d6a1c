"""A fixed workload for replay, and the passes that it is held against, written as anybody would."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arca_diag.inputs.adapters import read_adapter
from arca_diag.inputs.base import Base
from arca_diag.inputs.models import load_model
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.runs import Checkpoint
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Work

PROMPT, EACH, LOOP_BATCH = 45, 8, 8
#: Completion lengths of a group: 17 on average, as spread as a run's.
LENGTHS = (5, 8, 11, 14, 17, 21, 27, 33)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A base with N adapters, and what is replayed under all of them.

    Attributes:
        model: The base with the adapters resident.
        names: The adapters.
        rollouts: The workload.
    """

    model: AdaptedModel
    names: tuple[str, ...]
    rollouts: tuple[Rollout, ...]

    def work(self, names: Sequence[str] | None = None) -> list[Work]:
        """Everything under all adapters, or under some."""
        chosen = tuple(self.names if names is None else names)
        return [Work(rollout=r, checkpoints=chosen, fixed=True) for r in self.rollouts]


def load(base: Path, adapters: Sequence[Path], dtype: torch.dtype, count: int) -> AdaptedModel:
    """A base with so many resident adapters; the same one under several names if need be."""
    model = AdaptedModel(
        load_model(Base(name="base", folder=base, gguf_file=None, revision=None), dtype, "cpu")
    )
    for number, path in zip(range(count), itertools.cycle(adapters), strict=False):
        adapter = read_adapter(Checkpoint(name=path.name, step=None, path=path))
        model.add(adapter, name=f"checkpoint-{number}")
    return model


def names_of(count: int) -> tuple[str, ...]:
    """What `load` calls them."""
    return tuple(f"checkpoint-{number}" for number in range(count))


def group_rollouts(
    vocabulary: int, groups: int, *, prompt: int = PROMPT, lengths: Sequence[int] = LENGTHS
) -> tuple[Rollout, ...]:
    """Random tokens: groups of one prompt each and completions that share nothing more."""
    rng = np.random.default_rng(0)
    found = []
    for group in range(groups):
        start = tuple(rng.integers(vocabulary, size=prompt).tolist())
        for number, length in enumerate(lengths):
            completion = tuple(rng.integers(vocabulary, size=length).tolist())
            found.append(
                Rollout(
                    id=f"{group}/{number}",
                    step=0,
                    group_id=str(group),
                    prompt_ids=start,
                    completion_ids=completion,
                    mask=(True,) * length,
                )
            )
    return tuple(found)


def floor_tokens(rollouts: Sequence[Rollout]) -> int:
    """Tokens that one pass must run at least: prompts once, completions whole, no padding."""
    prompts = {r.prompt_ids for r in rollouts}
    return sum(map(len, prompts)) + sum(len(r.completion_ids) for r in rollouts)


def all_tokens(rollouts: Sequence[Rollout]) -> int:
    """Tokens of prompts and completions without sharing and padding."""
    return sum(len(r.prompt_ids) + len(r.completion_ids) for r in rollouts)


def _padded(rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
    width = max(len(r.prompt_ids) + len(r.completion_ids) for r in rollouts)
    ids = torch.zeros(len(rollouts), width, dtype=torch.long)
    attend = torch.zeros(len(rollouts), width, dtype=torch.long)
    for row, r in enumerate(rollouts):
        length = len(r.prompt_ids) + len(r.completion_ids)
        ids[row, :length] = torch.tensor(r.prompt_ids + r.completion_ids)
        attend[row, :length] = 1
    return ids, attend


def plain_pass(model: Any, rollouts: Sequence[Rollout], budget: int) -> None:
    """One padded forward over everything, logits on completion tokens only."""
    ordered = sorted(rollouts, key=lambda r: -len(r.prompt_ids) - len(r.completion_ids))
    with torch.inference_mode():
        while ordered:
            width = len(ordered[0].prompt_ids) + len(ordered[0].completion_ids)
            part = ordered[: max(1, budget // width)]
            ordered = ordered[len(part) :]
            ids, attend = _padded(part)
            hidden = model.base_model(input_ids=ids, attention_mask=attend, use_cache=False)[0]
            inside = torch.zeros(ids.shape, dtype=torch.bool)
            for row, r in enumerate(part):
                first = len(r.prompt_ids) - 1
                inside[row, first : first + len(r.completion_ids)] = True
            model.get_output_embeddings()(hidden[inside])


def loop(
    model: AdaptedModel,
    names: Sequence[str],
    rollouts: Sequence[Rollout],
    batch: int = LOOP_BATCH,
) -> None:
    """What is written first, and the shape of the paper's code: 2 N passes, everything held.

    So many completions go into a pass; 1 is the same without padding.
    """
    for name in names:
        for start in range(0, len(rollouts), batch):
            part = rollouts[start : start + batch]
            ids, attend = _padded(part)
            with torch.no_grad():
                with model.using(name):
                    on = model.base(ids, attention_mask=attend, output_hidden_states=True)
                with model.using(None):
                    off = model.base(ids, attention_mask=attend, output_hidden_states=True)
                _signals(on, off, ids)


def _signals(on: Any, off: Any, ids: Tensor) -> tuple[Tensor, ...]:
    target = ids[:, 1:, None]
    logp, ref = (out.logits[:, :-1].float().log_softmax(-1) for out in (on, off))
    return (
        logp.gather(-1, target),
        ref.gather(-1, target),
        -(logp.exp() * logp).sum(-1),
        -(ref.exp() * ref).sum(-1),
        (logp.exp() * (logp - ref)).sum(-1),
        (on.hidden_states[-1] - off.hidden_states[-1]).float().norm(dim=-1),
    )
