"""Where configuration comes from beside flags: our tables of TOML files, and the environment."""

import logging
import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from arca_diag.errors import ConfigError

PREFIX = "ARCA_DIAG_"
GATE_PREFIX = "ARCA_DIAG_GATE_"
#: Configuration files of the working directory, lowest first.
FILES = ("pyproject.toml", "arca.toml")

logger = logging.getLogger(__name__)


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What the environment says of a scan's options, by their names."""
    return {
        key[len(PREFIX) :].lower(): value
        for key, value in sorted(environ.items())
        if key.startswith(PREFIX) and not key.startswith(GATE_PREFIX)
    }


def gate_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the environment says of the gate's policy."""
    return {
        key[len(GATE_PREFIX) :].lower(): value
        for key, value in sorted(environ.items())
        if key.startswith(GATE_PREFIX)
    }


def config_tables(
    file: Path | None = None, cwd: Path | None = None, runs: Collection[Path] = ()
) -> list[tuple[str, dict[str, Any]]]:
    """Our tables of the configuration files, lowest first, with the name of each file.

    Args:
        file: Read instead of the working directory's files.
        cwd: The working directory.
        runs: If it lies in one of them none of its files is read, and that is said.

    Raises:
        ConfigError: A file that was named is not there, or one is no TOML.
    """
    if file is not None:
        name = file.name if file.is_absolute() else str(file)
        table = _table(file, name)
        if table is None:
            raise ConfigError(f"{file} is not a file", hint="give a TOML file with --config")
        return [(name, table)]
    cwd = (cwd or Path.cwd()).resolve()
    if any(cwd.is_relative_to(os.path.realpath(run)) for run in runs):
        for name in FILES:
            if (cwd / name).is_file():
                logger.warning("%s is not read: the working directory lies in the run", name)
        return []
    found = ((name, _table(cwd / name, name)) for name in FILES)
    return [(name, table) for name, table in found if table is not None]


def _table(path: Path, name: str) -> dict[str, Any] | None:
    """Our table of a TOML file: all of it, or [tool.arca-diag] of a pyproject.toml."""
    try:
        if not path.is_file():
            if os.path.lexists(path):  # a link to nowhere must not turn a policy off unseen
                raise ConfigError(f"{name} is not a file", hint="mend it, or take it away")
            return None
        values = tomllib.loads(path.read_bytes().decode("utf-8-sig"))  # editors leave a BOM
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits, too
        raise ConfigError(f"{name} is not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}") from None
    if path.name == "pyproject.toml":
        tool = values.get("tool", {})
        values = tool.get("arca-diag", {}) if isinstance(tool, dict) else tool
        if not isinstance(values, dict):
            raise ConfigError("pyproject.toml: [tool.arca-diag] is not a table")
    return {key.replace("-", "_"): value for key, value in values.items()}
