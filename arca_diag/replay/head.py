"""The language-model head in tiles of states: (batch, position, vocabulary) is never held."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TILE_ELEMENTS = 2**24  # logits in a tile: 64 MB in float32, whatever the vocabulary

#: Logits that a CPU works on at a time: what is read and written several times over stays in its
#: cache, which makes the work on a large vocabulary four times as fast.
_CACHED_ELEMENTS = 2**18

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
        total: sum_v exp z(v) of each state, z being logits / temperature less their maximum; no
            unit, 1 or more.
    """

    logprob: Float[Tensor, " token"]
    entropy: Float[Tensor, " state"]
    kl_exact: Float[Tensor, " state"]
    total: Float[Tensor, " state"]


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
        ref_pieces: list[_Piece] = []
        for place, (hidden, head) in enumerate(models):
            logits = head(hidden[start : start + tile])
            for number, first in enumerate(range(0, len(logits), rows)):
                begin = start + first
                if place == 0 and known is not None:
                    total = known.total[begin : begin + rows]
                    piece = _Piece.known(logits[first : first + rows], temperature, total)
                    ref_pieces.append(piece)
                    continue
                piece = _Piece.of(logits[first : first + rows], temperature)
                if place == 0:
                    ref_pieces.append(piece.kept())
                following = order[cuts[begin // rows] : cuts[begin // rows + 1]]
                tokens[place].append(piece.logprob(at[following] - begin, targets[following]))
                states[place].append(piece.over_vocabulary(ref_pieces[number] if place else None))
            del logits, piece  # before the next model's are made
    back = torch.argsort(order).cpu()
    scores = [known] if known is not None else []
    for place in range(len(scores), len(models)):
        entropy, kl, total = _to_cpu(states[place], torch.empty(3, 0))
        logprob = _to_cpu(tokens[place], torch.empty(0))[back]
        scores.append(HeadScores(logprob=logprob, entropy=entropy, kl_exact=kl, total=total))
    return scores[0], scores[1:]


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """The distributions at a few states.

    Attributes:
        centred: z, logits / temperature less their maximum.
        weight: exp z; None where it is not needed, or not any more.
        total: S, the sum of exp z.
    """

    centred: Float[Tensor, "state vocabulary"]
    weight: Float[Tensor, "state vocabulary"] | None
    total: Float[Tensor, " state"]

    @classmethod
    def of(cls, logits: Tensor, temperature: float) -> "_Piece":
        """Of logits, in place where they are precise enough."""
        centred = _centre(logits, temperature)
        weight = centred.exp()
        return cls(centred=centred, weight=weight, total=weight.sum(dim=-1))

    @classmethod
    def known(cls, logits: Tensor, temperature: float, total: Tensor) -> "_Piece":
        """The same without its weights, for others' KL from it."""
        centred = _centre(logits, temperature)
        return cls(centred=centred, weight=None, total=total.to(centred.dtype).to(centred.device))

    def kept(self) -> "_Piece":
        """What others' KL from this one needs."""
        return replace(self, weight=None)

    def logprob(self, state: Tensor, token: Tensor) -> Float[Tensor, " token"]:
        """Of tokens at states."""
        return self.centred[state, token] - self.total.log()[state]

    def over_vocabulary(self, ref: "_Piece | None") -> Float[Tensor, "3 state"]:
        """Entropy, KL from a reference (0 from itself) and S of every state."""
        entropy = self.total.log() - self._mean(self.centred)
        if ref is None:
            kl = torch.zeros_like(entropy)
        else:
            log_ratio = self.total.log() - ref.total.log()
            kl = self._mean(self.centred - ref.centred) - log_ratio
        return torch.stack([entropy.clamp(min=0), kl.clamp(min=0), self.total])

    def _mean(self, values: Tensor) -> Tensor:
        """Over the vocabulary, in one pass; a logit of -inf has no weight and gives no NaN."""
        assert self.weight is not None
        found = torch.linalg.vecdot(self.weight, values)
        if not torch.isfinite(found).all():
            found = torch.linalg.vecdot(self.weight, values.masked_fill(self.weight == 0, 0))
        return found / self.total


def _centre(logits: Tensor, temperature: float) -> Float[Tensor, "state vocabulary"]:
    """Logits / temperature less their maximum, in place where they are precise enough."""
    centred = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature != 1:
        centred /= temperature
    centred -= centred.amax(dim=-1, keepdim=True)
    return centred


def _to_cpu(parts: list[Tensor], nothing: Tensor) -> Tensor:
    """Off the device first: not every device has float64."""
    return torch.cat([p.cpu() for p in parts] or [nothing], dim=-1).double()
