"""Faults that a user can mend. Anything else that goes wrong is a bug and keeps its traceback."""


class ArcaError(Exception):
    """A fault in what we were given: what, where and what was found; `hint` says what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class CheckpointError(ArcaError):
    """One checkpoint cannot be used. Among several, the others are still measured."""


class RolloutError(ArcaError):
    """The rollouts cannot be used; messages carry file and line."""


class ConfigError(ArcaError):
    """An option, an environment variable or a configuration file is wrong."""


class ResultError(ArcaError):
    """The result folder cannot be used: it is not ours, not writable, or of other inputs."""


def collected(faults: list[str], *, total: int | None = None, shown: int = 20) -> str:
    """One message for many faults, so that a file is mended in one go: the first 20 and a count."""
    more = (len(faults) if total is None else total) - shown
    return "\n".join(faults[:shown]) + (f"\n... and {more} more" if more > 0 else "")
