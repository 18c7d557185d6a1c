"""Reader of TRL's `completions/completions_*.parquet` (TRL >= 0.28), with the recorder or without.

The tables hold text with the special tokens stripped, one row a completion, a group's rows
together. `completions_k` was sampled by the policy after k - 1 optimizer steps, and the same
batch is written again under later steps while it is being reused.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from arca_diag.errors import RolloutError, collected
from arca_diag.inputs.rollouts.record import Rollout, RolloutSet
from arca_diag.trl import IDS_COLUMN, STEP_COLUMN

_NOT_REWARDS = ("step", "prompt", "completion", "advantage", IDS_COLUMN, STEP_COLUMN)
_FAR_BELOW = 0.8  # of the length limit: a re-tokenised text this short was not cut off


def sniff(path: Path) -> bool:
    """A folder with TRL's completion tables, or one such table."""
    if path.is_dir():
        return any(path.glob("completions_*.parquet"))
    return path.is_file() and path.suffix == ".parquet" and path.name.startswith("completions_")


def read(path: Path, context: Any) -> RolloutSet:
    """Read every table, once per batch.

    Raises:
        RolloutError: A table is damaged, empty or lacks a column; up to 20 faults at once. Also
            where text must be tokenised and there is no tokenizer, or where the recorded ids do
            not decode to the text beside them.
    """
    files = sorted(path.glob("completions_*.parquet")) if path.is_dir() else [path]
    faults: list[str] = []
    rollouts: list[Rollout] = []
    batches: set[str] = set()
    duplicates = 0
    prompts = _Prompts(context.tokenizer, context.run.training_args.get("chat_template_kwargs"))
    for file in files:
        try:
            rows = _rows(file)
        except RolloutError as error:
            faults.append(str(error))
            continue
        batch = _fingerprint(rows)
        if batch in batches:
            duplicates += len(rows)
            continue
        batches.add(batch)
        rollouts += _read_batch(file, rows, context, prompts)
    if faults:
        raise RolloutError(collected(faults), hint="copy these files again, or remove them")
    _check_tokenizer(rollouts, context.tokenizer)
    return RolloutSet(
        rollouts=tuple(rollouts),
        source=f"TRL completions: {path.name}",
        files=tuple(str(file) for file in files),
        duplicates_dropped=duplicates,
    )


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        first = str(error).splitlines()[0]
        raise RolloutError(f"{file.name}: not a readable parquet file: {first}") from None
    if not rows:
        raise RolloutError(f"{file.name}: no rows in it")
    missing = [name for name in ("step", "prompt", "completion") if name not in rows[0]]
    if missing:
        raise RolloutError(f"{file.name}: no column {', '.join(missing)}: not a TRL table")
    for number, row in enumerate(rows):
        if row["prompt"] is None or row["completion"] is None or row["step"] is None:
            raise RolloutError(f"{file.name}: row {number} has no step, prompt or completion")
        for column, is_right in _KINDS.items():
            if row.get(column) is not None and not is_right(row[column]):
                raise RolloutError(f"{file.name}: row {number}: {column} is not what TRL writes")
    return rows


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 2**63 and value == int(value)


def _is_message(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(part, dict) for part in value)
    )


_KINDS: dict[str, Callable[[Any], bool]] = {
    "step": _is_whole,
    STEP_COLUMN: _is_whole,
    "prompt": _is_message,
    "completion": _is_message,
    # Ids beyond 32 bits are no token's, and tokenizers cannot even be asked about them.
    IDS_COLUMN: lambda ids: (
        isinstance(ids, list) and all(isinstance(i, int) and abs(i) < 2**31 for i in ids)
    ),
}


def _fingerprint(rows: list[dict[str, Any]]) -> str:
    """The batch, whatever step it was written under."""
    content = [[row["prompt"], row["completion"], row.get("advantage")] for row in rows]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _read_batch(
    file: Path, rows: list[dict[str, Any]], context: Any, prompts: "_Prompts"
) -> Iterator[Rollout]:
    sampled = rows[0].get(STEP_COLUMN)
    step = int(sampled) if sampled is not None else max(0, int(rows[0]["step"]) - 1)
    # In the table's order, which is that of training and of reward_weights; the log's is sorted.
    logged = [key for key in rows[0] if key in context.run.reward_columns]
    rewards = logged or [
        key
        for key in rows[0]
        if key not in _NOT_REWARDS and any(isinstance(row[key], float) for row in rows)
    ]
    given = context.run.training_args.get("reward_weights")
    weights = [_finite(w) for w in given] if isinstance(given, list) else []
    if len(weights) != len(rewards) or None in weights:
        weights = [1.0] * len(rewards)
    limit = context.run.training_args.get("max_completion_length")
    number = 0
    for group, size in enumerate(_group_sizes(rows, context.run.training_args)):
        for row in rows[number : number + size]:
            ids, exact, text = _completion(file, number, row, context.tokenizer)
            if ids:
                yield Rollout(
                    id=f"{file.stem}/{number}",
                    step=step,
                    group_id=f"{file.stem}/g{group}",
                    prompt_ids=prompts.ids(file, number, row["prompt"]),
                    completion_ids=ids,
                    mask=(True,) * len(ids),
                    reward=_reward(row, rewards, weights),
                    advantage=_finite(row.get("advantage")),
                    finish_reason=_finish_reason(ids, exact, context.end_tokens, limit),
                    prompt_text=prompts.text(row["prompt"]),
                    completion_text=text,
                    ids_exact=exact,
                )
            number += 1


