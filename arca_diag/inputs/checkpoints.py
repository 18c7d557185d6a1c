"""A saved adapter of a run, or why a saved state holds none."""

from dataclasses import dataclass
from pathlib import Path

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One saved adapter.

    Attributes:
        name: How it is shown and keyed, unique in the run: the step folder's name.
        step: Optimizer steps done when it was saved; None for a bare adapter folder.
        path: The folder with the adapter's files in it.
        layout: Which of `LAYOUTS` it was found by, or "bare".
    """

    name: str
    step: int | None
    path: Path
    layout: str = "hf"

    @property
    def label(self) -> int | str:
        """The step, or the folder's name where there is none: how reports name it."""
        return self.name if self.step is None else self.step


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A checkpoint that cannot be used as it lies there.

    Attributes:
        name: The folder's name, or what the trainer calls it.
        step: Optimizer steps done when it was saved; None if nothing says so.
        path: The folder or file that was recognised.
        reason: Why there is no adapter to read.
        hint: The command that makes an adapter of it, to be run in the run's folder, or else
            what to do.
    """

    name: str
    step: int | None
    path: Path
    reason: str
    hint: str


@dataclass(frozen=True)
class Fault:
    """Why a step folder gives no adapter, and the command or advice that mends it."""

    reason: str
    hint: str


def has_adapter(folder: Path) -> bool:
    """Whether any of an adapter's files is there."""
    return any((folder / name).is_file() for name in ADAPTER_FILES)
