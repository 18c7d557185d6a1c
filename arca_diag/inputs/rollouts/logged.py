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

Arguments = Mapping[str, Any]


def fingerprint(content: object) -> str:
    """A hash of a batch, by which it is known when it is written again."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def group_sizes(prompts: Iterable[object], arguments: Arguments) -> list[int]:
    """Rows per group: runs of equal prompts, cut to num_generations where that fits.

    Two groups of the same prompt can lie side by side; only num_generations tells them apart.
    """
    runs = [len(list(same)) for _, same in itertools.groupby(map(json.dumps, prompts))]
    size = arguments.get("num_generations")
    if isinstance(size, int) and size > 0 and all(run % size == 0 for run in runs):
        return [size] * (sum(runs) // size)
    return runs


def sampling_step(logged: int, arguments: Arguments) -> tuple[int, str]:
    """Steps done by the policy that sampled a batch logged at a step, and how that is known.

    The log is written after the step; a batch used for several steps was sampled at the first.
    """
    counts = [
        arguments.get(key)
        for key in ("steps_per_generation", "num_iterations", "gradient_accumulation_steps")
    ]
    per_batch, uses, micro = (c if isinstance(c, int) and 0 < c < 2**31 else None for c in counts)
    steps = max(1, (per_batch or micro or 1) * (uses or 1) // (micro or 1))
    how = "sampled after k - 1 steps" + (f", once for every {steps}" if steps > 1 else "")
    return max(0, logged - 1) // steps * steps, how


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
