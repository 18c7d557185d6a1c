"""Prompts that a user hands over, to sample completions for a run that kept none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arca_diag.errors import RolloutError, collected
from arca_diag.inputs import untrusted
from arca_diag.inputs.rollouts import fields, prompts
from arca_diag.inputs.rollouts.record import Chat, Fault, Sample

_LIMIT = 64 * 2**20  # bytes of prompts


def read_prompts(path: Path) -> tuple[Sample, ...]:
    """Read a file of prompts.

    Args:
        path: JSONL objects with `prompt` or `messages` (a text or a chat) or `prompt_ids`; of a
            text file (.txt, .md) each line is a prompt.

    Returns:
        Samples without a completion, in file order.

    Raises:
        RolloutError: There is no such file, it is too long, holds nothing, or faulty lines.
    """
    if not path.is_file():
        raise RolloutError(f"--prompts {path}: no such file", hint="give a .jsonl or .txt file")
    if path.stat().st_size > _LIMIT:
        raise RolloutError(
            f"--prompts {path.name} is longer than {_LIMIT >> 20} MB",
            hint="give fewer prompts: a few hundred do",
        )
    faults, found = [], []
    for number, line in _lines(path):
        place = f"{path.name}:{number}"
        try:
            if isinstance(line, Fault):
                raise line
            prompt = _prompt(line) if isinstance(line, dict) else line
        except Fault as fault:
            faults.append(f"{place}: {fault}")
            continue
        found.append(
            Sample(
                id=f"p{number}",
                place=place,
                step=None,
                group_id=f"p{number}",
                prompt=prompt,
                completion=(),
                rendered=isinstance(prompt, str) and prompts.shows_special_tokens(prompt),
                prompt_text=_shown(prompt),
            )
        )
    if faults:
        raise RolloutError(collected(faults), hint="mend or remove these lines")
    if not found:
        raise RolloutError(
            f"--prompts {path.name}: no prompt in it", hint="write one prompt a line"
        )
    return tuple(found)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str | Fault]]:
    """Line number (from 1) and what stands in the line; blank lines aside."""
    if path.suffix == ".jsonl":
        for number, record in untrusted.json_lines(path, error=RolloutError):
            yield number, Fault(record) if isinstance(record, str) else record
        return
    if path.suffix not in ("", ".txt", ".md"):
        raise RolloutError(
            f"--prompts {path.name}: a table or a format that is not known",
            hint="give a .txt file with a prompt a line, or .jsonl with prompt or prompt_ids",
        )
    text = untrusted.read_text(path, limit=_LIMIT, error=RolloutError)
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _prompt(record: dict[str, Any]) -> tuple[int, ...] | str | Chat:
    if ids := fields.ids(record, "prompt_ids"):
        return ids
    key = "prompt" if "prompt" in record else "messages"
    if record.get(key) in (None, "", []):
        raise Fault("no prompt: a text, a list of chat messages, or prompt_ids")
    if isinstance(record[key], str):
        return fields.text(record, key) or ""
    return prompts.chat(record, key)


def _shown(prompt: tuple[int, ...] | str | Chat) -> str:
    """For people to read; nothing of ids."""
    if isinstance(prompt, str | tuple):
        return prompt if isinstance(prompt, str) else ""
    return fields.plain_text(list(map(dict, prompt)))
