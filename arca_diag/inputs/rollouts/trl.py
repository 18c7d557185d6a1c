"""Reader of TRL's `completions/completions_*.parquet` (TRL >= 0.28), with the recorder or without.

The tables hold text with the special tokens stripped, one row a completion, a group's rows
together. `completions_k` was sampled by the policy after k - 1 optimizer steps or, where a batch
is used for several steps, at the first of them; the batch is written again under each.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from arca_diag.inputs.rollouts import fields
from arca_diag.inputs.rollouts.record import Chat, Notes, Sample
from arca_diag.inputs.runs import Run
from arca_diag.trl import IDS_COLUMN, STEP_COLUMN

_NOT_REWARDS = ("step", "prompt", "completion", "advantage", IDS_COLUMN, STEP_COLUMN)


def sniff(path: Path) -> bool:
    """A folder with TRL's completion tables, or one such table."""
    if path.is_dir():
        return any(path.glob("completions_*.parquet"))
    return path.is_file() and path.suffix == ".parquet" and path.name.startswith("completions_")


def read(path: Path, run: Run, notes: Notes) -> Iterator[Sample]:
    """Read every table, once per batch."""
    batches: dict[str, str] = {}
    notes.group_source = "rows that lie together and share a prompt"
    for file in sorted(path.glob("completions_*.parquet")) if path.is_dir() else [path]:
        notes.reading(file)
        rows = _rows(file, notes)
        if not rows:
            continue
        first = batches.setdefault(_fingerprint(rows), file.stem)
        notes.batches[int(rows[0]["step"])] = first
        if first != file.stem:
            notes.duplicates += len(rows)
            continue
        yield from _read_batch(file, rows, run, notes)


def _rows(file: Path, notes: Notes) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        notes.fault(file.name, f"not a readable parquet file: {str(error).splitlines()[0]}")
        return []
    if not rows:
        notes.fault(file.name, "no rows in it")
        return []
    missing = [name for name in ("step", "prompt", "completion") if name not in rows[0]]
    if missing:
        notes.fault(file.name, f"no column {', '.join(missing)}: not a TRL table")
        return []
    for number, row in enumerate(rows):
        if wrong := _wrong(row):
            notes.fault(f"{file.name}: row {number}", wrong)
            return []
    return rows


def _wrong(row: dict[str, Any]) -> str:
    if row["prompt"] is None or row["completion"] is None or row["step"] is None:
        return "no step, prompt or completion"
    for column, is_right in _KINDS.items():
        if row.get(column) is not None and not is_right(row[column]):
            return f"{column} is not what TRL writes"
    return ""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 2**63 and value == int(value)


def _is_message(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(part, dict) for part in value)
    )


_KINDS: dict[str, Callable[[Any], bool]] = {
    "step": _is_whole,
    STEP_COLUMN: _is_whole,
    "prompt": _is_message,
    "completion": _is_message,
    # Ids beyond 32 bits are no token's, and tokenizers cannot even be asked about them.
    IDS_COLUMN: lambda ids: (
        isinstance(ids, list) and all(isinstance(i, int) and abs(i) < 2**31 for i in ids)
    ),
}


def _fingerprint(rows: list[dict[str, Any]]) -> str:
    """The batch, whatever step it was written under."""
    content = [[row["prompt"], row["completion"], row.get("advantage")] for row in rows]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _read_batch(file: Path, rows: list[dict[str, Any]], run: Run, notes: Notes) -> Iterator[Sample]:
    step = _sampling_step(rows[0], run, notes)
    rewards, weights = _rewards(rows, run)
    number = 0
    for group, size in enumerate(_group_sizes(rows, run.training_args)):
        for row in rows[number : number + size]:
            place = f"{file.name}: row {number}"
            number += 1
            recorded, text = row.get(IDS_COLUMN), _text(row["completion"])
            if why := _unreadable(row["completion"], recorded is not None):
                notes.left_out[why] += 1
                continue
            if not (text if recorded is None else recorded):
                continue  # an empty completion has no token to credit
            prompt = row["prompt"]
            yield Sample(
                id=f"{file.stem}/{number - 1}",
                place=place,
                step=step,
                group_id=f"{file.stem}/g{group}",
                batch=file.stem,
                prompt=prompt,
                completion=text if recorded is None else tuple(int(i) for i in recorded),
                reward=_reward(row, rewards, weights),
                advantage=_finite(row.get("advantage")),
                prompt_text=prompt if isinstance(prompt, str) else fields.plain_text(prompt),
                completion_text=text,
            )


