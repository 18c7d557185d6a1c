"""Reader of prime-rl's `token_exports/step_N/rank_R.jsonl`.

A row is one sequence with a loss mask and what inference and trainer computed for each token;
position ids that start again mark sequences that were packed into one row. A step's folder is
whole once it holds `STABLE`.

The step is that of the trainer's loop. Where the loop counts from 0 (there is a step_0), step N
trains on logits of a policy that has done N steps; newer versions count from 1, and it has done
N - 1. That is the policy of `trainer_logprobs`; inference may have sampled from an older one.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arca_diag.inputs.rollouts import fields
from arca_diag.inputs.rollouts.lines import files_in, is_lines_of, json_lines, numbered
from arca_diag.inputs.rollouts.record import Fault, Notes, Sample
from arca_diag.inputs.rollouts.sequence import Split, split
from arca_diag.inputs.runs import Run

_KEYS = frozenset({"export_sequence_idx", "token_ids"})
_STEP = r"step_([0-9]{1,18})"
_RANK = re.compile(r"rank_([0-9]{1,18})\.jsonl")
_STEPS_DONE = (
    "the trainer's step: the policy that it trained had done {}; inference may have sampled from "
    "an older one"
)


def sniff(path: Path) -> bool:
    """The folder token_exports, one step of it, or one file."""
    if path.is_dir():
        return any(
            _RANK.fullmatch(found.name)
            for pattern in ("step_*/rank_*.jsonl", "rank_*.jsonl")
            for found in path.glob(pattern)
        )
    return is_lines_of(path, _KEYS, _RANK)


def read(path: Path, run: Run, notes: Notes) -> Iterator[Sample]:
    """Read every step that is whole, row by row."""
    notes.group_source = "the same prompt at the same step: none is recorded"
    temperatures: set[float] = set()
    for file in _files(path, notes):
        notes.reading(file)
        folder = numbered(_STEP, file.parent.name)
        from_zero = (file.parent.parent / "step_0").is_dir()
        notes.step_source = _STEPS_DONE.format("as many steps" if from_zero else "one step less")
        name = file.name if folder is None else f"step_{folder}/{file.name}"
        rank = numbered(_RANK.pattern, file.name)
        for number, record in json_lines(file):
            place = f"{name}:{number}"
            if isinstance(record, str):
                notes.fault(place, record)
                continue
            group = None
            try:
                given = folder if folder is not None else fields.step(record)
                step = given if from_zero or given is None else max(0, given - 1)
                parts = _parts(record)
                if not parts:
                    notes.left_out["no token of the sequence is trained on"] += 1
                    continue
                if len(parts) == 1:
                    group = fields.default_group(parts[0].prompt, step)
                if not _one_temperature(record, parts, temperatures):
                    notes.left_out[
                        "sampled at several temperatures, or at another than the first"
                    ] += len(parts)
                    continue
                where = f"{given}/{rank}/{number}"
                samples = [
                    _sample(place, f"{where}/{k}", step, part, record)
                    for k, part in enumerate(parts)
                ]
            except Fault as fault:
                notes.fault(place, fault, group)
                continue
            yield from samples


def _files(path: Path, notes: Notes) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    pattern = "rank_*.jsonl" if numbered(_STEP, path.name) is not None else "step_*/rank_*.jsonl"
    for file in files_in(path, pattern, notes):
        if (file.parent / "STABLE").exists():
            yield file
        else:
            lines = sum(1 for _ in json_lines(file))
            notes.left_out["a step whose export was not finished (no STABLE)"] += lines


def _parts(record: dict[str, Any]) -> list[Split]:
    """The sequences of a row that are trained on; padding and the like are not."""
    ids = fields.ids(record, "token_ids")
    if not ids:
        raise Fault("token_ids is missing or empty")
    mask = fields.flags(record, "loss_mask", len(ids))
    if mask is None:
        raise Fault("loss_mask is missing")
    positions = fields.ids(record, "position_ids") or tuple(range(len(ids)))
    if len(positions) != len(ids):
        raise Fault(f"position_ids must have one entry a token, {len(ids)}: {len(positions)}")
    starts = [0, *(i for i in range(1, len(ids)) if positions[i] == 0)]
    found = []
    for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
        part = split(ids[start:stop], mask[start:stop])
        if part:
            found.append(Split(part.prompt, part.completion, part.mask, start=start + part.start))
    return found


def _one_temperature(record: dict[str, Any], parts: list[Split], seen: set[float]) -> bool:
    """Whether all counted tokens have the temperature of those before; a replay has only one."""
    key = "temperatures" if "temperatures" in record else "temperature"
    if isinstance(record.get(key), list):
        values = fields.numbers(record, key, len(record["token_ids"]))
        here = {v for part in parts for v in part.logged(values) or () if not math.isnan(v)}
    else:
        one = fields.number(record, key)
        here = set() if one is None else {one}
    if len(seen | here) > 1:
        return False
    seen |= here
    return True


def _sample(
    place: str, identity: str, step: int | None, part: Split, record: dict[str, Any]
) -> Sample:
    length = len(record["token_ids"])

    def column(key: str) -> tuple[float, ...] | None:
        return fields.numbers(record, key, length)

    rewards = {v for v in part.logged(column("rewards")) or () if math.isfinite(v)}
    return Sample(
        id=identity,
        place=place,
        step=step,
        group_id=fields.default_group(part.prompt, step),
        prompt=part.prompt,
        completion=part.completion,
        mask=part.mask,
        reward=rewards.pop() if len(rewards) == 1 else None,
        advantage=part.credit(column("advantages")),
        sampling_logprobs=part.logged(column("inference_logprobs")),
        trainer_logprobs=part.logged(column("trainer_logprobs")),
        entropies=part.logged(column("entropy")),
    )
