"""Reader of the canonical rollouts: JSONL, or parquet with the same columns."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from arca_diag.errors import RolloutError, collected
from arca_diag.inputs.rollouts.record import Rollout, RolloutSet, hash_ids

_KNOWN = frozenset(
    [
        "id",
        "step",
        "group_id",
        "prompt_ids",
        "completion_ids",
        "completion_mask",
        "reward",
        "advantage",
        "sampling_logprobs",
        "trainer_logprobs",
        "entropies",
        "finish_reason",
        "prompt_text",
        "completion_text",
        "ids_exact",
    ]
)
_PER_TOKEN = ("completion_mask", "sampling_logprobs", "trainer_logprobs", "entropies")
_MAX_LINE = 64 * 2**20  # characters; a line beyond this is no rollout


def sniff(path: Path) -> bool:
    """A .jsonl or .parquet file."""
    return path.is_file() and path.suffix in (".jsonl", ".parquet")


def read(path: Path, context: Any) -> RolloutSet:
    """Read one file, and check every line of it.

    Raises:
        RolloutError: Faulty lines, each as `file:line: what`, up to 20 at once. With
            `skip_bad_lines` the whole group of a faulty line is dropped instead, as long as
            its group can be read and at most 1% of the groups (but one in any case) go.
    """
    rollouts: list[Rollout] = []
    faults: list[str] = []
    dropped: set[str] = set()
    bad_lines = 0
    unknown: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for place, record in _records(path):
        try:
            if isinstance(record, str):
                raise _Fault(record)
            unknown.update(key for key in record if key not in _KNOWN)
            rollout = _rollout(record)
            if rollout.id in seen:
                raise _Fault(f"id {rollout.id!r} was used before, at {seen[rollout.id]}")
            seen[rollout.id] = place
            rollouts.append(rollout)
        except _Fault as fault:
            group = _group_of(record) if context.skip_bad_lines else None
            if group is None:
                faults.append(f"{place}: {fault}")
            else:
                dropped.add(group)
                bad_lines += 1
    if faults:
        raise RolloutError(
            collected(faults),
            hint="mend or remove these lines"
            + ("" if context.skip_bad_lines else ", or drop their groups with --skip-bad-lines"),
        )
    groups = {r.group_id for r in rollouts} | dropped
    if len(dropped) > max(1, len(groups) // 100):
        raise RolloutError(
            f"{path.name}: {len(dropped)} of {len(groups)} groups have a bad line; "
            "--skip-bad-lines drops at most 1%",
            hint="mend the file: too much of it is bad to leave it out",
        )
    kept = tuple(r for r in rollouts if r.group_id not in dropped)
    return RolloutSet(
        rollouts=kept,
        source=f"canonical {path.suffix[1:]}: {path.name}",
        files=(str(path),),
        lines_skipped=len(rollouts) - len(kept) + bad_lines,
        unknown_fields=dict(sorted(unknown.items())),
    )


class _Fault(Exception):
    """What is wrong with one line."""


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """`file:line` and the record, or a text that says why there is none."""
    if path.suffix == ".parquet":
        try:
            frame = pd.read_parquet(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise RolloutError(f"{path.name} is not a readable parquet file: {error}") from None
        for number, row in enumerate(frame.to_dict(orient="records"), start=1):
            yield f"{path.name}:{number}", {str(k): _unboxed(v) for k, v in row.items()}
        return
    with path.open("rb") as handle:
        for number, raw in enumerate(iter(lambda: handle.readline(_MAX_LINE), b""), start=1):
            if raw.strip():
                yield f"{path.name}:{number}", _parse(raw)


def _parse(raw: bytes) -> Any:
    try:
        record = json.loads(raw)
    except RecursionError:
        return "nested too deeply"
    except ValueError as error:
        return f"not valid JSON: {error}"
    return record if isinstance(record, dict) else "not a JSON object"


def _unboxed(value: Any) -> Any:
    """Plain Python for what pandas hands out; absent values are None."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value


