"""What a scan is asked: options, environment and file, and nothing of it from the run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arca_diag.config import Resolved, ScanConfig, resolve, resolve_with_origins
from arca_diag.errors import ArcaError, ConfigError
from arca_diag.gate.reading import IN_RUN

#: Name of the result's folder in a run.
RESULT = IN_RUN


def config_of(flags: Mapping[str, Any]) -> ScanConfig:
    """The configuration, with nothing of it from the run, of which a checkpoint may be named."""
    return resolve(flags, runs=runs_of(Path(flags["run"])))


def resolved_config(flags: Mapping[str, Any], file: Path | None = None) -> Resolved:
    """The same with the origin of every value; `file` is read instead of those found."""
    return resolve_with_origins(flags, runs=runs_of(Path(flags["run"])), file=file)


def check_whole(config: ScanConfig) -> None:
    """Check that a scan will have a report for the gate.

    Raises:
        ConfigError: It is a share of one.
    """
    if config.shard:
        raise ConfigError(
            f"shard {config.shard} gives a part of a result, and the gate needs a whole one",
            hint="join the shares with `arca-diag merge`, then use `arca-diag gate`",
        )


def runs_of(path: Path) -> set[Path]:
    """The runs that a path may be a checkpoint of, or the result in: nothing is read of them."""
    from arca_diag.inputs.survey import step_folders

    path = Path(os.path.realpath(path))
    found = {root for root, _, _ in step_folders(path)}
    folder = path.parent if os.path.isfile(path) else path  # a report stands for its folder
    is_result = folder.name == RESULT or os.path.isfile(folder / "report.json")
    if is_result and _is_run(folder.parent):
        found.add(folder.parent)
    return found


def _is_run(folder: Path) -> bool:
    """Whether checkpoints lie in a folder; a repository that a result was copied to has none."""
    from arca_diag.inputs.survey import survey

    try:
        return bool(survey(folder).checkpoints)
    except (ArcaError, OSError):
        return True  # nobody can tell: better not read what may be a stranger's
