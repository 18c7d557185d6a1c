"""All that a scan reads, read and checked: run, adapters, base, tokenizer, rollouts."""

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arca_diag.config import ScanConfig
from arca_diag.errors import CheckpointError, ConfigError
from arca_diag.inputs.adapters import Adapter, check_same_kind, read_adapter
from arca_diag.inputs.base import (
    Base,
    end_tokens,
    find_base,
    load_config,
    load_tokenizer,
    stay_offline,
)
from arca_diag.inputs.rollouts import READERS, Reader, columns
from arca_diag.inputs.rollouts.census import Census, find_source, load, none_found, take_census
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.rollouts.tokenise import check_fits_model, to_rollouts
from arca_diag.inputs.runs import Checkpoint, Run, select_checkpoints


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
        base_sha256: Hash of the base's configuration and weights.
        tokenizer: The run's tokenizer, or None.
        census: What the rollout files hold.
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
    base_sha256: str
    tokenizer: Any | None
    census: Census
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
    def salt(self) -> bytes:
        """A key that only who has the rollouts can know: it hides names in redacted tables."""
        first = Path(self.census.notes.files[0])
        with first.open("rb") as handle:
            return hashlib.file_digest(handle, lambda: hashlib.sha256(b"arca-diag salt")).digest()

    def load(self, groups: Collection[str]) -> tuple[Rollout, ...]:
        """The completions of these groups, as token ids that fit the base.

        Raises:
            RolloutError: They cannot be tokenised, or do not fit the base.
        """
        samples = load(self.census, self.run, groups)
        rollouts = to_rollouts(samples.values(), self.tokenizer, self.end_tokens, self.run)
        model = load_config(self.base)
        positions = getattr(model, "max_position_embeddings", None)
        check_fits_model(rollouts, int(model.vocab_size), positions)
        return rollouts

    def token_pieces(self) -> list[str] | None:
        """Token id -> its text as the tokenizer writes it; None without a tokenizer."""
        if self.tokenizer is None:
            return None
        size = int(load_config(self.base).vocab_size)
        known = {i: piece for piece, i in self.tokenizer.get_vocab().items()}
        return [known.get(i, "") for i in range(size)]


def gather(config: ScanConfig, run: Run, also: frozenset[str]) -> Inputs:
    """Read everything that the configuration asks for.

    Args:
        config: What was asked.
        run: What `find_run` made of the path.
        also: Names of checkpoints that an earlier scan measured; they stay in the result.

    Raises:
        ArcaError: Something is missing, damaged or does not belong together. One bad checkpoint
            among several is not an error, unless it was named.
    """
    if not config.allow_download:
        stay_offline()
    readers = _readers(config)
    asked = select_checkpoints(run, config.checkpoints)
    wanted = tuple(c for c in run.checkpoints if c in asked or c.name in also)
    named = run.named is not None or config.checkpoints != "all"
    insist = frozenset(asked) if named or len(wanted) == 1 else frozenset()
    adapters, unreadable = _read_adapters(wanted, insist)
    check_same_kind(adapters)

    base = find_base(
        config.base, adapters[0].base_name, run.root, allow_download=config.allow_download
    )
    tokenizer = load_tokenizer([*(c.path for c in reversed(wanted)), run.root], base)
    found = find_source(config.rollouts, run, readers)
    if found is None:
        raise none_found(run)
    census = take_census(found, run, skip_bad_lines=config.skip_bad_lines)

    temperature, source = _temperature(config, run)
    hashes = {_shown(a.checkpoint.path, run.root): a.sha256 for a in adapters}
    for name in census.notes.files:
        with Path(name).open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        hashes[_shown(Path(name), run.root)] = digest
    return Inputs(
        run=run,
        checkpoints=wanted,
        adapters=adapters,
        unreadable=unreadable,
        insist=insist,
        base=base,
        base_sha256=base.sha256(),
        tokenizer=tokenizer,
        census=census,
        end_tokens=end_tokens(tokenizer, base),
        temperature=temperature,
        temperature_source=source,
        hashes=dict(sorted(hashes.items())),
    )


def _readers(config: ScanConfig) -> tuple[Reader, ...]:
    if config.columns is None:
        return READERS
    if config.rollouts is None:
        raise ConfigError(
            "--columns names the columns of a file, and no file is given",
            hint="give a JSONL, parquet or CSV file with --rollouts",
        )
    return (columns.reader(columns.parse_columns(config.columns)),)


def _read_adapters(
    wanted: tuple[Checkpoint, ...], insist: frozenset[Checkpoint]
) -> tuple[tuple[Adapter, ...], dict[Checkpoint, CheckpointError]]:
    adapters, unreadable = [], {}
    for checkpoint in wanted:
        try:
            adapters.append(read_adapter(checkpoint))
        except CheckpointError as error:
            if checkpoint in insist:
                raise
            unreadable[checkpoint] = error
    if not adapters:
        raise next(iter(unreadable.values()))
    return tuple(adapters), unreadable


def _temperature(config: ScanConfig, run: Run) -> tuple[float, str]:
    if config.temperature is not None:
        return config.temperature, "given with --temperature"
    recorded = run.training_args.get("temperature")
    if isinstance(recorded, int | float) and math.isfinite(recorded) and recorded > 0:
        return float(recorded), f"recorded in {run.training_args_source}"
    return 1.0, "assumed: nothing recorded it"


def _shown(path: Path, root: Path) -> str:
    """A path as it may be recorded: relative to the run, or the bare name."""
    path = path.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
