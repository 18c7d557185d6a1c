"""Reads the plain values out of `training_args.bin` without running what it pickled.

The file is a pickle, and unpickling runs code of whoever wrote it. Here every class and
function that the pickle names is replaced by one inert stand-in that remembers its arguments
and does nothing, so that no import takes place and nothing is called.
"""

import io
import itertools
import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MAX_BYTES = 4 * 2**20
_MAX_OPCODES = 200_000
_MAX_VALUES = 100_000  # a short pickle can nest lists that stand for billions


class _Inert:
    """Stands for any object of the pickle: takes whatever it is given, and does nothing."""

    args: tuple[Any, ...] = ()  # a pickle may build an object without calling __init__
    state: dict[Any, Any] = {}  # noqa: RUF012  (never changed, only replaced)

    def __init__(self, *args: Any, **_: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 2:
            state = {**(state[0] or {}), **(state[1] or {})}
        if isinstance(state, dict):
            self.state = state

    # Pickled containers fill themselves through these; the contents are of no use to us.
    def append(self, _: Any) -> None:
        """Ignore an item."""

    def extend(self, _: Any) -> None:
        """Ignore items."""

    def __setitem__(self, *_: Any) -> None:
        """Ignore an item."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Inert]:
        return _Inert

    def persistent_load(self, pid: Any) -> _Inert:
        return _Inert(pid)


def read_training_args(path: Path) -> dict[str, Any]:
    """The numbers, texts, flags and plain containers among a trainer's saved arguments.

    Args:
        path: A `training_args.bin` as `torch.save` writes it.

    Returns:
        Field name -> value. Enumerations become the value they wrap; anything that is not
        plain data is left out. Empty if the file is not such a file, is over the limits on
        size and opcodes, or is damaged: nothing can be learned from it then.
    """
    try:
        payload = _payload(path)
        if payload is None:
            return {}
        for count, (opcode, argument, _) in enumerate(pickletools.genops(payload)):
            # The unpickler makes room for every memo place before the one that is named.
            far_out = "PUT" in opcode.name and isinstance(argument, int) and argument > _MAX_OPCODES
            if count > _MAX_OPCODES or far_out:
                return {}
        top = _Reader(io.BytesIO(payload)).load()
        left = itertools.count(_MAX_VALUES, -1)
        fields = {str(k): _plain(v, 6, left) for k, v in getattr(top, "state", {}).items()}
    except Exception:  # a hostile pickle can make the unpickler raise anything at all
        return {}
    return {key: value for key, value in fields.items() if value is not None}


def _payload(path: Path) -> bytes | None:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        inner = next((i for i in archive.infolist() if i.filename.endswith("/data.pkl")), None)
        if inner is None or inner.file_size > _MAX_BYTES:
            return None
        with archive.open(inner) as handle:
            return handle.read(_MAX_BYTES)


def _plain(value: Any, depth: int, left: Iterator[int]) -> Any:
    """The value if it is plain data, what an enumeration wraps, else None."""
    if next(left) <= 0:
        raise ValueError("too many values")
    if depth == 0:
        return None
    if isinstance(value, _Inert):
        return _plain(value.args[0], depth - 1, left) if len(value.args) == 1 else None
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1, left) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, depth - 1, left) for key, item in value.items()}
    return None
