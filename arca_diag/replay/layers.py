"""Where in the network an adapter's residual arises: every decoder layer's output, on and off."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.progress import Progress
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.scores import LayerResiduals
from arca_diag.replay.units import Units, hash_ids

#: Counted tokens of a completion that are looked at, evenly spread: every layer's state of each is
#: held at once.
MOST_TOKENS = 256


class UnknownLayers(Exception):
    """Why the decoder layers of a model cannot be told; its message is for the report."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The decoder layers of a model, their list's name in it, and its embedding's."""

    name: str
    layers: tuple[nn.Module, ...]
    embedding: str


def find_decoder(model: Any) -> Decoder:
    """The one list of modules that has an entry for each of the model's hidden layers.

    A list inside another that fits (experts, as many as there are layers) is none of its own.

    Raises:
        UnknownLayers: There is none, or there are several.
    """
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    fits = {
        name: tuple(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    outer = [n for n in fits if not any(n.startswith(f"{other}.") for other in fits)]
    if len(outer) != 1:
        found = f"{len(outer)} lists ({', '.join(outer)})" if outer else "no list"
        raise UnknownLayers(
            f"{type(model).__name__} has {count} hidden layers and {found} of so many modules"
        )
    table = model.get_input_embeddings()
    embedding = next(name for name, module in model.named_modules() if module is table)
    return Decoder(name=outer[0], layers=fits[outer[0]], embedding=embedding)


def layer_residuals(
    model: AdaptedModel,
    chosen: Mapping[str, tuple[Rollout, ...]],
    progress: Progress,
    units: Units | None = None,
) -> Iterator[LayerResiduals]:
    """The residual of the embedding, of every decoder layer and of the final norm.

    One pass without padding a completion, under its checkpoint and under the reference.

    Args:
        model: The base with the adapters resident.
        chosen: Checkpoint -> its completions.
        progress: Hears of every pass.
        units: Where finished passes are kept, and looked for before they are run.

    Raises:
        UnknownLayers: The decoder layers of base or reference cannot be told, or a layer does
            not run once a pass and give one state a position.
    """
    count = len(find_decoder(model.base).layers) + 2
    units = units or Units()
    progress.stage("looking into the layers")
    lengths = [len(r.prompt_ids) + len(r.completion_ids) for many in chosen.values() for r in many]
    progress.start(2 * sum(lengths), "tokens")
    with torch.inference_mode():
        for checkpoint, rollouts in chosen.items():
            for place, rollout in enumerate(rollouts):
                if not units.mine(place):
                    continue
                norms = _norms_of(model, checkpoint, rollout, count, progress, units)
                for layer, (residual, ref_norm) in enumerate(norms.numpy(), start=-1):
                    yield LayerResiduals(
                        rollout=rollout,
                        checkpoint=checkpoint,
                        layer=layer,
                        residual=residual,
                        ref_norm=ref_norm,
                    )


def _norms_of(
    model: AdaptedModel,
    checkpoint: str,
    rollout: Rollout,
    count: int,
    progress: Progress,
    units: Units,
) -> Float[Tensor, "layer 2 token"]:
    """Residual and norm of h_ref of every layer."""
    counted = np.flatnonzero(rollout.mask)
    picked = np.linspace(0, len(counted) - 1, min(MOST_TOKENS, len(counted))).round().astype(int)
    places = torch.tensor(len(rollout.prompt_ids) - 1 + counted[picked])
    against = model.reference_of(checkpoint)
    tokens = 2 * (len(rollout.prompt_ids) + len(rollout.completion_ids))
    what = {
        "layers of": hash_ids(rollout.prompt_ids, rollout.completion_ids, places.tolist()),
        "model": model.content_of(checkpoint),
        "reference": model.content_of(against),
    }
    layout = {"norms": ((count, 2, len(places)), torch.float64)}
    if known := units.find(what, layout, passes=2):
        progress.reused(tokens)
        return known["norms"]
    reference = _states(model, against, rollout, places)
    adapted = _states(model, checkpoint, rollout, places)
    progress.advance(tokens)
    if len(reference) != len(adapted):
        raise UnknownLayers(
            f"the reference has {len(reference) - 2} layers, and the policy {len(adapted) - 2}"
        )
    norms = torch.stack(
        [
            torch.stack([_norm(on - off), _norm(off)])
            for on, off in zip(adapted, reference, strict=True)
        ]
    )
    units.keep(what, {"norms": norms})
    return norms


def _norm(states: Float[Tensor, "token hidden"]) -> Float[Tensor, " token"]:
    return torch.linalg.vector_norm(states, dim=-1).cpu().double()


def _states(
    model: AdaptedModel, resident: str | None, rollout: Rollout, places: Tensor
) -> list[Float[Tensor, "token hidden"]]:
    """What the first layer reads, what each layer puts out, and what the head reads."""
    of: Any = model.other if resident == model.OTHER_BASE else model.base
    layers = find_decoder(of).layers
    with model.using(resident), _listening(layers, places) as heard:
        ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids], device=model.entry)
        last = model.hidden(ids, torch.ones_like(ids, dtype=torch.bool))[0]
        last = last[places.to(last.device)]
    if len(heard) != 1 + len(layers) or {s.shape for s in heard.values()} != {last.shape}:
        raise UnknownLayers(
            f"the decoder layers of {type(of).__name__} do not each give one state a position"
        )
    states = (*(heard[n] for n in sorted(heard)), last)
    return [s.to(model.end, torch.promote_types(s.dtype, torch.float32)) for s in states]


@contextmanager
def _listening(layers: tuple[nn.Module, ...], at: Tensor) -> Iterator[dict[int, Tensor]]:
    """Collect states while the model runs: -1 is what goes into the first layer."""
    heard: dict[int, Tensor] = {}

    def keep(layer: int, said: object) -> None:
        state = said[0] if isinstance(said, tuple) else said
        if layer in heard:
            raise UnknownLayers("a decoder layer runs more than once a pass")
        if isinstance(state, Tensor) and state.ndim == 3 and state.shape[1] > int(at.max()):
            heard[layer] = state[0, at.to(state.device)]

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(-1, args[0] if args else kwargs.get("hidden_states"))

    hooks = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    for number, layer in enumerate(layers):
        hooks.append(
            layer.register_forward_hook(lambda _m, _a, out, number=number: keep(number, out))
        )
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
