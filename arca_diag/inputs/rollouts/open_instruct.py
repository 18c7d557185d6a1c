"""Reader of open-instruct's `{run}_rollouts_{shard}.jsonl`.

Prompt and response ids are exact. The writer drops the mask of tool outputs, so what a tool
wrote into a response cannot be told from what the policy did; such responses are left out.
`prompt_idx` counts rows, and miscounts where truncated ones were taken out before: the prompt
at its step is the group.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import fields
from arca_diag.inputs.rollouts.lines import files_in, is_lines_of, json_lines
from arca_diag.inputs.rollouts.record import Fault, Notes, Sample
from arca_diag.inputs.runs import Run

_KEYS = frozenset({"prompt_idx", "prompt_tokens"})
_FILE = re.compile(r"(.+)_rollouts_([0-9]{6,18})\.jsonl")


def sniff(path: Path) -> bool:
    """A folder with shards, or one of them."""
    if path.is_dir():
        return any(_FILE.fullmatch(found.name) for found in path.glob("*_rollouts_*.jsonl"))
    return is_lines_of(path, _KEYS, _FILE)


def read(path: Path, run: Run, notes: Notes) -> Iterator[Sample]:
    """Read every shard, line by line.

    Raises:
        RolloutError: A folder with rollouts of several runs.
    """
    notes.group_source = "the same prompt at the same step"
    for file in _files(path, notes):
        notes.reading(file)
        match = _FILE.fullmatch(file.name)
        shard = int(match[2]) if match else 0
        for number, record in json_lines(file):
            place = f"{file.name}:{number}"
            if isinstance(record, str):
                notes.fault(place, record)
                continue
            group = None
            try:
                prompt, step = _prompt(record), fields.step(record)
                group = fields.default_group(prompt, step)
                if why := _unreadable(record):
                    notes.left_out[why] += 1
                    continue
                sample = _sample(place, f"{shard}/{number}", step, group, prompt, record)
            except Fault as fault:
                notes.fault(place, fault, group)
                continue
            if step is not None:
                notes.step_source = (
                    "the recorded step, counted from 0; where sampling ran ahead, from an older "
                    "policy"
                )
            yield sample


def _files(path: Path, notes: Notes) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [f for f in files_in(path, "*_rollouts_*.jsonl", notes) if _FILE.fullmatch(f.name)]
    runs = sorted({match[1] for f in files if (match := _FILE.fullmatch(f.name))})
    if len(runs) > 1:
        raise RolloutError(
            f"{path.name}: rollouts of {len(runs)} runs: {', '.join(runs[:5])}",
            hint="give one file with --rollouts, or a folder with the files of one run",
        )
    return files


def _prompt(record: dict[str, Any]) -> tuple[int, ...]:
    prompt = fields.ids(record, "prompt_tokens")
    if not prompt:
        raise Fault("prompt_tokens is missing or empty")
    return prompt


def _unreadable(record: dict[str, Any]) -> str:
    """Why the tokens of a response are not all the policy's; empty if they are."""
    info = record.get("request_info")
    if info is None:
        return ""
    if not isinstance(info, dict):
        raise Fault(f"request_info must be an object, found {type(info).__name__}")
    if any(info.get(key) not in (None, 0, "", []) for key in ("tool_calleds", "num_calls")):
        return "tool calls, whose tokens the file does not tell apart"
    return ""


def _sample(
    place: str,
    identity: str,
    step: int | None,
    group: str,
    prompt: tuple[int, ...],
    record: dict[str, Any],
) -> Sample:
    completion = fields.ids(record, "response_tokens")
    if not completion:
        raise Fault("response_tokens is missing or empty")
    return Sample(
        id=identity,
        place=place,
        step=step,
        group_id=group,
        prompt=prompt,
        completion=completion,
        reward=fields.number(record, "reward"),
        advantage=fields.advantage(record, "advantage", len(completion)),
        finish_reason=fields.text(record, "finish_reason"),
        sampling_logprobs=fields.numbers(record, "logprobs", len(completion)),
    )
