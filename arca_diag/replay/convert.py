"""An adapter as saved -> one that PEFT can hold beside others over a base that nothing changes.

PEFT takes the starting point s B0 A0 of a PiSSA or OLoRA adapter out of the base's weight W when it
makes such an adapter, and again when it loads one: with the adapter off, the base is gone, and a
second such adapter takes from what the first has left. The same model is a plain LoRA of twice the
rank over the untouched base:

    W - s B0 A0 + s B A  =  W + s [B, -B0] [A; A0]
"""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor

from arca_diag.errors import CheckpointError
from arca_diag.inputs.adapters import PREFIX, Adapter
from arca_diag.inputs.reference import rewrites_base

#: What of an adapter's configuration shapes its forward pass; `check_kind` refuses the rest.
_SHAPES_FORWARD = frozenset(
    (
        "alpha_pattern",
        "ensure_weight_tying",
        "exclude_modules",
        "fan_in_fan_out",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_bias",
        "modules_to_save",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "target_parameters",
        "trainable_token_indices",
        "use_dora",
        "use_rslora",
    )
)
#: What an initial adapter must share with those that it started.
_SHAPING = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")

#: Layer, kind, rank, scale -> A0 and B0: equal for all checkpoints of a run, and slow to find.
Starts = dict[tuple[str, str, int, float], tuple[Tensor, Tensor]]


def plain_config(adapter: Adapter) -> LoraConfig:
    """The configuration to load an adapter with: PEFT touches neither weights nor biases.

    Every tensor comes from the file, so how they were initialised and trained is of no account.
    Fields that the installed PEFT does not have are left out.
    """
    known = {f for cls in LoraConfig.__mro__ for f in getattr(cls, "__dataclass_fields__", {})}
    fields = {k: v for k, v in adapter.config.items() if k in known & _SHAPES_FORWARD}
    return LoraConfig.from_peft_type(
        **fields | {"init_lora_weights": True, "bias": "none", "inference_mode": True}
    )


def as_torch(adapter: Adapter) -> dict[str, Tensor]:
    """The adapter's tensors for torch, by the name that they have in the file."""
    return {
        key: torch.tensor(values)
        for key, values in adapter.tensors.items()
        if ".lora_velora_" not in key  # VeLoRA's, for the backward pass alone
    }


