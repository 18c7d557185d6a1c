"""What the run says of itself that a replay needs, and where it says so."""

import math

from arca_diag.inputs.runs import Run


def temperature_of(asked: float | None, run: Run) -> tuple[float, str]:
    """The sampling temperature, and where it comes from in words."""
    if asked is not None:
        return asked, "given with --temperature"
    recorded = run.training_args.get("temperature")
    if isinstance(recorded, int | float) and math.isfinite(recorded) and recorded > 0:
        return float(recorded), f"recorded in {run.training_args_source}"
    return 1.0, "assumed: nothing recorded it"
