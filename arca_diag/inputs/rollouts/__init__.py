"""Rollout files -> `Rollout`s. One reader a format; `READERS` is the list of them all."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import canonical, trl
from arca_diag.inputs.rollouts.record import Rollout, RolloutSet
from arca_diag.inputs.runs import Run

__all__ = ["READERS", "Rollout", "RolloutSet", "read_rollouts"]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a reader may need beside its file.

    Attributes:
        run: The run that the rollouts belong to.
        tokenizer: The run's tokenizer, or None if there is none.
        end_tokens: Ids that end a completion.
        skip_bad_lines: Drop the whole group of a malformed line instead of stopping.
    """

    run: Run
    tokenizer: Any | None
    end_tokens: frozenset[int]
    skip_bad_lines: bool


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One format: `sniff` says whether a path is it, `read` reads it."""

    name: str
    sniff: Callable[[Path], bool]
    read: Callable[[Path, Any], RolloutSet]


READERS = (
    Reader(name="TRL completions", sniff=trl.sniff, read=trl.read),
    Reader(name="canonical JSONL or parquet", sniff=canonical.sniff, read=canonical.read),
)


def read_rollouts(path: Path | None, context: Context) -> RolloutSet:
    """Read the rollouts at `path`, or those that the run left.

    Raises:
        RolloutError: There are none, the format is unknown, or the files are faulty.
    """
    found = path if path is not None else context.run.completions
    if found is None or (path is None and not trl.sniff(found)):
        raise RolloutError(
            f"{context.run.root.name}: no rollouts: there is no completions/ folder with "
            "completions_*.parquet in it",
            hint="train with GRPOConfig(log_completions=True, logging_steps=1) and the reward "
            "function arca_diag.trl.recorder(), which records exact token ids; or give a file "
            "with --rollouts",
        )
    if not found.exists():
        raise RolloutError(f"--rollouts {found}: no such path", hint="give a file or a folder")
    for reader in READERS:
        if reader.sniff(found):
            result = reader.read(found, context)
            if not result.rollouts:
                raise RolloutError(
                    f"{found.name}: no rollout in it",
                    hint="the file is empty, or every completion in it is",
                )
            return result
    raise RolloutError(
        f"{found}: no rollout file that is known here",
        hint="known: " + "; ".join(reader.name for reader in READERS),
    )
