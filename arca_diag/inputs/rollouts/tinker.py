"""Reader of Tinker's `capture/sample.jsonl`: one line a request, exact ids, no rewards.

The cookbook's `train_rollout_summaries.jsonl`, which it writes by default, has rewards and
lengths but neither ids nor text: it is known, and refused.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import fields
from arca_diag.inputs.rollouts.lines import json_lines
from arca_diag.inputs.rollouts.peek import first_fields
from arca_diag.inputs.rollouts.record import EMPTY, Fault, Notes, Sample
from arca_diag.inputs.runs import Run

_CAPTURED = "sample.jsonl"
_SUMMARIES = "train_rollout_summaries.jsonl"
_ITERATION = re.compile(r"iteration[_=/: ]*([0-9]{1,15})")


def sniff(path: Path) -> bool:
    """What `capture` wrote, the folder that it lies in, or the summaries."""
    if path.is_dir():
        return sniff(path / _CAPTURED) or sniff(path / _SUMMARIES)
    if not path.is_file() or path.suffix != ".jsonl":
        return False
    first = first_fields(path)
    return _is_summary(first) or {"prompt_tokens", "samples"} <= first.keys()


def read(path: Path, run: Run, notes: Notes) -> Iterator[Sample]:
    """Read every request.

    Raises:
        RolloutError: These are the summaries.
    """
    if path.is_dir():
        path = next(p for n in (_CAPTURED, _SUMMARIES) if sniff(p := path / n))
    if _is_summary(first_fields(path)):
        raise RolloutError(
            f"{path.name}: Tinker's summaries hold rewards and lengths, and neither the token ids "
            "nor the text of a completion: there is nothing to replay",
            hint="sample inside the cookbook's capture(...) and give LOG/capture/sample.jsonl with "
            "--rollouts; or sample some anew with --prompts FILE --generate 8",
        )
    notes.reading(path)
    notes.group_source = "the same prompt at the same step"
    for number, record in json_lines(path):
        place = f"{path.name}:{number}"
        if isinstance(record, str):
            notes.fault(place, record)
            continue
        group = None
        try:
            prompt, step = _prompt(record), _step(record.get("scope"))
            group = fields.default_group(prompt, step)
            for index, sampled in enumerate(_samples(record)):
                sample = _sample(f"{number}/{index}", place, sampled, prompt, step, group)
                if step is not None:
                    notes.step_source = "the iteration in scope"
                if sample.completion:
                    yield sample
                else:
                    notes.left_out[EMPTY] += 1
        except Fault as fault:
            notes.fault(place, fault, group)


def _is_summary(first: dict[str, str]) -> bool:
    return "sampling_client_step" in first and "total_reward" in first


def _prompt(record: dict[str, Any]) -> tuple[int, ...]:
    prompt = fields.ids(record, "prompt_tokens")
    if not prompt:
        raise Fault("prompt_tokens is missing" if prompt is None else "prompt_tokens is empty")
    return prompt


def _samples(record: dict[str, Any]) -> list[dict[str, Any]]:
    samples = record.get("samples")
    if not isinstance(samples, list) or not all(isinstance(s, dict) for s in samples):
        raise Fault("samples must be a list of objects")
    return samples


def _step(scope: object) -> int | None:
    """The iteration, which is the count of steps that the sampling policy had done."""
    if isinstance(scope, dict):
        for key in ("sampling_client_step", "iteration"):
            if key in scope:
                return fields.step(scope, key)
    named = _ITERATION.search(scope) if isinstance(scope, str) else None
    return int(named[1]) if named else None


def _sample(
    identity: str,
    place: str,
    sampled: dict[str, Any],
    prompt: tuple[int, ...],
    step: int | None,
    group: str,
) -> Sample:
    completion = fields.ids(sampled, "tokens")
    if completion is None:
        raise Fault("tokens is missing")
    return Sample(
        id=identity,
        place=place,
        step=step,
        group_id=group,
        prompt=prompt,
        completion=completion,
        finish_reason=fields.text(sampled, "stop_reason"),
        sampling_logprobs=fields.numbers(sampled, "logprobs", len(completion)),
    )
