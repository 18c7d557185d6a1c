"""The tensors of a safetensors file as NumPy arrays, without torch and as late as possible."""

import functools
import hashlib
import json
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from arca_diag.errors import CheckpointError

_HEADER = 16 * 2**20  # bytes: some hundred thousand tensors
_DTYPES: Mapping[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,  # NumPy has none: widened to float32 when it is read
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorFile(Mapping[str, np.ndarray]):
    """Tensor name -> values. Every look-up decodes anew; bfloat16 comes as float32.

    Attributes:
        shapes: Tensor name -> shape, from the header alone.
        content: The file's bytes, in memory or mapped.
    """

    shapes: Mapping[str, tuple[int, ...]]
    content: bytes | mmap.mmap = field(repr=False)
    _places: Mapping[str, tuple[str, int]] = field(repr=False)  # name -> dtype, first byte

    def __getitem__(self, name: str) -> np.ndarray:
        """The values of one tensor: a view of the file, not to be written to."""
        dtype, start = self._places[name]
        shape = self.shapes[name]
        flat = np.frombuffer(self.content, _DTYPES[dtype], math.prod(shape), start)
        if dtype == "BF16":  # the upper half of a float32
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        return flat.reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    @functools.cached_property
    def sha256(self) -> str:
        """Of the whole file."""
        return hashlib.sha256(self.content).hexdigest()


def open_tensors(path: Path, shown: str, *, whole: bool) -> TensorFile:
    """Read the header of a safetensors file, and with `whole` the rest into memory.

    Args:
        path: The file.
        shown: How messages name it.
        whole: The file may vanish later; else values are read when they are looked up.

    Raises:
        CheckpointError: It cannot be read, is damaged or truncated, its header is larger than
            any adapter's, or it holds a type of number that NumPy does not have.
    """
    try:
        with path.open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            if size > _HEADER:
                raise _damaged(shown, f"its header claims {size:,} bytes")
            header = handle.read(size)
            handle.seek(0)
            # The library checks the header: places within the file, no two of them overlapping.
            with safe_open(path, "numpy"):
                pass
            content: bytes | mmap.mmap
            content = handle.read() if whole else mmap.mmap(handle.fileno(), 0, prot=mmap.PROT_READ)
        entries: dict[str, Any] = json.loads(header)
    except OSError as error:
        raise CheckpointError(
            f"{shown} cannot be read: {error.strerror or error}",
            hint="was the checkpoint deleted meanwhile, and is it yours to read?",
        ) from None
    except (SafetensorError, ValueError, MemoryError) as error:
        raise _damaged(shown, error) from None
    entries.pop("__metadata__", None)
    for name, entry in entries.items():
        if entry["dtype"] not in _DTYPES:
            raise CheckpointError(
                f"{shown}: tensor {name} is of type {entry['dtype']}, which is not read here",
                hint="save the adapter again in float32, float16 or bfloat16",
            )
    return TensorFile(
        shapes={name: tuple(entry["shape"]) for name, entry in entries.items()},
        content=content,
        _places={
            name: (entry["dtype"], 8 + size + entry["data_offsets"][0])
            for name, entry in entries.items()
        },
    )


def _damaged(shown: str, why: object) -> CheckpointError:
    return CheckpointError(
        f"{shown} cannot be read: {why}",
        hint="the file is truncated or damaged: copy or save it again",
    )
