"""Samples -> `Rollout`s: text becomes token ids here, and nowhere else.

Chats go through the run's template, plain prompts as they are, completions by themselves with
nothing added: prompt and completion tokenised together would merge across their border.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arca_diag.errors import RolloutError, collected
from arca_diag.inputs.rehearsal import check_tokenizer
from arca_diag.inputs.rollouts.record import Chat, Rollout, Sample
from arca_diag.inputs.runs import Run
from arca_diag.inputs.templates import TemplateFault, render_chats

_FAR_BELOW = 0.8  # of the length limit: a re-tokenised text this short was not cut off


def to_rollouts(
    samples: Iterable[Sample], tokenizer: Any | None, end_tokens: frozenset[int], run: Run
) -> tuple[Rollout, ...]:
    """Give every sample its token ids.

    Args:
        samples: What a reader yielded.
        tokenizer: The run's, or None if there is none; then every sample must hold ids.
        end_tokens: Ids that end a completion.
        run: Its training arguments hold the template's arguments and the length limit.

    Returns:
        In the order given; a completion whose text gives no token is left out.

    Ids of padding are dropped: some exports keep the rectangle that a batch was.

    Raises:
        RolloutError: Text without a tokenizer, a template that fails, a prompt without a token,
            or recorded ids that do not decode to the text beside them.
    """
    chosen = [_unpadded(sample, tokenizer, end_tokens) for sample in samples]
    prompts = prompt_ids(chosen, tokenizer, run)
    _try_out(tokenizer, [s.completion for s in chosen if isinstance(s.completion, str)])
    limit = run.training_args.get("max_completion_length")
    only_whole = run.training_args.get("mask_truncated_completions") is True
    rollouts = []
    for sample in chosen:
        ids = sample.completion
        if isinstance(ids, str):
            # No end-of-sequence id is added: whether there was one is unknown, so it is not scored.
            ids = tuple(tokenizer(ids, add_special_tokens=False)["input_ids"])  # type: ignore[misc]
        if not ids:
            continue
        exact = sample.has_ids and sample.ids_exact
        reason = sample.finish_reason or _finish_reason(ids, exact, end_tokens, limit)
        dropped = only_whole and reason == "length"
        mask = sample.mask if sample.mask is not None else (True,) * len(ids)
        rollouts.append(
            Rollout(
                id=sample.id,
                step=sample.step,
                group_id=sample.group_id,
                prompt_ids=prompts.ids[sample.id],
                completion_ids=ids,
                mask=(False,) * len(ids) if dropped else mask,
                reward=sample.reward,
                advantage=sample.advantage,
                finish_reason=reason,
                prompt_text=sample.prompt_text,
                completion_text=sample.completion_text,
                ids_exact=exact,
                guessed_prompt=sample.guessed_prompt
                or (prompts.of_today and not isinstance(sample.prompt, tuple | str)),
                sampling_logprobs=sample.sampling_logprobs,
                trainer_logprobs=sample.trainer_logprobs,
                entropies=sample.entropies,
            )
        )
    _check_tokenizer(rollouts, tokenizer)
    return tuple(rollouts)


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Token ids of prompts.

    Attributes:
        ids: By the sample's id.
        of_today: The template writes the date: chats were rendered for today, and those of the
            training for another day.
    """

    ids: Mapping[str, tuple[int, ...]]
    of_today: bool


def prompt_ids(samples: Sequence[Sample], tokenizer: Any | None, run: Run) -> Prompts:
    """The prompt's token ids of every sample; each distinct prompt is rendered once.

    Raises:
        RolloutError: Text without a tokenizer, a template that fails, a prompt without a token.
    """
    _need_tokenizer(samples, tokenizer)
    distinct: dict[str, Sample] = {}
    for sample in samples:
        distinct.setdefault(_key(sample), sample)
    chats = {k: s for k, s in distinct.items() if not isinstance(s.prompt, tuple | str)}
    rendered, of_today = _rendered(list(chats.values()), tokenizer, run)
    texts = dict(zip(chats, rendered, strict=True))
    plain = [s.prompt for s in distinct.values() if isinstance(s.prompt, str)]
    _try_out(tokenizer, [*plain, *texts.values()])
    ids = {key: _prompt_ids(s, texts.get(key), tokenizer) for key, s in distinct.items()}
    return Prompts(ids={s.id: ids[_key(s)] for s in samples}, of_today=of_today)


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


def _need_tokenizer(samples: Sequence[Sample], tokenizer: Any | None) -> None:
    if tokenizer is not None:
        return
    for sample in samples:
        if not (sample.has_ids and isinstance(sample.prompt, tuple)):
            what = "the prompt" if sample.has_ids else "the completion"
            raise RolloutError(
                f"{sample.place}: {what} is text, and the run has no tokenizer",
                hint="give the base with --base (its folder holds the tokenizer)",
            )


