"""What no trainer writes: every field of a record replaced by every odd value."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arca_diag.errors import RolloutError
from tests.inputs import read_rollouts

ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    10**400,
    1.5,
    math.nan,
    -math.inf,
    "",
    "text",
    "\ud800",
    [],
    [None],
    [True],
    [1],
    [math.nan] * 3,
    ["x"],
    [[]],
    [[1], [2]],
    {},
    {"id": {}},
)
DEEP = ("[" * 100_000 + "]" * 100_000, '{"a": ' * 100_000 + "1" + "}" * 100_000)


def damaged(record: Any) -> Iterator[tuple[str, Any]]:
    """Where and the record, with one value replaced or left out; dicts and lists to any depth."""
    for path in _paths(record):
        for odd in (*ODD, _ABSENT):
            changed = copy.deepcopy(record)
            at = changed
            for key in path[:-1]:
                at = at[key]
            if odd is _ABSENT:
                del at[path[-1]]
            else:
                at[path[-1]] = odd
            yield f"{path}={odd!r:.30}", changed


_ABSENT = object()


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value[:3])
    for key, inner in items:
        yield (key,)
        if isinstance(inner, dict | list):
            yield from ((key, *rest) for rest in _paths(inner))


def check_every_damage(path: Path, good: dict[str, Any], tokenizer: Any = None) -> tuple[int, int]:
    """Read a good line and a damaged one, for every damage.

    Returns:
        How many were refused, each with file and line, and how many were read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    refused = read = 0
    for where, bad in damaged(good):
        path.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n", "utf-8")
        try:
            found = read_rollouts(path, tokenizer)
        except RolloutError as error:
            said = str(error)
        else:
            said = ""
        if said:
            assert f"{path.name}:2: " in said, where
            refused += 1
            continue
        read += 1
        for rollout in found.rollouts:
            length = len(rollout.completion_ids)
            assert length == len(rollout.mask) > 0, where
            assert rollout.prompt_ids, where
            for values in (
                rollout.sampling_logprobs,
                rollout.trainer_logprobs,
                rollout.entropies,
                rollout.advantage,
            ):
                assert not isinstance(values, tuple) or len(values) == length, where
    return refused, read


def check_broken_lines(path: Path, good: dict[str, Any]) -> None:
    """Lines that are no object at all are named."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for text in (*DEEP, "{", "[1]", "null", '{"a": ' + "1" * 5000 + "}", "\x00"):
        path.write_text(json.dumps(good) + "\n" + text + "\n", "utf-8")
        with pytest.raises(RolloutError, match=rf"{path.name}:2: (nested|not |a number)"):
            read_rollouts(path)
