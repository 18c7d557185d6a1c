"""A saved result judged again in memory, for commands that write nothing."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from arca_diag import judging
from arca_diag.config import ScanConfig
from arca_diag.errors import ConfigError, ResultError
from arca_diag.results import Report
from arca_diag.saved import read_tables
from arca_diag.tables import Tables
from arca_diag.thresholds import OF_TABLES


def judged_with(
    folder: Path,
    report: Report,
    config: ScanConfig,
    given: Collection[str],
    credit: str | None,
) -> tuple[Report, Tables]:
    """The report and tables that a scan over this result with these options would leave.

    Args:
        folder: Where the tables lie.
        report: The saved one.
        config: Has the options that were given.
        given: Names of those; all others are as the report has them.
        credit: What the run trains with, where that was said anew.

    Raises:
        ResultError: A table is absent, or not the one that the report was made with; or the report
            does not say how it was judged.
    """
    saved = report.provenance.options
    config = _as_saved(folder, saved, config, given)
    source = "--credit" if credit is not None else saved.get("credit_source")
    asked = {
        "credit": saved.get("credit") if credit is None else credit,
        "credit_source": source,
        "epsilon": config.epsilon,
        "sharpening": config.sharpening,
        "seed": config.seed,
        "thresholds": config.thresholds_of(OF_TABLES),
    }
    return judging.again(report, read_tables(folder, report), config, asked)


def _as_saved(
    folder: Path, saved: Mapping[str, Any], config: ScanConfig, given: Collection[str]
) -> ScanConfig:
    """The configuration with the report's own judging options where none was given."""
    kept = [key for key in ("epsilon", "sharpening", "seed") if key not in given]
    update = {key: saved.get(key) for key in kept}
    if "thresholds" not in given:
        parts = [saved.get(key) or {} for key in ("thresholds", "file_thresholds")]
        # Anything but tables is refused below, as no table.
        whole = all(isinstance(part, dict) for part in parts)
        update["thresholds"] = {k: v for part in parts for k, v in part.items()} if whole else None
    try:
        return ScanConfig.model_validate(dict(config) | update)
    except (ValidationError, ConfigError):
        raise ResultError(
            f"{folder}: the report does not say by which options it was judged",
            hint="scan again with --force",
        ) from None
