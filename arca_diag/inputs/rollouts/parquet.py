"""Parquet, a few rows at a time, so that a table of any length fits."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arca_diag.errors import RolloutError
from arca_diag.inputs import parquet

_LIMIT = 64 * 2**30  # bytes of all rows together, once decoded


def parquet_rows(path: Path, limit: int = _LIMIT) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number (from 1) and the row, NaN as None: tables hold it where there is nothing.

    Raises:
        RolloutError: The file is no parquet, is damaged, or stands for more than it may.
    """
    rows = parquet.parquet_rows(path, limit=limit, error=RolloutError)
    for number, row in enumerate(rows, start=1):
        yield number, {key: _unboxed(value) for key, value in row.items()}


def _unboxed(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