def _sampling_step(row: dict[str, Any], run: Run, notes: Notes) -> int:
    """The recorder's own step, or the first step at which this batch was used."""
    sampled = row.get(STEP_COLUMN)
    if sampled is not None:
        notes.step_source = "the recorder"
        return int(sampled)
    counts = [
        run.training_args.get(key)
        for key in ("steps_per_generation", "num_iterations", "gradient_accumulation_steps")
    ]
    per_batch, uses, micro = (c if isinstance(c, int) and 0 < c < 2**31 else None for c in counts)
    steps = max(1, (per_batch or micro or 1) * (uses or 1) // (micro or 1))
    notes.step_source = "the table's number k: sampled after k - 1 steps"
    if steps > 1:
        notes.step_source += f", once for every {steps}"
    return max(0, int(row["step"]) - 1) // steps * steps


def _rewards(rows: list[dict[str, Any]], run: Run) -> tuple[list[str], list[float | None]]:
    """Reward columns and weights, in the table's order: that of training. The log's is sorted."""
    logged = [key for key in rows[0] if key in run.reward_columns]
    names = logged or [
        key
        for key in rows[0]
        if key not in _NOT_REWARDS and any(isinstance(row[key], float) for row in rows)
    ]
    given = run.training_args.get("reward_weights")
    weights = [_finite(w) for w in given] if isinstance(given, list) else []
    if len(weights) != len(names) or None in weights:
        weights = [1.0] * len(names)
    return names, weights


def _unreadable(completion: str | Chat, has_ids: bool) -> str:
    """Why the tokens of a completion cannot be known from the table; empty if they can."""
    if isinstance(completion, str):
        return ""
    if any(message.get("role") not in (None, "assistant") for message in completion):
        return "tool calls, whose tokens the table does not tell apart"
    if not has_ids and any(_is_parsed(message) for message in completion):
        return "parsed into reasoning and answer, and the text between is lost"
    return ""


def _is_parsed(message: Mapping[str, Any]) -> bool:
    return any(value for key, value in message.items() if key not in ("role", "content"))


def _group_sizes(rows: list[dict[str, Any]], arguments: dict[str, Any]) -> list[int]:
    """Rows per group: runs of equal prompts, cut to num_generations where that fits.

    Two groups of the same prompt can lie side by side; only num_generations tells them apart.
    """
    runs = [
        len(list(same))
        for _, same in itertools.groupby(rows, key=lambda r: json.dumps(r["prompt"]))
    ]
    size = arguments.get("num_generations")
    if isinstance(size, int) and size > 0 and all(run % size == 0 for run in runs):
        return [size] * (len(rows) // size)
    return runs


def _text(completion: str | Chat) -> str:
    """What the model wrote, of a plain text or of a list of chat messages."""
    if isinstance(completion, str):
        return completion
    if any(_is_parsed(message) for message in completion):
        return ""  # not all that was written
    return "".join(fields.message_text(message) for message in completion)


def _reward(row: dict[str, Any], columns: list[str], weights: list[float | None]) -> float | None:
    """The weighted sum over reward functions; those that returned None are left out, as in TRL."""
    parts = [
        (weight or 0.0) * value
        for name, weight in zip(columns, weights, strict=True)
        if (value := _finite(row.get(name))) is not None
    ]
    return math.fsum(parts) if parts else None


def _finite(value: Any) -> float | None:
    try:
        ok = isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return None
    return float(value) if ok else None
