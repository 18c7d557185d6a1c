"""Reader of any JSONL, parquet or CSV file with a row a completion, by the names of its columns."""

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from arca_diag.errors import ConfigError, RolloutError
from arca_diag.inputs.rollouts import READERS, Reader, fields, prompts
from arca_diag.inputs.rollouts.lines import json_lines
from arca_diag.inputs.rollouts.parquet import parquet_rows
from arca_diag.inputs.rollouts.record import EMPTY, Chat, Fault, Notes, Sample
from arca_diag.inputs.runs import Run

FIELDS = (
    "id",
    "step",
    "group_id",
    "prompt",
    "completion",
    "prompt_ids",
    "completion_ids",
    "completion_mask",
    "reward",
    "advantage",
    "finish_reason",
    "sampling_logprobs",
    "trainer_logprobs",
    "entropies",
)
_TEXTS = ("id", "group_id", "prompt", "completion", "finish_reason")
_PER_TOKEN = ("completion_mask", "sampling_logprobs", "trainer_logprobs", "entropies")
_ROWS = 64  # of a CSV file at once: completions are long


def parse_columns(text: str) -> dict[str, str]:
    """`prompt=question,completion=answer` -> our field -> the file's column.

    Raises:
        ConfigError: A field nobody knows (the nearest is named), one given twice, or no prompt
            or completion among them.
    """
    mapping: dict[str, str] = {}
    for part in text.split(","):
        field, given, column = (word.strip() for word in part.partition("="))
        if not given or not column:
            raise ConfigError(
                f"--columns: {part.strip()!r} is not FIELD=COLUMN",
                hint="for example --columns prompt=question,completion=answer",
            )
        if field not in FIELDS:
            raise ConfigError(f"--columns: unknown field {field!r}", hint=_nearest(field, FIELDS))
        if field in mapping:
            raise ConfigError(f"--columns: {field} is given twice", hint="name one column for it")
        mapping[field] = column
    for field in ("prompt", "completion"):
        if field not in mapping and f"{field}_ids" not in mapping:
            raise ConfigError(
                f"--columns: no {field}",
                hint=f"name its column: {field}=COLUMN for text or a chat, {field}_ids=COLUMN for "
                "token ids",
            )
    return mapping


def readers(named: str | None, file: Path | None) -> tuple[Reader, ...]:
    """Who may read the completions: the reader of the columns that are named, or else all.

    Args:
        named: What `--columns` says.
        file: What `--rollouts` says.

    Raises:
        ConfigError: Columns are named wrongly, or without a file.
    """
    if named is None:
        return READERS
    if file is None:
        raise ConfigError(
            "--columns names the columns of a file, and no file is given",
            hint="give a JSONL, parquet or CSV file with --rollouts",
        )
    return (reader(parse_columns(named)),)


def reader(mapping: Mapping[str, str]) -> Reader:
    """The reader of files whose columns are named so; `mapping` is `parse_columns`'."""

    def read(path: Path, run: Run, notes: Notes) -> Iterator[Sample]:
        return _read(path, mapping, notes)

    return Reader(name="named columns of JSONL, parquet or CSV", places=(), sniff=_sniff, read=read)


def _sniff(path: Path) -> bool:
    return path.is_file() and path.suffix in (".jsonl", ".parquet", ".csv")


def _read(path: Path, mapping: Mapping[str, str], notes: Notes) -> Iterator[Sample]:
    notes.reading(path)
    if "step" in mapping:
        notes.step_source = f"column {mapping['step']}"
    unseen, there = set(mapping.values()), list[str]()
    seen: dict[str, int | None] = {}
    for number, record in _rows(path):
        place = f"{path.name}:{number}"
        if isinstance(record, str):
            notes.fault(place, record)
            continue
        there = there or list(record)
        unseen.difference_update(record)
        given = {field: record.get(column) for field, column in mapping.items()}
        group = None
        try:
            if path.suffix == ".csv":
                given = {field: _from_text(field, cell) for field, cell in given.items()}
            step, prompt = fields.step(given), _prompt(given)
            name = _name(given, "group_id")
            group = (
                fields.default_group(prompt, step)
                if name is None
                else fields.named_group(name, step, seen)
            )
            sample = _sample(place, given, prompt, step, group)
        except Fault as fault:
            notes.fault(place, fault, group)
            continue
        if name is None:
            notes.group_source = "the same prompt at the same step"
        if sample.completion:
            yield sample
        else:
            notes.left_out[EMPTY] += 1
    if there and unseen:
        column = min(unseen)
        raise RolloutError(f"{path.name}: no column {column!r} in it", hint=_nearest(column, there))


