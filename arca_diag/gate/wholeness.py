"""Whether a report says what every page tells of it: options, base, cuts."""

from pathlib import Path

from arca_diag.config import known_credit
from arca_diag.errors import ResultError
from arca_diag.gate.scope import finite
from arca_diag.results import Report
from arca_diag.thresholds import ASCENDING


def check_told(folder: Path, report: Report) -> None:
    """Check what a report's free parts say; the gate reads most of them not at all.

    Raises:
        ResultError: What a page tells is absent, or cannot be.
    """
    options, base = report.provenance.options, report.provenance.base
    sharpening, epsilon = (finite(options.get(key)) for key in ("sharpening", "epsilon"))
    if sharpening is None or sharpening <= 0:
        raise _unsaid(folder, "at which sharpening it was judged")
    if epsilon is None or epsilon < 0:
        raise _unsaid(folder, "with which epsilon it was judged")
    credit = options.get("credit")
    try:
        known_credit(credit if isinstance(credit, str) else "")
    except ValueError:
        raise _unsaid(folder, f"which credit the run trained with: {credit!r:.80}") from None
    if not isinstance(options.get("credit_source"), str):
        raise _unsaid(folder, "how it knows the run's credit")
    if not isinstance(base.get("name"), str):
        raise _unsaid(folder, "which base it is of")
    # The classes' alone: of the others a result may lack those that came after it was written.
    absent = {cut for cuts in ASCENDING for cut in cuts} - {cut.id for cut in report.thresholds}
    if absent:
        raise _unsaid(folder, f"by which cuts it was judged: {min(absent)} is not there")


def _unsaid(folder: Path, what: str) -> ResultError:
    return ResultError(f"{folder}: report.json does not say {what}", hint="scan again with --force")
