"""What one finding, or one word of a verdict, is, for a reader who met its id."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warn", "note"]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One finding, explained. Every sentence is true of the rule that gives it.

    Attributes:
        id: Of the finding.
        levels: Those it can have, worst first.
        says: One line; the README's table holds the same.
        meaning: What it means for the run, and why it matters.
        measured: On what, with which estimator and interval.
        thresholds: Ids of the cuts that decide it; values stand in the code alone.
        confounds: What can look like it, and what guards against that.
        actions: What to do, the likeliest first, by the trainers' own names of settings.
        source: Where the rule comes from.
    """

    id: str
    levels: tuple[Level, ...]
    says: str
    meaning: str
    measured: str
    thresholds: tuple[str, ...] = ()
    confounds: str
    actions: tuple[str, ...]
    source: str


@dataclass(frozen=True, kw_only=True)
class Term:
    """A word that verdicts use, explained: a regime, or a figure that is read beside them.

    Attributes:
        id: The word as it is printed.
        says: One line.
        rule: When exactly it is said, and of what.
        thresholds: Ids of the cuts that decide it; values stand in the code alone.
        looks: What it looks like in figures and pictures.
        actions: What to do, the likeliest first.
        source: Where the rule comes from.
        also: How else it is written.
    """

    id: str
    says: str
    rule: str
    thresholds: tuple[str, ...] = ()
    looks: str
    actions: tuple[str, ...]
    source: str
    also: tuple[str, ...] = ()
