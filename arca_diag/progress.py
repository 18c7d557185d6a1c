"""How long work reports progress. Silent unless somebody listens."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Receives what the scan is doing. Implementations must not raise."""

    def stage(self, name: str) -> None:
        """A stage begins, in words for a person."""

    def start(self, total_tokens: int) -> None:
        """Replay begins; `total_tokens` is the sum over all passes."""

    def advance(self, tokens: int) -> None:
        """So many more tokens went through the model."""


class Silent:
    """The default: says nothing."""

    def stage(self, name: str) -> None:
        """Ignore."""

    def start(self, total_tokens: int) -> None:
        """Ignore."""

    def advance(self, tokens: int) -> None:
        """Ignore."""
