"""Reader of verifiers' `rollouts/step_N/{train,eval}/{all,effective}/traces.jsonl` (v1).

A line is an episode with a trace for every agent; a trace is a tree of messages, each with the
tokens it adds, and every way from the root to a leaf is one sequence that was trained on.

Branches share their first messages. A token that was sampled once is to weigh once, so it counts
in the first branch that holds it and in later ones does not: there it stays in the completion,
where the later tokens follow it, with its mask False. All branches so keep the one prompt that
the policy was given, which is what makes them one cluster of evidence.

Where the policy's version is recorded, that of the episode's start is the step. Otherwise it is
the number of the step's folder, less one unless there is a step_0.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arca_diag.inputs.rollouts import fields
from arca_diag.inputs.rollouts.lines import files_in, is_lines_of, json_lines, numbered
from arca_diag.inputs.rollouts.record import Fault, Notes, Sample
from arca_diag.inputs.rollouts.sequence import split
from arca_diag.inputs.runs import Run

_KEYS = frozenset({"traces"})
_FILE = re.compile(r"traces\.jsonl")
_STEP = r"step_([0-9]{1,18})"
_PLACES = ("step_*/{}/{}/traces.jsonl", "{}/{}/traces.jsonl")
_MOST = 2**24  # tokens of all branches of a trace; a small tree can repeat itself without end
_RECORDED = "the policy's version when the episode began"
_FROM_FOLDER = "the step's folder, where no version is recorded: the policy may be older"


@dataclass(frozen=True)
class _Node:
    """One message: what it adds to the sequence. Values are NaN where nothing is logged."""

    parent: int | None
    sampled: bool
    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    values: dict[str, tuple[float, ...]]


_LOGGED = ("advantages", "logprobs", "trainer_logprobs", "entropies")


def sniff(path: Path) -> bool:
    """The folder rollouts, one step of it, a folder with traces.jsonl, or such a file."""
    if path.is_dir():
        patterns = [p.format(kind, "*") for p in _PLACES for kind in ("train", "eval")]
        return any(any(path.glob(pattern)) for pattern in [*patterns, "traces.jsonl"])
    return is_lines_of(path, _KEYS, _FILE)


def read(path: Path, run: Run, notes: Notes) -> Iterator[Sample]:
    """Read every training episode; those of evaluations are counted."""
    for file in _files(path, "eval", notes) if path.is_dir() else ():
        for _, episode in json_lines(file):
            notes.eval_excluded += _count_traces(episode)
    for file in _files(path, "train", notes) if path.is_dir() else [path]:
        notes.reading(file)
        parts = file.parts[-4:]
        folder = numbered(_STEP, parts[0])
        if folder is not None and not (file.parents[3] / "step_0").is_dir():
            folder = max(0, folder - 1)
        name = "/".join(parts) if folder is not None else file.name
        for number, episode in json_lines(file):
            place = f"{name}:{number}"
            if isinstance(episode, str):
                notes.fault(place, episode)
                continue
            yield from _read_episode(place, episode, folder, notes)


def _files(path: Path, kind: str, notes: Notes) -> Iterator[Path]:
    """The traces of one kind: of each step those that went into its batch, or else all."""
    for pattern in _PLACES:
        chosen: dict[Path, Path] = {}
        for which in ("all", "effective"):
            for file in files_in(path, pattern.format(kind, which), notes):
                chosen[file.parents[1]] = file
        yield from chosen.values()
    if kind == "train":
        yield from files_in(path, "traces.jsonl", notes)


def _count_traces(episode: dict[str, Any] | str) -> int:
    traces = episode.get("traces") if isinstance(episode, dict) else None
    return len(traces) if isinstance(traces, list) else 1


def _read_episode(
    place: str, episode: dict[str, Any], folder: int | None, notes: Notes
) -> Iterator[Sample]:
    group = None
    try:
        group = _group(episode)
        work = _object(_object(episode, "run"), "work")
        if fields.text(work, "type") == "eval":
            notes.eval_excluded += _count_traces(episode)
            return
        if fields.flag(episode, "ok") is False:
            notes.left_out["the episode failed"] += _count_traces(episode)
            return
        step = fields.step(_object(work, "policy"), "start")
        source = _RECORDED if step is not None else _FROM_FOLDER
        step = folder if step is None else step
        samples = [
            sample
            for index, trace in enumerate(_traces(episode))
            for sample in _read_trace(place, index, trace, step, group, notes)
        ]
    except Fault as fault:
        notes.fault(place, fault, group)
        return
    if samples and step is not None and source not in notes.step_source:
        notes.step_source += ("; " if notes.step_source else "") + source
    if samples and group is None:
        notes.group_source = "the same prompt at the same step, where none is recorded"
    yield from samples


def _object(record: dict[str, Any], key: str) -> dict[str, Any]:
    """An object within an object; an empty one where there is none."""
    value = record.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Fault(f"{key} must be an object, found {type(value).__name__}")
    return value


def _objects(record: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = record.get(key)
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise Fault(f"{key} must be a list of objects")
    return value


def _traces(episode: dict[str, Any]) -> list[dict[str, Any]]:
    if "traces" not in episode and "nodes" in episode:
        return [episode]  # as long as a line was a trace
    return _objects(episode, "traces")


def _group(episode: dict[str, Any]) -> str | None:
    return fields.text(_object(episode, "group"), "id")


def _read_trace(
    place: str,
    index: int,
    trace: dict[str, Any],
    step: int | None,
    group: str | None,
    notes: Notes,
) -> Iterator[Sample]:
    reward = _reward(trace)
    agent = fields.text(_object(trace, "agent"), "name")
    nodes = [_node(number, node) for number, node in enumerate(_objects(trace, "nodes"))]
    counted: set[int] = set()
    for way in _branches(nodes):
        branch = [nodes[i] for i in way]
        if any(node.sampled and not node.ids for node in branch):
            notes.left_out["no token ids in it"] += 1
            continue
        part = split(
            [token for node in branch for token in node.ids],
            [flag for node in branch for flag in node.mask],
            [flag and i not in counted for i in way for flag in nodes[i].mask],
        )
        if part is None:
            notes.left_out["no sampled token that no other branch holds"] += 1
            continue
        counted.update(way)
        values = {
            key: tuple(value for node in branch for value in node.values[key]) for key in _LOGGED
        }
        logged = {
            key: found
            for key in _LOGGED[1:]
            if (found := part.logged(values[key])) and not all(math.isnan(v) for v in found)
        }
        yield Sample(
            id=f"{place}/{index}/{way[-1]}",
            place=place,
            step=step,
            group_id=fields.default_group(part.prompt, step)
            if group is None
            else group + (f"/{agent}" if agent else ""),
            prompt=part.prompt,
            completion=part.completion,
            mask=part.mask,
            reward=reward,
            advantage=part.credit(values["advantages"]),
            sampling_logprobs=logged.get("logprobs"),
            trainer_logprobs=logged.get("trainer_logprobs"),
            entropies=logged.get("entropies"),
        )


def _reward(trace: dict[str, Any]) -> float | None:
    """The weighted sum of what was scored; None if nothing was."""
    parts = []
    rewards = _object(trace, "rewards")
    for name in rewards:
        reward = _object(rewards, name)
        score, weight = fields.number(reward, "score"), fields.number(reward, "weight")
        if score is not None:
            parts.append(score * (1.0 if weight is None else weight))
    try:
        total = math.fsum(parts)
    except (OverflowError, ValueError):  # the sum overflows; or it is of inf and -inf
        total = math.inf
    if not math.isfinite(total):
        raise Fault("the sum of the rewards is beyond any float")
    return total if parts else None


def _node(number: int, node: dict[str, Any]) -> _Node:
    parent = fields.whole(node, "parent")
    if parent is not None and not 0 <= parent < number:
        raise Fault(f"node {number} names node {parent} as its parent, which is not before it")
    sampled = fields.flag(node, "sampled") is True
    ids = fields.ids(node, "token_ids") or ()
    mask = fields.flags(node, "mask", len(ids)) if sampled else None
    if sampled and ids and mask is None:
        raise Fault(f"node {number}: mask is missing")
    mask = mask or (False,) * len(ids)
    return _Node(
        parent=parent,
        sampled=sampled,
        ids=ids,
        mask=mask,
        values={key: _spread(node, key, mask) for key in _LOGGED},
    )


def _spread(node: dict[str, Any], key: str, mask: tuple[bool, ...]) -> tuple[float, ...]:
    """Values of the sampled tokens at their places in the node."""
    if not node.get(key):
        found: Iterator[float] = iter([math.nan] * sum(mask))
        if node.get(key) not in (None, []):
            raise Fault(f"{key} must be list, found {type(node[key]).__name__}")
    else:
        found = iter(fields.numbers(node, key, sum(mask)) or ())
    return tuple(next(found) if flag else math.nan for flag in mask)


def _branches(nodes: list[_Node]) -> Iterator[list[int]]:
    """Every way from a root to a leaf, leaves in order."""
    length: list[int] = []
    inner = set()
    for node in nodes:
        before = 0 if node.parent is None else length[node.parent]
        length.append(before + len(node.ids) + 1)
        inner.add(node.parent)
    leaves = [i for i in range(len(nodes)) if i not in inner]
    if sum(length[leaf] for leaf in leaves) > _MOST:
        raise Fault(f"its branches hold more than {_MOST} tokens")
    for leaf in leaves:
        way = []
        at: int | None = leaf
        while at is not None:
            way.append(at)
            at = nodes[at].parent
        yield way[::-1]