def _unpadded(sample: Sample, tokenizer: Any | None, end_tokens: frozenset[int]) -> Sample:
    """Without padding to the left of the prompt and to the right of the completion.

    The token that pads may also begin a text or end one: then the one next to it stays.
    """
    pad = getattr(tokenizer, "pad_token_id", None)
    prompt, completion = sample.prompt, sample.completion
    if pad is None or isinstance(completion, str):
        return sample
    if isinstance(prompt, tuple):
        begins = pad == getattr(tokenizer, "bos_token_id", None)
        prompt = prompt[max(0, _run_of(pad, prompt) - begins) :]
    keep = len(completion) - max(0, _run_of(pad, completion[::-1]) - (pad in end_tokens))

    def cut(values: Any) -> Any:
        return values[:keep] if isinstance(values, tuple) else values

    return dataclasses.replace(
        sample,
        prompt=prompt,
        completion=completion[:keep],
        mask=cut(sample.mask),
        advantage=cut(sample.advantage),
        sampling_logprobs=cut(sample.sampling_logprobs),
        trainer_logprobs=cut(sample.trainer_logprobs),
        entropies=cut(sample.entropies),
    )


def _run_of(token: int, ids: tuple[int, ...]) -> int:
    """How many of the first ids are this one."""
    return next((place for place, i in enumerate(ids) if i != token), len(ids))


def _key(sample: Sample) -> str:
    return json.dumps([sample.prompt, sample.rendered], sort_keys=True, default=str)


def _rendered(samples: Sequence[Sample], tokenizer: Any | None, run: Run) -> tuple[list[str], bool]:
    """The chats as text, through the tokenizer's template: the run's own program, so not here.

    And whether the template asked for the date.
    """
    if not samples:
        return [], False
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not isinstance(template, str):
        raise RolloutError(
            f"{samples[0].place}: the prompt is a chat, and the tokenizer has no chat template",
            hint="is the tokenizer the one the run was trained with?",
        )
    named = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}  # type: ignore[union-attr]
    given = run.training_args.get("chat_template_kwargs")
    chats = [[{k: v for k, v in m.items() if v is not None} for m in _chat(s)] for s in samples]
    done = render_chats(
        template,
        chats,
        variables=given if isinstance(given, dict) else {},
        special_tokens=named,
    )
    texts = []
    for sample, text in zip(samples, done.texts, strict=True):
        if isinstance(text, TemplateFault):
            raise RolloutError(
                f"{sample.place}: the chat template fails on this prompt: {text.reason}",
                hint="is the tokenizer the one the run was trained with?",
            )
        texts.append(text)
    return texts, done.uses_clock


def _chat(sample: Sample) -> Chat:
    assert not isinstance(sample.prompt, tuple | str), "only chats are rendered"
    return sample.prompt


def _prompt_ids(sample: Sample, text: str | None, tokenizer: Any | None) -> tuple[int, ...]:
    """The ids of a prompt; `text` is what a chat was rendered to."""
    if isinstance(sample.prompt, tuple):
        if not sample.prompt:
            raise RolloutError(f"{sample.place}: the prompt is nothing but padding")
        return sample.prompt
    assert tokenizer is not None
    if isinstance(sample.prompt, str):
        # As trainers do: what a template wrote holds its special tokens already.
        ids = tokenizer(sample.prompt, add_special_tokens=not sample.rendered)["input_ids"]
    else:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise RolloutError(f"{sample.place}: the prompt has no token")
    return tuple(ids)


def _try_out(
    tokenizer: Any | None, texts: Sequence[str] = (), ids: Sequence[Sequence[int]] = ()
) -> None:
    """Make sure that the tokenizer, which a run may have left, comes to an end with these."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and (texts or ids):
        check_tokenizer(backend.to_str(), "tokenizer.json", texts, ids)


def _finish_reason(
    ids: tuple[int, ...], exact: bool, end_tokens: frozenset[int], limit: object
) -> str | None:
    if exact:
        if ids[-1] in end_tokens:
            return "stop"
        return "length" if not isinstance(limit, int) or len(ids) >= limit else None
    if isinstance(limit, int) and len(ids) < _FAR_BELOW * limit:
        return "stop"
    return None  # re-tokenised text can be longer or shorter than what was sampled


def _check_tokenizer(rollouts: Sequence[Rollout], tokenizer: Any | None) -> None:
    """Recorded ids must decode to the text beside them, or every prompt is tokenised wrongly."""
    exact = [
        r for r in rollouts if r.ids_exact and r.completion_text and min(r.completion_ids) >= 0
    ][:16]
    if tokenizer is None or not exact:
        return
    _try_out(tokenizer, ids=[r.completion_ids for r in exact])
    # Blanks aside: some tokenizers tidy them up, and whether they do is a matter of version.
    wrong = [
        r
        for r in exact
        if tokenizer.decode(list(r.completion_ids), skip_special_tokens=True).split()
        != r.completion_text.split()
    ]
    if len(wrong) > len(exact) // 2:
        raise RolloutError(
            f"rollout {wrong[0].id!r}: the recorded token ids do not decode to the recorded text: "
            "the tokenizer at hand is not the run's",
            hint="give the base the run was trained from with --base",
        )
