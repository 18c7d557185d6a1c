"""How concentrated every signal's credit is, how large the signal is, and how far off its steps."""

import math

import pandas as pd

from arca_diag.diagnostics import DIAGNOSTICS
from arca_diag.diagnostics.uncertainty import Estimate
from arca_diag.measurements.evidence import Evidence, Place
from arca_diag.measurements.figures import figure, measurement, why_undefined
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES


def measure_concentration(evidence: Evidence) -> list[Measurement]:
    """Every diagnostic at every sharpening, and the mean of every signal over counted tokens."""
    counted = evidence.tokens[evidence.tokens["counted"]]
    keys = ["checkpoint", "rollout_id"]
    means = counted.groupby(keys, sort=False)[list(SIGNAL_NAMES)].mean()
    out = []
    for place in evidence.places():
        rows = place.completions
        out += _distances(place, rows)
        here = means.reindex(pd.MultiIndex.from_frame(rows[keys]))
        for signal in SIGNAL_NAMES:
            values = here[signal].to_numpy(float)
            out.append(figure(place, "mean", values, rows, signal=signal))
            for power in evidence.powers:
                part = place.of(signal, power)
                out += [
                    figure(
                        place,
                        diagnostic.name,
                        part[diagnostic.name].to_numpy(float),
                        part,
                        signal=signal,
                        sharpening=power,
                    )
                    for diagnostic in DIAGNOSTICS
                ]
    return out


def _distances(place: Place, rows: pd.DataFrame) -> list[Measurement]:
    """How many steps lie between a checkpoint and the policies that sampled its rollouts."""
    dated = rows[rows["rollout_step"].notna()]
    used, median, largest = rows.iloc[:0], math.nan, math.nan
    if place.step is not None and len(dated):
        apart = (dated["rollout_step"].astype("int64") - place.step).abs()
        used, median, largest = dated, float(apart.median()), float(apart.max())
    n_clusters = used["cluster"].nunique()
    unknown = "the step of the checkpoint or of the rollouts is unknown"
    return [
        measurement(
            place,
            name,
            Estimate(value=value, low=math.nan, high=math.nan, n_clusters=n_clusters),
            used,
            reason=why_undefined(place.view, rows) if rows.empty else unknown,
        )
        for name, value in (("step_distance_median", median), ("step_distance_max", largest))
    ]
