"""What the trainer logged beside the completions, and of which model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from arca_diag.inputs.gathered import Inputs
from arca_diag.inputs.reference import release, rewrites_base, trains_biases


@dataclass(frozen=True, kw_only=True)
class Logged:
    """What the run logged beside its rollouts.

    Attributes:
        rows: The trainer's log entries, each a mapping with `step` and figures.
        batches: Step of a log entry -> the batch that its means were taken over.
        interval: Steps that one entry averages over; None if unknown.
        partial: An entry averages over a part of its batch only: the batch is used in pieces.
        micro_batch: Completions in each part whose token means the entry averages; None if it is
            the token mean of the whole batch.
        of_another: "entropy" or "kl" -> why what was logged is of something else than the replay's.
    """

    rows: Sequence[Mapping[str, Any]]
    batches: Mapping[int, str]
    interval: int | None
    partial: bool
    micro_batch: int | None = None
    of_another: Mapping[str, str] = field(default_factory=dict)


def logged(inputs: Inputs) -> Logged:
    """What the trainer logged beside the completions."""
    arguments = inputs.run.training_args
    pieces, uses = (
        arguments.get("steps_per_generation"),
        arguments.get("gradient_accumulation_steps"),
    )
    part = arguments.get("per_device_train_batch_size")
    return Logged(
        rows=inputs.run.log,
        batches=inputs.census.notes.batches,
        interval=inputs.run.logging_steps,
        partial=isinstance(pieces, int) and isinstance(uses, int) and pieces > uses,
        micro_batch=part if isinstance(part, int) and isinstance(uses, int) and uses > 1 else None,
        of_another=_of_another(inputs),
    )


def _of_another(inputs: Inputs) -> dict[str, str]:
    """What the trainer logged of another model or temperature than those that are replayed."""
    version = release(inputs.run.framework_version) if inputs.run.framework == "trl" else None
    if version and version < (0, 16) and inputs.temperature != 1:
        why = f"TRL {inputs.run.framework_version} did not divide logits by the temperature"
        return {"entropy": why, "kl": why}
    if inputs.reference.asked:
        return {"kl": "the reference was asked for, whatever training had"}
    if any(map(rewrites_base, inputs.adapters)):
        return {"kl": "the trainer measured it from what the adapter's start had left of the base"}
    if any(map(trains_biases, inputs.adapters)):
        return {"kl": "the trainer measured it from the base with the trained biases in it"}
    return {}
