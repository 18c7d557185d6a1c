"""Everything that was read for a scan, as data: no torch is needed to describe it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arca_diag.errors import CheckpointError
from arca_diag.inputs.adapters import Adapter
from arca_diag.inputs.base import Base
from arca_diag.inputs.quantised import Quantisation
from arca_diag.inputs.reference import Reference
from arca_diag.inputs.rollouts.census import Census
from arca_diag.inputs.rollouts.record import Sample
from arca_diag.inputs.runs import Checkpoint, Run


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A run, ready to be replayed.

    Attributes:
        run: The run as found.
        checkpoints: Those that are asked for, in step order.
        adapters: Of the checkpoints that can be read.
        unreadable: Checkpoint -> why it cannot be.
        insist: Checkpoints that are an error if they are bad: they were named, or it is the
            only one.
        base: The base model, on disk.
        reference: What stands for the reference policy.
        reference_base: The other base model that stands for it, or None.
        base_sha256: Hash of the base's configuration and weights.
        tokenizer: The run's tokenizer, or None.
        census: What the rollout files hold.
        prompts: What to sample completions to, where the run kept none; else empty.
        end_tokens: Ids that end a completion.
        temperature: The sampling temperature.
        temperature_source: Where it comes from, in words.
        hashes: SHA-256 of every file that was read, by path relative to the run.
    """

    run: Run
    checkpoints: tuple[Checkpoint, ...]
    adapters: tuple[Adapter, ...]
    unreadable: dict[Checkpoint, CheckpointError]
    insist: frozenset[Checkpoint]
    base: Base
    reference: Reference
    reference_base: Base | None
    base_sha256: str
    tokenizer: Any | None
    census: Census
    prompts: tuple[Sample, ...]
    end_tokens: frozenset[int]
    temperature: float
    temperature_source: str
    hashes: dict[str, str]

    @property
    def base_label(self) -> str:
        """The base's name as it may be shown: never a path outside the run's surroundings."""
        name = Path(self.base.name)
        return self.base.name if not name.is_absolute() else name.name

    @property
    def quantisations(self) -> list[Quantisation]:
        """How the base is quantised, and the other base that stands for the reference."""
        bases = (self.base, self.reference_base)
        return [base.quantisation for base in bases if base is not None and base.quantisation]

    @property
    def salt(self) -> bytes:
        """A key that only who has the rollouts can know: it hides names in redacted tables."""
        first = Path(self.census.notes.files[0])
        with first.open("rb") as handle:
            return hashlib.file_digest(handle, lambda: hashlib.sha256(b"arca-diag salt")).digest()
