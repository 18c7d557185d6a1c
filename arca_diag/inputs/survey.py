"""What a folder holds, by the layouts of all frameworks: checkpoints, and states without one."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from arca_diag.errors import ArcaError
from arca_diag.inputs.checkpoints import Checkpoint, Fault, Refused
from arca_diag.inputs.files import children, step_number, within
from arca_diag.inputs.layouts import LAYOUTS, Layout, Place
from arca_diag.inputs.looks import DEPTH


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a folder holds.

    Attributes:
        checkpoints: In step order.
        refused: Those that cannot be used, in step order.
        layout: The layout of the checkpoints, or None if there are none.
    """

    checkpoints: tuple[Checkpoint, ...] = ()
    refused: tuple[Refused, ...] = ()
    layout: Layout | None = None


def survey(root: Path) -> Survey:
    """Find the checkpoints of a run's folder, whatever left them.

    Raises:
        ArcaError: Two checkpoints have the same step.
    """
    listed = functools.cache(children)
    chosen: Layout | None = None
    usable: dict[int, Checkpoint] = {}
    refused: list[Refused] = []
    for layout in LAYOUTS:
        if layout.needs and not (root / layout.needs).is_file():
            continue
        found = list(_collect(layout, root, listed))
        refused += [f for f in found if isinstance(f, Refused)]
        if not usable:
            usable = _by_step([f for f in found if isinstance(f, Checkpoint)], root)
            chosen = layout if usable else None
    left = {(r.name if r.step is None else r.step): r for r in reversed(refused)}
    return Survey(
        checkpoints=tuple(usable[step] for step in sorted(usable)),
        refused=tuple(sorted((left[k] for k in left if k not in usable), key=_refused_order)),
        layout=chosen,
    )


def step_folders(path: Path) -> Iterator[tuple[Path, Path, bool]]:
    """Step folders that a path is, or lies in, by their names alone.

    Yields:
        The run that the step folder would be of, the step folder, and whether it lies in the
        run directly. The nearest step folder comes first, and its farthest run.
    """
    places = sorted((p for lay in LAYOUTS for p in lay.places), key=lambda p: -len(p.parts))
    seen = set()
    for folder in (path, *itertools.islice(path.parents, DEPTH)):
        for place in places:
            root = Path(*folder.parts[: -1 - len(place.parts)])
            fits = folder.parts[-1 - len(place.parts) : -1] == place.parts
            if fits and (root, folder) not in seen and place.step.fullmatch(folder.name):
                seen.add((root, folder))
                yield root, folder, not place.parts


def run_above(path: Path) -> Path:
    """The run, where a path is a folder in which a run keeps its steps; else the path."""
    for layout in LAYOUTS:
        for parts in {p.parts for p in layout.places if p.parts}:
            root = Path(*path.parts[: -len(parts)])
            if path.parts[-len(parts) :] == parts and has_signs(root, layout, but=parts[0]):
                return root
    return path


def has_signs(root: Path, layout: Layout, but: str = "") -> bool:
    """Whether what a trainer leaves beside its checkpoints is there, another name than `but`."""
    return any(layout.signs.fullmatch(p.name) and p.name != but for p in children(root))


def sharded_fault(found: tuple[Refused, ...], root: Path) -> ArcaError:
    """The error where nothing but refused checkpoints is there: the newest one's reason."""
    newest = found[-1]
    names = ", ".join(r.name for r in found[:5]) + (", ..." if len(found) > 5 else "")
    return ArcaError(
        f"{root.name}: no LoRA adapter that can be read ({names}): {newest.name}: {newest.reason}",
        hint=f"in {root}: {newest.hint}",
    )


def _collect(
    layout: Layout, root: Path, listed: Callable[[Path], list[Path]]
) -> Iterator[Checkpoint | Refused]:
    yield from layout.others(root)
    before: set[int | None] = set()
    for place in layout.places:
        base = root.joinpath(*place.parts)
        if not base.is_dir():
            continue
        if not within(base, root):
            yield _leads_out(base.name, None, base)
            continue
        here: set[int | None] = set()
        for folder in listed(base):
            match = place.step.fullmatch(folder.name)
            step = step_number(match[1]) if match else None
            if step is None or step in before or not folder.is_dir():
                continue
            found = _entry(layout, place, root, folder, step)
            if isinstance(found, Checkpoint):
                here.add(step)
            if found is not None:
                yield found
        before |= here


def _entry(
    layout: Layout, place: Place, root: Path, folder: Path, step: int
) -> Checkpoint | Refused | None:
    if not within(folder, root):
        return _leads_out(folder.name, step, folder)
    found = place.look(folder, root)
    if isinstance(found, Fault):
        return Refused(
            name=folder.name, step=step, path=folder, reason=found.reason, hint=found.hint
        )
    if found is not None and not within(found, root):
        return _leads_out(folder.name, step, found)
    if found is None:
        return None
    return Checkpoint(name=folder.name, step=step, path=found, layout=layout.name)


def _leads_out(name: str, step: int | None, path: Path) -> Refused:
    return Refused(
        name=name,
        step=step,
        path=path,
        reason="a symbolic link that leads out of the run, which is not followed",
        hint="copy what it points at into the run, or scan that itself",
    )


def _by_step(found: list[Checkpoint], root: Path) -> dict[int, Checkpoint]:
    chosen: dict[int, Checkpoint] = {}
    for checkpoint in found:
        assert checkpoint.step is not None, "step folders have a step"
        other = chosen.setdefault(checkpoint.step, checkpoint)
        if other is not checkpoint:
            raise ArcaError(
                f"{root.name}: {other.name} and {checkpoint.name} are both step {checkpoint.step}",
                hint="keep one of them in the run and move the other out of it",
            )
    return chosen


def _refused_order(refused: Refused) -> tuple[int, str]:
    return (-1 if refused.step is None else refused.step, refused.name)
