r"""Reader of verl's `trainer.rollout_data_dir`: `{step}.jsonl`, one line a completion.

Prompt and answer are decoded text without special tokens, the prompt's role words left in it:
what the template wrote can only be guessed again. verl counts its steps from 1 and saves
`global_step_N` after step N, so what `N.jsonl` holds was sampled by the policy that was saved as
N - 1. A validation folder has the same format but was sampled after step N; if verl validated
before training it has a `0.jsonl`, which a rollout folder never has.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arca_diag.inputs.rollouts import fields
from arca_diag.inputs.rollouts.lines import json_lines
from arca_diag.inputs.rollouts.peek import first_fields
from arca_diag.inputs.rollouts.prompts import holds_turns, shows_special_tokens, split_roles
from arca_diag.inputs.rollouts.record import EMPTY, OTHERS_TURNS, Fault, Notes, Sample
from arca_diag.inputs.runs import Run

_STEP_FILE = re.compile(r"[0-9]+\.jsonl")
_UID = re.compile(r"(.+)_[0-9]+_[0-9]+", re.DOTALL)
_VALIDATION = re.compile(r"(?:^|[_.-])(?:val|valid|validation)(?:[_.-]|$)", re.IGNORECASE)


def sniff(path: Path) -> bool:
    """A folder of `{step}.jsonl`, or one such file."""
    if path.is_dir():
        files = _files(path)
        return bool(files) and sniff(files[0])
    if not path.is_file() or path.suffix != ".jsonl":
        return False
    first = first_fields(path)
    # A long prompt can push all else beyond what is looked at; then the name must do.
    return first.get("input") == '"' and (
        first.get("output") == '"'
        or ("output" not in first and _STEP_FILE.fullmatch(path.name) is not None)
    )


def read(path: Path, run: Run, notes: Notes) -> Iterator[Sample]:
    """Read every file, in the order of their steps."""
    folder = path if path.is_dir() else path.parent
    validation = bool(_VALIDATION.search(folder.name)) or (folder / "0.jsonl").is_file()
    for file in _files(path) if path.is_dir() else [path]:
        notes.reading(file)
        for number, record in json_lines(file):
            place = f"{file.name}:{number}"
            if isinstance(record, str):
                notes.fault(place, record)
                continue
            group = None
            try:
                step = _step(file, record, validation)
                prompt = _prompt(record)
                group = _group(record, prompt, step)
                completion = fields.text(record, "output")
                if completion is None:
                    raise Fault("output is missing")
                reward = fields.number(record, "score")
            except Fault as fault:
                notes.fault(place, fault, group)
                continue
            _note_sources(record, step, validation, notes)
            if not completion or holds_turns(completion):
                notes.left_out[OTHERS_TURNS if completion else EMPTY] += 1
                continue
            rendered = shows_special_tokens(prompt)
            chat = None if rendered else split_roles(prompt)
            yield Sample(
                id=f"{file.stem}/{number}",
                place=place,
                step=step,
                group_id=group,
                prompt=prompt if chat is None else chat,
                completion=completion,
                rendered=rendered,
                guessed_prompt=not rendered,
                reward=reward,
                prompt_text=prompt,
                completion_text=completion,
            )


def _files(folder: Path) -> list[Path]:
    files = [f for f in folder.glob("*.jsonl") if _STEP_FILE.fullmatch(f.name) and f.is_file()]
    return sorted(files, key=lambda f: (int(f.stem), f.name))


def _step(file: Path, record: dict[str, Any], validation: bool) -> int | None:
    written = fields.step(record)
    if written is None and _STEP_FILE.fullmatch(file.name):
        written = fields.step({"step": int(file.stem)})
    if written is None:
        return None
    return written if validation else max(0, written - 1)


def _prompt(record: dict[str, Any]) -> str:
    prompt = fields.text(record, "input")
    if not prompt:
        raise Fault("input is missing" if prompt is None else "input is empty")
    return prompt


def _group(record: dict[str, Any], prompt: str, step: int | None) -> str:
    """One prompt of one step: `uid` is the prompt's, then the rollout's and the output's number."""
    uid = fields.text(record, "uid")
    if uid is None:
        return fields.default_group(prompt, step)
    sample = _UID.fullmatch(uid)
    return f"{sample[1] if sample else uid}@{'unknown' if step is None else step}"


def _note_sources(record: dict[str, Any], step: int | None, validation: bool, notes: Notes) -> None:
    if step is not None:
        notes.step_source = (
            "verl's step N of a validation: sampled after N of verl's steps"
            if validation
            else "verl's step N: sampled after N - 1 of verl's steps"
        )
    if record.get("uid") is not None:
        notes.group_source = "uid"
    elif not notes.group_source:
        notes.group_source = "the same input at the same step"
