"""Which regimes are degenerate, by which finding, and how bad one is if the run trains on it.

Light on purpose: the gate asks the same of a saved report, without the libraries that judge one.
"""

from collections.abc import Collection
from typing import Literal

Level = Literal["error", "warn", "note"]

#: Regime -> the finding that it is, if it is degenerate.
DEGENERATE = {
    "sparse": "credit-sparse",
    "leaning-sparse": "credit-sparse",
    "uniform": "credit-uniform",
    "leaning-uniform": "credit-uniform",
    "no-signal": "credit-absent",
}
_STRONG = ("sparse", "uniform", "no-signal")
#: What is wrong with a credit whatever its regime; the other causes explain a degenerate one.
_ALONE = ("numeric-noise", "credit-floor", "credit-inherited", "credit-task-agnostic")


def level_of(regime: str, causes: Collection[str], *, declared: bool) -> Level:
    """The level of what is wrong with a signal: a fault only if it is the credit the run used.

    Args:
        regime: Of the signal.
        causes: Ids of those that hold for it, an inert adapter aside.
        declared: Whether the run trains on it.
    """
    if not declared:
        return "note"
    if regime in _STRONG:
        return "error" if causes else "warn"
    wrong = causes if regime in DEGENERATE else [c for c in causes if c in _ALONE]
    return "warn" if wrong else "note"
