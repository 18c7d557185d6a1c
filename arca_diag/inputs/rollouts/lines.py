"""Files of JSON lines: which are a format's own, in which order, and what stands in them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arca_diag.errors import RolloutError
from arca_diag.inputs import untrusted
from arca_diag.inputs.rollouts.peek import first_fields
from arca_diag.inputs.rollouts.record import Notes
from arca_diag.inputs.untrusted import inside

_CANONICAL = frozenset({"prompt_ids", "completion_ids"})


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The number and the object of every line, or a text that says why there is none.

    Raises:
        RolloutError: The file cannot be opened or read.
    """
    return untrusted.json_lines(path, error=RolloutError)


def is_lines_of(path: Path, keys: frozenset[str], name: re.Pattern[str] | None = None) -> bool:
    """Whether a file is .jsonl and its first object shows these keys, or the file has this name.

    A name alone does not do where the first object is one of canonical rollouts.
    """
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    found = first_fields(path).keys()
    if found & _CANONICAL:
        return False
    return keys <= found or (name is not None and name.fullmatch(path.name) is not None)


def files_in(folder: Path, pattern: str, notes: Notes) -> list[Path]:
    """The files of a folder that match, numbers in order; a link out of the folder is a fault."""
    found = []
    for path in sorted(folder.glob(pattern), key=lambda p: in_order(p.as_posix())):
        if not inside(path, folder):
            notes.fault(path.relative_to(folder).as_posix(), "a link to outside of the folder")
        elif path.is_file():
            found.append(path)
    return found


def in_order(name: str) -> list[tuple[int, str]]:
    """A key that sorts step_9 before step_10."""
    return [(int(part or 0), text) for text, part in re.findall(r"([^0-9]*)([0-9]*)", name)]


def numbered(pattern: str, name: str) -> int | None:
    """The number in a name such as step_12, if the name is of that pattern."""
    match = re.fullmatch(pattern, name)
    return int(match[1]) if match else None