def _rollout(record: dict[str, Any]) -> Rollout:
    identity = _typed(record, "id", str)
    prompt = _ids(record, "prompt_ids")
    completion = _ids(record, "completion_ids")
    if not prompt:
        raise _Fault("prompt_ids is empty: the first completion token has nothing to follow")
    if not completion:
        raise _Fault("completion_ids is empty")
    for key in _PER_TOKEN:
        values = record.get(key)
        if values is not None and (not isinstance(values, list) or len(values) != len(completion)):
            found = len(values) if isinstance(values, list) else type(values).__name__
            raise _Fault(
                f"{key} must have one entry a completion token, {len(completion)}: {found}"
            )
    mask = record.get("completion_mask")
    if mask is not None and not all(isinstance(m, bool) for m in mask):
        raise _Fault("completion_mask must hold true and false only")
    step = _optional(record, "step", int)
    if step is not None and not 0 <= step < 2**63:
        raise _Fault(f"step must be >= 0, found {step}" if step < 0 else "step is no step count")
    group = _optional(record, "group_id", str)
    return Rollout(
        id=identity,
        step=step,
        group_id=group if group is not None else _default_group(prompt, step),
        prompt_ids=prompt,
        completion_ids=completion,
        mask=tuple(mask) if mask is not None else (True,) * len(completion),
        reward=_number(record, "reward"),
        advantage=_advantage(record, len(completion)),
        finish_reason=_optional(record, "finish_reason", str),
        prompt_text=_optional(record, "prompt_text", str) or "",
        completion_text=_optional(record, "completion_text", str) or "",
        ids_exact=exact if (exact := _optional(record, "ids_exact", bool)) is not None else True,
    )


def _default_group(prompt: tuple[int, ...], step: int | None) -> str:
    return f"{hash_ids(prompt)}@{'unknown' if step is None else step}"


def _group_of(record: Any) -> str | None:
    """The group of a record that is otherwise bad, or None if that cannot be read either."""
    if not isinstance(record, dict):
        return None
    try:
        group = _optional(record, "group_id", str)
        if group is not None:
            return group
        return _default_group(_ids(record, "prompt_ids"), _optional(record, "step", int))
    except _Fault:
        return None


def _typed(record: dict[str, Any], key: str, kind: type) -> Any:
    value = _optional(record, key, kind)
    if value is None:
        raise _Fault(f"{key} is missing")
    return value


def _optional(record: dict[str, Any], key: str, kind: type) -> Any:
    value = record.get(key)
    if value is None:
        return None
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # pandas reads a column of integers with gaps as floats
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _Fault(f"{key} must be {kind.__name__}, found {type(value).__name__}")
    if isinstance(value, str):
        # A lone surrogate, which no file can hold as UTF-8, becomes its escape: nothing is lost.
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _ids(record: dict[str, Any], key: str) -> tuple[int, ...]:
    value = _typed(record, key, list)
    is_id: Callable[[Any], bool] = lambda i: isinstance(i, int) and not isinstance(i, bool)  # noqa: E731
    if not all(is_id(i) for i in value):
        raise _Fault(f"{key} must hold integers only")
    if any(abs(i) >= 2**63 for i in value):
        raise _Fault(f"{key} holds a number that is no token id")
    return tuple(value)


def _number(record: dict[str, Any], key: str) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise _Fault(f"{key} must be a finite number, found {value!r:.40}")
    return float(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


def _advantage(record: dict[str, Any], length: int) -> float | tuple[float, ...] | None:
    value = record.get("advantage")
    if not isinstance(value, list):
        return _number(record, "advantage")
    if len(value) != length:
        raise _Fault(f"advantage must have one entry a completion token, {length}: {len(value)}")
    entries = [_number({"advantage": item}, "advantage") for item in value]
    if None in entries:
        raise _Fault("advantage holds null")
    return tuple(item for item in entries if item is not None)
