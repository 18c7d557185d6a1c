"""Adapter configuration and tensors, read and checked before any model is loaded."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.files import number
from arca_diag.inputs.kinds import check_kind
from arca_diag.inputs.runs import Checkpoint
from arca_diag.inputs.tensors import TensorFile, open_tensors
from arca_diag.inputs.untrusted import check_inside, read_json

#: What PEFT puts before the name that a layer has in the base.
PREFIX = "base_model.model."

_LARGE = 1024  # a rank that is no burden to make a matrix of
_MATRIX = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """One LoRA adapter.

    Attributes:
        checkpoint: Where it came from.
        config: adapter_config.json as written.
        tensors: Tensor name -> values, by the names that PEFT writes. Of an adapter that was only
            opened, every look-up reads the file.
        shapes: The same names -> shapes.
        odd_keys: LoRA tensors that have another name in the file, so that PEFT would not place
            them: without the prefix of a PEFT model, or with the name of an adapter in it.
    """

    checkpoint: Checkpoint
    config: dict[str, Any]
    tensors: Mapping[str, np.ndarray] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    odd_keys: tuple[str, ...]
    _file: TensorFile = field(repr=False)

    @property
    def base_name(self) -> str:
        """The base model that the configuration names; empty if it names none."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) else ""

    @property
    def rank(self) -> int:
        """Rank r; PEFT's default where none is written. Single layers may have another."""
        return int(self.config.get("r", 8))

    @property
    def alpha(self) -> float:
        """lora_alpha; PEFT's default where none is written. Single layers may have another."""
        return float(self.config.get("lora_alpha", 8))

    @property
    def init(self) -> str:
        """init_lora_weights in lower case: "true", "false", "pissa", ..."""
        return str(self.config.get("init_lora_weights", True)).lower()

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the target modules, or the one pattern that stands for them; in order."""
        found = self.config.get("target_modules")
        if isinstance(found, str):
            return (found,)
        return tuple(sorted(map(str, found))) if isinstance(found, list) else ()

    @property
    def use_dora(self) -> bool:
        """Whether weights are decomposed into magnitude and direction."""
        return bool(self.config.get("use_dora"))

    @property
    def use_rslora(self) -> bool:
        """Whether the update is scaled by alpha over the root of the rank."""
        return bool(self.config.get("use_rslora"))

    @property
    def size_bytes(self) -> int:
        """Size of the tensor file."""
        return len(self._file.content)

    @property
    def sha256(self) -> str:
        """Of the tensor file."""
        return self._file.sha256


def open_adapter(checkpoint: Checkpoint) -> Adapter:
    """Read configuration and header of one adapter; values are read when they are looked up.

    Raises:
        CheckpointError: A file is missing, half-written, a pickle or a link out of the
            checkpoint, not LoRA, or of a kind that cannot be replayed rightly.
    """
    return _open(checkpoint, whole=False)


def read_adapter(checkpoint: Checkpoint) -> Adapter:
    """Read one adapter wholly into memory, where its folder may vanish, and check its values.

    Raises:
        CheckpointError: As `open_adapter`; or a tensor holds NaN or infinity, or is a shard.
    """
    adapter = _open(checkpoint, whole=True)
    for key, shape in sorted(adapter.shapes.items()):
        if is_shard(key, shape):
            raise CheckpointError(
                f"{checkpoint.path.name}: tensor {key} has shape {list(shape)}: a shard, not a "
                "matrix",
                hint="save the gathered adapter (ZeRO-3: "
                "stage3_gather_16bit_weights_on_model_save)",
            )
    for key, values in sorted(adapter.tensors.items()):
        if bad := values.size - int(np.isfinite(values).sum()):
            raise CheckpointError(
                f"{checkpoint.path.name}: tensor {key} holds NaN or infinity in {bad} of "
                f"{values.size} places",
                hint="training diverged before this checkpoint: scan an earlier one",
            )
    return replace(adapter, tensors=dict(adapter.tensors))


def is_shard(key: str, shape: tuple[int, ...]) -> bool:
    """Whether an A or B matrix lacks a side: what ZeRO-3 and FSDP leave of one they spread."""
    return key.endswith(_MATRIX) and (len(shape) < 2 or 0 in shape)


def check_same_kind(adapters: tuple[Adapter, ...]) -> None:
    """Check that the adapters of one run belong together: they name the same base.

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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Renamed(Mapping[str, np.ndarray]):
    """The tensors of a file by other names: name -> name in the file."""

    file: TensorFile
    names: Mapping[str, str]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.file[self.names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _open(checkpoint: Checkpoint, *, whole: bool) -> Adapter:
    folder = checkpoint.path
    config = _read_config(folder)
    weights = _own(folder, _WEIGHTS)
    if not weights.is_file():
        if (folder / "adapter_model.bin").is_file():
            raise CheckpointError(
                f"{folder.name}/adapter_model.bin is a pickle, which can run code when it is "
                "opened, so it is refused",
                hint="save the adapter again with `model.save_pretrained(path, "
                "safe_serialization=True)`",
            )
        raise CheckpointError(
            f"{folder.name}: {_WEIGHTS} is missing",
            hint="the checkpoint is half-written, or was saved in shards: save the adapter "
            "itself with `model.save_pretrained(path)`",
        )
    shown = f"{folder.name}/{_WEIGHTS}"
    file = open_tensors(weights, shown, whole=whole)
    names: dict[str, str] = {}
    for key in file:
        name = peft_name(key)
        if name in names:
            raise CheckpointError(f"{shown}: tensors {names[name]} and {key} are of one place")
        names[name] = key
    if not any(".lora_" in name for name in names):
        raise CheckpointError(f"{shown} holds no LoRA tensor")
    _check_ranks(folder, config, file.shapes.values())
    return Adapter(
        checkpoint=checkpoint,
        config=config,
        tensors=_Renamed(file=file, names=names),
        shapes={name: file.shapes[key] for name, key in names.items()},
        odd_keys=tuple(key for name, key in names.items() if name != key and ".lora_" in name),
        _file=file,
    )


def peft_name(key: str) -> str:
    """The name that PEFT gives a tensor when it saves an adapter itself.

    prime-rl writes names without the prefix; a state dict that was saved as it is has the
    adapter's name behind the matrix's, and a compiled model its own word in between.
    """
    key = key.replace("_orig_mod.", "")
    key = re.sub(r"(\.lora_(?:A|B|embedding_A|embedding_B))\.default(?=\.|$)", r"\1", key)
    return key if key.startswith(PREFIX) else PREFIX + key


def _read_config(folder: Path) -> dict[str, Any]:
    path = _own(folder, _CONFIG)
    if not path.is_file():
        raise CheckpointError(
            f"{folder.name}: {_CONFIG} is missing",
            hint="the checkpoint is half-written, or holds no LoRA adapter",
        )
    try:
        config = read_json(path, error=CheckpointError)
    except CheckpointError as error:
        hint = "the file is truncated or damaged: copy or save it again"
        raise CheckpointError(str(error), hint=hint) from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder.name}/{_CONFIG} does not hold an object")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{folder.name} is not LoRA: {_CONFIG} says peft_type {kind!r:.100}",
            hint="only LoRA adapters leave the footprint that is measured here",
        )
    for key, (is_one, what) in _OPTIONS.items():
        if key in config and not is_one(config[key]):
            raise CheckpointError(
                f"{folder.name}/{_CONFIG}: {key} is {config[key]!r:.100}, which is no {what}",
                hint="the file is damaged, or was written by hand: what did training use?",
            )
    check_kind(folder, config)
    return config


