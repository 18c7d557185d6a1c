"""The true gradient of log pi(y_t) by the LoRA parameters, one backward pass a token.

By the chain rule it is J_t^T (e_y - pi) / temperature, with J_t the Jacobian of the logits at that
position. The norm of e_y - pi is nearly a function of pi(y_t) alone, so every signal of the output
agrees with the gradient by way of it; it is measured beside, to tell the two apart.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.progress import Progress
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.scores import TokenGradients
from arca_diag.replay.spread import waits
from arca_diag.replay.units import Units, hash_ids

#: LoRA parameters, each with the part of it that training moved.
Trained = list[tuple[torch.nn.Parameter, tuple[slice, ...]]]

#: What a decoder layer keeps of each position for the way back, in vectors of the model's width and
#: of its MLP's width; and how many matrices of attention weights, where those are kept. Counted
#: with every projection adapted, and rounded up: too much asked for is better than a crash.
_KEPT_WIDE, _KEPT_MLP, _KEPT_ATTENTION = 14, 5, 4


def measure_gradients(
    model: AdaptedModel,
    chosen: Mapping[str, tuple[Rollout, ...]],
    *,
    temperature: float,
    progress: Progress,
    units: Units | None = None,
) -> Iterator[TokenGradients]:
    """Gradient norms of the counted tokens of chosen completions, a forward pass a completion.

    The gradients are those of training: PEFT takes the norm in DoRA for a constant. Nothing of
    the model is changed by them.

    Args:
        model: The base with the adapters resident.
        chosen: Checkpoint -> its completions.
        temperature: Logits are divided by it.
        progress: Hears of every backward pass.
        units: Where finished completions are kept, and looked for before they are run.

    Raises:
        CheckpointError: A gradient is not finite.
    """
    units = (units or Units()).under(temperature=temperature)
    progress.stage("gradients, one backward pass a token")
    progress.start(sum(r.n_counted for rollouts in chosen.values() for r in rollouts), "tokens")
    for checkpoint, rollouts in chosen.items():
        for place, rollout in enumerate(rollouts):
            if not units.mine(place):
                continue
            positions = np.flatnonzero(rollout.mask)
            what = {
                "gradients of": hash_ids(
                    rollout.prompt_ids, rollout.completion_ids, positions.tolist()
                ),
                "model": model.content_of(checkpoint),
            }
            known = units.find(what, {"norm, factor": ((2, len(positions)), torch.float64)})
            if known:
                progress.reused(len(positions))
                found = known["norm, factor"]
            else:
                found = _one(model, checkpoint, rollout, temperature, progress)
                units.keep(what, {"norm, factor": found})
            yield TokenGradients(
                rollout=rollout,
                checkpoint=checkpoint,
                position=positions,
                gradient_norm=found[0].numpy(),
                output_factor=found[1].numpy(),
            )


def check_memory(model: AdaptedModel, chosen: Mapping[str, tuple[Rollout, ...]]) -> None:
    """Check that the way back through the longest chosen completion will fit into memory.

    Raises:
        ArcaError: It will not, or there is no way back, through weights that wait elsewhere.
    """
    if waits(model.base):
        raise ArcaError(
            "there are no gradients where --device-map auto lets some of the base's weights wait "
            "on another device or on disk",
            hint="leave --gradients away, or use more or larger devices",
        )
    lengths = {
        len(r.prompt_ids) + len(r.completion_ids): r.id for many in chosen.values() for r in many
    }
    if not lengths:
        return
    longest = max(lengths)
    parameters = max(
        sum(p.numel() * p.element_size() for p, _ in model.lora_parameters(name)) for name in chosen
    )
    needed = needed_bytes(model, longest) + parameters
    free = _free_bytes(model)
    if needed > free:
        raise ArcaError(
            f"gradients need about {needed / 2**30:.1f} GiB for completion {lengths[longest]} "
            f"({longest:,} tokens with its prompt), and {free / 2**30:.1f} GiB are free",
            hint="leave --gradients away, or scan on a machine with more memory, or give shorter "
            "completions with --rollouts; a smaller --gradients N saves time and no memory",
        )


def needed_bytes(model: AdaptedModel, length: int) -> int:
    """What one forward pass over so many tokens keeps for its backward passes, estimated high."""
    config = model.base.config.get_text_config()
    layers, width = config.num_hidden_layers, config.hidden_size
    mlp = getattr(config, "intermediate_size", None) or 4 * width
    mlp *= getattr(config, "num_experts_per_tok", None) or 1
    # LoRA's own arithmetic is in float32 whatever the base's is.
    number = max(4, model.base.dtype.itemsize)
    kept = layers * length * (_KEPT_WIDE * width + _KEPT_MLP * mlp)
    if getattr(config, "_attn_implementation", None) == "eager":  # keeps its matrices of weights
        kept += layers * _KEPT_ATTENTION * config.num_attention_heads * length**2
    return number * (kept + 8 * config.vocab_size)


def _free_bytes(model: AdaptedModel) -> int:
    device = model.entry
    if device.type == "cuda":
        # What torch holds in reserve and does not use is free to us as well.
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    return psutil.virtual_memory().available


def _one(
    model: AdaptedModel,
    checkpoint: str,
    rollout: Rollout,
    temperature: float,
    progress: Progress,
) -> Float[Tensor, "2 counted"]:
    """Gradient norm and output factor of every counted token."""
    positions = np.flatnonzero(rollout.mask)
    norms, factors = [], []
    device = model.entry
    ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids], device=device)
    with _trainable(model, checkpoint) as parameters:
        hidden = model.hidden(ids, torch.ones_like(ids, dtype=torch.bool))[0]
        for position in positions.tolist():
            place = len(rollout.prompt_ids) - 1 + position
            logits = model.head(hidden[place : place + 1])[0]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
            pull = _pull(logits, rollout.completion_ids[position])
            # Of length about 1 nothing underflows on the way back; a power of 2 rounds nothing.
            factor = float(torch.linalg.vector_norm(pull))
            scale = 2.0 ** max(math.frexp(factor)[1], -1000)
            norms.append(scale * _norm_back(logits, pull / scale, parameters))
            factors.append(factor)
            progress.advance(1)
    if not np.isfinite(norms).all():
        raise CheckpointError(
            f"{checkpoint}: gradients of completion {rollout.id} are NaN or infinite",
            hint="in float16 or bfloat16, try --dtype float32; or leave --gradients away",
        )
    return torch.tensor([norms, factors], dtype=torch.float64)


def _pull(logits: Float[Tensor, " vocabulary"], target: int) -> Float[Tensor, " vocabulary"]:
    """e_y - pi, the gradient of log pi(y) by the logits; float64 on the CPU.

    1 - pi(y) is taken as the sum of the others: the difference is nothing but rounding where the
    policy is nearly certain.
    """
    others = torch.softmax(logits.detach().cpu().double(), dim=-1)
    others[target] = 0
    pull = -others
    pull[target] = others.sum()
    return pull


def _norm_back(
    logits: Float[Tensor, " vocabulary"],
    direction: Float[Tensor, " vocabulary"],
    parameters: Trained,
) -> float:
    """Norm of J^T direction over the trained parts of the parameters."""
    gradients = torch.autograd.grad(
        logits,
        [parameter for parameter, _ in parameters],
        direction.to(logits),
        retain_graph=True,
        allow_unused=True,  # a layer that no token went through
    )
    norms = [
        float(torch.linalg.vector_norm(gradient[part]))
        for gradient, (_, part) in zip(gradients, parameters, strict=True)
        if gradient is not None
    ]
    return math.hypot(*norms)


@contextmanager
def _trainable(model: AdaptedModel, checkpoint: str) -> Iterator[Trained]:
    """Run with an adapter whose LoRA parameters, and nothing else, take gradients."""
    assert model.peft is not None
    before = {parameter: parameter.requires_grad for parameter in model.peft.parameters()}
    try:
        with model.using(checkpoint), torch.enable_grad():
            model.peft.requires_grad_(False)
            trained = model.lora_parameters(checkpoint)
            for parameter, _ in trained:
                parameter.requires_grad_(True)
            yield trained
    finally:
        for parameter, wanted in before.items():
            parameter.requires_grad_(wanted)
