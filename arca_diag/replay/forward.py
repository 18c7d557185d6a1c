"""Teacher-forced passes: the reference once, each adapter once, over the same batches."""

from collections.abc import Collection, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from arca_diag.errors import CheckpointError
from arca_diag.progress import Progress
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Batch
from arca_diag.replay.head import Head, score_tokens
from arca_diag.replay.scores import Replayed


def replay(
    model: AdaptedModel,
    batches: list[Batch],
    *,
    temperature: float,
    progress: Progress,
    keep: Collection[tuple[str, str]] = (),
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
    """
    progress.start(sum(int(b.attend.sum()) * _passes(model, b) for b in batches), "tokens")
    with torch.inference_mode():
        model.check_head()
        for batch in batches:
            for reference, names in _by_reference(model, batch).items():
                yield from _replay_batch(
                    model, batch, reference, names, temperature, progress, keep
                )


def _by_reference(model: AdaptedModel, batch: Batch) -> dict[str | None, list[str]]:
    """What a batch's checkpoints are measured against -> those checkpoints."""
    groups: dict[str | None, list[str]] = {}
    for name in batch.work[0].checkpoints:
        groups.setdefault(model.reference_of(name), []).append(name)
    return groups


def _passes(model: AdaptedModel, batch: Batch) -> int:
    return len(batch.work[0].checkpoints) + len(_by_reference(model, batch))


def _replay_batch(
    model: AdaptedModel,
    batch: Batch,
    against: str | None,
    names: list[str],
    temperature: float,
    progress: Progress,
    keep: Collection[tuple[str, str]],
) -> Iterator[Replayed]:
    device = model.base.get_input_embeddings().weight.device
    ids, attend = batch.ids.to(device), batch.attend.to(device)
    predicts, targets = batch.predicts.to(device), batch.targets.to(device)
    tokens = int(batch.attend.sum())

    def one_pass(resident: str | None) -> tuple[Tensor, Head]:
        with model.using(resident):
            hidden = model.hidden(ids, attend)[predicts]
        progress.advance(tokens)

        def head(states: Tensor) -> Tensor:
            if not model.head_is_adapted:
                return model.head(states)
            with model.using(resident):
                return model.head(states)

        return hidden, head

    reference = one_pass(against)
    adapted = [one_pass(name) for name in names]
    ref_scores, all_scores = score_tokens(
        reference,
        adapted,
        targets,
        vocabulary=model.base.config.vocab_size,
        temperature=temperature,
    )
    lengths = [len(w.rollout.completion_ids) for w in batch.work]
    ref_norm = _norm(reference[0])
    for name, (hidden, _), scores in zip(names, adapted, all_scores, strict=True):
        shift = _wide(hidden) - _wide(reference[0])
        columns = (
            scores.logprob,
            scores.entropy,
            ref_scores.logprob,
            ref_scores.entropy,
            scores.kl_exact,
            _norm(shift),
            ref_norm,
        )
        pieces = [column.numpy() for column in columns]
        if not all(np.isfinite(piece).all() for piece in pieces):
            raise CheckpointError(
                f"{name}: the model gives NaN or infinity with this adapter on the run's own "
                "completions",
                hint="training diverged before this checkpoint: leave it out with --checkpoints; "
                "in float16 or bfloat16, try --dtype float32",
            )
        start = 0
        for item, length in zip(batch.work, lengths, strict=True):
            inside = slice(start, start + length)
            part = [piece[inside] for piece in pieces]
            kept = (name, item.rollout.id) in keep
            start += length
            yield Replayed(
                rollout=item.rollout,
                checkpoint=name,
                logprob=part[0],
                entropy=part[1],
                ref_logprob=part[2],
                ref_entropy=part[3],
                kl_exact=part[4],
                residual=part[5],
                ref_norm=part[6],
                shift=shift[inside].cpu().double().numpy() if kept else None,
            )


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _norm(tensor: Float[Tensor, "token hidden"]) -> Float[Tensor, " token"]:
    return torch.linalg.vector_norm(_wide(tensor), dim=-1).cpu().double()
