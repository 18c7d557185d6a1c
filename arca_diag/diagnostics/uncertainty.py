"""From completions to one figure. The unit of evidence is the prompt, not the token.

Completions of one prompt are alike whatever step sampled them, so figures are averaged within
a prompt first and every prompt weighs the same.
"""

import numpy as np
from jaxtyping import Float, Shaped


def cluster_mean(
    values: Float[np.ndarray, " completion"],
    clusters: Shaped[np.ndarray, " completion"],
) -> tuple[float, int]:
    """Unweighted mean over clusters of the mean of their defined values.

    A completion that occurs k times counts k times in its cluster's mean.

    Args:
        values: One number a completion, in any unit; NaN where undefined.
        clusters: Each completion's cluster, of any type that sorts.

    Returns:
        The mean in the values' unit (NaN if nothing is defined) and the number of clusters
        that have a defined value.

    >>> cluster_mean(np.array([1.0, 1.0, 4.0]), np.array(["a", "a", "b"]))
    (2.5, 2)
    """
    defined = ~np.isnan(values)
    if not defined.any():
        return float("nan"), 0
    _, member = np.unique(clusters[defined], return_inverse=True)
    means = np.bincount(member, weights=values[defined]) / np.bincount(member)
    return float(means.mean()), len(means)
