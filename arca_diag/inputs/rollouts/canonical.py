"""Reader of the canonical rollouts: JSONL, or parquet with the same columns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arca_diag.inputs.rollouts import fields
from arca_diag.inputs.rollouts.lines import json_lines
from arca_diag.inputs.rollouts.parquet import parquet_rows
from arca_diag.inputs.rollouts.peek import columns, first_fields
from arca_diag.inputs.rollouts.record import Fault, Notes, Sample
from arca_diag.inputs.runs import Run

_KNOWN = frozenset(
    [
        "id",
        "step",
        "group_id",
        "prompt_ids",
        "completion_ids",
        "completion_mask",
        "reward",
        "advantage",
        "sampling_logprobs",
        "trainer_logprobs",
        "entropies",
        "finish_reason",
        "prompt_text",
        "completion_text",
        "ids_exact",
    ]
)
_NEEDED = frozenset(["prompt_ids", "completion_ids"])


def sniff(path: Path) -> bool:
    """A .jsonl or .parquet file with token ids, or one in which nothing can be recognised."""
    if not path.is_file() or path.suffix not in (".jsonl", ".parquet"):
        return False
    found = set(columns(path) if path.suffix == ".parquet" else first_fields(path))
    return not found or bool(found & _NEEDED)


def read(path: Path, run: Run, notes: Notes) -> Iterator[Sample]:
    """Read one file, and check every line of it."""
    notes.reading(path)
    seen: dict[str, int | None] = {}
    for number, record in _records(path):
        place = f"{path.name}:{number}"
        if isinstance(record, str):
            notes.fault(place, record)
            continue
        notes.unknown_fields.update(key for key in record if key not in _KNOWN)
        try:
            sample = _sample(place, record, seen)
        except Fault as fault:
            notes.fault(place, fault, _group_of(record, seen))
            continue
        if sample.step is not None:
            notes.step_source = "the recorded step"
        if record.get("group_id") is None:
            notes.group_source = "the same prompt at the same step"
        yield sample


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    return parquet_rows(path) if path.suffix == ".parquet" else json_lines(path)


def _sample(place: str, record: dict[str, Any], seen: dict[str, int | None]) -> Sample:
    identity = fields.text(record, "id")
    prompt, completion = fields.ids(record, "prompt_ids"), fields.ids(record, "completion_ids")
    for key, value in (("id", identity), ("prompt_ids", prompt), ("completion_ids", completion)):
        if value is None:
            raise Fault(f"{key} is missing")
    if not prompt:
        raise Fault("prompt_ids is empty: the first completion token has nothing to follow")
    if not completion:
        raise Fault("completion_ids is empty")
    length = len(completion)
    exact = fields.flag(record, "ids_exact")
    return Sample(
        id=identity or "",
        place=place,
        step=fields.step(record),
        group_id=_group(record, prompt, seen),
        prompt=prompt,
        completion=completion,
        mask=fields.flags(record, "completion_mask", length),
        reward=fields.number(record, "reward"),
        advantage=fields.advantage(record, "advantage", length),
        finish_reason=fields.text(record, "finish_reason"),
        prompt_text=fields.text(record, "prompt_text") or "",
        completion_text=fields.text(record, "completion_text") or "",
        ids_exact=True if exact is None else exact,
        sampling_logprobs=fields.numbers(record, "sampling_logprobs", length),
        trainer_logprobs=fields.numbers(record, "trainer_logprobs", length),
        entropies=fields.numbers(record, "entropies", length),
    )


def _group(record: dict[str, Any], prompt: tuple[int, ...], seen: dict[str, int | None]) -> str:
    name, step = fields.text(record, "group_id"), fields.step(record)
    if name is None:
        return fields.default_group(prompt, step)
    return fields.named_group(name, step, seen)


def _group_of(record: dict[str, Any], seen: dict[str, int | None]) -> str | None:
    """The group of a record that is otherwise bad, or None if that cannot be read either."""
    try:
        name = fields.text(record, "group_id")
        if name is None:
            prompt = fields.ids(record, "prompt_ids")
            return fields.default_group(prompt, fields.step(record)) if prompt else None
    except Fault:
        return None
    try:
        return fields.named_group(name, fields.step(record), seen)
    except Fault:  # without its step the name is all there is
        return name
