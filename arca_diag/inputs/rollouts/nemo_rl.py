"""Reader of NeMo-RL's `exp_*/train_data_stepN.jsonl`.

A row is one padded sequence with a loss mask; nearly every value is wrapped in a list of length
one. Step N trains on what was sampled after N - 1 steps (in asynchronous runs from an older
policy still).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arca_diag.inputs.rollouts import fields
from arca_diag.inputs.rollouts.lines import files_in, is_lines_of, json_lines, numbered
from arca_diag.inputs.rollouts.record import Fault, Notes, Sample
from arca_diag.inputs.rollouts.sequence import Split, split
from arca_diag.inputs.runs import Run

_KEYS = frozenset({"input_lengths", "token_ids"})
_FILE = re.compile(r"train_data_step([0-9]{1,18})\.jsonl")
_EXPERIMENT = r"exp_([0-9]{1,18})"
_LISTS = ("token_ids", "token_loss_mask", "generation_logprobs", "prev_logprobs")
_NUMBERS = ("input_lengths", "sample_loss_mask", "rewards", "filtered_rewards")


def sniff(path: Path) -> bool:
    """A log folder, one experiment of it, or one file."""
    if path.is_dir():
        return any(
            _FILE.fullmatch(found.name)
            for pattern in ("exp_*/train_data_step*.jsonl", "train_data_step*.jsonl")
            for found in path.glob(pattern)
        )
    return is_lines_of(path, _KEYS, _FILE)


def read(path: Path, run: Run, notes: Notes) -> Iterator[Sample]:
    """Read every step, row by row."""
    notes.group_source = "rows that lie together and share a prompt"
    for file in _files(path, notes):
        notes.reading(file)
        yield from _read_file(file, notes)


def _files(path: Path, notes: Notes) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for pattern in ("exp_*/train_data_step*.jsonl", "train_data_step*.jsonl"):
        yield from files_in(path, pattern, notes)


def _read_file(file: Path, notes: Notes) -> Iterator[Sample]:
    number_of_file = numbered(_FILE.pattern, file.name)
    step = None if number_of_file is None else max(0, number_of_file - 1)
    if step is not None:
        notes.step_source = "the file's number N: sampled after N - 1 steps, or earlier"
    experiment = numbered(_EXPERIMENT, file.parent.name)
    name = file.name if experiment is None else f"{file.parent.name}/{file.name}"
    where = f"{experiment}/{number_of_file}"
    groups, before = 0, None
    for number, found in json_lines(file):
        place = f"{name}:{number}"
        if isinstance(found, str):
            notes.fault(place, found)
            continue
        group = None
        try:
            record = _unwrapped(found)
            part = _part(record)
            if part is None:
                notes.left_out["no token of the sequence is trained on"] += 1
                continue
            if part.prompt != before:
                groups, before = groups + 1, part.prompt
            group = f"{where}/g{groups}"
            if fields.number(record, "sample_loss_mask") == 0:
                notes.left_out["masked out of the loss as a whole"] += 1
                continue
            sample = _sample(place, f"{where}/{number}", step, group, part, record)
        except Fault as fault:
            notes.fault(place, fault, group)
            continue
        yield sample


def _unwrapped(record: dict[str, Any]) -> dict[str, Any]:
    """The row without its wrapping lists, whether it has them or not."""
    plain = dict(record)
    for key in (*_LISTS, "advantages"):
        value = plain.get(key)
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list | None):
            plain[key] = value[0]
    for key in _NUMBERS:
        value = plain.get(key)
        if isinstance(value, list) and len(value) == 1:
            plain[key] = value[0]
    return plain


def _part(record: dict[str, Any]) -> Split | None:
    ids = fields.ids(record, "token_ids")
    if not ids:
        raise Fault("token_ids is missing or empty")
    mask = fields.flags(record, "token_loss_mask", len(ids))
    if mask is None:
        raise Fault("token_loss_mask is missing")
    length = fields.whole(record, "input_lengths")
    if length is None:
        raise Fault("input_lengths is missing")
    if not 0 < length <= len(ids):
        raise Fault(f"input_lengths must be 1 to {len(ids)}, the padded length: {length}")
    return split(ids[:length], mask[:length])


def _sample(
    place: str, identity: str, step: int | None, group: str, part: Split, record: dict[str, Any]
) -> Sample:
    padded = len(record["token_ids"])
    # With dynamic sampling `rewards` holds those of all that was sampled: of other rows.
    reward = "filtered_rewards" if "filtered_rewards" in record else "rewards"
    advantages = record.get("advantages")
    if isinstance(advantages, list) and len(advantages) == 1 < padded:
        advantage: float | tuple[float, ...] | None = fields.number(
            {"advantages": advantages[0]}, "advantages"
        )
    else:
        advantage = part.credit(fields.numbers(record, "advantages", padded))
    return Sample(
        id=identity,
        place=place,
        step=step,
        group_id=group,
        prompt=part.prompt,
        completion=part.completion,
        mask=part.mask,
        reward=fields.number(record, reward),
        advantage=advantage,
        sampling_logprobs=part.logged(fields.numbers(record, "generation_logprobs", padded)),
        trainer_logprobs=part.logged(fields.numbers(record, "prev_logprobs", padded)),
    )
