"""The language-model head in tiles of tokens: (batch, position, vocabulary) is never held."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TILE_ELEMENTS = 2**22  # logits in a tile: 16 MB in float32, whatever the vocabulary

#: Hidden states -> logits, as the model itself computes them.
Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class HeadScores:
    """What the head says of each token, on the CPU in float64, nats.

    Attributes:
        logprob: Log-probability of the token that follows.
        entropy: Entropy over the full vocabulary.
        kl_exact: KL(this || reference) over the full vocabulary; 0 for the reference itself.
    """

    logprob: Float[Tensor, " token"]
    entropy: Float[Tensor, " token"]
    kl_exact: Float[Tensor, " token"]


def score_tokens(
    reference: tuple[Float[Tensor, "token hidden"], Head],
    adapted: list[tuple[Float[Tensor, "token hidden"], Head]],
    targets: Int[Tensor, " token"],
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
        targets: The id that follows each position.
        vocabulary: Size of the vocabulary; decides the tile.
        temperature: The sampling temperature that trainers divide logits by.

    Returns:
        The reference's scores, and one set for each adapted model.
    """
    tile = max(1, _TILE_ELEMENTS // vocabulary)
    collected: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in range(1 + len(adapted))]
    for start in range(0, len(targets), tile):
        part = slice(start, start + tile)
        ref_logp = _log_softmax(reference, part, temperature)
        collected[0].append(_score(ref_logp, ref_logp, targets[part]))
        for place, model in enumerate(adapted, start=1):
            logp = _log_softmax(model, part, temperature)
            collected[place].append(_score(logp, ref_logp, targets[part]))
    scores = [
        HeadScores(
            logprob=_to_cpu([c[0] for c in parts]),
            entropy=_to_cpu([c[1] for c in parts]),
            kl_exact=_to_cpu([c[2] for c in parts]),
        )
        for parts in collected
    ]
    return scores[0], scores[1:]


def _log_softmax(model: tuple[Tensor, Head], part: slice, temperature: float) -> Tensor:
    hidden, head = model
    logits = head(hidden[part])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.log_softmax(logits / temperature, dim=-1)


def _score(logp: Tensor, ref_logp: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    probability = logp.exp()
    chosen = logp.gather(-1, targets[:, None]).squeeze(-1)
    # A logit of -inf gives p = 0 and p log p = 0, not NaN.
    impossible = probability == 0
    entropy = -(probability * logp).masked_fill(impossible, 0).sum(-1)
    kl = (probability * (logp - ref_logp)).masked_fill(impossible, 0).sum(-1)
    return chosen, entropy.clamp(min=0), kl.clamp(min=0)


def _to_cpu(parts: list[Tensor]) -> Tensor:
    """Off the device first: not every device has float64."""
    return torch.cat([p.cpu() for p in parts]).double() if parts else torch.empty(0).double()
