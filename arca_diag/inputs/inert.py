"""Whether an adapter does anything, told without its base."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from arca_diag.errors import CheckpointError
from arca_diag.inputs.adapters import Adapter, open_adapter
from arca_diag.inputs.placing import MEND_NAMES, lora_tensors, trains_more, unplaced
from arca_diag.inputs.reference import ref_folder
from arca_diag.inputs.runs import Checkpoint
from arca_diag.inputs.updates import LayerUpdate, adapted_layers


@dataclass(frozen=True, kw_only=True)
class Inert:
    """Why an adapter does nothing.

    Attributes:
        reason: In words.
        action: What to do about it.
        tensors: Names of those that show it.
    """

    reason: str
    action: str
    tensors: list[str]


def why_inert(adapter: Adapter, updates: Collection[LayerUpdate]) -> Inert | None:
    """Why an adapter does nothing: by its names, its scale or its values.

    Args:
        adapter: Which.
        updates: Of its layers; empty where values are not looked at.

    Returns:
        None if it does something, or may: a layer whose update is undefined may act, and so may
        whole modules, tokens, biases or DoRA's magnitudes beside a zero B A.
    """
    there, lost = lora_tensors(adapter), unplaced(adapter)
    if len(lost) == len(there):
        return Inert(
            reason=f"PEFT would place none of its {len(there)} LoRA tensors, and load it as an "
            "untrained adapter without an error (here they are read by their right names)",
            action=MEND_NAMES,
            tensors=lost,
        )
    if trains_more(adapter):
        return None
    if all(layer.scale == 0 for layer in adapted_layers(adapter)):
        return Inert(
            reason="the adapter changes nothing: lora_alpha is 0 in all its layers",
            action="write the lora_alpha of training into adapter_config.json (verl's merger "
            "writes 0 where lora_train_meta.json is not beside the shards)",
            tensors=there,
        )
    if updates and all(u.norm == 0 for u in updates):
        return Inert(
            reason=f"the adapter changes nothing: B A is exactly 0 in all {len(updates)} layers",
            action="was it trainable (PeftModel.from_pretrained(..., is_trainable=True)), and "
            "was the learning rate above 0 before this step?",
            tensors=zero_tensors(adapter, updates),
        )
    return None


def zero_tensors(adapter: Adapter, updates: Collection[LayerUpdate]) -> list[str]:
    """Which matrices of these layers are zero: B, or A of an embedding."""
    keys = [key for u in updates for key in u.layer.tensors]
    return [key for key in keys if not adapter.tensors[key].any()]


def equals_reference(adapter: Adapter) -> bool:
    """Whether all its values are those of the reference adapter that is kept in its `ref/`."""
    folder = ref_folder(adapter)
    if folder is None:
        return False
    name = f"{adapter.checkpoint.name}/ref"
    try:
        ref = open_adapter(Checkpoint(name=name, step=None, path=folder))
    except CheckpointError:
        return False  # a finding about the reference says so
    return adapter.shapes == ref.shapes and all(
        np.array_equal(values, ref.tensors[key]) for key, values in adapter.tensors.items()
    )
