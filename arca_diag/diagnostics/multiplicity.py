"""Many questions at once: p-values from intervals, and p-values held together in a family."""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import special

from arca_diag.diagnostics.uncertainty import CONFIDENCE


def holm(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    r"""Holm's adjusted p-values: call what is at most alpha, and any call is wrong with <= alpha.

    With the m defined p-values ascending, p_(1) <= ... <= p_(m),

        adjusted_(i) = \max_{j <= i} \min(1, (m - j + 1) p_(j)).

    It holds however the tests depend on each other. (SciPy has the false discovery rate's
    procedures, which promise less.)

    Args:
        p_values: Those of one family, each in [0, 1]; NaN where a test could not be made. Such a
            test is none of the m, and stays NaN.

    Source:
        Holm (1979), Scandinavian Journal of Statistics 6:65-70.

    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    made = np.flatnonzero(~np.isnan(p_values))
    ascending = made[np.argsort(p_values[made], kind="stable")]
    scaled = np.arange(len(made), 0, -1) * p_values[ascending]
    adjusted = np.full(len(p_values), np.nan)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def one_sided_p(
    value: float,
    low: float,
    high: float,
    n_clusters: int,
    cut: float,
    side: Literal["above", "below"],
) -> float:
    """How likely a figure so far past a cut is, if the truth lies on the cut or short of it.

    From the figure's 95% interval: Student's t with n - 1 degrees of freedom and the standard
    error that puts the limit between figure and cut where it is. At most .025 exactly where that
    limit is at the cut or past it. The two sides can differ: limits can be skewed, clipped to
    [0, 1], or Clopper-Pearson's.

    Args:
        value: The figure.
        low: Its lower limit.
        high: Its upper limit.
        n_clusters: Prompts that it is the mean of.
        cut: In the figure's unit.
        side: Which side of the cut is past it.

    Returns:
        In [0, 1]. A side without width is certain: 0 past the cut, else 1. NaN where a limit is:
        one prompt has none.

    >>> round(one_sided_p(0.8, 0.5, 1.1, 10, 0.5, "above"), 12)
    0.025
    """
    if math.isnan(value + low + high):
        return math.nan
    half, beyond = (value - low, value - cut) if side == "above" else (high - value, cut - value)
    if half == 0:
        return 0.0 if beyond > 0 else 1.0
    degrees = n_clusters - 1
    error = half / float(special.stdtrit(degrees, (1 + CONFIDENCE) / 2))
    return float(special.stdtr(degrees, -beyond / error))
