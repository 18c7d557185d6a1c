"""What figures of whole groups share: their random draws, and columns of their rollouts."""

import zlib

import numpy as np
import pandas as pd

from arca_diag.measurements.evidence import Evidence, Place


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
