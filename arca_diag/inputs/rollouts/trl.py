"""Reader of TRL's `completions/completions_*.parquet` (TRL >= 0.28), with the recorder or without.

The tables hold text with the special tokens stripped, one row a completion, a group's rows
together. `completions_k` was sampled by the policy after k - 1 optimizer steps or, where a batch
is used for several steps, at the first of them; the batch is written again under each.

TRL keeps the last completions in one queue, those of an evaluation among them, and writes the
evaluation's table over that of training. A table with any of them is left out whole.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import fields, logged
from arca_diag.inputs.rollouts.lines import files_in
from arca_diag.inputs.rollouts.parquet import parquet_rows
from arca_diag.inputs.rollouts.peek import columns
from arca_diag.inputs.rollouts.record import EMPTY, Chat, Fault, Notes, Sample
from arca_diag.inputs.runs import Run
from arca_diag.trl import IDS_COLUMN, STEP_COLUMN

_COLUMNS = {"step", "prompt", "completion", "advantage"}
_NOT_REWARDS = _COLUMNS | {IDS_COLUMN, STEP_COLUMN}
_TABLE = 2**30  # bytes of one table once decoded: it is held whole
_IMAGES = "a prompt with more than text in it, which is not replayed"
_TOOLS = "tool calls, whose tokens the table does not tell apart"
_PARSED = "parsed into reasoning and answer, and the text between is lost"


def sniff(path: Path) -> bool:
    """A folder with TRL's completion tables, or one such table."""
    if path.is_dir():
        return any(path.glob("completions_*.parquet"))
    if not path.is_file() or path.suffix != ".parquet":
        return False
    found = set(columns(path))
    return found >= _COLUMNS if found else path.name.startswith("completions_")


def read(path: Path, run: Run, notes: Notes) -> Iterator[Sample]:
    """Read every table, once per batch."""
    notes.group_source = "rows that lie together and share a prompt"
    told = logged.evaluated_steps(run)
    first: dict[str, str] = {}  # batch -> the table it was first written to
    evaluated: set[str] = set()
    numbers: set[int] = set()
    files = files_in(path, "completions_*.parquet", notes) if path.is_dir() else [path]
    for file in files:
        notes.reading(file)
        try:
            rows = [row for _, row in parquet_rows(file, _TABLE)]
            number = _number(rows)
        except (Fault, RolloutError) as fault:
            notes.fault(file.name, str(fault).removeprefix(f"{file.parent.name}/{file.name}: "))
            continue
        batch = logged.fingerprint(
            [[row["prompt"], row["completion"], row.get("advantage")] for row in rows]
        )
        is_evaluation = (
            number in told
            or logged.evaluation_is_due(number, run)
            or any(_is_sampled_after(row, number) for row in rows)
            or batch in evaluated
        )
        if is_evaluation:
            evaluated.add(batch)
            notes.eval_excluded += len(rows)
        elif first.setdefault(batch, file.stem) != file.stem:
            notes.duplicates += len(rows)
            notes.batches[number] = first[batch]
        else:
            notes.batches[number] = file.stem
            # Where the table before holds another batch, this one was sampled in between.
            step, how = (
                (number - 1, "sampled after k - 1 steps")
                if number - 1 in numbers
                else logged.sampling_step(number, run.training_args)
            )
            notes.step_source = f"the table's number k: {how}"
            yield from _read_batch(file, rows, step, run, notes)
        numbers.add(number)


def _number(rows: list[dict[str, Any]]) -> int:
    """The step in a table's rows, which is the number in its name."""
    if not rows:
        raise Fault("no rows in it")
    missing = [name for name in ("step", "prompt", "completion") if name not in rows[0]]
    if missing:
        raise Fault(f"no column {', '.join(missing)}: not a TRL table")
    number = fields.step(rows[0])
    if number is None:
        raise Fault("row 0: no step")
    return number


def _is_sampled_after(row: dict[str, Any], number: int) -> bool:
    """Whether the recorder says that the table's step was done: only evaluations come then."""
    sampled = logged.finite(row.get(STEP_COLUMN))
    return sampled is not None and sampled >= number


