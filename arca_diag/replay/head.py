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
        log_total: log sum_v exp(logits(v) / temperature) of each state: what its log-probabilities
            are less than its logits / temperature.
    """

    logprob: Float[Tensor, " token"]
    entropy: Float[Tensor, " state"]
    kl_exact: Float[Tensor, " state"]
    log_total: Float[Tensor, " state"]


def score_tokens(
    reference: tuple[Float[Tensor, "state hidden"], Head],
    adapted: list[tuple[Float[Tensor, "state hidden"], Head]],
    targets: Int[Tensor, " token"],
    at: Int[Tensor, " token"],
    *,
    vocabulary: int,
    temperature: float,
    known: HeadScores | None = None,
) -> tuple[HeadScores, list[HeadScores]]:
    """Score each token under the reference and under every adapted model, in one tile walk.

    Log-probabilities, entropies and KL are those of softmax(logits / temperature), computed in
    float32 at least. With y = logits / temperature, z = y less its maximum and S = sum_v exp z(v):
    log pi(v) = z(v) - log S, H = log S - E[z], and KL(pi_adapted || pi_ref) =
    E_adapted[y - y_ref] - (L - L_ref) with L = log S + max y, both clamped at 0 against rounding;
    equal logits give exactly 0.

    Args:
        reference: Hidden states at the predicting positions, and the head that reads them.
        adapted: The same for each adapted model.
        targets: The ids that follow.
        at: Which state each of them follows; one state can have several.
        vocabulary: Size of the vocabulary; decides the tile.
        temperature: The sampling temperature that trainers divide logits by.
        known: The reference's scores, if it was scored before; its logits are made for KL alone.

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
    states: list[list[Tensor]] = [[] for _ in models]
    for start in range(0, count, tile):
        ref: Tensor | None = None
        for place, (hidden, head) in enumerate(models):
            logits = head(hidden[start : start + tile])
            if place == 0:
                ref = logits
            for first in range(0, len(logits) if place or known is None else 0, rows):
                inside, begin = slice(first, first + rows), start + first
                following = order[cuts[begin // rows] : cuts[begin // rows + 1]]
                of_tokens, of_states = _score(
                    logits[inside],
                    ref[inside] if place and ref is not None else None,
                    at[following] - begin,
                    targets[following],
                    temperature,
                )
                tokens[place].append(of_tokens)
                states[place].append(of_states)
            del logits  # before the next model's are made
    back = torch.argsort(order).cpu()
    found = [] if known is None else [known]
    for place in range(len(found), len(models)):
        logprob = _to_cpu(tokens[place], torch.empty(0))[back]
        entropy, log_ratio, total, most = _to_cpu(states[place], torch.empty(4, 0))
        # Here in float64: a maximum of 30 leaves a float32 no room for a small KL.
        log_total = total.log() + most
        kl = log_ratio - (log_total - found[0].log_total) if found else torch.zeros_like(entropy)
        found.append(
            HeadScores(
                logprob=logprob,
                entropy=entropy.clamp(min=0),
                kl_exact=kl.clamp(min=0),
                log_total=log_total,
            )
        )
    return found[0], found[1:]


def _score(
    logits: Float[Tensor, "state vocabulary"],
    ref: Float[Tensor, "state vocabulary"] | None,
    at: Int[Tensor, " token"],
    targets: Int[Tensor, " token"],
    temperature: float,
) -> tuple[Float[Tensor, " token"], Float[Tensor, "4 state"]]:
    """Log-probabilities of tokens; H, E[y - y_ref] (0 without a reference), S, max y of states.

    Logits of an adapted model are worked on in place, those of the reference are kept as the head
    gave them: in half precision they are widened here, where they stay in a CPU's cache.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_ratio = None if ref is None else logits - ref
    most = logits.amax(dim=-1, keepdim=True)
    centred = logits - most if ref is None else logits.sub_(most)
    if temperature != 1:
        centred /= temperature
    weight = centred.exp()
    total = weight.sum(dim=-1)
    logprob = centred[at, targets] - total.log()[at]
    entropy = total.log() - _mean(weight, total, centred)
    mean = torch.zeros_like(total) if log_ratio is None else _mean(weight, total, log_ratio)
    return logprob, torch.stack([entropy, mean / temperature, total, most[:, 0] / temperature])


def _mean(weight: Tensor, total: Tensor, values: Tensor) -> Tensor:
    """Over the vocabulary, in one pass; a logit of -inf has no weight and gives no NaN."""
    found = torch.linalg.vecdot(weight, values)
    if not torch.isfinite(found).all():
        found = torch.linalg.vecdot(weight, values.masked_fill(weight == 0, 0))
    return found / total


def _to_cpu(parts: list[Tensor], nothing: Tensor) -> Tensor:
    """Off the device first: not every device has float64."""
    return torch.cat([p.cpu() for p in parts] or [nothing], dim=-1).double()
