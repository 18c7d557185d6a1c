"""What the trainer's arguments say that a replay needs, and where they say it."""

import math

from arca_diag.config import TOP_ENTROPY
from arca_diag.inputs.runs import Run

#: Temperatures that a softmax can be computed at: beyond, logits over- or underflow.
TEMPERATURES = (1e-3, 1e3)


def temperature_of(asked: float | None, run: Run) -> tuple[float, str]:
    """The sampling temperature, and where it comes from in words."""
    if asked is not None:
        return asked, "given with --temperature"
    recorded = number_of(run, "temperature")
    if recorded is not None and TEMPERATURES[0] <= recorded <= TEMPERATURES[1]:
        return recorded, f"recorded in {run.training_args_source}"
    return 1.0, "assumed: nothing recorded it"


def declared_credit(asked: str | None, run: Run) -> tuple[str, str]:
    """What the run weighted its tokens by, and where that comes from in words.

    TRL's `top_entropy_quantile` Q < 1 keeps the share Q of a batch's tokens with the highest
    entropy, and drops the others from the loss.
    """
    if asked is not None:
        return asked, "given with --credit"
    kept = number_of(run, "top_entropy_quantile")
    if kept is not None and 0 <= kept < 1:
        return f"{TOP_ENTROPY}{kept}", f"recorded in {run.training_args_source}"
    return "uniform", "stock trainers weight tokens evenly"


def longest_of(run: Run) -> int:
    """The run's own limit of a completion, in tokens; 256 if it recorded none."""
    recorded = number_of(run, "max_completion_length")
    return int(recorded) if recorded is not None and 1 <= recorded < 2**31 else 256


def number_of(run: Run, key: str) -> float | None:
    """A finite number among the trainer's arguments; None if they do not hold one."""
    value = as_number(run.training_args.get(key))
    return value if value is not None and math.isfinite(value) else None


def groups_a_step(run: Run) -> float | None:
    """New groups of completions for one optimizer step of TRL's; None where it did not say.

    A generation batch serves `steps_per_generation` steps, `num_iterations` times over.
    """
    keys = ("generation_batch_size", "num_generations", "steps_per_generation", "num_iterations")
    known = [v for key in keys if (v := number_of(run, key)) is not None and v >= 1]
    if len(known) < len(keys):
        return None
    batch, size, pieces, rounds = known
    return batch / size / pieces / rounds


def as_number(value: object) -> float | None:
    """The value as a float; None if it is no number: what a trainer wrote may be anything."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer beyond any float
        return math.inf