def _read_batch(
    file: Path, rows: list[dict[str, Any]], step: int, run: Run, notes: Notes
) -> Iterator[Sample]:
    rewards = _rewards(rows, run)
    weights = logged.reward_weights(rewards, run.training_args)
    # Where the policy had tools, the template showed them to it, and the table does not.
    guessed = any(_speaks(row["completion"], "tool") for row in rows)
    number = 0
    for group, size in enumerate(
        logged.group_sizes((row["prompt"] for row in rows), run.training_args)
    ):
        for row in rows[number : number + size]:
            place, identity = f"{file.name}: row {number}", f"{file.stem}/{number}"
            number += 1
            prompt = None
            try:
                prompt = _message(row, "prompt")
                if fields.step(row) != fields.step(rows[0]):
                    raise Fault("step is not that of row 0")
                completion, ids = _message(row, "completion"), fields.ids(row, IDS_COLUMN)
                sampled = fields.step(row, STEP_COLUMN)
            except Fault as fault:
                notes.fault(place, fault, f"{file.stem}/g{group}" if prompt else None)
                continue
            text = _text(completion)
            if why := _unreadable(prompt, completion, text if ids is None else ids):
                notes.left_out[why] += 1
                continue
            if sampled is not None:
                notes.step_source = "the recorder"
            yield Sample(
                id=identity,
                place=place,
                step=step if sampled is None else sampled,
                group_id=f"{file.stem}/g{group}",
                batch=file.stem,
                prompt=prompt,
                completion=text if ids is None else ids,
                guessed_prompt=guessed,
                reward=logged.total_reward((row.get(name) for name in rewards), weights),
                advantage=logged.finite(row.get("advantage")),
                prompt_text=prompt if isinstance(prompt, str) else fields.plain_text(prompt),
                completion_text=text,
            )


def _message(row: dict[str, Any], key: str) -> str | list[dict[str, Any]]:
    """A text, or a chat."""
    if isinstance(row[key], str):
        return row[key]
    chat = fields.messages(row[key])
    if chat is None:
        kind = type(row[key]).__name__
        raise Fault(f"{key} must be a text or a chat, found {kind}")
    return chat


def _rewards(rows: list[dict[str, Any]], run: Run) -> list[str]:
    """Reward columns, in the table's order: that of training. The log's is sorted."""
    known = [key for key in rows[0] if key in run.reward_columns]
    return known or [
        key
        for key in rows[0]
        if key not in _NOT_REWARDS and any(isinstance(row[key], float) for row in rows)
    ]


def _unreadable(prompt: str | Chat, completion: str | Chat, tokens: str | tuple[int, ...]) -> str:
    """Why the tokens of a completion cannot be known from the table; empty if they can."""
    if not isinstance(prompt, str) and not all(map(_is_text, prompt)):
        return _IMAGES
    if not isinstance(completion, str):
        if any(message.get("role") not in (None, "assistant") for message in completion):
            return _TOOLS
        if isinstance(tokens, str) and any(map(_is_parsed, completion)):
            return _PARSED
    return "" if tokens else EMPTY


def _is_text(message: Mapping[str, Any]) -> bool:
    """Whether a message holds nothing but text: images are logged as blocks without theirs."""
    content = message.get("content")
    return not isinstance(content, list) or all(
        isinstance(block, dict) and block.get("type") == "text" for block in content
    )


def _is_parsed(message: Mapping[str, Any]) -> bool:
    return any(value for key, value in message.items() if key not in ("role", "content"))


def _speaks(completion: object, role: str) -> bool:
    chat = fields.messages(completion)
    return chat is not None and any(message.get("role") == role for message in chat)


def _text(completion: str | Chat) -> str:
    """What the model wrote, of a plain text or of a list of chat messages."""
    if isinstance(completion, str):
        return completion
    if any(_is_parsed(message) for message in completion):
        return ""  # not all that was written
    return "".join(fields.message_text(message) for message in completion)
