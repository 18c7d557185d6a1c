"""What a scan is asked: options, environment and file, and nothing of it from the run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arca_diag.config import Resolved, ScanConfig, resolve_with_origins


def config_of(flags: Mapping[str, Any]) -> ScanConfig:
    """The configuration, with nothing of it from the run, of which a checkpoint may be named."""
    return resolved_config(flags).config


def resolved_config(flags: Mapping[str, Any], file: Path | None = None) -> Resolved:
    """The same with the origin of every value; `file` is read instead of those found."""
    return resolve_with_origins(flags, runs=runs_of(Path(flags["run"])), file=file)


def runs_of(path: Path) -> set[Path]:
    """The runs that a path may be a checkpoint of."""
    from arca_diag.inputs.survey import step_folders

    return {root for root, _, _ in step_folders(Path(os.path.realpath(path)))}
