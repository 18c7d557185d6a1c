"""The canonical rollout: what every reader yields and what a user can hand over."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from arca_diag.errors import RolloutError, collected


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One completion of one prompt.

    Attributes:
        id: Unique within a source.
        step: Optimizer steps done by the policy that sampled it; None if unknown.
        group_id: Completions that share a prompt and a step share a group.
        prompt_ids: Token ids of the prompt, template included.
        completion_ids: Token ids of the completion, the closing end-of-sequence id included.
        mask: True where a completion token counts.
        reward: The scalar reward, or None.
        advantage: One per completion, a list with one per token, or None.
        finish_reason: "stop", "length", another word, or None if unknown.
        prompt_text: For people to read; may be empty.
        completion_text: For people to read; may be empty.
        ids_exact: False if the completion's ids were had by tokenising its text again.
    """

    id: str
    step: int | None
    group_id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    mask: tuple[bool, ...]
    reward: float | None = None
    advantage: float | tuple[float, ...] | None = None
    finish_reason: str | None = None
    prompt_text: str = ""
    completion_text: str = ""
    ids_exact: bool = True

    @property
    def cluster(self) -> str:
        """The prompt, as a hash of its ids: the unit of evidence."""
        return hash_ids(self.prompt_ids)

    @property
    def n_counted(self) -> int:
        """How many completion tokens count."""
        return sum(self.mask)


@dataclass(frozen=True, kw_only=True)
class RolloutSet:
    """What a reader found, and what it left out.

    Attributes:
        rollouts: In file order.
        source: Where they came from, for the report.
        files: The files that were read.
        duplicates_dropped: Completions of a batch that was written again under a later step.
        lines_skipped: Completions dropped because of a bad line in their group.
        unknown_fields: Field -> how often it was seen and ignored.
    """

    rollouts: tuple[Rollout, ...]
    source: str
    files: tuple[str, ...]
    duplicates_dropped: int = 0
    lines_skipped: int = 0
    unknown_fields: dict[str, int] = field(default_factory=dict)


def hash_ids(ids: Iterable[int]) -> str:
    """A short, fixed hash of token ids."""
    return hashlib.sha256(np.asarray(list(ids), dtype="<i8").tobytes()).hexdigest()[:16]


def check_fits_model(rollouts: Iterable[Rollout], vocabulary: int, longest: int | None) -> None:
    """Check ids and lengths against the base model.

    Raises:
        RolloutError: An id outside the vocabulary, or a sequence longer than the model's
            positions; up to 20 at once.
    """
    faults = []
    for rollout in rollouts:
        ids = rollout.prompt_ids + rollout.completion_ids
        worst = next((i for i in ids if not 0 <= i < vocabulary), None)
        if worst is not None:
            faults.append(
                f"rollout {rollout.id!r}: token id {worst} is outside the base model's vocabulary "
                f"of {vocabulary}"
            )
        if longest is not None and len(ids) > longest:
            faults.append(
                f"rollout {rollout.id!r}: {len(ids)} tokens, and the base model has {longest} "
                "positions"
            )
    if faults:
        raise RolloutError(
            collected(faults),
            hint="were these rollouts sampled from another base model? Give the right one with "
            "--base",
        )
