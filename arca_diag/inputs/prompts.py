"""Prompts that a user hands over, to sample completions for a run that kept none."""

import json
from pathlib import Path
from typing import Any

from arca_diag.errors import RolloutError, collected
from arca_diag.inputs.rollouts import fields
from arca_diag.inputs.rollouts.record import Fault, Sample

_LIMIT = 64 * 2**20  # bytes of prompts


def read_prompts(path: Path) -> tuple[Sample, ...]:
    """Read a file of prompts: JSONL objects with `prompt` or `prompt_ids`, or a text line each.

    Returns:
        Samples without a completion, in file order.

    Raises:
        RolloutError: There is no such file, it is too long, holds nothing, or faulty lines.
    """
    if not path.is_file():
        raise RolloutError(f"--prompts {path}: no such file", hint="give a .jsonl or .txt file")
    if path.stat().st_size > _LIMIT:
        raise RolloutError(f"--prompts {path.name} is longer than {_LIMIT >> 20} MB")
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise RolloutError(f"--prompts {path.name} is not UTF-8 text: {error}") from None
    faults, prompts = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            prompt = _prompt(line) if path.suffix in (".jsonl", ".json") else line
        except Fault as fault:
            faults.append(f"{place}: {fault}")
            continue
        text = prompt if isinstance(prompt, str) else ""
        if isinstance(prompt, list):
            text = fields.plain_text(prompt)
        prompts.append(
            Sample(
                id=f"p{number}",
                place=place,
                step=None,
                group_id=f"p{number}",
                prompt=prompt,
                completion=(),
                prompt_text=text,
            )
        )
    if faults:
        raise RolloutError(collected(faults), hint="mend or remove these lines")
    if not prompts:
        raise RolloutError(f"--prompts {path.name}: no prompt in it")
    return tuple(prompts)


def _prompt(line: str) -> tuple[int, ...] | str | list[dict[str, Any]]:
    try:
        record = json.loads(line)
    except RecursionError:
        raise Fault("nested too deeply") from None
    except ValueError as error:
        raise Fault(f"not valid JSON: {error}") from None
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise Fault("not a JSON object")
    ids = fields.ids(record, "prompt_ids")
    if ids:
        return ids
    prompt = record.get("prompt", record.get("messages"))
    chat = fields.messages(prompt)
    if chat is not None:
        return chat
    if isinstance(prompt, str) and prompt:
        return fields.text({"prompt": prompt}, "prompt") or ""
    raise Fault("no prompt: a text, a list of chat messages, or prompt_ids")
