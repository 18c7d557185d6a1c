"""Reader of ms-swift's `completions.jsonl`: one line a log step, each value a list of a batch.

Every entry of the run's log writes a line, those of evaluations too, so that the second line of
a step is of the step's second entry. Prompts are the template's output with its special tokens,
completions text without the closing one. Reward functions stand between `completion` and
`advantages`, under their own names.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arca_diag.inputs.files import step_number
from arca_diag.inputs.rollouts import fields, logged
from arca_diag.inputs.rollouts.lines import json_lines
from arca_diag.inputs.rollouts.peek import first_fields
from arca_diag.inputs.rollouts.prompts import holds_turns
from arca_diag.inputs.rollouts.record import EMPTY, OTHERS_TURNS, Fault, Notes, Sample
from arca_diag.inputs.runs import Run

_NAME = "completions.jsonl"
_NOT_REWARDS = ("step", "gen_step", "prompt", "completion", "advantages", "entropy")
_STEP = re.compile(r"[0-9]{1,15}")


def sniff(path: Path) -> bool:
    """Such a file, or the folder that it lies in."""
    if path.is_dir():
        return sniff(path / _NAME)
    if not path.is_file() or path.suffix != ".jsonl":
        return False
    first = first_fields(path)
    # One line can be longer than what is looked at, so the first two fields must do.
    return first.get("prompt") == "[" and "[" in (first.get("step"), first.get("gen_step"))


def read(path: Path, run: Run, notes: Notes) -> Iterator[Sample]:
    """Read every line, once per batch."""
    file = path / _NAME if path.is_dir() else path
    notes.reading(file)
    notes.group_source = "entries that lie together and share a prompt"
    batches: set[str] = set()
    evaluated: set[str] = set()
    entries = _log_entries(run)
    for number, record in json_lines(file):
        place = f"{file.name}:{number}"
        if isinstance(record, str):
            notes.fault(place, record)
            continue
        try:
            length = _check(record)
            done, logged_at = _one_step(record, "gen_step"), _one_step(record, "step")
        except Fault as fault:
            notes.fault(place, fault)
            continue
        batch = logged.fingerprint(
            [record["prompt"], record["completion"], record.get("advantages")]
        )
        if next(entries.get(logged_at, iter(())), False) or batch in evaluated:
            evaluated.add(batch)
            notes.eval_excluded += length
        elif batch in batches:
            notes.duplicates += length
        else:
            batches.add(batch)
            step = _sampling_step(done, logged_at, run, notes)
            yield from _read_batch(number, place, record, step, run, notes)


def _log_entries(run: Run) -> dict[int | None, Iterator[bool]]:
    """Step -> whether each of its log entries is an evaluation's, in the log's order."""
    found = defaultdict(list)
    for row in run.log:
        found[step_number(row.get("step"))].append(logged.is_evaluation(row))
    return {step: iter(rows) for step, rows in found.items()}


def _check(record: dict[str, Any]) -> int:
    """How many completions there are, of a batch that is as it should be."""
    for key in ("prompt", "completion"):
        if not isinstance(record.get(key), list):
            raise Fault(f"{key} must be list, found {type(record.get(key)).__name__}")
        if not all(isinstance(text, str) for text in record[key]):
            raise Fault(f"{key} must hold texts only")
    length = len(record["completion"])
    if not length:
        raise Fault("no completion in it")
    for key in ("prompt", "advantages"):
        column = record.get(key)
        if column is not None and (not isinstance(column, list) or len(column) != length):
            raise Fault(f"{key} must be a list as long as completion, {length}")
    if not all(record["prompt"]):
        raise Fault("prompt is empty")
    if not all(_is_number(value) for value in record.get("advantages") or []):
        raise Fault("advantages must hold numbers only")
    return length


def _sampling_step(done: int | None, logged_at: int | None, run: Run, notes: Notes) -> int | None:
    """`step` is that of the log; `gen_step`, which Megatron has, counts the steps done before."""
    if done is not None:
        notes.step_source = "gen_step"
        return done
    if logged_at is None:
        return None
    step, how = logged.sampling_step(logged_at, run.training_args)
    notes.step_source = f"the log's step k: {how}"
    return step


def _one_step(record: dict[str, Any], key: str) -> int | None:
    """The step of a batch: a list of the same number over and over, often as text."""
    written = record.get(key)
    if written is None:
        return None
    different = (
        {str(step) if isinstance(step, int | str) else "" for step in written}
        if isinstance(written, list)
        else set()
    )
    if len(different) != 1 or not _STEP.fullmatch(step := different.pop()):
        raise Fault(f"{key} must be a list of one and the same number")
    return int(step)


def _read_batch(
    number: int, place: str, record: dict[str, Any], step: int | None, run: Run, notes: Notes
) -> Iterator[Sample]:
    prompts, completions = record["prompt"], record["completion"]
    columns = _rewards(record, run)
    weights = logged.reward_weights(columns, run.training_args)
    advantages = record.get("advantages") or [None] * len(completions)
    row = 0
    for group, size in enumerate(logged.group_sizes(prompts, run.training_args)):
        for index in range(row, row + size):
            texts = {"prompt": prompts[index], "completion": completions[index]}
            prompt, completion = fields.text(texts, "prompt"), fields.text(texts, "completion")
            if not prompt or not completion or holds_turns(completion):
                notes.left_out[OTHERS_TURNS if completion else EMPTY] += 1
                continue
            yield Sample(
                id=f"{number}/{index}",
                place=f"{place}: entry {index}",
                step=step,
                group_id=f"{number}/g{group}",
                prompt=prompt,
                completion=completion,
                rendered=True,
                reward=logged.total_reward((record[c][index] for c in columns), weights),
                advantage=logged.finite(advantages[index]),
                prompt_text=prompt,
                completion_text=completion,
            )
        row += size


def _rewards(record: dict[str, Any], run: Run) -> list[str]:
    """Reward columns, in the log's order: that of training."""
    length = len(record["completion"])
    numeric = [
        key
        for key, column in record.items()
        if isinstance(column, list) and len(column) == length and all(map(_is_number, column))
    ]
    if known := [key for key in numeric if key in run.reward_columns]:
        return known
    names = list(record)
    end = names.index("advantages") if "advantages" in names else len(names)
    return [
        key
        for key in numeric
        if key not in _NOT_REWARDS
        and names.index(key) < end
        and any(isinstance(value, float) for value in record[key])
    ]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
