"""JSONL, a line at a time: a bad line is told, not raised, and a file of any length fits."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arca_diag.errors import RolloutError

_MAX_LINE = 64 * 2**20  # bytes; a line beyond this is no rollout


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line number (from 1) and the object on it, or a text that says why there is none.

    Blank lines are passed over.

    Raises:
        RolloutError: The file cannot be opened.
    """
    try:
        handle = path.open("rb")
    except OSError as error:
        raise RolloutError(f"{path.name} cannot be read: {error.strerror}") from None
    with handle:
        for number, raw in enumerate(iter(lambda: handle.readline(_MAX_LINE), b""), start=1):
            if raw.strip():
                yield number, _parsed(raw)


def _parsed(raw: bytes) -> dict[str, Any] | str:
    try:
        record = json.loads(raw)
    except RecursionError:
        return "nested too deeply"
    except ValueError as error:
        return f"not valid JSON: {error}"
    return record if isinstance(record, dict) else "not a JSON object"
