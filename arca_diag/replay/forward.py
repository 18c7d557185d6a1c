"""Teacher-forced passes: the reference once, each adapter once, over the same batches."""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from arca_diag.errors import CheckpointError
from arca_diag.progress import Progress
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Batch
from arca_diag.replay.head import Head, score_tokens
from arca_diag.replay.scores import Replayed
from arca_diag.replay.units import Units, hash_ids

#: Tensors of a finished pass, by name.
Columns = dict[str, Tensor]


def replay(
    model: AdaptedModel,
    batches: list[Batch],
    *,
    temperature: float,
    progress: Progress,
    keep: Collection[tuple[str, str]] = (),
    units: Units | None = None,
) -> Iterator[Replayed]:
    """Run every batch under the reference and under its checkpoints; yield token scores.

    A batch runs once under the reference and once under each of its checkpoints, so that N
    checkpoints cost N + 1 passes; checkpoints with references of their own cost a pass for each.

    Args:
        model: The base with every needed adapter resident.
        batches: What to replay under what, and what goes through the model together.
        temperature: Logits are divided by it.
        progress: Hears of every pass.
        keep: Checkpoints and rollouts, by name, whose shifts of the hidden state are handed on.
        units: Where finished passes are kept, and looked for before they are run.
    """
    units = (units or Units()).under(temperature=temperature)
    batches = [batch for place, batch in enumerate(batches) if units.mine(place)]
    progress.start(sum(b.tokens * _passes(model, b) for b in batches), "tokens")
    with torch.inference_mode():
        model.check_head()
        for batch in batches:
            for against, names in _by_reference(model, batch).items():
                run = _Run(model=model, batch=batch, against=against, units=units)
                yield from run.replay(names, temperature, progress, keep)


def _by_reference(model: AdaptedModel, batch: Batch) -> dict[str | None, list[str]]:
    """What a batch's checkpoints are measured against -> those checkpoints."""
    groups: dict[str | None, list[str]] = {}
    for name in batch.work[0].checkpoints:
        groups.setdefault(model.reference_of(name), []).append(name)
    return groups