def _group_sizes(rows: list[dict[str, Any]], arguments: dict[str, Any]) -> list[int]:
    """Rows per group: runs of equal prompts, cut to num_generations where that fits.

    Two groups of the same prompt can lie side by side; only num_generations tells them apart.
    """
    runs = [
        len(list(same))
        for _, same in itertools.groupby(rows, key=lambda r: json.dumps(r["prompt"]))
    ]
    size = arguments.get("num_generations")
    if isinstance(size, int) and size > 0 and all(run % size == 0 for run in runs):
        return [size] * (len(rows) // size)
    return runs


def _completion(
    file: Path, number: int, row: dict[str, Any], tokenizer: Any | None
) -> tuple[tuple[int, ...], bool, str]:
    text = _text(row["completion"])
    recorded = row.get(IDS_COLUMN)
    if recorded is not None:
        return tuple(int(i) for i in recorded), True, text
    if tokenizer is None:
        raise RolloutError(
            f"{file.name}: row {number}: the table holds text, and the run has no tokenizer",
            hint="give the base with --base (its folder holds the tokenizer)",
        )
    # No end-of-sequence id is added: whether there was one is unknown, so it is not scored.
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]), False, text


def _text(message: Any) -> str:
    """What the model wrote, of a plain text or of a list of chat messages."""
    if isinstance(message, str):
        return message
    parts = []
    for part in message:
        content = part.get("content")
        parts.append(content if isinstance(content, str) else json.dumps(content))
    return "".join(parts)


def _reward(row: dict[str, Any], columns: list[str], weights: list[float | None]) -> float | None:
    """The weighted sum over reward functions; those that returned None are left out, as in TRL."""
    parts = [
        (weight or 0.0) * value
        for name, weight in zip(columns, weights, strict=True)
        if (value := _finite(row.get(name))) is not None
    ]
    return math.fsum(parts) if parts else None


def _finite(value: Any) -> float | None:
    try:
        ok = isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return None
    return float(value) if ok else None


def _finish_reason(
    ids: tuple[int, ...], exact: bool, end_tokens: frozenset[int], limit: Any
) -> str | None:
    if exact:
        return "stop" if ids[-1] in end_tokens else "length"
    if isinstance(limit, int) and len(ids) < _FAR_BELOW * limit:
        return "stop"
    return None  # re-tokenised text can be longer or shorter than what was sampled


class _Prompts:
    """Prompts as ids and as text, each distinct prompt rendered once."""

    def __init__(self, tokenizer: Any | None, template_arguments: Any) -> None:
        self.tokenizer = tokenizer
        self.arguments = template_arguments if isinstance(template_arguments, dict) else {}
        self.known: dict[str, tuple[int, ...]] = {}

    def ids(self, file: Path, number: int, prompt: Any) -> tuple[int, ...]:
        """As TRL tokenises it: chats through the template, plain text as it is."""
        key = json.dumps(prompt)
        if key not in self.known:
            self.known[key] = self._render(file, number, prompt)
        return self.known[key]

    def _render(self, file: Path, number: int, prompt: Any) -> tuple[int, ...]:
        if self.tokenizer is None:
            raise RolloutError(
                f"{file.name}: row {number}: the prompt is text, and the run has no tokenizer",
                hint="give the base with --base (its folder holds the tokenizer)",
            )
        if isinstance(prompt, str):
            ids = self.tokenizer(prompt)["input_ids"]
        else:
            messages = [{k: v for k, v in m.items() if v is not None} for m in prompt]
            try:
                # Rendered and then encoded: what apply_chat_template returns for ids has
                # changed between versions of transformers.
                text = self.tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=False, **self.arguments
                )
            except Exception as error:  # the template is the run's own program
                raise RolloutError(
                    f"{file.name}: row {number}: the chat template fails on this prompt: {error}",
                    hint="is the tokenizer the one the run was trained with?",
                ) from None
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise RolloutError(f"{file.name}: row {number}: the prompt has no token")
        return tuple(ids)

    @staticmethod
    def text(prompt: Any) -> str:
        """For people to read."""
        return prompt if isinstance(prompt, str) else "\n".join(_text([m]) for m in prompt)


def _check_tokenizer(rollouts: list[Rollout], tokenizer: Any | None) -> None:
    """Recorded ids must decode to the text beside them, or every prompt is tokenised wrongly."""
    exact = [r for r in rollouts if r.ids_exact and min(r.completion_ids) >= 0][:16]
    if tokenizer is None or not exact:
        return
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
