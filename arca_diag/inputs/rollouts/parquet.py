"""Parquet, a few rows at a time, so that a table of any length fits."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from arca_diag.errors import RolloutError

_ROWS = 64  # a batch: completions are long
_READ_AHEAD = 2**20  # bytes; without it a whole column of a row group is held


def parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number (from 1) and the row, NaN as None: tables hold it where there is nothing.

    Raises:
        RolloutError: The file is no parquet, or is damaged.
    """
    try:
        with pq.ParquetFile(path, buffer_size=_READ_AHEAD, pre_buffer=False) as table:
            number = 0
            for batch in table.iter_batches(batch_size=_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {key: _unboxed(value) for key, value in row.items()}
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise RolloutError(f"{path.name} is not a readable parquet file: {error}") from None


def _unboxed(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
