"""The language-model head in tiles of states: (batch, position, vocabulary) is never held."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TILE_ELEMENTS = 2**24  # logits in a tile: 64 MB in float32, whatever the vocabulary

#: Logits that a CPU works on at a time: what is read and written several times over stays in its
#: cache, which makes the work on a large vocabulary four times as fast.
_CACHED_ELEMENTS = 2**18

#: Hidden states -> logits, as the model itself computes them.
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
    float32 at least. KL(pi_adapted || pi_ref) = sum_v pi_adapted(v) (log pi_adapted(v) -
    log pi_ref(v)), clamped at 0 against rounding; equal logits give exactly 0.

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
    states: list[list[Tensor]] = [[] for _ in models]
    for start in range(0, count, tile):
        ref_pieces: list[Tensor] = []
        for place, (hidden, head) in enumerate(models):
            logits = head(hidden[start : start + tile])
            for number, first in enumerate(range(0, len(logits), rows)):
                logp = _log_softmax(logits[first : first + rows], temperature)
                if place == 0:
                    ref_pieces.append(logp)
                begin = start + first
                following = order[cuts[begin // rows] : cuts[begin // rows + 1]]
                tokens[place].append(logp[at[following] - begin, targets[following]])
                states[place].append(_over_vocabulary(logp, ref_pieces[number]))
            del logits, logp  # before the next model's are made
    back = torch.argsort(order).cpu()
    scores = []
    for of_tokens, of_states in zip(tokens, states, strict=True):
        entropy, kl = _to_cpu(of_states, torch.empty(2, 0))
        logprob = _to_cpu(of_tokens, torch.empty(0))[back]
        scores.append(HeadScores(logprob=logprob, entropy=entropy, kl_exact=kl))
    return scores[0], scores[1:]


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def _over_vocabulary(logp: Tensor, ref_logp: Tensor) -> Float[Tensor, "2 state"]:
    """Entropy, and KL from the reference, of every state."""
    probability = logp.exp()
    entropy = -_dot(probability, logp)
    same = logp is ref_logp
    kl = torch.zeros_like(entropy) if same else _dot(probability, logp - ref_logp)
    return torch.stack([entropy, kl]).clamp(min=0)


def _dot(probability: Tensor, values: Tensor) -> Tensor:
    """Sum of p times value, in one pass; a logit of -inf gives p = 0 and 0, not NaN."""
    total = torch.linalg.vecdot(probability, values)
    if torch.isfinite(total).all():
        return total
    return torch.linalg.vecdot(probability, values.masked_fill(probability == 0, 0))


def _to_cpu(parts: list[Tensor], nothing: Tensor) -> Tensor:
    """Off the device first: not every device has float64."""
    return torch.cat([p.cpu() for p in parts] or [nothing], dim=-1).double()