def _check_ranks(
    folder: Path, config: Mapping[str, Any], shapes: Iterable[tuple[int, ...]]
) -> None:
    """PEFT makes matrices of the ranks that are written, before it looks at those in the file."""
    written = config.get("rank_pattern")
    ranks = [config.get("r", 8), *(written.values() if isinstance(written, dict) else ())]
    largest = max((side for shape in shapes for side in shape), default=0)
    for rank in ranks:
        if not _is_rank(rank) or rank > max(largest, _LARGE):
            raise CheckpointError(
                f"{folder.name}/{_CONFIG}: a rank is {rank!r:.100}, and no matrix of the file has "
                f"a side longer than {largest}",
                hint="the file is damaged, or was written by hand: what did training use?",
            )


def _own(folder: Path, name: str) -> Path:
    """A file of a checkpoint, which no link leads out of."""
    check_inside(folder / name, folder, error=CheckpointError)
    return folder / name


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_number(value: object) -> bool:
    return number(value) is not None


def _is_names(value: object) -> bool:
    listed = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(name, str) for name in listed)


#: Option of the configuration -> whether a value is one, and what it would be.
_OPTIONS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "r": (_is_rank, "rank"),
    "lora_alpha": (_is_number, "number"),
    "target_modules": (_is_names, "pattern and no list of names"),
    "bias": (lambda value: value is None or isinstance(value, str), "word"),
}
