"""What the completion logs of TRL and of its kin have in common: a batch an entry.

Such a log has rewards by function, no groups, and the same batch again under each step that it
was trained on.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from arca_diag.inputs.files import number, step_number
from arca_diag.inputs.runs import Run

Arguments = Mapping[str, Any]


def fingerprint(content: object) -> str:
    """A hash of a batch, by which it is known when it is written again."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def group_sizes(prompts: Iterable[object], arguments: Arguments) -> list[int]:
    """Rows per group: runs of equal prompts, cut to num_generations where that fits.

    Two groups of the same prompt can lie side by side; only num_generations tells them apart.
    """
    written = (json.dumps(prompt, default=str) for prompt in prompts)
    runs = [len(list(same)) for _, same in itertools.groupby(written)]
    size = arguments.get("num_generations")
    if isinstance(size, int) and size > 0 and all(run % size == 0 for run in runs):
        return [size] * (sum(runs) // size)
    return runs


def sampling_step(logged: int, arguments: Arguments) -> tuple[int, str]:
    """Steps done by the policy that sampled a batch logged at a step, and how that is known.

    The log is written after the step. Trainers count batches of `gradient_accumulation_steps` to
    a step, and sample anew every `steps_per_generation` times `num_iterations` of them.
    """
    counts = [
        arguments.get(key)
        for key in ("gradient_accumulation_steps", "steps_per_generation", "num_iterations")
    ]
    micro, per_batch, uses = (c if isinstance(c, int) and 0 < c < 2**31 else None for c in counts)
    micro = micro or 1
    every = (per_batch or micro) * (uses or 1)
    last = logged * micro - 1  # the batch that ends the step
    how = "sampled after k - 1 steps"
    if every > micro:
        how += f", once for every {every / micro:g}"
    return max(0, last // every * every // micro), how


def evaluated_steps(run: Run) -> set[int]:
    """Steps after which the run's log tells of an evaluation."""
    return {
        step
        for row in run.log
        if is_evaluation(row) and (step := step_number(row.get("step"))) is not None
    }


def is_evaluation(row: Mapping[str, Any]) -> bool:
    """Whether an entry of the log is an evaluation's."""
    return "learning_rate" not in row and any(key.startswith("eval_") for key in row)


def evaluation_is_due(step: int, run: Run) -> bool:
    """Whether the run's arguments ask for an evaluation after a step that its log does not reach.

    The last step is evaluated whatever the interval.
    """
    reached = step_number(run.log[-1].get("step")) if run.log else None
    asked = run.training_args.get("eval_strategy")
    if asked not in ("steps", "epoch") or (reached is not None and step <= reached):
        return False
    if step < (number(run.training_args.get("eval_delay")) or 0):
        return False
    every = number(run.training_args.get("eval_steps")) or 0.0
    if 0 < every < 1:  # a share of the run
        every = math.ceil(every * (run.steps or 0))
    return step == run.steps or (asked == "steps" and every >= 1 and step % every == 0)


def reward_weights(columns: Sequence[str], arguments: Arguments) -> list[float]:
    """A weight for each reward function; 1 unless the run gave as many as there are."""
    given = arguments.get("reward_weights")
    weights = [finite(w) for w in given] if isinstance(given, list) else []
    known = [w for w in weights if w is not None]
    return known if len(known) == len(weights) == len(columns) else [1.0] * len(columns)


def total_reward(values: Iterable[Any], weights: Sequence[float]) -> float | None:
    """The weighted sum over reward functions; those that returned None are left out, as in TRL."""
    parts = [
        weight * number
        for value, weight in zip(values, weights, strict=True)
        if (number := finite(value)) is not None
    ]
    return finite(sum(parts)) if parts else None


def finite(value: Any) -> float | None:
    """The number, or None for what is none or is not finite."""
    try:
        ok = isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return None
    return float(value) if ok else None
