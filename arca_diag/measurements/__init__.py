"""The figures of a report, each summarised over prompts. `MEASURES` is the list of them all.

To add one: a function from `Evidence` to measurements in a file of its own, an entry here, a test.
"""

from collections.abc import Callable

from arca_diag.measurements.agnosticism import measure_agnosticism
from arca_diag.measurements.agreement import measure_agreement
from arca_diag.measurements.causes import measure_causes
from arca_diag.measurements.concentration import measure_concentration
from arca_diag.measurements.evidence import Evidence
from arca_diag.measurements.gradients import measure_gradient_agreement
from arca_diag.measurements.noise import measure_noise
from arca_diag.measurements.prefixes import measure_prefixes
from arca_diag.measurements.rewards import measure_rewards
from arca_diag.measurements.trend import measure_trend
from arca_diag.results import Measurement

MEASURES: tuple[Callable[[Evidence], list[Measurement]], ...] = (
    measure_concentration,
    measure_agreement,
    measure_causes,
    measure_noise,
    measure_gradient_agreement,
    measure_rewards,
    measure_prefixes,
    measure_trend,
    measure_agnosticism,
)


def measure(evidence: Evidence) -> list[Measurement]:
    """Every figure of every checkpoint, view and signal, with what it is of."""
    return [found for one in MEASURES for found in one(evidence)]
