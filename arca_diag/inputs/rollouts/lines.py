"""JSON lines, one at a time: what a trainer left may be huge, cut off, or no JSON at all."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts.record import Notes

MAX_LINE = 64 * 2**20  # bytes; a line beyond this is no rollout
_HEAD = 16 * 2**10  # bytes by which a format is told
_CANONICAL = frozenset({"prompt_ids", "completion_ids"})
# A text that the head cuts off ends with the head: what stands in it must not be read as JSON.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)(?:"|\\?\Z)(\s*:)?|[{}\[\]]', re.DOTALL)


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The number and the object of every line, or a text that says why there is none.

    Blank lines and a byte order mark are nothing.

    Raises:
        RolloutError: The file cannot be opened or read.
    """
    try:
        with path.open("rb") as handle:
            for number, raw in enumerate(_raw_lines(handle), start=1):
                if raw is None:
                    yield number, f"longer than {MAX_LINE // 2**20} MiB"
                elif raw.strip():
                    yield number, _parse(raw)
    except OSError as error:
        raise RolloutError(f"{path.name} cannot be read: {error.strerror}") from None


def is_lines_of(path: Path, keys: frozenset[str], name: re.Pattern[str] | None = None) -> bool:
    """Whether a file is .jsonl and its first object shows these keys, or the file has this name.

    A name alone does not do where the first object is one of canonical rollouts.
    """
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    found = _first_keys(path)
    if found & _CANONICAL:
        return False
    return keys <= found or (name is not None and name.fullmatch(path.name) is not None)


def files_in(folder: Path, pattern: str, notes: Notes) -> list[Path]:
    """The files of a folder that match, numbers in order; a link out of the folder is a fault."""
    found = []
    for path in sorted(folder.glob(pattern), key=lambda p: in_order(p.as_posix())):
        if not path.resolve().is_relative_to(folder.resolve()):
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


def _raw_lines(handle: IO[bytes]) -> Iterator[bytes | None]:
    """Every line, or None for one that is too long to be held."""
    first = True
    while raw := handle.readline(MAX_LINE + 1):
        if first:
            raw, first = raw.removeprefix(codecs.BOM_UTF8), False
        if len(raw) <= MAX_LINE or raw.endswith(b"\n"):
            yield raw
            continue
        while raw and not raw.endswith(b"\n"):
            raw = handle.readline(MAX_LINE)
        yield None


def _parse(raw: bytes) -> dict[str, Any] | str:
    try:
        record = json.loads(raw)
    except RecursionError:
        return "nested too deeply"
    except ValueError as error:  # numbers of thousands of digits, too
        return f"not valid JSON: {error}"
    return record if isinstance(record, dict) else "not a JSON object"


def _first_keys(path: Path) -> frozenset[str]:
    """Keys of the first object, as far as the head of the file shows them."""
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD).decode("utf-8-sig", "replace").lstrip()
    except OSError:
        return frozenset()
    keys, depth = set(), 0
    for token in _TOKEN.finditer(head if head.startswith("{") else ""):
        if token[0] in ("{", "["):
            depth += 1
        elif token[0] in ("}", "]"):
            depth -= 1
            if depth <= 0:
                break
        elif depth == 1 and token[2]:
            keys.add(token[1])
    return frozenset(keys)
