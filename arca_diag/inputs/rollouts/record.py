"""The records that readers yield and that a replay takes, and what is counted on the way."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arca_diag.errors import RolloutError
from arca_diag.inputs.untrusted import inside

# Why completions are left out, where several formats have the same reason.
EMPTY = "empty: no token to credit"
OTHERS_TURNS = "turns of others in it, whose tokens the text does not tell apart"

Chat = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One completion as its trainer wrote it: token ids where it kept them, else text.

    Attributes:
        id: Unique within a source.
        place: File and line or row, for messages.
        step: Optimizer steps done by the policy that sampled it; None if unknown.
        group_id: Completions that share a prompt and a step share a group.
        batch: The logged batch that it is of (see `Notes.batches`); empty if there is none.
        prompt: Token ids, a text, or a chat to be put through the run's template.
        completion: Token ids, the closing end-of-sequence id included, or a text without it.
        rendered: A text prompt is a template's output already: nothing is added to it.
        guessed_prompt: The prompt had to be reconstructed from a dump that lost a part of it.
        mask: One flag a completion token, True where it counts; None: all do.
        reward: The scalar reward, or None.
        advantage: One per completion, one per token, or None.
        finish_reason: "stop", "length", another word, or None if unknown.
        prompt_text: For people to read; may be empty.
        completion_text: For people to read; may be empty.
        ids_exact: False if ids are given and are not those that were sampled.
        sampling_logprobs: As the sampler logged them, one a completion token (NaN where it did
            not), or None.
        trainer_logprobs: As the trainer logged them, likewise.
        entropies: As the trainer logged them, nats, likewise.
    """

    id: str
    place: str
    step: int | None
    group_id: str
    prompt: tuple[int, ...] | str | Chat
    completion: tuple[int, ...] | str
    batch: str = ""
    rendered: bool = False
    guessed_prompt: bool = False
    mask: tuple[bool, ...] | None = None
    reward: float | None = None
    advantage: float | tuple[float, ...] | None = None
    finish_reason: str | None = None
    prompt_text: str = ""
    completion_text: str = ""
    ids_exact: bool = True
    sampling_logprobs: tuple[float, ...] | None = None
    trainer_logprobs: tuple[float, ...] | None = None
    entropies: tuple[float, ...] | None = None

    @property
    def has_ids(self) -> bool:
        """Whether the completion is given as token ids."""
        return not isinstance(self.completion, str)


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One completion of one prompt, as token ids: what is replayed.

    Attributes are those of `Sample`, but for:
        prompt_ids: Token ids of the prompt, template included.
        completion_ids: Token ids of the completion.
        mask: True where a completion token counts.
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
    guessed_prompt: bool = False
    sampling_logprobs: tuple[float, ...] | None = None
    trainer_logprobs: tuple[float, ...] | None = None
    entropies: tuple[float, ...] | None = None

    @property
    def cluster(self) -> str:
        """The prompt, as a hash of its ids: the unit of evidence."""
        return hash_ids(self.prompt_ids)

    @property
    def n_counted(self) -> int:
        """How many completion tokens count."""
        return sum(self.mask)


class Fault(Exception):
    """What is wrong with one line; readers hand it to `Notes.fault`."""


@dataclass(kw_only=True)
class Notes:
    """What a reader meets beside good completions, counted while it reads.

    Attributes:
        within: The run's folder, out of which no link may lead; None for files that the user
            named.
        files: The files that were read.
        faults: `place: what`, for the first of them.
        n_faults: How many there are.
        bad_groups: Groups with a faulty line whose group could be read.
        groupless: How many faults stand in lines whose group could not be read.
        duplicates: Completions of a batch that was written again under a later step.
        eval_excluded: Completions that an evaluation sampled.
        left_out: Why completions were left out for other reasons, and how many.
        unknown_fields: Field -> how often it was seen and ignored.
        step_source: Where the steps come from, in words; empty if they are unknown.
        group_source: Where the groups come from, in words.
        batches: Step of a log entry -> the batch that its means were taken over, where the
            trainer writes one beside the other.
    """

    within: Path | None = None
    files: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    n_faults: int = 0
    bad_groups: set[str] = field(default_factory=set)
    groupless: int = 0
    duplicates: int = 0
    eval_excluded: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    unknown_fields: Counter[str] = field(default_factory=Counter)
    step_source: str = ""
    group_source: str = ""
    batches: dict[int, str] = field(default_factory=dict)

    def reading(self, file: Path) -> None:
        """Note a file, before it is opened.

        Raises:
            RolloutError: It is a link that leads out of the run.
        """
        if self.within is not None and not inside(file, self.within):
            raise RolloutError(
                f"{file.name} is a link that leads out of the run, and is not followed",
                hint="copy the file into the run, or name it with --rollouts",
            )
        self.files.append(str(file))

    def fault(self, place: str, what: object, group: str | None = None) -> None:
        """Note a line that cannot be read; `group` is its group, if that much can be told."""
        self.n_faults += 1
        if len(self.faults) < 20:
            self.faults.append(f"{place}: {what}")
        if group is None:
            self.groupless += 1
        else:
            self.bad_groups.add(group)


def hash_ids(ids: Iterable[int]) -> str:
    """A short, fixed hash of token ids."""
    return hashlib.sha256(np.asarray(list(ids), dtype="<i8").tobytes()).hexdigest()[:16]
