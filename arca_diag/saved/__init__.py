"""Tables of a saved result, read and held against each other and against their report.

A hash says that a table is the one that the report was made with. Who edits both can make that
true of anything: what is read here is whole, and says what the report says, or is refused.
"""

import dataclasses
import hashlib
import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from arca_diag.errors import ResultError
from arca_diag.results import Report
from arca_diag.saved.agreement import check_agreement
from arca_diag.saved.refusal import refused
from arca_diag.saved.rows import check_rows
from arca_diag.saved.values import check_values
from arca_diag.tables import SCHEMAS, Tables

_ALWAYS = ("tokens", "trajectories", "rollouts")
#: Columns that results were once made without.
_LATER = {"tokens": ("token_class",), "noise": ("residual_apart", "relative_residual_apart")}


def read_tables(folder: Path, report: Report) -> Tables:
    """Every table of a finished result; those that were not always made may be empty.

    Raises:
        ResultError: One is absent, not the one that the report was made with, no table, of other
            columns, or contradicts another or the report.
    """
    found = {}
    for name in (field.name for field in dataclasses.fields(Tables)):
        if name in _ALWAYS or f"{name}.parquet" in report.files:
            later = _LATER.get(name, ())
            found[name] = read_columns(folder, report, f"{name}.parquet", SCHEMAS[name], later)
    frames = Tables(**found)
    check_values(folder, frames)
    check_rows(folder, frames)
    check_agreement(folder, report, frames)
    return frames


def read_columns(
    folder: Path, report: Report, name: str, schema: pa.Schema, later: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Some columns of a table of a finished result, where they are what this version writes.

    Args:
        folder: The result.
        report: Its report.
        name: Of the file.
        schema: The columns.
        later: Those of them that may be absent.

    Raises:
        ResultError: It is absent, not the one that the report was made with, no table, or of a
            version that wrote other columns.
    """
    data = _read_listed(folder, report, name)
    try:
        there = pq.read_schema(io.BytesIO(data))
        absent = [f.name for f in schema if there.names.count(f.name) != 1]
        wrong = [name for name in absent if name not in later or name in there.names]
        wrong += [f.name for f in schema if f.name not in absent and there.field(f.name) != f]
        if not wrong:
            names = [name for name in schema.names if name not in absent]
            return pq.read_table(io.BytesIO(data), columns=names).to_pandas()
        why = f"{', '.join(wrong)} is not as this version of arca-diag writes it"
    except (pa.ArrowException, OSError, ValueError) as error:
        why = f"no table: {str(error)[:200]}"
    raise refused(folder / name, why)


def _read_listed(folder: Path, report: Report, name: str) -> bytes:
    """A file of the result, where it is the one that the report was made with."""
    try:
        data = (folder / name).read_bytes()
    except OSError:
        data = b""
    if hashlib.sha256(data).hexdigest() != report.files.get(name):
        raise ResultError(
            f"{folder / name} is missing or was changed since it was written",
            hint="scan again with --force",
        )
    return data
