"""The language-model head in tiles of states: (batch, position, vocabulary) is never held."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TILE_ELEMENTS = 2**25  # logits in a tile: 128 MB in float32, whatever the vocabulary

#: Logits that a CPU works on at a time: what is read and written several times over stays in its
#: cache, which makes the work on a large vocabulary four times as fast.
_CACHED_ELEMENTS = 2**19

#: Hidden states -> logits, as the model itself computes them: a tensor of their own, for it is
#: worked on in place. A second one as large would cost as much as the arithmetic.
Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class HeadScores:
    """What the head says, on the CPU in float64, nats.

    Attributes:
        logprob: Log-probability of each token that follows.
        entropy: Entropy over the full vocabulary, of each state.
        kl_exact: KL(this || reference) over the full vocabulary, of each state; 0 for the
            reference itself.
    """

    logprob: Float[Tensor, " token"]
    entropy: Float[Tensor, " state"]
    kl_exact: Float[Tensor, " state"]


def score_tokens(
    reference: tuple[Float[Tensor, "state hidden"], Head],
    adapted: list[tuple[Float[Tensor, "state hidden"], Head]],
    targets: Int[Tensor, " token"],
    at: Int[Tensor, " token"],
    *,
    vocabulary: int,
    temperature: float,
) -> tuple[HeadScores, list[HeadScores]]:
    """Score each token under the reference and under every adapted model, in one tile walk.

    Log-probabilities, entropies and KL are those of softmax(logits / temperature), computed in
    float32 at least. With z the logits / temperature less their maximum and S = sum_v exp z(v):
    log pi(v) = z(v) - log S, H = log S - E[z], and KL(pi_adapted || pi_ref) =
    E_adapted[z - z_ref] - (log S - log S_ref), both clamped at 0 against rounding; equal logits
    give exactly 0.

    Args:
        reference: Hidden states at the predicting positions, and the head that reads them.
        adapted: The same for each adapted model.
        targets: The ids that follow.
        at: Which state each of them follows; one state can have several.
        vocabulary: Size of the vocabulary; decides the tile.
        temperature: The sampling temperature that trainers divide logits by.

    Returns:
        The reference's scores, and one set for each adapted model.
    """
    models = [reference, *adapted]
    tile = max(1, _TILE_ELEMENTS // vocabulary)
    cached = _CACHED_ELEMENTS // vocabulary if at.device.type == "cpu" else tile
    rows = min(tile, max(1, cached))
    tile = rows * (tile // rows)
    count = len(reference[0])
    order = torch.argsort(at, stable=True)
    bounds = torch.arange(0, count + rows, rows, device=at.device)
    cuts = torch.searchsorted(at[order], bounds).tolist()  # tokens that follow each piece
    tokens: list[list[Tensor]] = [[] for _ in models]
    states: list[list[_States]] = [[] for _ in models]
    for start in range(0, count, tile):
        ref: Tensor | None = None
        for place, (hidden, head) in enumerate(models):
            logits = head(hidden[start : start + tile])
            if place == 0:
                ref = logits
            for first in range(0, len(logits), rows):
                inside, begin = slice(first, first + rows), start + first
                piece = begin // rows
                following = order[cuts[piece] : cuts[piece + 1]]
                of_tokens, of_states = _score(
                    logits[inside],
                    (ref[inside], states[0][piece].most) if place and ref is not None else None,
                    at[following] - begin,
                    targets[following],
                    temperature,
                )
                tokens[place].append(of_tokens)
                states[place].append(of_states)
            del logits  # before the next model's are made
    back = torch.argsort(order).cpu()
    scores: list[tuple[HeadScores, Tensor]] = []
    for logprobs, pieces in zip(tokens, states, strict=True):
        entropy, log_ratio, total = _to_cpu([p.found for p in pieces], torch.empty(3, 0))
        log_total = total.log()
        ref_log_total = scores[0][1] if scores else log_total
        kl = log_ratio - (log_total - ref_log_total)
        found = HeadScores(
            logprob=_to_cpu(logprobs, torch.empty(0))[back],
            entropy=entropy.clamp(min=0),
            kl_exact=kl.clamp(min=0),
        )
        scores.append((found, log_total))
    return scores[0][0], [found for found, _ in scores[1:]]


@dataclass(frozen=True, kw_only=True)
class _States:
    """What a few states have.

    Attributes:
        found: H, E[z - z_ref] (0 without a reference), and S.
        most: The largest logit, not yet divided by the temperature.
    """

    found: Float[Tensor, "3 state"]
    most: Float[Tensor, "state 1"]


def _score(
    logits: Float[Tensor, "state vocabulary"],
    ref: tuple[Float[Tensor, "state vocabulary"], Float[Tensor, "state 1"]] | None,
    at: Int[Tensor, " token"],
    targets: Int[Tensor, " token"],
    temperature: float,
) -> tuple[Float[Tensor, " token"], _States]:
    """Log-probabilities of tokens, and what the states have; of a reference its largest is known.

    Logits of an adapted model are worked on in place, those of the reference are kept as the head
    gave them: in half precision they are widened here, where they stay in a CPU's cache.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    most = logits.amax(dim=-1, keepdim=True)
    centred = logits - most if ref is None else logits.sub_(most)
    log_ratio = None if ref is None else (ref[0] - ref[1]).sub_(centred).neg_()
    if temperature != 1:
        centred /= temperature
    weight = centred.exp()
    total = weight.sum(dim=-1)
    logprob = centred[at, targets] - total.log()[at]
    entropy = total.log() - _mean(weight, total, centred)
    mean = torch.zeros_like(total) if log_ratio is None else _mean(weight, total, log_ratio)
    return logprob, _States(found=torch.stack([entropy, mean / temperature, total]), most=most)


def _mean(weight: Tensor, total: Tensor, values: Tensor) -> Tensor:
    """Over the vocabulary, in one pass; a logit of -inf has no weight and gives no NaN."""
    found = torch.linalg.vecdot(weight, values)
    if not torch.isfinite(found).all():
        found = torch.linalg.vecdot(weight, values.masked_fill(weight == 0, 0))
    return found / total


def _to_cpu(parts: list[Tensor], nothing: Tensor) -> Tensor:
    """Off the device first: not every device has float64."""
    return torch.cat([p.cpu() for p in parts] or [nothing], dim=-1).double()
