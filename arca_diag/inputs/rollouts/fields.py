"""Fields of a record, checked: what a trainer wrote may be of any type. A `Fault` says what."""

import json
import math
from collections.abc import Mapping
from typing import Any

from arca_diag.inputs.rollouts.record import Fault, hash_ids

Record = Mapping[str, Any]


def text(record: Record, key: str) -> str | None:
    """A text, or None where there is none.

    A lone surrogate, which no file can hold as UTF-8, becomes its escape: nothing is lost.
    """
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Fault(f"{key} must be str, found {type(value).__name__}")
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def flag(record: Record, key: str) -> bool | None:
    """True or false, or None."""
    value = record.get(key)
    if value is not None and not isinstance(value, bool):
        raise Fault(f"{key} must be bool, found {type(value).__name__}")
    return value


def whole(record: Record, key: str) -> int | None:
    """An integer of at most 64 bits, or None; 3.0 is one: columns with gaps are read as floats."""
    value = record.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise Fault(f"{key} must be int, found {type(value).__name__}")
    if abs(value) >= 2**63:
        raise Fault(f"{key} holds a number beyond 64 bits")
    return value


def step(record: Record, key: str = "step") -> int | None:
    """A count of optimizer steps, or None."""
    value = whole(record, key)
    if value is not None and value < 0:
        raise Fault(f"{key} must be >= 0, found {value}")
    return value


def number(record: Record, key: str) -> float | None:
    """A finite number, or None."""
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise Fault(f"{key} must be a finite number, found {_shown(value)}")
    return float(value)


def ids(record: Record, key: str) -> tuple[int, ...] | None:
    """Token ids, or None."""
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, list):
        raise Fault(f"{key} must be list, found {type(value).__name__}")
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
        raise Fault(f"{key} must hold integers only")
    # Tokenizers cannot even be asked about others.
    if not all(0 <= i < 2**31 for i in value):
        raise Fault(f"{key} holds a number that is no token id")
    return tuple(value)


def flags(record: Record, key: str, length: int) -> tuple[bool, ...] | None:
    """One flag a token, or None; 0 and 1 stand for flags in some files."""
    value = _per_token(record, key, length)
    if value is None:
        return None
    if not all(isinstance(v, bool) or (isinstance(v, int | float) and v in (0, 1)) for v in value):
        raise Fault(f"{key} must hold true and false only")
    return tuple(bool(v) for v in value)


def numbers(record: Record, key: str, length: int) -> tuple[float, ...] | None:
    """One number a token, NaN where it holds null, or None."""
    value = _per_token(record, key, length)
    if value is None:
        return None
    if not all(
        v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in value
    ):
        raise Fault(f"{key} must hold numbers only")
    try:
        return tuple(math.nan if v is None else float(v) for v in value)
    except OverflowError:
        raise Fault(f"{key} holds a number beyond any float") from None


def advantage(record: Record, key: str, length: int) -> float | tuple[float, ...] | None:
    """One number, or a finite one a token, or None."""
    if not isinstance(record.get(key), list):
        return number(record, key)
    values = numbers(record, key, length) or ()
    if not all(math.isfinite(v) for v in values):
        raise Fault(f"{key} must hold finite numbers only")
    return values


def messages(value: Any) -> list[dict[str, Any]] | None:
    """A chat: a list of objects; None if it is something else."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return value
    return None


def plain_text(chat: list[dict[str, Any]]) -> str:
    """What stands in a chat's messages, for people to read."""
    return "\n".join(message_text(message) for message in chat)


def message_text(message: Mapping[str, Any]) -> str:
    """The text of one message, of which blocks of text are a part each; all else as JSON."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(b, dict) and "text" in b for b in content):
        return "".join(str(block["text"] or "") for block in content)
    return content if isinstance(content, str) else json.dumps(content, default=str)


def default_group(prompt: object, at: int | None) -> str:
    """A group where none is recorded: the same prompt at the same step."""
    if isinstance(prompt, tuple):
        key = hash_ids(prompt)
    else:
        written = json.dumps(prompt, sort_keys=True, default=str)
        key = hash_ids(written.encode())
    return f"{key}@{'unknown' if at is None else at}"


def named_group(name: str, at: int | None, seen: dict[str, int | None]) -> str:
    """A group as it is recorded; one that recurs at another step is another group.

    Args:
        name: What is recorded, which may be the name of a prompt.
        at: The step.
        seen: Name -> the step at which it was first seen; kept up to date here.
    """
    return name if seen.setdefault(name, at) == at else f"{name}@{'unknown' if at is None else at}"


def _per_token(record: Record, key: str, length: int) -> list[Any] | None:
    value = record.get(key)
    if value is not None and (not isinstance(value, list) or len(value) != length):
        found = len(value) if isinstance(value, list) else type(value).__name__
        raise Fault(f"{key} must have one entry a completion token, {length}: {found}")
    return value


def _shown(value: Any) -> str:
    """A value for a message; of lists and objects, which can be of any size and depth, the type."""
    return f"{value!r:.40}" if isinstance(value, int | float | str) else type(value).__name__


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False
