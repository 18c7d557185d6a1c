"""Reads the plain values out of `training_args.bin` without unpickling it.

The file is a pickle: a program that makes Python import and call what its writer wished, and
that can also hang the unpickler or crash it. Here its opcodes are walked one by one, and only
plain data is built. Whatever the pickle would import or call becomes an inert stand-in.

Source:
    The opcodes as `pickletools` of the standard library documents them.
"""

import itertools
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_MAX_FILE = 8 * 2**20  # so that the archive's directory, which is read first, is short as well
_MAX_BYTES = 4 * 2**20
_MAX_OPCODES = 200_000
_MAX_VALUES = 100_000  # a short pickle can nest lists that stand for billions
_MAX_INTEGER = 2**63  # nothing that a trainer counts is larger, and a float could not hold it


class _Inert:
    """Stands for any object of the pickle: what made it, and the state it was given."""

    def __init__(self, args: Any = None) -> None:
        self.args = args if isinstance(args, list) else []
        self.state: Any = None

    def fields(self) -> dict[str, Any]:
        """The state as a dict; an object with slots has two of them."""
        parts = self.state if isinstance(self.state, list) else [self.state]
        return {
            key: value for part in parts if isinstance(part, dict) for key, value in part.items()
        }


class _Walker:
    """A stack machine, as an unpickler is one, that has nothing but lists and dicts to offer.

    Tuples and sets are lists here, and keys are texts: to hash a tuple within a tuple within a
    tuple takes for ever, or more stack than there is.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[Any, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        """The last items, in the order in which they came."""
        start = len(self.stack) - count
        if start < 0:
            raise ValueError("nothing on the stack")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop_to_mark(self) -> list[Any]:
        return self.pop(len(self.stack) - self.marks.pop())

    def fill(self, items: list[Any]) -> None:
        """Put items into the container on top; what is no container ignores them."""
        container = self.stack[-1]
        if isinstance(container, list):
            container.extend(items)
        elif isinstance(container, dict):
            container.update(_pairs(items))

    def build(self) -> None:
        (state,) = self.pop(1)
        if isinstance(self.stack[-1], _Inert):
            self.stack[-1].state = state

    def drop(self) -> None:
        self.pop(1)

    def drop_to_mark(self) -> None:
        self.pop_to_mark()

    def name_class(self) -> None:
        self.pop(2)
        self.push(_Inert())

    def memoize(self, place: Any) -> None:
        self.memo[place] = self.stack[-1]


def _pairs(items: list[Any]) -> dict[str, Any]:
    pairs = zip(items[::2], items[1::2], strict=True)
    return {str(key): value for key, value in pairs if _is_scalar(key)}


def _is_scalar(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) < _MAX_INTEGER
    return isinstance(value, float | str)


_Step = Callable[[_Walker, Any], None]
_STEPS: dict[str, _Step] = {
    "NONE": lambda walker, _: walker.push(None),
    "NEWTRUE": lambda walker, _: walker.push(True),
    "NEWFALSE": lambda walker, _: walker.push(False),
    "EMPTY_DICT": lambda walker, _: walker.push({}),
    "DICT": lambda walker, _: walker.push(_pairs(walker.pop_to_mark())),
    "TUPLE1": lambda walker, _: walker.push(walker.pop(1)),
    "TUPLE2": lambda walker, _: walker.push(walker.pop(2)),
    "TUPLE3": lambda walker, _: walker.push(walker.pop(3)),
    "APPEND": lambda walker, _: walker.fill(walker.pop(1)),
    "SETITEM": lambda walker, _: walker.fill(walker.pop(2)),
    "MARK": lambda walker, _: walker.marks.append(len(walker.stack)),
    "POP": lambda walker, _: walker.drop(),
    "POP_MARK": lambda walker, _: walker.drop_to_mark(),
    "DUP": lambda walker, _: walker.push(walker.stack[-1]),
    "MEMOIZE": lambda walker, _: walker.memoize(len(walker.memo)),
    "STACK_GLOBAL": lambda walker, _: walker.name_class(),
    "REDUCE": lambda walker, _: walker.push(_Inert(walker.pop(2)[1])),
    "NEWOBJ": lambda walker, _: walker.push(_Inert(walker.pop(2)[1])),
    "NEWOBJ_EX": lambda walker, _: walker.push(_Inert(walker.pop(3)[1])),
    "OBJ": lambda walker, _: walker.push(_Inert(walker.pop_to_mark()[1:])),
    "INST": lambda walker, _: walker.push(_Inert(walker.pop_to_mark())),
    "BINPERSID": lambda walker, _: walker.push(_Inert(walker.pop(1))),
    "PERSID": lambda walker, pid: walker.push(_Inert([pid])),
    "BUILD": lambda walker, _: walker.build(),
}


def _each(names: str, step: _Step) -> None:
    _STEPS.update(dict.fromkeys(names.split(), step))


_each("PROTO FRAME STOP READONLY_BUFFER", lambda *_: None)
_each("EMPTY_LIST EMPTY_TUPLE EMPTY_SET", lambda walker, _: walker.push([]))
_each("LIST TUPLE FROZENSET", lambda walker, _: walker.push(walker.pop_to_mark()))
_each("APPENDS SETITEMS ADDITEMS", lambda walker, _: walker.fill(walker.pop_to_mark()))
_each("PUT BINPUT LONG_BINPUT", lambda walker, place: walker.memoize(place))
_each("GET BINGET LONG_BINGET", lambda walker, place: walker.push(walker.memo[place]))
_each(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8",
    lambda walker, value: walker.push(value),
)
_each(
    "GLOBAL STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8 NEXT_BUFFER",
    lambda walker, _: walker.push(_Inert()),
)


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
        walker = _Walker()
        for count, (opcode, argument, _) in enumerate(pickletools.genops(payload)):
            if count > _MAX_OPCODES:
                return {}
            _STEPS[opcode.name](walker, argument)
        top = walker.stack[-1]
        left = itertools.count(_MAX_VALUES, -1)
        state = top.fields() if isinstance(top, _Inert) else {}
        fields = {key: _plain(value, 6, left) for key, value in state.items()}
    except Exception:  # a damaged pickle fails in as many ways as there are opcodes
        return {}
    return {key: value for key, value in fields.items() if value is not None}


def _payload(path: Path) -> bytes | None:
    # A named pipe would never open.
    if not path.is_file() or path.stat().st_size > _MAX_FILE or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        inner = next((i for i in archive.infolist() if i.filename.endswith("/data.pkl")), None)
        # `torch.save` compresses nothing, and what does not unfold cannot be a bomb.
        if inner is None or inner.file_size > _MAX_BYTES or inner.compress_type:
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
    if isinstance(value, list):
        return [_plain(item, depth - 1, left) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, depth - 1, left) for key, item in value.items()}
    return value if _is_scalar(value) else None
