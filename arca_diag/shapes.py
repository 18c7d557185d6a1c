"""The mask convention, stated and checked once: `mask` is True where a token counts.

After replay everything is float64 NumPy on the CPU: judging, re-judging and rendering a saved
result must not need torch. Arrays are padded to `(completion, token)`; what stands in the
padding never matters.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

_CELLS = 2_000_000  # padded cells worked on at once: bounds memory, moves no number


def check_masked(
    values: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
    *,
    minimum: float | None = None,
) -> None:
    """Check that `values` and `mask` form one valid padded batch.

    Raises:
        ValueError: The shapes differ or are not two-dimensional, or a counted value is NaN,
            infinite or below `minimum`.
    """
    check_shapes(values, mask)
    counted = values[mask]
    if not np.isfinite(counted).all():
        raise ValueError("a counted value is NaN or infinite")
    if minimum is not None and counted.size and counted.min() < minimum:
        raise ValueError(f"counted values must be >= {minimum}, got {counted.min():.4g}")


def check_shapes(values: np.ndarray, mask: np.ndarray) -> None:
    """Check that both have one two-dimensional shape: NumPy would broadcast silently.

    Raises:
        ValueError: They have not.
    """
    if values.ndim != 2 or values.shape != mask.shape:
        raise ValueError(
            f"values and mask must share one (completion, token) shape, "
            f"got {values.shape} and {mask.shape}"
        )


def padded(
    flat: Float[np.ndarray, " row"] | Bool[np.ndarray, " row"],
    lengths: np.ndarray,
    fill: float | bool,
) -> np.ndarray:
    """Lay rows of consecutive completions out as `(completion, token)`, padded with `fill`.

    Args:
        flat: The tokens of all completions, one completion after the other.
        lengths: How many rows each completion has; their sum is `len(flat)`.
        fill: What to put behind the end of a shorter completion.

    Raises:
        ValueError: The lengths do not add up to the rows.
    """
    if int(lengths.sum()) != len(flat):
        raise ValueError(f"lengths add up to {int(lengths.sum())}, and there are {len(flat)} rows")
    out = np.full((len(lengths), int(lengths.max(initial=0))), fill, dtype=flat.dtype)
    out[np.arange(out.shape[1]) < np.asarray(lengths)[:, None]] = flat
    return out


def chunks_with_span(lengths: np.ndarray) -> Iterator[tuple[slice, np.ndarray, slice]]:
    """Consecutive completions whose padded block stays within `_CELLS`.

    Args:
        lengths: How many rows each completion has.

    Yields:
        The rows of a block, their completions' lengths, and which completions they are.
    """
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        last, widest = first, 0
        while last < len(lengths):
            widest = max(widest, int(lengths[last]))
            if last > first and widest * (last + 1 - first) > _CELLS:
                break
            last += 1
        rows = slice(int(ends[first] - lengths[first]), int(ends[last - 1]))
        yield rows, lengths[first:last], slice(first, last)
        first = last
