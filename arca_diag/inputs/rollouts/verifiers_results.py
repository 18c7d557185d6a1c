"""Reader of `results.jsonl` as verifiers' evaluations write it, and older versions all along.

A line is a prompt and a completion as messages, without ids. Such a file is of an evaluation and
belongs to no step of a run, so no place in a run leads to it: only who names it has it read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arca_diag.inputs.rollouts import fields
from arca_diag.inputs.rollouts.lines import files_in, is_lines_of, json_lines
from arca_diag.inputs.rollouts.record import EMPTY, Chat, Fault, Notes, Sample
from arca_diag.inputs.runs import Run

_KEYS = frozenset({"example_id", "prompt"})
_PLAIN = frozenset({"role", "content"})


def sniff(path: Path) -> bool:
    """A folder with results.jsonl in it, or such a file."""
    return is_lines_of(path / "results.jsonl" if path.is_dir() else path, _KEYS)


def read(path: Path, run: Run, notes: Notes) -> Iterator[Sample]:
    """Read one file, line by line."""
    notes.group_source = "the example's number"
    for file in files_in(path, "results.jsonl", notes) if path.is_dir() else [path]:
        notes.reading(file)
        for number, record in json_lines(file):
            place = f"{file.name}:{number}"
            if isinstance(record, str):
                notes.fault(place, record)
                continue
            group = None
            try:
                group = _group(record)
                prompt, completion = _prompt(record), _completion(record)
                if record.get("error") is not None:
                    notes.left_out["the rollout failed"] += 1
                elif prompt is None:
                    notes.left_out["a prompt with more than text in it"] += 1
                elif completion is None:
                    notes.left_out["several turns, whose tokens the text does not tell apart"] += 1
                elif not completion:
                    notes.left_out[EMPTY] += 1
                else:
                    yield _sample(place, number, group, prompt, completion, record)
            except Fault as fault:
                notes.fault(place, fault, group)


def _group(record: dict[str, Any]) -> str:
    example = record.get("example_id")
    if isinstance(example, str):
        return fields.text(record, "example_id") or ""
    number = fields.whole(record, "example_id")
    if number is None:
        raise Fault("example_id is missing")
    return str(number)


def _prompt(record: dict[str, Any]) -> str | Chat | None:
    """A text or a plain chat; None if there is more to it, tools or pictures."""
    if isinstance(record.get("prompt"), str):
        return fields.text(record, "prompt")
    chat = fields.messages(record.get("prompt"))
    if chat is None:
        raise Fault("prompt must be a text or a list of messages")
    plain = [_plain(message) for message in chat]
    return None if None in plain else [m for m in plain if m is not None]


def _completion(record: dict[str, Any]) -> str | None:
    """The text of the one answer; None if there are several messages or the answer is not text."""
    if isinstance(record.get("completion"), str):
        return fields.text(record, "completion")
    if record.get("completion") == []:
        return ""
    chat = fields.messages(record.get("completion"))
    if chat is None:
        raise Fault("completion must be a text or a list of messages")
    plain = _plain(chat[0])
    if len(chat) > 1 or plain is None or plain["role"] != "assistant":
        return None
    return plain["content"]


def _plain(message: dict[str, Any]) -> dict[str, str] | None:
    """Role and content, if both are text and there is nothing else."""
    if any(value for key, value in message.items() if key not in _PLAIN):
        return None
    if not all(isinstance(message.get(key), str) for key in _PLAIN):
        return None
    return {key: fields.text(message, key) or "" for key in ("role", "content")}


def _sample(
    place: str,
    number: int,
    group: str,
    prompt: str | Chat,
    completion: str,
    record: dict[str, Any],
) -> Sample:
    cut = fields.flag(record, "is_truncated")
    return Sample(
        id=str(number),
        place=place,
        step=None,
        group_id=group,
        prompt=prompt,
        completion=completion,
        reward=fields.number(record, "reward"),
        finish_reason=None if cut is None else "length" if cut else "stop",
        prompt_text=prompt
        if isinstance(prompt, str)
        else fields.plain_text(list(map(dict, prompt))),
        completion_text=completion,
    )
