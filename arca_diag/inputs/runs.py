"""A training directory -> `Run`: checkpoints in step order, training facts, where rollouts lie."""

import difflib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.checkpoints import ADAPTER_FILES, Checkpoint, Refused, has_adapter
from arca_diag.inputs.facts import read_arguments, read_state, recognise
from arca_diag.inputs.files import children, step_number, within
from arca_diag.inputs.layouts import LAYOUTS
from arca_diag.inputs.looks import CONVERTED
from arca_diag.inputs.survey import (
    Survey,
    has_signs,
    run_above,
    sharded_fault,
    step_folders,
    survey,
)

__all__ = ["ADAPTER_FILES", "Checkpoint", "Refused", "Run", "find_run", "select_checkpoints"]

#: ms-swift's folder of one start of a training: v0-20260101-120000.
_SWIFT_VERSION = re.compile(r"v([0-9]{1,9})-.+")

#: Names of adapter folders that say nothing of which checkpoint it is.
_TELLS_NOTHING = {
    "lora_adapter", "adapter", "default", "actor", "huggingface", "model", CONVERTED,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run as it lies on disk.

    Attributes:
        root: The run's folder; reports name paths relative to it. ms-swift's is the v* folder,
            prime-rl's the parent of broadcasts/.
        checkpoints: In step order.
        named: The one checkpoint that the user's path pointed at, if it did.
        framework: Who left it ("trl", "verl", ...); "unknown" where nothing says so.
        framework_version: Its version, where a file says so.
        recognised_by: The evidence for that, in words.
        steps: Optimizer steps of the whole run; None if nothing says so.
        logging_steps: Steps between two log entries; None if unknown.
        training_args: What the trainer's own arguments say, by TRL's names, read without
            unpickling; empty if there are none.
        training_args_source: The file they came from, relative to `root`.
        log: Rows of the newest trainer_state.json that can be read, in step order.
        reward_columns: Names of the run's reward functions, as logged; empty if unknown.
        completions: TRL's folder of completion tables, if there is one.
        refused: Checkpoints that were recognised but cannot be used, in step order.
        ignored: Why files that would have said something of the run could not be read.
    """

    root: Path
    checkpoints: tuple[Checkpoint, ...]
    named: Checkpoint | None
    framework: str
    steps: int | None
    logging_steps: int | None
    training_args: dict[str, Any]
    training_args_source: str
    reward_columns: tuple[str, ...]
    completions: Path | None
    framework_version: str | None = None
    recognised_by: str = ""
    log: tuple[dict[str, Any], ...] = ()
    refused: tuple[Refused, ...] = ()
    ignored: tuple[str, ...] = ()


def find_run(path: Path) -> Run:
    """Recognise what the user pointed at: a run, one checkpoint of a run, or a bare adapter.

    Raises:
        ArcaError: There is no such folder, it cannot be read, no LoRA adapter is in it, or two
            checkpoints have the same step.
    """
    try:
        if not path.exists():
            raise ArcaError(f"{path}: no such path", hint=_near(path))
        if not path.is_dir():
            raise ArcaError(f"{path}: not a directory", hint="give the trainer's output directory")
        return _recognise(path.resolve())
    except OSError as error:
        raise ArcaError(
            f"{error.filename or path}: cannot be read: {error.strerror}",
            hint="is it yours to read, and still there?",
        ) from None


def select_checkpoints(run: Run, wanted: str) -> tuple[Checkpoint, ...]:
    """The checkpoints that `--checkpoints` asks for: all, last, or a list of steps.

    A path to one checkpoint of a run stands for that checkpoint unless steps are given.

    Raises:
        CheckpointError: A step that is not there, or cannot be used; the message says which are.
    """
    if wanted == "all":
        return (run.named,) if run.named else run.checkpoints
    if wanted == "last":
        return run.checkpoints[-1:]
    by_name = {str(c.label): c for c in run.checkpoints} | {c.name: c for c in run.checkpoints}
    names = [part.strip() for part in wanted.split(",")]
    missing = [name for name in names if name not in by_name]
    for refused in run.refused:
        if refused.name in missing or str(refused.step) in missing:
            raise CheckpointError(f"{refused.name}: {refused.reason}", hint=refused.hint)
    if missing:
        there = ", ".join(str(c.label) for c in run.checkpoints)
        raise CheckpointError(
            f"no checkpoint {', '.join(missing)} in {run.root.name}; there are: {there}",
            hint=f"for example --checkpoints {_nearest(run, missing[0]).label}",
        )
    chosen = {by_name[name] for name in names}
    return tuple(c for c in run.checkpoints if c in chosen)


def _nearest(run: Run, name: str) -> Checkpoint:
    """The checkpoint that was meant, as far as one can tell; the last where one cannot."""
    digits = re.search(r"[0-9]+$", name)
    step = step_number(digits[0]) if digits else None
    if step is not None:
        timed = [c for c in run.checkpoints if c.step is not None]
        return min(timed, key=lambda c: abs((c.step or 0) - step), default=run.checkpoints[-1])
    close = difflib.get_close_matches(name, [c.name for c in run.checkpoints], 1)
    return next((c for c in run.checkpoints if c.name in close), run.checkpoints[-1])


def _near(path: Path) -> str:
    """What to do about a path that is not there: the sibling it may be a misspelling of."""
    plain = "give the trainer's output directory"
    missing = path
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    try:
        names = [p.name for p in children(missing.parent)]
    except (OSError, ArcaError):
        return plain
    close = difflib.get_close_matches(missing.name, names, 1)
    return f"did you mean {missing.parent / close[0]}?" if close else plain


def _recognise(path: Path) -> Run:
    above = run_above(path)
    if above != path and any(c.path.is_relative_to(path) for c in survey(above).checkpoints):
        return _recognise(above)
    inside = survey(path)
    if inside.checkpoints:
        return _describe(path, inside)
    version = _swift_version(path)
    if version:
        return _recognise(version)

    alone: Run | ArcaError | None = None
    for root, folder, direct in step_folders(path):
        around = survey(root)
        named = next((c for c in around.checkpoints if _is_meant(path, c, folder)), None)
        refused = tuple(r for r in around.refused if r.path == folder)
        if named and _looks_like_run(root, around, folder, direct):
            return _describe(root, around, named)
        if named and alone is None:
            lone = replace(inside, checkpoints=(named,), layout=around.layout)
            alone = _describe(path, lone, named)
        elif refused and not has_adapter(path) and alone is None:
            alone = sharded_fault(refused, root)
    if isinstance(alone, Run):
        return alone
    bare = _bare(path)
    if bare:
        return _describe(path, replace(inside, checkpoints=(bare,)), bare)
    if isinstance(alone, ArcaError):
        raise alone
    if inside.refused:
        raise sharded_fault(inside.refused, path)
    raise ArcaError(
        f"{path}: no LoRA adapter here: no checkpoint-* folder and no adapter_config.json",
        hint=_below(path),
    )


def _is_meant(path: Path, checkpoint: Checkpoint, folder: Path) -> bool:
    """Whether a path leads to this checkpoint: the step folder, the adapter's, or one between."""
    return checkpoint.path.is_relative_to(path) and path.is_relative_to(folder)


def _looks_like_run(root: Path, around: Survey, folder: Path, direct: bool) -> bool:
    """Whether a checkpoint's parent is a run and not, say, a downloads folder."""
    if direct and len(around.checkpoints) + len(around.refused) > 1:
        return True
    # Below broadcasts/ or merged/ that folder shows nothing; elsewhere the checkpoint does not.
    known = folder.name if direct else folder.relative_to(root).parts[0]
    return around.layout is not None and has_signs(root, around.layout, but=known)


def _swift_version(path: Path) -> Path | None:
    """The v* folder with checkpoints in it, where there is exactly one."""
    numbered = [
        (int(match[1]), child.name, child)
        for child in children(path)
        if (match := _SWIFT_VERSION.fullmatch(child.name)) and child.is_dir()
    ]
    found = [v for v in sorted(numbered) if within(v[2], path) and survey(v[2]).checkpoints]
    if len(found) > 1:
        raise ArcaError(
            f"{path}: several runs in one folder: {', '.join(name for _, name, _ in found)}",
            hint=f"name one of them; the newest is {found[-1][2]}",
        )
    return found[0][2] if found else None


def _bare(path: Path) -> Checkpoint | None:
    """An adapter folder, or one with LLaMA-Factory's converted adapter, or verl's merged one."""
    merged, converted = path / "lora_adapter", path / CONVERTED
    if has_adapter(converted) and within(converted, path):
        return Checkpoint(name=path.name, step=None, path=converted, layout="bare")
    if not has_adapter(path):
        if not has_adapter(merged) or not within(merged, path):
            return None
        return Checkpoint(name=path.name, step=None, path=merged, layout="verl")
    named = path
    while named.name in _TELLS_NOTHING and named.parent.name:
        named = named.parent
    return Checkpoint(name=named.name, step=None, path=path, layout="bare")


def _below(path: Path) -> str:
    """What to do where no adapter is: the folder inside that holds a run, if there is one."""
    if os.path.isfile(path / "report.json"):
        return f"it holds a report: `arca-diag report {path}` shows a scan's result"
    for child in children(path)[:50]:
        if child.is_dir() and within(child, path):
            found = survey(child)
            if found.checkpoints or found.refused:
                return f"did you mean {child}?"
    return (
        "give the trainer's output directory, or a folder with adapter_config.json and "
        "adapter_model.safetensors in it"
    )


def _describe(root: Path, found: Survey, named: Checkpoint | None = None) -> Run:
    folders = [root]
    for checkpoint in reversed(found.checkpoints):
        inside = [p for p in (checkpoint.path, *checkpoint.path.parents) if p.is_relative_to(root)]
        folders += [p for p in inside if p not in folders]
    last = found.checkpoints[-1].step or 0
    arguments = read_arguments(root, folders)
    state = read_state(root, folders, last)
    verl = next((lay for lay in LAYOUTS if lay.name == found.checkpoints[-1].layout), None)
    framework = recognise(root, folders, found.layout or verl, arguments, state)

    logged = dict.fromkeys(key for row in state.log for key in row)
    rewards = (re.fullmatch(r"rewards/(.+)/mean", key) for key in logged)
    steps = max((*state.steps, *(c.step or 0 for c in found.checkpoints)))
    completions = root / "completions"
    return Run(
        root=root,
        checkpoints=found.checkpoints,
        named=named,
        framework=framework.name,
        framework_version=framework.version,
        recognised_by=framework.evidence,
        steps=steps or None,
        logging_steps=state.logging_steps,
        training_args=arguments.values,
        training_args_source=arguments.source,
        log=state.log,
        reward_columns=tuple(match[1] for match in rewards if match),
        completions=completions if completions.is_dir() else None,
        refused=found.refused,
        ignored=(*arguments.ignored, *state.ignored),
    )
