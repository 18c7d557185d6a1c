"""Looks into a run's folder, which may be hostile: bounded in size and number, never out of it."""

import math
import os
import re
from pathlib import Path
from typing import Any

from arca_diag.errors import ArcaError
from arca_diag.inputs import untrusted

#: Bytes of a small file that we are willing to parse.
SMALL = 16 * 2**20

_MAX_ENTRIES = 100_000
_INT64 = 2**63 - 1


def children(folder: Path) -> list[Path]:
    """What lies in a folder, by name.

    Raises:
        ArcaError: There is more in it than any run has.
        OSError: It cannot be listed.
    """
    found: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(found) == _MAX_ENTRIES:
                raise ArcaError(
                    f"{folder}: more than {_MAX_ENTRIES:,} entries, which no run has in one folder",
                    hint="give the trainer's output directory",
                )
            found.append(folder / entry.name)
    return sorted(found)


def within(path: Path, root: Path) -> bool:
    """Whether a path, with every symbolic link followed, lies in `root` or is it."""
    return untrusted.inside(path, root)


def read_text(path: Path, root: Path, limit: int = SMALL) -> bytes | None:
    """A file of the run; None if it is absent, larger than `limit` or leads out of the run."""
    try:
        return untrusted.read_bytes(path, limit=limit) if within(path, root) else None
    except ArcaError:
        return None


def read_json(path: Path, root: Path, limit: int = SMALL) -> dict[str, Any]:
    """A JSON object of the run; empty if there is none, or none that can be read."""
    try:
        return read_object(path, root, limit)
    except ArcaError:
        return {}


def read_object(path: Path, root: Path, limit: int = SMALL) -> dict[str, Any]:
    """A JSON object of the run; empty if there is no such file.

    Raises:
        ArcaError: There is one, and it cannot be read, is beyond the limits of
            `untrusted.read_json`, leads out of the run, or holds no object.
    """
    if not os.path.lexists(path):
        return {}
    untrusted.check_inside(path, root)
    found = untrusted.read_json(path, limit=limit)
    if not isinstance(found, dict):
        raise ArcaError(f"{path.parent.name}/{path.name} does not hold an object")
    return found


def number(value: object) -> float | None:
    """A finite number that JSON, or a pickle, held; None for all else, flags included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return float(value) if abs(value) <= _INT64 else None
    return value if math.isfinite(value) else None


def step_number(value: object) -> int | None:
    """A count of steps, from a folder's name or from JSON; None if it cannot be one."""
    if isinstance(value, str):
        # `\d` and `int` take the digits of every script.
        value = int(value) if re.fullmatch("[0-9]{1,19}", value) else None
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= _INT64 else None  # type: ignore[operator, return-value]
