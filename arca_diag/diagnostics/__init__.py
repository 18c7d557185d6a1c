"""Pure functions over `(completion, token)` credit. `DIAGNOSTICS` is the list of them all.

To add one: a function, an entry here, its reference in tests/reference.py, a README row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from arca_diag.diagnostics import concentration


@dataclass(frozen=True, kw_only=True)
class Diagnostic:
    """One number a completion. `name` is its column and the `name` of its measurements."""

    name: str
    title: str
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray]


DIAGNOSTICS = (
    Diagnostic(name="gini", title="Gini coefficient", measure=concentration.gini),
    Diagnostic(name="effn_ratio", title="effective-token ratio", measure=concentration.effn_ratio),
    Diagnostic(
        name="gini_corrected",
        title="Gini, range-corrected for length",
        measure=concentration.gini_corrected,
    ),
    Diagnostic(
        name="effn_corrected",
        title="effective tokens, range-corrected for length",
        measure=concentration.effn_corrected,
    ),
    Diagnostic(
        name="token_share_90",
        title="share of tokens that hold 90% of the credit",
        measure=concentration.token_share_90,
    ),
)
