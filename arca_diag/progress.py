"""How long work reports progress. Silent unless somebody listens."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Receives what the scan is doing. Implementations must not raise."""

    def stage(self, name: str) -> None:
        """A stage begins, in words for a person."""

    def start(self, total: int, unit: str) -> None:
        """The stage's work can be counted: `total` of a unit, such as tokens over all passes."""

    def advance(self, done: int) -> None:
        """So many more of the unit are done."""

    def reused(self, done: int) -> None:
        """So many more need not be done: an earlier scan has done them."""


class Silent:
    """The default: says nothing."""

    def stage(self, name: str) -> None:
        """Ignore."""

    def start(self, total: int, unit: str) -> None:
        """Ignore."""

    def advance(self, done: int) -> None:
        """Ignore."""

    def reused(self, done: int) -> None:
        """Ignore."""
