"""All that a scan reads, read and checked: run, adapters, base, tokenizer, rollouts."""

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from arca_diag.config import ScanConfig
from arca_diag.errors import CheckpointError, RolloutError
from arca_diag.inputs.adapters import Adapter, check_same_kind, read_adapter
from arca_diag.inputs.arguments import temperature_of
from arca_diag.inputs.base import Base, find_base
from arca_diag.inputs.gathered import Inputs
from arca_diag.inputs.models import end_tokens, load_config, load_tokenizer, stay_offline
from arca_diag.inputs.prompts import read_prompts
from arca_diag.inputs.reference import choose_reference
from arca_diag.inputs.rollouts import columns
from arca_diag.inputs.rollouts.census import (
    find_source,
    load,
    none_found,
    sampled_here,
    take_census,
)
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.rollouts.tokenise import check_fits_model, to_rollouts
from arca_diag.inputs.runs import Checkpoint, Run, select_checkpoints
from arca_diag.inputs.token_classes import classes_of


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
    readers = columns.readers(config.columns, config.rollouts)
    asked = select_checkpoints(run, config.checkpoints)
    wanted = tuple(c for c in run.checkpoints if c in asked or c.name in also)
    named = run.named is not None or config.checkpoints != "all"
    insist = frozenset(asked) if named or len(wanted) == 1 else frozenset()
    adapters, unreadable = _read_adapters(wanted, insist)
    check_same_kind(adapters)
    reference = choose_reference(config.reference, run, adapters)

    base = find_base(
        config.base,
        adapters[0].base_name,
        run.root,
        allow_download=config.allow_download,
        revision=adapters[0].config.get("revision"),
        trust_remote_code=config.trust_remote_code,
    ).quantised(config.quantize)
    other = reference.model
    reference_base = None
    if other:
        found_other = find_base(str(other), "", run.root, allow_download=False)
        reference_base = found_other.quantised(None)
    tokenizer = load_tokenizer(_tokenizer_folders(run, wanted), base, run.root)
    prompts = read_prompts(config.prompts) if config.prompts else ()
    if config.prompts:
        census = sampled_here(config.prompts, ())
    else:
        found = find_source(config.rollouts, run, readers)
        if found is None:
            raise none_found(run)
        census = take_census(found, run, skip_bad_lines=config.skip_bad_lines)

    temperature, source = temperature_of(config.temperature, run)
    hashes: dict[str, str] = {}
    for adapter in adapters:
        hashes |= _hashes_of(adapter, _shown(adapter.checkpoint.path, run.root))
    for adapter in (*reference.adapters.values(), *reference.initial.values()):
        path = adapter.checkpoint.path
        inside = path.resolve().is_relative_to(run.root)
        hashes |= _hashes_of(
            adapter, _shown(path, run.root) if inside else f"reference:{path.name}"
        )
    if reference_base:
        hashes[f"reference:{reference_base.folder.name}"] = reference_base.sha256()
    if tokenizer is not None:
        hashes["tokenizer"] = _hash_of_tokenizer(tokenizer)
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
        reference=reference,
        reference_base=reference_base,
        base=base,
        base_sha256=base.sha256(),
        tokenizer=tokenizer,
        census=census,
        prompts=prompts,
        end_tokens=end_tokens(tokenizer, base),
        temperature=temperature,
        temperature_source=source,
        hashes=dict(sorted(hashes.items())),
    )


def _hashes_of(adapter: Adapter, shown: str) -> dict[str, str]:
    config = json.dumps(adapter.config, sort_keys=True).encode()
    return {
        shown: adapter.sha256,
        f"{shown}/adapter_config.json": hashlib.sha256(config).hexdigest(),
    }


def _hash_of_tokenizer(tokenizer: Any) -> str:
    """Of what turns text into ids: the vocabulary and its rules, and the chat template."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    rules = fast.to_str() if fast is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    template = json.dumps(getattr(tokenizer, "chat_template", None), sort_keys=True)
    return hashlib.sha256(f"{rules}\n{template}".encode("utf-8", "surrogatepass")).hexdigest()


def _tokenizer_folders(run: Run, checkpoints: tuple[Checkpoint, ...]) -> list[Path]:
    """Where the run may keep its tokenizer: with an adapter, or near it as verl and NeMo-RL do."""
    folders = [c.path for c in reversed(checkpoints)]
    for checkpoint in reversed(checkpoints):
        for parent in checkpoint.path.parents:
            if parent == run.root or not parent.is_relative_to(run.root):
                break
            near = ("", "huggingface", "tokenizer", "policy/tokenizer")
            folders += [parent / name for name in near]
    return [*folders, run.root]


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


def _shown(path: Path, root: Path) -> str:
    """A path as it may be recorded: relative to the run, or the bare name."""
    path = path.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def load_rollouts(inputs: Inputs, groups: Collection[str]) -> tuple[Rollout, ...]:
    """The completions of these groups, as token ids that fit the base.

    Raises:
        RolloutError: They cannot be tokenised, or do not fit the base.
    """
    samples = load(inputs.census, inputs.run, groups)
    rollouts = to_rollouts(samples.values(), inputs.tokenizer, inputs.end_tokens, inputs.run)
    model = load_config(inputs.base)
    positions = getattr(model, "max_position_embeddings", None)
    check_fits_model(rollouts, int(model.vocab_size), positions)
    return rollouts


def check_room(base: Base, prompts: Iterable[tuple[int, ...]], longest: int) -> None:
    """Check that the base has positions for the longest prompt and completion.

    Raises:
        RolloutError: It has not.
    """
    positions = getattr(load_config(base), "max_position_embeddings", None)
    need = max(len(ids) for ids in prompts) + longest
    if positions is not None and need > positions:
        raise RolloutError(
            f"the longest prompt and {longest} new tokens need {need} positions, and the base "
            f"model has {positions}",
            hint="give less with --max-new-tokens",
        )


def token_pieces(inputs: Inputs) -> tuple[list[str] | None, list[str] | None]:
    """Token id -> its text as the tokenizer writes it, and its class; None without a tokenizer."""
    if inputs.tokenizer is None:
        return None, None
    size = int(load_config(inputs.base).vocab_size)
    known = {i: piece for piece, i in inputs.tokenizer.get_vocab().items()}
    pieces = [known.get(i, "") for i in range(size)]
    return pieces, classes_of(inputs.tokenizer, pieces, inputs.end_tokens)
