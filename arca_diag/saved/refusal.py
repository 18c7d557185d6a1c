"""How a table is refused: the same words and the same way out, whatever is wrong with it."""

from pathlib import Path

from arca_diag.errors import ResultError


def refused(file: Path, what: str) -> ResultError:
    """The error of a table that no scan can have left.

    Args:
        file: Which.
        what: What was found in it.
    """
    return ResultError(
        f"{file}: {what}",
        hint="the result was edited or damaged: scan again with --force",
    )
