"""A look at a file's beginning, by which readers tell their formats apart."""

import json
import re
from pathlib import Path

from arca_diag.errors import RolloutError
from arca_diag.inputs.parquet import parquet_columns

_HEAD = 64 * 2**10  # bytes
_KEY = re.compile(r'\s*,?\s*("(?:[^"\\]|\\.)*+")\s*:\s*')


def first_fields(path: Path) -> dict[str, str]:
    """Fields of a JSONL file's first object, each with the first character of its value.

    As far as they can be read: empty for what is no JSON object, and without the fields that
    stand behind the first 64 KB, since a trainer's line can hold a whole batch.
    """
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD).decode("utf-8-sig", "replace").lstrip()
    except OSError:
        return {}
    found: dict[str, str] = {}
    place = 1 if head.startswith("{") else len(head)
    decoder = json.JSONDecoder()
    while key := _KEY.match(head, place):
        try:
            name = json.loads(key[1])
            found[name] = head[key.end() : key.end() + 1]
            _, place = decoder.raw_decode(head, key.end())
        except (ValueError, RecursionError):  # cut off, or broken
            break
    return found


def columns(path: Path) -> list[str]:
    """Columns of a parquet file; none if it cannot be read."""
    try:
        return parquet_columns(path, error=RolloutError)
    except RolloutError:
        return []
