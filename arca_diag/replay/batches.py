"""Rollouts -> padded, length-sorted, token-budgeted batches: a plan fixed by the rollouts."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from arca_diag.inputs.rollouts.record import Rollout

#: Padding behind what would have none: enough to change the shape of every product.
_SPARE = 8


@dataclass(frozen=True, kw_only=True)
class Work:
    """One rollout and the checkpoints that it is to be replayed under."""

    rollout: Rollout
    checkpoints: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences that go through the model together, right-padded.

    Attributes:
        work: The rollouts, in row order; all for the same checkpoints.
        ids: Prompt and completion; 0 in the padding.
        attend: True where `ids` is not padding.
        predicts: True at the positions that predict a completion token: from the prompt's last
            token to the completion's last but one.
    """

    work: tuple[Work, ...]
    ids: Int[Tensor, "sequence position"]
    attend: Bool[Tensor, "sequence position"]
    predicts: Bool[Tensor, "sequence position"]

    @property
    def targets(self) -> Int[Tensor, " token"]:
        """The predicted ids, in the order in which `predicts` selects positions."""
        rows = [torch.tensor(w.rollout.completion_ids) for w in self.work]
        return torch.cat(rows)


def plan(work: list[Work], budget: int) -> list[Batch]:
    """Batch rollouts of similar length, at most `budget` padded tokens a batch.

    Rollouts for different checkpoints never share a batch. A sequence longer than the budget
    gets a batch of its own. The order is fixed by lengths and rollout ids.
    """
    ordered = sorted(work, key=lambda w: (w.checkpoints, -_length(w.rollout), w.rollout.id))
    batches: list[list[Work]] = []
    for item in ordered:
        open_batch = batches[-1] if batches else []
        fits = (
            bool(open_batch)
            and open_batch[0].checkpoints == item.checkpoints
            # The first is the longest: lengths descend within the same checkpoints.
            and (len(open_batch) + 1) * _length(open_batch[0].rollout) <= budget
        )
        if fits:
            open_batch.append(item)
        else:
            batches.append([item])
    return [_pad(tuple(batch)) for batch in batches]


def recompose(batches: list[Batch], work: list[Work]) -> list[Batch]:
    """Run some of the planned rollouts again, each in a composition that it was not in before.

    What shared its batch runs alone and without padding; what ran alone runs beside a copy of
    itself, with padding behind both.

    Args:
        batches: As from `plan`, holding every rollout of `work`.
        work: What to run again under what.
    """
    shared = {w.rollout.id for batch in batches if len(batch.work) > 1 for w in batch.work}
    return [
        _pad((item,)) if item.rollout.id in shared else _pad((item, item), spare=_SPARE)
        for item in work
    ]


def _length(rollout: Rollout) -> int:
    return len(rollout.prompt_ids) + len(rollout.completion_ids)


def _pad(work: tuple[Work, ...], *, spare: int = 0) -> Batch:
    width = max(_length(w.rollout) for w in work) + spare
    ids = torch.zeros(len(work), width, dtype=torch.long)
    attend = torch.zeros(len(work), width, dtype=torch.bool)
    predicts = torch.zeros(len(work), width, dtype=torch.bool)
    for row, item in enumerate(work):
        prompt, length = len(item.rollout.prompt_ids), _length(item.rollout)
        ids[row, :length] = torch.tensor(item.rollout.prompt_ids + item.rollout.completion_ids)
        attend[row, :length] = True
        predicts[row, prompt - 1 : length - 1] = True
    return Batch(work=work, ids=ids, attend=attend, predicts=predicts)
