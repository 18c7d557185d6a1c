"""Completions for a run that kept none: sampled here from its checkpoints, and said to be."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from arca_diag.errors import CheckpointError
from arca_diag.inputs.rollouts.record import Rollout, Sample
from arca_diag.inputs.runs import Checkpoint
from arca_diag.progress import Progress
from arca_diag.replay.adapted import AdaptedModel


def sample_completions(
    model: AdaptedModel,
    checkpoints: Sequence[Checkpoint],
    prompts: Sequence[Sample],
    prompt_ids: Mapping[str, tuple[int, ...]],
    *,
    each: int,
    longest: int,
    temperature: float,
    seed: int,
    tokenizer: Any | None,
    end_tokens: frozenset[int],
    progress: Progress,
) -> Iterator[Rollout]:
    """Sample from every checkpoint: plainly from softmax(logits / temperature), nothing cut off.

    Args:
        model: The base with the checkpoints' adapters resident.
        checkpoints: Whose policies sample.
        prompts: What they are asked.
        prompt_ids: Token ids of each prompt, by its id.
        each: Completions a prompt.
        longest: Tokens after which a completion is cut off.
        temperature: Of the sampling.
        seed: With checkpoint and prompt it decides every token, whatever else is sampled.
        tokenizer: For the text that people read; may be None.
        end_tokens: Ids that end a completion.
        progress: Hears of the stage.
    """
    ends = sorted(end_tokens)
    # A base's own brings top-k, penalties and other ways not to sample, also into one that is
    # handed to `generate`: what that leaves open is filled from the model's.
    model.base.generation_config = GenerationConfig()
    how = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=longest,
        num_return_sequences=each,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    device = model.entry
    for checkpoint in checkpoints:
        progress.stage(f"sampling from {checkpoint.name}")
        for prompt in prompts:
            ids = prompt_ids[prompt.id]
            given = torch.tensor([ids], device=device)
            with (
                torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
                torch.inference_mode(),
                model.using(checkpoint.name),
            ):
                torch.manual_seed(_seed(seed, checkpoint.name, prompt.id))
                try:
                    rows = model.base.generate(
                        given, attention_mask=torch.ones_like(given), generation_config=how
                    )
                except RuntimeError as error:  # of probabilities that are none
                    raise CheckpointError(
                        f"{checkpoint.name} cannot be sampled from: {error}",
                        hint="if training diverged before it, leave it out with --checkpoints",
                    ) from error
            for number, row in enumerate(rows[:, len(ids) :].tolist()):
                yield _rollout(checkpoint, prompt, ids, number, _ended(row, end_tokens), tokenizer)


def _rollout(
    checkpoint: Checkpoint,
    prompt: Sample,
    ids: tuple[int, ...],
    number: int,
    completion: tuple[tuple[int, ...], bool],
    tokenizer: Any | None,
) -> Rollout:
    sampled, stopped = completion
    text = tokenizer.decode(list(sampled), skip_special_tokens=True) if tokenizer else ""
    return Rollout(
        id=f"{checkpoint.name}/{prompt.id}/{number}",
        step=checkpoint.step,
        group_id=f"{checkpoint.name}/{prompt.id}",
        prompt_ids=ids,
        completion_ids=sampled,
        mask=(True,) * len(sampled),
        finish_reason="stop" if stopped else "length",
        prompt_text=prompt.prompt_text,
        completion_text=text,
    )


def _ended(row: list[int], end_tokens: frozenset[int]) -> tuple[tuple[int, ...], bool]:
    """The completion up to its first end token, and whether it has one."""
    end = next((place for place, token in enumerate(row) if token in end_tokens), None)
    return (tuple(row), False) if end is None else (tuple(row[: end + 1]), True)


def _seed(seed: int, *names: str) -> int:
    """A seed of its own for every prompt: what else is sampled does not move it."""
    digest = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
