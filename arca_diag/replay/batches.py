"""Rollouts -> batches of rows of similar length within a token budget: a plan fixed by them."""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.replay.trees import Row, grow

#: Padding behind what would have none: enough to change the shape of every product.
_SPARE = 8


@dataclass(frozen=True, kw_only=True)
class Work:
    """One rollout and the checkpoints that it is to be replayed under.

    Attributes:
        rollout: The rollout.
        checkpoints: Under which.
        fixed: It is of the fixed set, which every checkpoint is replayed on: such rollouts are
            batched among themselves, so that another checkpoint leaves their batches as they are.
    """

    rollout: Rollout
    checkpoints: tuple[str, ...]
    fixed: bool = False

    @property
    def kind(self) -> tuple[bool, tuple[str, ...]]:
        """What all rollouts of a batch have in common."""
        return not self.fixed, self.checkpoints


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows that go through the model together, padded on the right.

    The last token of a completion predicts nothing that is scored, and is left out.

    Attributes:
        work: The rollouts; all for the same checkpoints.
        ids: Token of each node (see `trees`); 0 in the padding.
        attend: True where `ids` is not padding.
        depth: Place of each node in its sequence.
        end: One past the last node that sees it; padding is seen by itself alone.
        chains: Every row is one plain sequence.
        states: Distinct nodes that predict a completion token, counted through all rows.
        at: For every completion token, in the order of `work`, which of `states` predicts it.
        targets: The completion tokens themselves.
    """

    work: tuple[Work, ...]
    ids: Int[Tensor, "row node"]
    attend: Bool[Tensor, "row node"]
    depth: Int[Tensor, "row node"]
    end: Int[Tensor, "row node"]
    chains: bool
    states: Int[Tensor, " state"]
    at: Int[Tensor, " token"]
    targets: Int[Tensor, " token"]

    @property
    def tokens(self) -> int:
        """Nodes that are no padding."""
        return int(self.attend.sum())

    @cached_property
    def sha256(self) -> str:
        """Of all that goes through the model and is read from it."""
        total = hashlib.sha256()
        for part in (self.ids, self.attend, self.depth, self.end, self.states, self.at):
            total.update(f"{list(part.shape)}".encode())
            total.update(part.numpy().tobytes())
        total.update(self.targets.numpy().tobytes())
        return total.hexdigest()


def plan(work: list[Work], budget: int, *, share: bool = False) -> list[Batch]:
    """Batch rows of similar length, at most `budget` padded tokens a batch.

    Rollouts for different checkpoints never share a batch. A sequence longer than the budget
    gets a batch of its own. The order is fixed by lengths, ids of tokens and names of rollouts.

    Args:
        work: What to replay under what.
        budget: Padded tokens a batch.
        share: Let completions of one prompt share it, and their beginnings, in one row; else
            each has a row to itself.
    """
    rows = sorted(
        (row for alike in _alike(work) for row in _rows(alike, budget, share=share)),
        key=lambda row: (row[0][0].kind, row[1].is_chain, -len(row[1].ids), _name(row[0])),
    )
    batches: list[list[tuple[list[Work], Row]]] = []
    for items, row in rows:
        if batches:
            (first_items, first), count = batches[-1][0], len(batches[-1])
            fits = (
                first_items[0].kind == items[0].kind
                and first.is_chain == row.is_chain
                # The first is the longest.
                and (count + 1) * len(first.ids) <= budget
            )
            if fits:
                batches[-1].append((items, row))
                continue
        batches.append([(items, row)])
    return [_pad(batch) for batch in batches]


def recompose(batches: list[Batch], work: list[Work]) -> list[Batch]:
    """Run some of the planned rollouts again, each in a composition that it was not in before.

    What shared its batch or its row runs alone and without padding; what ran alone runs beside a
    copy of itself, with padding behind both.

    Args:
        batches: As from `plan`, holding every rollout of `work`.
        work: What to run again under what.
    """
    shared = {w.rollout.id for batch in batches if len(batch.work) > 1 for w in batch.work}
    again = []
    for item in work:
        (row,) = _rows([item], 0, share=False)
        alone = item.rollout.id in shared
        again.append(_pad([row]) if alone else _pad([row, row], spare=_SPARE))
    return again


def _alike(work: list[Work]) -> Iterable[list[Work]]:
    """What may share rows: the same prompt for the same checkpoints."""

    def same(item: Work) -> tuple[tuple[bool, tuple[str, ...]], tuple[int, ...]]:
        return item.kind, item.rollout.prompt_ids

    ordered = sorted(work, key=lambda w: (*same(w), w.rollout.completion_ids, w.rollout.id))
    return (list(items) for _, items in itertools.groupby(ordered, key=same))


def _rows(work: list[Work], budget: int, *, share: bool) -> list[tuple[list[Work], Row]]:
    sequences = [w.rollout.prompt_ids + w.rollout.completion_ids[:-1] for w in work]
    if share:
        rows = grow(sequences, longest=budget)
    else:
        rows = [row for sequence in sequences for row in grow([sequence], longest=budget)]
    left = iter(work)
    return [(list(itertools.islice(left, len(row.paths))), row) for row in rows]


def _name(work: list[Work]) -> str:
    return min(item.rollout.id for item in work)


def _pad(rows: list[tuple[list[Work], Row]], *, spare: int = 0) -> Batch:
    width = max(len(row.ids) for _, row in rows) + spare
    shape = len(rows), width
    ids, depth = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    end = torch.arange(1, width + 1).repeat(len(rows), 1)
    attend = torch.zeros(shape, dtype=torch.bool)
    places: list[int] = []
    for number, (items, row) in enumerate(rows):
        size = len(row.ids)
        ids[number, :size] = torch.tensor(row.ids)
        depth[number, :size] = torch.tensor(row.depth)
        end[number, :size] = torch.tensor(row.end)
        attend[number, :size] = True
        for item, path in zip(items, row.paths, strict=True):
            first, count = len(item.rollout.prompt_ids) - 1, len(item.rollout.completion_ids)
            places += (number * width + node for node in path[first : first + count])
    states, at = torch.unique(torch.tensor(places, dtype=torch.long), return_inverse=True)
    work = tuple(item for items, _ in rows for item in items)
    targets = [i for item in work for i in item.rollout.completion_ids]
    return Batch(
        work=work,
        ids=ids,
        attend=attend,
        depth=depth,
        end=end,
        chains=all(row.is_chain for _, row in rows),
        states=states,
        at=at,
        targets=torch.tensor(targets, dtype=torch.long),
    )
