"""Reader of TRL's `completions/completions_*.parquet` (TRL >= 0.28), with the recorder or without.

The tables hold text with the special tokens stripped, one row a completion, a group's rows
together. `completions_k` was sampled by the policy after k - 1 optimizer steps or, where a batch
is used for several steps, at the first of them; the batch is written again under each.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from arca_diag.inputs.rollouts import fields, logged
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
    return logged.fingerprint(
        [[row["prompt"], row["completion"], row.get("advantage")] for row in rows]
    )


def _read_batch(file: Path, rows: list[dict[str, Any]], run: Run, notes: Notes) -> Iterator[Sample]:
    step = _sampling_step(rows[0], run, notes)
    rewards = _rewards(rows, run)
    weights = logged.reward_weights(rewards, run.training_args)
    sizes = logged.group_sizes((row["prompt"] for row in rows), run.training_args)
    number = 0
    for group, size in enumerate(sizes):
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
                reward=logged.total_reward((row.get(name) for name in rewards), weights),
                advantage=logged.finite(row.get("advantage")),
                prompt_text=prompt if isinstance(prompt, str) else fields.plain_text(prompt),
                completion_text=text,
            )


def _sampling_step(row: dict[str, Any], run: Run, notes: Notes) -> int:
    """The recorder's own step, or the first step at which this batch was used."""
    sampled = row.get(STEP_COLUMN)
    if sampled is not None:
        notes.step_source = "the recorder"
        return int(sampled)
    step, how = logged.sampling_step(int(row["step"]), run.training_args)
    notes.step_source = f"the table's number k: {how}"
    return step


def _rewards(rows: list[dict[str, Any]], run: Run) -> list[str]:
    """Reward columns, in the table's order: that of training. The log's is sorted."""
    known = [key for key in rows[0] if key in run.reward_columns]
    return known or [
        key
        for key in rows[0]
        if key not in _NOT_REWARDS and any(isinstance(row[key], float) for row in rows)
    ]


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


def _text(completion: str | Chat) -> str:
    """What the model wrote, of a plain text or of a list of chat messages."""
    if isinstance(completion, str):
        return completion
    if any(_is_parsed(message) for message in completion):
        return ""  # not all that was written
    return "".join(fields.message_text(message) for message in completion)
