"""Adapter configuration and tensors, read and checked before any model is loaded."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.runs import Checkpoint

#: PEFT initialisations that rewrite the base when they are created and again when they are
#: loaded: with these, switching the adapter off does not give the base back.
_REWRITES_BASE = ("pissa_niter", "corda", "lora_ga", "loftq")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One LoRA adapter, wholly in memory: its folder may vanish while the scan runs.

    Attributes:
        checkpoint: Where it came from.
        config: adapter_config.json as written.
        tensors: Tensor name -> values, all finite, on the CPU.
        sha256: Of the tensor file.
    """

    checkpoint: Checkpoint
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    sha256: str

    @property
    def base_name(self) -> str:
        """The base model that the configuration names; empty if it names none."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) else ""


def read_adapter(checkpoint: Checkpoint) -> Adapter:
    """Read one adapter and check all that can be checked without its base.

    Raises:
        CheckpointError: A file is missing, half-written, a pickle, not LoRA, of a kind that
            cannot be replayed rightly yet, or holds NaN or infinity.
    """
    folder = checkpoint.path
    config = _read_config(folder)
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        if (folder / "adapter_model.bin").is_file():
            raise CheckpointError(
                f"{folder.name}/adapter_model.bin is a pickle, which can run code when it is "
                "opened, so it is refused",
                hint="save the adapter again with `model.save_pretrained(path, "
                "safe_serialization=True)`",
            )
        raise CheckpointError(
            f"{folder.name}: adapter_model.safetensors is missing",
            hint="the checkpoint is half-written, or was saved in shards: save the adapter "
            "itself with `model.save_pretrained(path)`",
        )
    try:
        raw = weights.read_bytes()
        tensors = load_tensors(raw)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{folder.name}/adapter_model.safetensors cannot be read: {error}",
            hint="the file is truncated or damaged: copy or save it again",
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{folder.name}/adapter_model.safetensors cannot be read: {error.strerror}",
            hint="was the checkpoint deleted meanwhile?",
        ) from None
    _check_tensors(folder.name, tensors)
    return Adapter(
        checkpoint=checkpoint,
        config=config,
        tensors=tensors,
        sha256=hashlib.sha256(raw).hexdigest(),
    )


def check_same_kind(adapters: tuple[Adapter, ...]) -> None:
    """Check that the adapters of one run belong together: same base, same initialisation.

    Raises:
        ArcaError: They do not; both sides are named.
    """
    first = adapters[0]
    for other in adapters[1:]:
        if other.base_name != first.base_name:
            raise ArcaError(
                f"the checkpoints name different bases: {first.checkpoint.name} "
                f"{first.base_name!r}, {other.checkpoint.name} {other.base_name!r}",
                hint="scan them one at a time with --checkpoints",
            )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder.name}: adapter_config.json is missing",
            hint="the checkpoint is half-written, or holds no LoRA adapter",
        )
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(
            f"{folder.name}/adapter_config.json is not valid JSON: {error}",
            hint="the file is truncated or damaged: copy or save it again",
        ) from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder.name}/adapter_config.json does not hold an object")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{folder.name} is not LoRA: adapter_config.json says peft_type {kind!r}",
            hint="only LoRA adapters leave the footprint that is measured here",
        )
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(_REWRITES_BASE):
        raise CheckpointError(
            f"{folder.name}: init_lora_weights={init!r} rewrites the base model, so that switching "
            "the adapter off does not give the reference back",
            hint="convert it to a plain LoRA (PEFT: `path_initial_model_for_weight_conversion`)",
        )
    return config


def _check_tensors(name: str, tensors: dict[str, torch.Tensor]) -> None:
    lora = [key for key in tensors if ".lora_" in key]
    if not lora:
        raise CheckpointError(f"{name}/adapter_model.safetensors holds no LoRA tensor")
    for key, tensor in sorted(tensors.items()):
        if tensor.is_floating_point() and not (finite := torch.isfinite(tensor.float())).all():
            bad = int((~finite).sum())
            raise CheckpointError(
                f"{name}: tensor {key} holds NaN or infinity in {bad} of {tensor.numel()} places",
                hint="training diverged before this checkpoint: scan an earlier one",
            )
        if key.endswith((".lora_A.weight", ".lora_B.weight")) and (
            tensor.ndim < 2 or 0 in tensor.shape
        ):
            raise CheckpointError(
                f"{name}: tensor {key} has shape {list(tensor.shape)}: a shard, not a matrix",
                hint="save the gathered adapter (ZeRO-3: "
                "stage3_gather_16bit_weights_on_model_save)",
            )