def split_biases(
    tensors: dict[str, Tensor], wanted: set[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Part an adapter's tensors from the base's own biases, trained and saved along with it.

    Args:
        tensors: By their names in the file.
        wanted: Names of the base's biases that may be among them.

    Returns:
        The adapter's tensors, and the biases by their names in the base.
    """
    # A layer that PEFT has wrapped keeps its bias one level down.
    names = {key: key.removeprefix(PREFIX).replace(".base_layer.", ".") for key in tensors}
    biases = {names[key]: tensors[key] for key in tensors if names[key] in wanted}
    return {key: v for key, v in tensors.items() if names[key] not in wanted}, biases


def without_base(
    adapter: Adapter, tensors: dict[str, Tensor], expected: Collection[str], base: Any
) -> dict[str, Tensor]:
    """Leave out the base's own embedding and head, which PEFT may save with an adapter.

    It does where the adapter sits in one of them, and where the vocabulary was resized.

    Args:
        adapter: The adapter.
        tensors: By their names in the file.
        expected: Names of those that belong to the adapter itself.
        base: The model, its layers replaced by PEFT's.

    Raises:
        CheckpointError: They are not this base's.
    """
    said = adapter.checkpoint.name
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    layers = {name: m for name, m in base.named_modules(remove_duplicate=False) if m in ends}
    kept = {}
    for key, values in tensors.items():
        path, _, part = key.removeprefix(PREFIX).rpartition(".")
        name = path.removesuffix(".base_layer")
        layer = layers.get(name)
        own = getattr(getattr(layer, "base_layer", layer), part, None)
        if key in expected or own is None:
            kept[key] = values
            continue
        if values.shape != own.shape:
            raise CheckpointError(
                f"{said}: the base that it was trained on had {len(values):,} tokens, and this one "
                f"has {len(own):,}: the vocabulary was resized",
                hint="give the resized base, saved with its tokenizer, with --base",
            )
        # What is left of it by PiSSA or OLoRA is no longer its own; bfloat16 keeps 8 bits.
        near = torch.allclose(values.to(own), own, rtol=2**-7, atol=1e-6)
        if not near and not rewrites_base(adapter):
            raise CheckpointError(
                f"{said} was made for another base: its {name} is not this base's",
                hint="give the base it was trained on with --base",
            )
    return kept


def adapted_layers(base: Any, label: str) -> Iterator[tuple[str, Any]]:
    """The layers that the adapter which PEFT knows as `label` sits in, with their names."""
    for name, module in base.named_modules():
        if isinstance(module, LoraLayer) and label in module.scaling:
            yield name, module


def keep_base(
    base: Any, label: str, adapter: Adapter, initial: Adapter | None, starts: Starts
) -> None:
    """Give a resident PiSSA or OLoRA adapter the part of the base that it expects to be gone.

    A0 and B0 are those that PEFT finds on loading, in float32 from the base's weight, or those of
    the saved initial adapter. DoRA carries over: the sum of the weights is the same.

    Args:
        base: The model, its layers replaced by PEFT's; no weight of it has been changed.
        label: The adapter's name in PEFT; its tensors are in place.
        adapter: The adapter as saved.
        initial: The adapter that training started with, if it was saved.
        starts: What earlier calls found; added to.

    Raises:
        CheckpointError: The starting point cannot be found again.
    """
    if not rewrites_base(adapter):
        return
    name, kind = adapter.checkpoint.name, str(adapter.config["init_lora_weights"]).lower()
    if initial is not None and kind.startswith("pissa"):
        _check_started(initial, adapter)
    else:
        initial = None
    for layer_name, layer in adapted_layers(base, label):
        _check_matrix(base, name, kind, layer_name, layer, label)
        if initial is not None:
            start = _saved_start(initial, name, layer_name)
        else:
            key = (layer_name, kind, int(layer.r[label]), float(layer.scaling[label]))
            if key not in starts:
                starts[key] = _start(name, layer, *key[1:])
            start = starts[key]
        a, b = layer.lora_A[label].weight, layer.lora_B[label].weight
        if start[0].shape != a.shape or start[1].shape != b.shape:
            raise CheckpointError(
                f"{name}: layer {layer_name} starts from matrices of shape {list(start[0].shape)} "
                f"and {list(start[1].shape)}, and the adapter has {list(a.shape)} and "
                f"{list(b.shape)}",
                hint="does the initial adapter belong to this run?",
            )
        a.data = torch.cat([a.data, start[0].to(a)])
        b.data = torch.cat([b.data, -start[1].to(b)], dim=1)


def _start(name: str, layer: Any, kind: str, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A0 and B0 as PEFT initialises them from the weight W (out, in)."""
    weight = layer.get_base_layer().weight.detach().to(torch.float32)
    if layer.fan_in_fan_out:
        weight = weight.T
    if kind == "pissa":
        # W = U S V^T: the first r triples, the scale taken out, the rest shared by both sides.
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        root = (s[:rank] / scale).sqrt()
        return root[:, None] * vh[:rank], u[:, :rank] * root
    if kind == "olora":
        q, r = torch.linalg.qr(weight)
        return r[:rank], q[:, :rank]
    raise CheckpointError(
        f"{name}: init_lora_weights={kind!r} is a randomised decomposition of the base, which "
        "loading cannot repeat",
        hint="put the initial adapter beside the checkpoint as pissa_init/, or convert it to a "
        "plain LoRA (PEFT: `path_initial_model_for_weight_conversion`)",
    )


def _saved_start(initial: Adapter, name: str, layer_name: str) -> tuple[Tensor, Tensor]:
    found = [
        initial.tensors.get(f"{PREFIX}{layer_name}.{side}.weight") for side in ("lora_A", "lora_B")
    ]
    if any(side is None for side in found):
        raise CheckpointError(
            f"{name}: its initial adapter {initial.checkpoint.name} has nothing for layer "
            f"{layer_name}",
            hint="does the initial adapter belong to this run?",
        )
    return torch.tensor(found[0]), torch.tensor(found[1])


def _check_started(initial: Adapter, adapter: Adapter) -> None:
    for key in _SHAPING:
        was, now = (a.config.get(key) or None for a in (initial, adapter))
        if was != now:
            raise CheckpointError(
                f"{adapter.checkpoint.name}: its initial adapter {initial.checkpoint.name} has "
                f"{key} {was!r}, and it has {now!r}",
                hint="does the initial adapter belong to this run?",
            )


def _check_matrix(base: Any, name: str, kind: str, layer_name: str, layer: Any, label: str) -> None:
    """Refuse the layers where PEFT's rewriting has another meaning than the one undone here."""
    weight = getattr(layer.get_base_layer(), "weight", None)
    if label not in layer.lora_A or not isinstance(weight, Tensor) or weight.ndim != 2:
        why = "is no matrix"
    elif not weight.is_floating_point():
        why = "is quantised"
    elif layer.scaling[label] <= 0:
        why = f"has the scale {layer.scaling[label]:g}, by which nothing can be divided"
    elif kind == "olora" and layer.fan_in_fan_out:
        why = "is stored transposed, which PEFT's OLoRA does not heed"
    elif weight is base.get_input_embeddings().weight:
        why = "shares its weight with the embedding, which PEFT rewrites along with it"
    else:
        return
    raise CheckpointError(
        f"{name}: init_lora_weights={kind!r} cannot be undone: layer {layer_name} {why}",
        hint="convert the adapter to a plain LoRA "
        "(PEFT: `path_initial_model_for_weight_conversion`)",
    )