def _passes(model: AdaptedModel, batch: Batch) -> int:
    return len(batch.work[0].checkpoints) + len(_by_reference(model, batch))


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One batch under one reference and the checkpoints that are measured against it."""

    model: AdaptedModel
    batch: Batch
    against: str | None
    units: Units

    def replay(
        self,
        names: list[str],
        temperature: float,
        progress: Progress,
        keep: Collection[tuple[str, str]],
    ) -> Iterator[Replayed]:
        places = {name: self._kept(name, keep) for name in names}
        reference = self._find_reference()
        found = {name: self._find(name, places[name]) for name in names}
        progress.reused(
            self.batch.tokens * sum(f is not None for f in (reference, *found.values()))
        )
        missing = [name for name in names if found[name] is None]
        if missing or reference is None:
            reference = self._compute(reference, missing, places, found, temperature, progress)
        for name, columns in found.items():
            assert columns is not None
            yield from self._share_out(name, reference, columns, places[name])

    def _compute(
        self,
        known: Columns | None,
        missing: list[str],
        places: dict[str, Tensor],
        found: dict[str, Columns | None],
        temperature: float,
        progress: Progress,
    ) -> Columns:
        """Run what is missing into `found`; return the reference."""
        device = self.model.end
        if known is None:
            ref_hidden = self._states(self.against, progress)
        else:
            ref_hidden = known["hidden"].to(device)
        hidden = {name: self._states(name, progress) for name in missing}
        ref_scores, all_scores = score_tokens(
            (ref_hidden, self._head(self.against)),
            [(hidden[name], self._head(name)) for name in missing],
            self.batch.targets.to(device),
            self.batch.at.to(device),
            vocabulary=self.model.base.config.vocab_size,
            temperature=temperature,
        )
        if known is None:
            known = {
                "hidden": ref_hidden,
                "logprob": ref_scores.logprob,
                "entropy": ref_scores.entropy,
                "norm": _norm(ref_hidden),
            }
            self.units.keep(self._of(self.against), known)
        for name, scores in zip(missing, all_scores, strict=True):
            shift = _wide(hidden.pop(name)) - _wide(ref_hidden)
            columns = {
                "logprob": scores.logprob,
                "entropy": scores.entropy,
                "kl_exact": scores.kl_exact,
                "residual": _norm(shift),
                "shift": shift[self.batch.at[places[name]].to(device)].cpu(),
            }
            numbers = itertools.chain(known.values(), columns.values())
            if not all(torch.isfinite(column).all() for column in numbers):
                raise CheckpointError(
                    f"{name}: the model gives NaN or infinity with this adapter on the run's own "
                    "completions",
                    hint="training diverged before this checkpoint: leave it out with "
                    "--checkpoints; in float16 or bfloat16, try --dtype float32",
                )
            self.units.keep(self._of(name, places[name]), columns)
            found[name] = columns
        return known

    def _share_out(
        self, name: str, reference: Columns, columns: Columns, places: Tensor
    ) -> Iterator[Replayed]:
        """Give every completion its part."""
        at, start = self.batch.at, 0
        kept = torch.zeros(len(at), dtype=torch.bool)
        kept[places] = True
        for item in self.batch.work:
            inside = slice(start, start + len(item.rollout.completion_ids))
            before, start = int(kept[:start].sum()), inside.stop
            count = int(kept[inside].sum())
            yield Replayed(
                rollout=item.rollout,
                checkpoint=name,
                logprob=columns["logprob"][inside].numpy(),
                ref_logprob=reference["logprob"][inside].numpy(),
                entropy=columns["entropy"][at[inside]].numpy(),
                ref_entropy=reference["entropy"][at[inside]].numpy(),
                kl_exact=columns["kl_exact"][at[inside]].numpy(),
                residual=columns["residual"][at[inside]].numpy(),
                ref_norm=reference["norm"][at[inside]].numpy(),
                shift=columns["shift"][before : before + count].double().numpy() if count else None,
            )

    def _kept(self, name: str, keep: Collection[tuple[str, str]]) -> Int[Tensor, " token"]:
        """Places of the tokens whose shift is wanted."""
        wanted = [
            (name, item.rollout.id) in keep
            for item in self.batch.work
            for _ in item.rollout.completion_ids
        ]
        return torch.nonzero(torch.tensor(wanted, dtype=torch.bool)).flatten()

    def _states(self, resident: str | None, progress: Progress) -> Float[Tensor, "state hidden"]:
        """What the head reads at the nodes that predict a completion token."""
        batch = self.batch
        with self.model.using(resident):
            device = self.model.entry
            ids = batch.ids.to(device)
            if batch.chains:
                hidden = self.model.hidden(ids, batch.attend.to(device))
            else:
                depth, end = batch.depth.to(device), batch.end.to(device)
                hidden = self.model.hidden_of_trees(ids, depth, end)
        progress.advance(batch.tokens)
        # Of a model on several devices it is on the last one.
        return hidden.flatten(0, 1)[batch.states.to(hidden.device)].to(self.model.end)

    def _head(self, resident: str | None) -> Head:
        def head(states: Tensor) -> Tensor:
            if not self.model.head_is_adapted:
                return self.model.head(states)
            with self.model.using(resident):
                return self.model.head(states)

        return head

    def _of(self, resident: str | None, places: Tensor | None = None) -> dict[str, object]:
        """What a unit is of: for a checkpoint, the reference it is measured from belongs to it."""
        what: dict[str, object] = {
            "batch": self.batch.sha256,
            "model": self.model.content_of(resident),
        }
        if places is None:
            return what
        return what | {
            "reference": self.model.content_of(self.against),
            "shifts": hash_ids(places.tolist()),
        }

    def _find_reference(self) -> Columns | None:
        states, tokens = (len(self.batch.states),), (len(self.batch.targets),)
        hidden = (*states, self.model.base.config.get_text_config().hidden_size)
        layout = {
            "hidden": (hidden, self.model.base.dtype),
            "logprob": (tokens, torch.float64),
            "entropy": (states, torch.float64),
            "norm": (states, torch.float64),
        }
        return self.units.find(self._of(self.against), layout)

    def _find(self, name: str, places: Tensor) -> Columns | None:
        states, tokens = (len(self.batch.states),), (len(self.batch.targets),)
        shifts = (len(places), self.model.base.config.get_text_config().hidden_size)
        layout = {
            "logprob": (tokens, torch.float64),
            **dict.fromkeys(("entropy", "kl_exact", "residual"), (states, torch.float64)),
            "shift": (shifts, torch.promote_types(self.model.base.dtype, torch.float32)),
        }
        return self.units.find(self._of(name, places), layout)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _norm(tensor: Float[Tensor, "state hidden"]) -> Float[Tensor, " state"]:
    return torch.linalg.vector_norm(_wide(tensor), dim=-1).cpu().double()
