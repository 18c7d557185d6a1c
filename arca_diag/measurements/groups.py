"""What figures of whole groups share: how they become measurements, and their random draws."""

import zlib

import numpy as np
import pandas as pd

from arca_diag.diagnostics.uncertainty import Estimate
from arca_diag.measurements.evidence import Evidence, Place, known
from arca_diag.results import Measurement


def measurement(
    place: Place,
    name: str,
    found: Estimate,
    used: pd.DataFrame,
    *,
    reason: str,
    signal: str | None = None,
    sharpening: float | None = None,
    against: str | None = None,
) -> Measurement:
    """An estimate as a measurement.

    Args:
        place: Where.
        name: Of the figure.
        found: Its value, limits and prompts.
        used: The completions that it is from.
        reason: Why there is none, where the value is NaN.
        signal: Which signal, if any.
        sharpening: At which power, if any.
        against: The other checkpoint, where a figure compares two.
    """
    value = known(found.value)
    return Measurement(
        checkpoint=place.label,
        view=place.view,
        signal=signal,
        sharpening=sharpening,
        against=against,
        name=name,
        value=value,
        low=known(found.low),
        high=known(found.high),
        n_clusters=found.n_clusters,
        n_groups=used["group_id"].nunique(),
        n_completions=len(used),
        n_tokens=int(used["n_tokens"].sum()),
        reason=reason if value is None else None,
    )


def generator(evidence: Evidence, place: Place) -> np.random.Generator:
    """The place's own random numbers: what is measured elsewhere moves none of them.

    They go by the checkpoint and the view, not by names of rollouts, which redaction changes.
    """
    name = f"{place.view} {place.name}".encode("utf-8", "surrogatepass")
    return np.random.default_rng([evidence.seed, zlib.crc32(name)])


def with_rollouts(place: Place, evidence: Evidence, columns: list[str]) -> pd.DataFrame:
    """The place's completions, a row each, with columns of the rollouts beside."""
    rollouts = evidence.rollouts.set_index("rollout_id")[columns]
    return place.completions.join(rollouts, on="rollout_id").reset_index(drop=True)
