"""Infinities in a table: no picture has a place for one, so each is undefined, and it is said."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from arca_diag.report.words import count


def n_infinite(table: pd.DataFrame, columns: Iterable[str]) -> int:
    """How many values of these columns are infinite; a column that is not there has none."""
    return sum(
        int(np.isinf(table[name].to_numpy(float, na_value=np.nan)).sum())
        for name in columns
        if name in table
    )


def finite(table: pd.DataFrame) -> pd.DataFrame:
    """The table with NaN for every infinity; the table itself where it has none."""
    floats = [str(name) for name in table.columns if table[name].dtype.kind == "f"]
    if not n_infinite(table, floats):
        return table
    return table.assign(**{name: table[name].where(~np.isinf(table[name])) for name in floats})


def left_out_words(n: int) -> str:
    """A sentence for a caption, with a space before it; empty where nothing is infinite."""
    if not n:
        return ""
    return f" {count(n, 'infinite value')} {'is' if n == 1 else 'are'} left out as undefined."
