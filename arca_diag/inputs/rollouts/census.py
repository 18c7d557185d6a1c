"""Two walks over the rollout files: one counts what is there, one loads what was chosen.

Between them nothing of a completion is kept but its name, group, step and size, so that files
of any length are read in bounded memory.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from arca_diag.errors import RolloutError, collected
from arca_diag.inputs.rollouts import READERS, Reader
from arca_diag.inputs.rollouts.record import Notes, Rollout, Sample
from arca_diag.inputs.runs import Run
from arca_diag.inputs.untrusted import inside

_TOLERANCE = 0.02  # of the largest advantage of a group: trainers write few digits
_CHARACTERS_PER_TOKEN = 4  # where nothing but text is known and only a cost is to be foretold


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the rollouts lie and who reads them; `within` as in `Notes`.

    Without a reader they were sampled here, and `path` holds the prompts.
    """

    reader: Reader | None
    path: Path
    within: Path | None = None

    @property
    def label(self) -> str:
        """For the report."""
        if self.reader is None:
            return f"sampled by this scan, not by the run; prompts: {self.path.name}"
        return f"{self.reader.name}: {self.path.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One completion, without its contents.

    Attributes:
        id: The sample's.
        group_id: The sample's.
        step: The sample's.
        tokens: Tokens of prompt and completion; a guess where one of them is text.
        has_ids: Whether the completion is given as token ids.
        ids_exact: Whether these are the ids that were sampled.
        batch: The sample's.
        fingerprint: Equal for equal completions, within one census.
        guessed_size: Whether `tokens` is a guess.
        guessed_prompt: The sample's.
        reward: The sample's.
        advantage: The sample's; None also where it differs from token to token.
    """

    id: str
    group_id: str
    step: int | None
    tokens: int
    has_ids: bool
    ids_exact: bool
    batch: str
    fingerprint: int
    guessed_size: bool
    guessed_prompt: bool
    reward: float | None = None
    advantage: float | None = None


@dataclass(frozen=True, kw_only=True)
class Census:
    """What the rollout files hold.

    Attributes:
        source: Where they lie.
        entries: Every good completion, in file order.
        notes: What else was met.
        lines_skipped: Completions dropped because of a bad line in their group.
        groups_skipped: Groups dropped likewise.
    """

    source: Source
    entries: tuple[Entry, ...]
    notes: Notes
    lines_skipped: int
    groups_skipped: int


def find_source(
    path: Path | None, run: Run, readers: tuple[Reader, ...] = READERS
) -> Source | None:
    """The rollouts at `path`, or those that the run left; None if it left none.

    Raises:
        RolloutError: `path` does not exist, or is of no format that is known.
    """
    if path is None:
        for reader in readers:
            for place in reader.places:
                for found in sorted(run.root.glob(place)):
                    if inside(found, run.root) and reader.sniff(found):
                        return Source(reader=reader, path=found, within=run.root)
        return None
    if not path.exists():
        raise RolloutError(f"--rollouts {path}: no such path", hint="give a file or a folder")
    for reader in readers:
        if reader.sniff(path):
            return Source(reader=reader, path=path)
    raise RolloutError(
        f"{path}: no rollout file that is known here",
        hint="known: "
        + "; ".join(reader.name for reader in readers)
        + "; or name its columns with --columns prompt=...,completion=...",
    )


def none_found(run: Run) -> RolloutError:
    """What to say of a run without rollouts."""
    places = (place for reader in READERS for place in reader.places)
    for link in (path for place in places for path in run.root.glob(place)):
        if not inside(link, run.root):
            return RolloutError(
                f"{run.root.name}: no rollouts: {link.name} is a link that leads out of the run, "
                "and is not followed",
                hint="copy what it points at into the run, or name that with --rollouts",
            )
    return RolloutError(
        f"{run.root.name}: no rollouts: it has no completions/ folder with completions_*.parquet "
        "in it, nor what another trainer leaves",
        hint="scan RUN --prompts FILE --generate 8 samples some from every checkpoint; train with "
        "GRPOConfig(log_completions=True, logging_steps=1) and the reward function "
        "arca_diag.trl.recorder(), which records exact token ids; or give a file with --rollouts",
    )


def take_census(source: Source, run: Run, *, skip_bad_lines: bool) -> Census:
    """Read everything once and count it.

    Raises:
        RolloutError: Faulty lines, up to 20 at once; with `skip_bad_lines` the whole group of a
            faulty line is dropped instead, as long as its group can be read and at most 1% of
            the groups (but one in any case) go. Also where nothing is left.
    """
    notes = Notes(within=source.within)
    entries: list[Entry] = []
    ids: set[str] = set()
    groups: dict[str, str] = {}  # to hold the name of a group once, not with every completion
    for sample in _samples(source, run, notes):
        if sample.id in ids:
            # Places are not kept: the first is looked for again where it will be shown.
            before = _place_of(sample.id, source, run) if notes.n_faults < 20 else ""
            notes.fault(
                sample.place, f"id {sample.id!r} was used before, at {before}", sample.group_id
            )
            continue
        ids.add(sample.id)
        entries.append(_entry(sample, groups.setdefault(sample.group_id, sample.group_id)))
    lines = notes.n_faults
    _check_faults(notes, {e.group_id for e in entries}, source, skip_bad_lines)
    kept = tuple(e for e in entries if e.group_id not in notes.bad_groups)
    if not kept:
        left = "; ".join(f"{n} left out: {why}" for why, n in notes.left_out.items())
        if notes.eval_excluded:
            left = f"{notes.eval_excluded} left out: sampled by an evaluation; {left}".rstrip("; ")
        raise RolloutError(
            f"{source.path.name}: no rollout in it" + (f" ({left})" if left else ""),
            hint="the file is empty, or every completion in it is"
            if not left
            else "give other completions with --rollouts",
        )
    if notes.group_source and (doubtful := _doubtful_groups(kept, run)):
        notes.group_source += (
            f"; {doubtful} of these groups may be two, or a part of one: their advantages do not "
            "sum to 0, or differ where the rewards are equal"
        )
    return Census(
        source=source,
        entries=kept,
        notes=notes,
        lines_skipped=len(entries) - len(kept) + lines,
        groups_skipped=len(notes.bad_groups),
    )


def load(census: Census, run: Run, groups: Collection[str]) -> Mapping[str, Sample]:
    """The samples of the groups that were chosen, by id.

    Raises:
        RolloutError: The files are no longer what they were.
    """
    wanted = {e.id: e.group_id for e in census.entries if e.group_id in groups}
    found = {
        sample.id: sample
        for sample in _samples(census.source, run, Notes(within=census.source.within))
        if wanted.get(sample.id) == sample.group_id
    }
    if found.keys() != wanted.keys():
        raise RolloutError(
            f"{census.source.path.name} changed while it was read",
            hint="is the run still training? Scan again, or scan a copy",
        )
    return found


def answered_alike(census: Census) -> list[bool]:
    """For every group of at least two, in step order: are its completions all the same?"""
    answers: dict[str, list[int]] = {}
    for entry in sorted(census.entries, key=lambda e: -1 if e.step is None else e.step):
        answers.setdefault(entry.group_id, []).append(entry.fingerprint)
    return [len(set(group)) == 1 for group in answers.values() if len(group) > 1]


def sampled_here(prompts: Path, rollouts: Iterable[Rollout]) -> Census:
    """The census of completions that this scan sampled itself."""
    entries = tuple(
        Entry(
            id=r.id,
            group_id=r.group_id,
            step=r.step,
            tokens=len(r.prompt_ids) + len(r.completion_ids),
            has_ids=True,
            ids_exact=True,
            batch="",
            fingerprint=hash(r.completion_ids),
            guessed_size=False,
            guessed_prompt=False,
        )
        for r in rollouts
    )
    notes = Notes(files=[str(prompts)], step_source="each checkpoint sampled its own here")
    source = Source(reader=None, path=prompts)
    return Census(source=source, entries=entries, notes=notes, lines_skipped=0, groups_skipped=0)


def _samples(source: Source, run: Run, notes: Notes) -> Iterator[Sample]:
    return source.reader.read(source.path, run, notes) if source.reader else iter(())


def _place_of(identity: str, source: Source, run: Run) -> str:
    again = _samples(source, run, Notes(within=source.within))
    return next((sample.place for sample in again if sample.id == identity), "")


def _entry(sample: Sample, group: str) -> Entry:
    return Entry(
        id=sample.id,
        group_id=group,
        step=sample.step,
        tokens=_size(sample.prompt) + _size(sample.completion),
        has_ids=sample.has_ids,
        ids_exact=sample.has_ids and sample.ids_exact,
        batch=sample.batch,
        fingerprint=hash(sample.completion),
        guessed_size=not (sample.has_ids and isinstance(sample.prompt, tuple)),
        guessed_prompt=sample.guessed_prompt,
        reward=sample.reward,
        advantage=_one_value(sample.advantage),
    )


def _one_value(advantage: float | tuple[float, ...] | None) -> float | None:
    if not isinstance(advantage, tuple):
        return advantage
    values = {value for value in advantage if not math.isnan(value)}
    return values.pop() if len(values) == 1 else None


def _doubtful_groups(entries: Iterable[Entry], run: Run) -> int:
    """Groups whose advantages are not those of one group: rewards less their mean, scaled."""
    # Where rewards are scaled one by one, completions of equal sums can differ in advantage.
    per_reward = run.training_args.get("multi_objective_aggregation") == "normalize_then_sum"
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group_id, []).append(entry)
    return sum(_is_doubtful(group, equal=not per_reward) for group in groups.values())


def _is_doubtful(group: list[Entry], *, equal: bool) -> bool:
    advantages = [e.advantage for e in group if e.advantage is not None]
    if len(advantages) < len(group):
        return False
    tolerance = _TOLERANCE * max(map(abs, advantages))
    if abs(math.fsum(advantages)) > tolerance * len(group):
        return True
    by_reward: dict[float | None, list[float]] = {}
    for entry, advantage in zip(group, advantages, strict=True):
        by_reward.setdefault(entry.reward, []).append(advantage)
    by_reward.pop(None, None)
    return equal and any(max(a) - min(a) > tolerance for a in by_reward.values())


def _size(content: object) -> int:
    if isinstance(content, tuple):
        return len(content)
    return -(-len(str(content)) // _CHARACTERS_PER_TOKEN)


def _check_faults(notes: Notes, groups: set[str], source: Source, skip: bool) -> None:
    if not notes.n_faults:
        return
    if not skip or notes.groupless:
        hint = "mend, copy again or remove what is named"
        if not skip and notes.bad_groups:
            hint += ", or drop their groups with --skip-bad-lines"
        raise RolloutError(collected(notes.faults, total=notes.n_faults), hint=hint)
    everything = groups | notes.bad_groups
    if len(notes.bad_groups) > max(1, len(everything) // 100):
        raise RolloutError(
            f"{source.path.name}: {len(notes.bad_groups)} of {len(everything)} groups have a bad "
            "line; --skip-bad-lines drops at most 1%",
            hint="mend the file: too much of it is bad to leave it out",
        )