def _nearest(name: str, known: object) -> str:
    names = [str(k) for k in known] if isinstance(known, list | tuple) else []
    near = difflib.get_close_matches(name[:80], names, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"there are: {', '.join(n[:80] for n in names[:20])}"


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    if path.suffix == ".parquet":
        yield from parquet_rows(path)
    elif path.suffix == ".csv":
        yield from _csv_rows(path)
    else:
        yield from json_lines(path)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number (from 1) and the row, every cell a text."""
    import pandas as pd  # long to import, and nothing else that looks into a run needs it

    number = 0
    try:
        with pd.read_csv(path, dtype=str, na_filter=False, chunksize=_ROWS) as chunks:
            for chunk in chunks:
                if not isinstance(chunk.index, pd.RangeIndex):  # what pandas takes it for
                    raise ValueError("rows have more cells than the heading")
                for row in chunk.to_dict("records"):
                    number += 1
                    yield number, {str(k): v if isinstance(v, str) else "" for k, v in row.items()}
    except (OSError, ValueError) as error:
        raise RolloutError(f"{path.name} is not a readable CSV file: {error}") from None


def _from_text(field: str, cell: Any) -> Any:
    """What a cell of a CSV file holds: a text, or else JSON."""
    if not cell:
        return cell if field in ("prompt", "completion") else None
    is_chat = field in ("prompt", "completion") and cell.startswith("[{") and '"role"' in cell
    if field in _TEXTS and not is_chat:
        return cell
    try:
        return json.loads(cell)
    except RecursionError:
        raise Fault(f"{field} is nested too deeply") from None
    except ValueError:
        if is_chat:
            return cell
        raise Fault(f"{field} must be a number or a list such as [1, 2], found {cell!r:.40}") from (
            None
        )


def _name(given: dict[str, Any], field: str) -> str | None:
    """A text; a number names as well."""
    value = given.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(fields.whole(given, field))
    return fields.text(given, field)


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and not isinstance(value[0], dict)


def _prompt(given: dict[str, Any]) -> tuple[int, ...] | str | Chat:
    prompt: tuple[int, ...] | str | Chat | None = fields.ids(given, "prompt_ids")
    value = given.get("prompt")
    if prompt is None:
        if value is None or isinstance(value, str):
            prompt = fields.text(given, "prompt")
        else:
            prompt = (
                fields.ids(given, "prompt") if _is_ids(value) else prompts.chat(given, "prompt")
            )
    if not prompt:
        raise Fault("prompt is missing" if prompt is None else "prompt is empty")
    return prompt


def _completion(given: dict[str, Any]) -> tuple[int, ...] | str:
    ids, value = fields.ids(given, "completion_ids"), given.get("completion")
    if ids is not None:
        return ids
    if value is None:
        raise Fault("completion is missing")
    if isinstance(value, str):
        return fields.text(given, "completion") or ""
    if _is_ids(value):
        return fields.ids(given, "completion") or ()
    chat = prompts.chat(given, "completion")
    if len(chat) != 1 or chat[0]["role"] != "assistant":
        raise Fault("completion must be one message of the assistant where it is a chat")
    return chat[0]["content"] or ""


def _sample(
    place: str,
    given: dict[str, Any],
    prompt: tuple[int, ...] | str | Chat,
    step: int | None,
    group: str,
) -> Sample:
    completion = _completion(given)
    identity = _name(given, "id")
    if isinstance(completion, str):
        for field in (*_PER_TOKEN, "advantage"):
            if isinstance(given.get(field), list):
                raise Fault(f"{field} is one a token, and the completion is text: give its ids")
    return Sample(
        id=place if identity is None else identity,
        place=place,
        step=step,
        group_id=group,
        prompt=prompt,
        completion=completion,
        rendered=isinstance(prompt, str) and prompts.shows_special_tokens(prompt),
        mask=fields.flags(given, "completion_mask", len(completion)),
        reward=fields.number(given, "reward"),
        advantage=fields.advantage(given, "advantage", len(completion)),
        finish_reason=fields.text(given, "finish_reason"),
        prompt_text=_shown(given, "prompt"),
        completion_text=_shown(given, "completion"),
        sampling_logprobs=fields.numbers(given, "sampling_logprobs", len(completion)),
        trainer_logprobs=fields.numbers(given, "trainer_logprobs", len(completion)),
        entropies=fields.numbers(given, "entropies", len(completion)),
    )


def _shown(given: dict[str, Any], field: str) -> str:
    """The text for people to read, where there is one; of a chat what stands in its messages."""
    value = given.get(field)
    if value is None or _is_ids(value) or value == []:
        return ""
    if isinstance(value, str):
        return fields.text(given, field) or ""
    return fields.plain_text([dict(message) for message in prompts.chat(given, field)])
