"""A saved result judged again in memory, for commands that write nothing."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from arca_diag import judging, store
from arca_diag.config import ScanConfig
from arca_diag.results import Report
from arca_diag.thresholds import OF_TABLES


def judged_with(
    folder: Path,
    report: Report,
    config: ScanConfig,
    given: Collection[str],
    credit: str | None,
) -> Report:
    """The report that a scan over this result with these options would leave.

    Args:
        folder: Where the tables lie.
        report: The saved one.
        config: Has the options that were given.
        given: Names of those; all others are as the report has them.
        credit: What the run trains with, where that was said anew.

    Raises:
        ResultError: A table is absent, or not the one that the report was made with.
    """
    saved = report.provenance.options
    update: dict[str, Any] = {
        key: saved[key] for key in ("epsilon", "sharpening", "seed") if key not in given
    }
    if "thresholds" not in given:
        parts = (saved.get("thresholds"), saved.get("file_thresholds"))
        update["thresholds"] = {k: v for part in parts if part for k, v in part.items()}
    config = config.model_copy(update=update)
    source = "--credit" if credit is not None else saved.get("credit_source")
    asked = {
        "credit": saved.get("credit") if credit is None else credit,
        "credit_source": source,
        "epsilon": config.epsilon,
        "sharpening": config.sharpening,
        "seed": config.seed,
        "thresholds": config.thresholds_of(OF_TABLES),
    }
    again, _ = judging.again(report, store.read_tables(folder, report), config, asked)
    return again
