"""A training directory -> `Run`: checkpoints in step order, training facts, where rollouts lie."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.pickles import read_training_args

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_STATE_LIMIT = 256 * 2**20  # bytes of trainer_state.json that we are willing to parse


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One saved adapter.

    Attributes:
        name: The folder's name.
        step: Optimizer steps done when it was saved; None for a bare adapter folder.
        path: The folder.
    """

    name: str
    step: int | None
    path: Path

    @property
    def label(self) -> int | str:
        """The step, or the folder's name where there is none: how reports name it."""
        return self.name if self.step is None else self.step


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run as it lies on disk.

    Attributes:
        root: The run's folder; reports name paths relative to it.
        checkpoints: In step order.
        named: The one checkpoint that the user's path pointed at, if it did.
        framework: "trl" where its files were recognised, else "unknown".
        steps: Optimizer steps of the whole run; None if nothing says so.
        logging_steps: Steps between two log entries; None if unknown.
        training_args: What the trainer's own arguments say, read without unpickling; empty if
            there are none.
        training_args_source: The file they came from, relative to `root`.
        reward_columns: Names of the run's reward functions, as logged; empty if unknown.
        completions: TRL's folder of completion tables, if there is one.
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
    log: tuple[dict[str, Any], ...] = ()


def find_run(path: Path) -> Run:
    """Recognise what the user pointed at: a run, one checkpoint of a run, or a bare adapter.

    Raises:
        ArcaError: There is no such folder, or no LoRA adapter in it.
    """
    if not path.exists():
        raise ArcaError(f"{path}: no such path", hint="give the trainer's output directory")
    if not path.is_dir():
        raise ArcaError(f"{path}: not a directory", hint="give the trainer's output directory")
    path = path.resolve()

    inside = _checkpoint_folders(path)
    if inside:
        return _describe(path, inside, named=None)

    step = _CHECKPOINT.fullmatch(path.name)
    if step and _looks_like_run(path.parent):
        siblings = _checkpoint_folders(path.parent)
        return _describe(path.parent, siblings, named=next(c for c in siblings if c.path == path))
    if _has_adapter(path):
        bare = Checkpoint(name=path.name, step=int(step[1]) if step else None, path=path)
        return _describe(path, (bare,), named=bare)
    raise ArcaError(
        f"{path}: no LoRA adapter here: no checkpoint-* folder and no adapter_config.json",
        hint="give the trainer's output directory, or a folder with adapter_config.json and "
        "adapter_model.safetensors in it",
    )


def select_checkpoints(run: Run, wanted: str) -> tuple[Checkpoint, ...]:
    """The checkpoints that `--checkpoints` asks for: all, last, or a list of steps.

    A path to one checkpoint of a run stands for that checkpoint unless steps are given.

    Raises:
        CheckpointError: A step that is not there; the message says which are.
    """
    if wanted == "all":
        return (run.named,) if run.named else run.checkpoints
    if wanted == "last":
        return run.checkpoints[-1:]
    by_name = {str(c.label): c for c in run.checkpoints} | {c.name: c for c in run.checkpoints}
    names = [part.strip() for part in wanted.split(",")]
    missing = [name for name in names if name not in by_name]
    if missing:
        there = ", ".join(str(c.label) for c in run.checkpoints)
        raise CheckpointError(
            f"no checkpoint {', '.join(missing)} in {run.root.name}; there are: {there}",
            hint=f"for example --checkpoints {run.checkpoints[-1].label}",
        )
    chosen = {by_name[name] for name in names}
    return tuple(c for c in run.checkpoints if c in chosen)


def _checkpoint_folders(path: Path) -> tuple[Checkpoint, ...]:
    found = []
    for child in path.iterdir():
        match = _CHECKPOINT.fullmatch(child.name)
        if match and child.is_dir():
            found.append(Checkpoint(name=child.name, step=int(match[1]), path=child))
    return tuple(sorted(found, key=lambda c: (c.step or 0, c.name)))


def _has_adapter(path: Path) -> bool:
    return any((path / name).is_file() for name in ADAPTER_FILES)


def _looks_like_run(parent: Path) -> bool:
    """Whether a checkpoint's parent is a run and not, say, a downloads folder."""
    return (
        (parent / "completions").is_dir()
        or (parent / "trainer_state.json").is_file()
        or len(_checkpoint_folders(parent)) > 1
    )


def _describe(root: Path, found: tuple[Checkpoint, ...], named: Checkpoint | None) -> Run:
    folders = [root, *(c.path for c in reversed(found))]
    arguments_file = next((f for d in folders if (f := d / "training_args.bin").is_file()), None)
    arguments = read_training_args(arguments_file) if arguments_file else {}
    states = [s for d in folders if (s := _read_state(d / "trainer_state.json"))]
    state = states[0] if states else {}

    rewards: dict[str, None] = {}
    history = state.get("log_history")
    for entry in history if isinstance(history, list) else []:
        for key in entry if isinstance(entry, dict) else {}:
            if match := re.fullmatch(r"rewards/(.+)/mean", str(key)):
                rewards[match[1]] = None

    known = [
        value
        for value in (
            *(s.get("max_steps") for s in states),
            *(s.get("global_step") for s in states),
            *(c.step for c in found),
        )
        if isinstance(value, int) and value > 0
    ]
    logging = state.get("logging_steps")
    completions = root / "completions"
    has_tables = completions.is_dir() and any(completions.glob("completions_*.parquet"))
    return Run(
        root=root,
        checkpoints=found,
        named=named,
        framework="trl" if has_tables or "num_generations" in arguments else "unknown",
        steps=max(known) if known else None,
        logging_steps=int(logging) if _is_number(logging) and logging >= 1 else None,
        training_args=arguments,
        training_args_source=arguments_file.relative_to(root).as_posix() if arguments_file else "",
        reward_columns=tuple(rewards),
        completions=completions if completions.is_dir() else None,
        log=tuple(r for r in state.get("log_history") or [] if isinstance(r, dict)),
    )


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _read_state(path: Path) -> dict[str, Any]:
    """trainer_state.json, or nothing where it is absent or damaged: no figure depends on it."""
    if not path.is_file() or path.stat().st_size > _STATE_LIMIT:
        return {}
    try:
        state = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}
