"""Reads files that nobody vouches for: within limits of size, depth and memory.

Whatever is in them, the outcome is plain data or a message. The limits lie far above what
trainers write; memory stays within a small multiple of the limit that an argument names.
"""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from arca_diag.errors import ArcaError

#: What to do about a file that cannot be read.
AGAIN = "copy it again, or remove it if no trainer of yours wrote it"
_DEPTH = 200  # well below where code that walks a value runs out of stack
_MARKS = 2**23  # commas, colons and brackets: "[[],[]," takes thirty times its size once parsed
_CHUNK = 2**20  # bytes of an over-long line that are skipped at a time


class Fault(Exception):
    """What is wrong, in words that follow the name of a file or a line."""


def read_json(path: Path, *, limit: int = 16 * 2**20, error: type[ArcaError] = ArcaError) -> Any:
    """The value in a JSON file. It may be of any type, NaN and infinity among its numbers.

    Args:
        path: The file.
        limit: Bytes that it may have.
        error: What is raised.

    Raises:
        ArcaError: `error`: the file cannot be read, is too large, is not UTF-8 or not JSON, is
            nested more than 200 deep, or holds a number or a count of values beyond reason.
    """
    try:
        return _parsed(_content(path, limit, error))
    except Fault as fault:
        raise error(f"{named(path)}: {fault}", hint=AGAIN) from None


def read_text(path: Path, *, limit: int = 2**20, error: type[ArcaError] = ArcaError) -> str:
    """The text in a file.

    Args:
        path: The file.
        limit: Bytes that it may have.
        error: What is raised.

    Raises:
        ArcaError: `error`: the file cannot be read, is too large, or is not UTF-8.
    """
    try:
        return _decoded(_content(path, limit, error))
    except Fault as fault:
        raise error(f"{named(path)}: {fault}", hint=AGAIN) from None


def read_bytes(path: Path, *, limit: int, error: type[ArcaError] = ArcaError) -> bytes:
    """The content of a file.

    Args:
        path: The file.
        limit: Bytes that it may have.
        error: What is raised.

    Raises:
        ArcaError: `error`: the file cannot be read, or is too large.
    """
    try:
        return _content(path, limit, error)
    except Fault as fault:
        raise error(f"{named(path)}: {fault}", hint=AGAIN) from None


def json_lines(
    path: Path, *, limit: int = 64 * 2**20, error: type[ArcaError] = ArcaError
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The objects in a file of one JSON object a line, one at a time. Blank lines are passed over.

    Args:
        path: The file.
        limit: Bytes that a line may have, its end included.
        error: What is raised.

    Yields:
        The line's number, from 1, and its object; or a text that says what is wrong with it.

    Raises:
        ArcaError: `error`: the file cannot be read.
    """
    number = 0
    with opened(path, error) as handle:
        while raw := handle.readline(limit + 1):
            number += 1
            if len(raw) > limit:
                while raw and not raw.endswith(b"\n"):
                    raw = handle.readline(_CHUNK)
                yield number, f"longer than {size_of(limit)}"
            elif raw.strip():
                yield number, _object(raw)


def inside(path: Path, root: Path) -> bool:
    """Whether a path lies in a folder once every symbolic link on the way is followed.

    A folder that the Hugging Face cache holds is all links, to blobs/ beside its snapshots/:
    there that counts as inside.
    """
    try:
        real, home = path.resolve(), root.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, a zero byte in the name
        return False
    snapshots = next((p for p in (home, *home.parents) if p.parent.name == "snapshots"), None)
    places = [home] if snapshots is None else [home, snapshots.parent.parent / "blobs"]
    return any(real.is_relative_to(place) for place in places)


def check_inside(path: Path, root: Path, *, error: type[ArcaError] = ArcaError) -> None:
    """Refuse a path that leads out of a folder.

    Raises:
        ArcaError: `error`: it does, or cannot be followed.
    """
    if not inside(path, root):
        raise error(
            f"{named(path)} leads out of {root.name}",
            hint="put the file itself in place of the link, if you trust it",
        )


def named(path: Path) -> str:
    """The file with its folder: trainers give every checkpoint files of the same names."""
    return "/".join(path.parts[-2:])


def size_of(count: int) -> str:
    """A count of bytes in words."""
    return f"{count / 2**20:g} MiB"


def opened(path: Path, error: type[ArcaError]) -> BinaryIO:
    """A regular file to read from.

    Raises:
        ArcaError: `error`: it is something else, or cannot be read.
    """
    try:
        # Opening a named pipe would wait for its other end for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise error(f"{named(path)} is not a regular file", hint=AGAIN)
        return path.open("rb")
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise error(
            f"{named(path)} cannot be read: {reason}", hint="is it yours to read, and still there?"
        ) from None


def _content(path: Path, limit: int, error: type[ArcaError]) -> bytes:
    with opened(path, error) as handle:
        raw = handle.read(limit + 1)
    if len(raw) > limit:
        raise Fault(f"larger than {size_of(limit)}")
    return raw


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise Fault(f"not UTF-8 text: byte {raw[fault.start]:#04x} at {fault.start}") from None


def _object(raw: bytes) -> dict[str, Any] | str:
    try:
        value = _parsed(raw)
    except Fault as fault:
        return str(fault)
    return value if isinstance(value, dict) else f"not a JSON object but {type(value).__name__}"


def _parsed(raw: bytes) -> Any:
    text = _decoded(raw).removeprefix("\ufeff")
    opened = raw.count(b"[") + raw.count(b"{")
    if opened + raw.count(b",") + raw.count(b":") > _MARKS:
        raise Fault(f"more than {_MARKS:,} values")
    try:
        value = json.loads(text)
    except RecursionError:
        raise Fault(f"nested more than {_DEPTH} deep") from None
    except json.JSONDecodeError as fault:
        raise Fault(f"not valid JSON: {fault}") from None
    except ValueError:
        raise Fault("a number of thousands of digits") from None
    if opened > _DEPTH and _is_deep(value):
        raise Fault(f"nested more than {_DEPTH} deep")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEPTH):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, dict | list)
        ]
    return bool(level)
