"""Whether an adapter was made for a base: by names and widths, before anything is replayed."""

from typing import Any

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from arca_diag.errors import CheckpointError
from arca_diag.inputs.adapters import PREFIX, Adapter


def layer_shapes(base: Any) -> dict[str, tuple[int, ...]]:
    """Weight shape (out, in) of every layer that has one, by its name in the base.

    Quantised weights lie packed in other shapes, or under other names.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in base.named_modules():
        weight = getattr(module, "weight", None)
        wide, narrow = (getattr(module, side, None) for side in ("out_features", "in_features"))
        if isinstance(wide, int) and isinstance(narrow, int):
            shapes[name] = (wide, narrow)
        elif isinstance(weight, Tensor):
            # GPT-2's layers keep their weight the other way round.
            transposed = isinstance(module, Conv1D)
            shapes[name] = tuple(weight.shape[::-1] if transposed else weight.shape)
    return shapes


def check_fits(adapter: Adapter, layers: dict[str, tuple[int, ...]]) -> None:
    """Every A and B matrix must belong to a layer of the base and have its width.

    Raises:
        CheckpointError: One does not.
    """
    for key in sorted(adapter.tensors):
        side = next((s for s in (".lora_A.", ".lora_B.") if s in key), None)
        if side is None:
            continue
        layer = key.split(side)[0].removeprefix(PREFIX)
        shape = tuple(adapter.tensors[key].shape)
        if layer not in layers:
            if adapter.config.get("target_parameters"):
                continue  # an expert's matrices are no layer: `check_complete` places them
            raise CheckpointError(
                f"{adapter.checkpoint.name} was made for another base: tensor {key} of shape "
                f"{list(shape)} belongs to a layer that this base does not have",
                hint="give the base it was trained on with --base",
            )
        out_width, in_width = layers[layer][0], layers[layer][-1]
        width, found = (in_width, shape[-1]) if side == ".lora_A." else (out_width, shape[0])
        if width != found and len(layers[layer]) == 2:
            raise CheckpointError(
                f"{adapter.checkpoint.name} was made for another base: tensor {key} has shape "
                f"{list(shape)}, and the base's layer {layer} has shape {list(layers[layer])}",
                hint="give the base it was trained on with --base",
            )


def check_complete(name: str, given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """PEFT only warns of tensors that it cannot place; here both directions must match.

    Args:
        name: Of the adapter, in a message.
        given: Its tensors.
        expected: Those that the base has places for with its configuration.

    Raises:
        CheckpointError: They do not.
    """
    absent, unplaced = (
        sorted(expected.keys() - given.keys()),
        sorted(given.keys() - expected.keys()),
    )
    if unplaced:
        raise CheckpointError(
            f"{name}: tensor {unplaced[0]} finds no place in the base with this configuration "
            f"({len(unplaced)} of {len(given)} tensors)",
            hint="does adapter_config.json belong to this adapter and base?",
        )
    if absent:
        raise CheckpointError(
            f"{name} was made for another base: its layer wants tensor {absent[0]} of shape "
            f"{list(expected[absent[0]].shape)}, and the adapter has none "
            f"({len(absent)} tensors missing)",
            hint="give the base it was trained on with --base",
        )
