"""Known faults that are let pass for a while: each with a reason, and none for ever."""

import datetime
from collections.abc import Iterable

from arca_diag.gate.outcome import Case, SuppressionState
from arca_diag.gate.policy import Suppression


class Suppressions:
    """The suppressions of a policy on a day; remembers which of them were needed."""

    def __init__(self, given: Iterable[Suppression], today: datetime.date) -> None:
        self._given = tuple(given)
        self._today = today
        self._used: set[int] = set()

    def apply(self, rule: str, case: Case) -> Case:
        """The case, suppressed if one that has not expired is of it."""
        if case.status not in ("failed", "inconclusive") or case.level == "note":
            return case
        for number, one in enumerate(self._given):
            fits = one.id == rule and one.signal in (None, case.signal)
            if fits and one.checkpoint in (None, case.checkpoint) and not self._expired(one):
                self._used.add(number)
                told = f"{one.reason} (until {one.expires})"
                return case.model_copy(update={"status": "suppressed", "suppressed": told})
        return case

    def states(self) -> list[SuppressionState]:
        """Every suppression and what became of it, once all cases were asked."""
        return [
            SuppressionState(
                **one.model_dump(),
                state="expired"
                if self._expired(one)
                else ("used" if number in self._used else "unused"),
            )
            for number, one in enumerate(self._given)
        ]

    def _expired(self, one: Suppression) -> bool:
        return self._today > one.expires
