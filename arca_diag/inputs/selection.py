"""Which completions are replayed: each checkpoint's own set, and one fixed set for the run.

Whole groups are chosen, by step and by a fixed hash of their ids, so that the choice depends
neither on a seed nor on the order of files.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from arca_diag.inputs.rollouts.census import Entry
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.runs import Checkpoint, Run


@dataclass(frozen=True, kw_only=True)
class Group:
    """Completions that share a prompt and a step.

    Attributes:
        id: Its name.
        step: Optimizer steps done by the policy that sampled it; None if unknown.
        members: Names of its completions, in file order.
        rollouts: The completions themselves, once they are loaded.
    """

    id: str
    step: int | None
    members: tuple[str, ...]
    rollouts: tuple[Rollout, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to replay.

    Attributes:
        own: Checkpoint name -> its nearest groups; empty where none lies within the window.
        fixed: Groups spread over the run, the same for every checkpoint.
        window: The farthest distance in steps that a group of an own set may have.
    """

    own: Mapping[str, tuple[Group, ...]]
    fixed: tuple[Group, ...]
    window: int

    def groups(self) -> tuple[Group, ...]:
        """Every chosen group once, in step order."""
        chosen = {g.id: g for groups in (*self.own.values(), self.fixed) for g in groups}
        return tuple(sorted(chosen.values(), key=_by_step))

    def for_checkpoint(self, name: str) -> tuple[Group, ...]:
        """Every group to replay under one checkpoint, once, in step order."""
        chosen = {g.id: g for g in (*self.own[name], *self.fixed)}
        return tuple(sorted(chosen.values(), key=_by_step))

    def only(self, names: Iterable[str]) -> "Selection":
        """The same choice for these checkpoints alone."""
        return dataclasses.replace(self, own={name: self.own[name] for name in names})

    def filled(self, rollouts: Iterable[Rollout]) -> "Selection":
        """The same choice with its completions loaded."""
        loaded = {rollout.id: rollout for rollout in rollouts}

        def fill(groups: tuple[Group, ...]) -> tuple[Group, ...]:
            return tuple(
                dataclasses.replace(g, rollouts=tuple(loaded[m] for m in g.members if m in loaded))
                for g in groups
            )

        own = {name: fill(groups) for name, groups in self.own.items()}
        return dataclasses.replace(self, own=own, fixed=fill(self.fixed))


def group_entries(entries: Iterable[Entry]) -> tuple[Group, ...]:
    """Collect completions into their groups, in step order."""
    members: dict[str, list[Entry]] = {}
    for entry in entries:
        members.setdefault(entry.group_id, []).append(entry)
    groups = [
        Group(id=name, step=found[0].step, members=tuple(e.id for e in found))
        for name, found in members.items()
    ]
    return tuple(sorted(groups, key=_by_step))


def select(
    groups: tuple[Group, ...],
    checkpoints: tuple[Checkpoint, ...],
    *,
    own_groups: int,
    fixed_groups: int,
    window: int,
    keep_fixed: tuple[str, ...] = (),
) -> Selection:
    """Choose the groups to replay.

    Args:
        groups: All groups of the run.
        checkpoints: Those that will be measured.
        own_groups: At most so many groups in a checkpoint's own set: the nearest in steps.
        fixed_groups: At most so many in the fixed set.
        window: No group of an own set is farther than so many steps.
        keep_fixed: The fixed set of an earlier scan of the same run: chosen once, kept.
    """
    own = {
        c.name: _nearest(groups, c.step, own_groups, window) if c.step is not None else ()
        for c in checkpoints
    }
    if keep_fixed:
        wanted = set(keep_fixed)
        fixed = tuple(g for g in groups if g.id in wanted)
    else:
        fixed = _spread(groups, fixed_groups)
    return Selection(own=own, fixed=fixed, window=window)


def default_window(run: Run, groups: tuple[Group, ...]) -> int:
    """A tenth of the run's steps, and at least two logging intervals."""
    steps = sorted({g.step for g in groups if g.step is not None})
    total = run.steps or (steps[-1] if steps else 0)
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    interval = run.logging_steps or (min(gaps) if gaps else 1)
    return max(-(-total // 10), 2 * interval)


def _nearest(groups: tuple[Group, ...], step: int, count: int, window: int) -> tuple[Group, ...]:
    near = [
        (abs(g.step - step), _fixed_hash(g.id), g)
        for g in groups
        if g.step is not None and abs(g.step - step) <= window
    ]
    near.sort(key=lambda item: item[:2])
    return tuple(sorted((g for *_, g in near[:count]), key=_by_step))


def _spread(groups: tuple[Group, ...], count: int) -> tuple[Group, ...]:
    """Groups nearest to evenly spaced steps; by hash alone where steps are unknown."""
    timed = [g for g in groups if g.step is not None]
    if not timed:
        by_hash = sorted(groups, key=lambda g: _fixed_hash(g.id))
        return tuple(sorted(by_hash[:count], key=_by_step))
    first, last = timed[0].step or 0, timed[-1].step or 0
    left = {g.id: g for g in timed}
    chosen = []
    for place in range(min(count, len(timed))):
        target = first + (last - first) * (place + 0.5) / min(count, len(timed))
        best = min(left.values(), key=lambda g: (abs((g.step or 0) - target), _fixed_hash(g.id)))
        chosen.append(left.pop(best.id))
    return tuple(sorted(chosen, key=_by_step))


def _by_step(group: Group) -> tuple[int, str]:
    return (-1 if group.step is None else group.step, _fixed_hash(group.id))


def _fixed_hash(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()
