"""A saved result, read for the gate: report.json alone, and whether it can be believed.

The tables are not opened. Whoever made the file may be careless or hostile: what is no report of
this version is an error that the user can mend, and never a pass or a failure.
"""

import json
import os
from pathlib import Path

from pydantic import ValidationError

from arca_diag.errors import ResultError
from arca_diag.results import SCHEMA_VERSION, Measurement, Report

REPORT = "report.json"
MARKER = ".arca-diag.json"
#: Where a scan leaves the result of a run by default.
IN_RUN = "arca-diag"
_LIMIT = 512 * 2**20


def is_result(path: Path) -> bool:
    """Whether a path is a result folder, finished or not, or a report; else it is a run."""
    if os.path.isdir(path):  # unlike Path's, false of a name that no file can have
        return (path / REPORT).is_file() or (path / MARKER).is_file()
    return os.path.isfile(path)


def result_at(path: Path) -> Path:
    """A result folder, its report, or the result in a run: which of these a path names.

    Raises:
        ResultError: None of them.
    """
    inside = path / IN_RUN
    for place in (path, inside):
        if is_result(place):
            return place
    if not os.path.lexists(path):
        raise ResultError(f"there is no {path}", hint="give a folder that `arca-diag scan` left")
    raise ResultError(
        f"{path} is no result, and no run that has one in {IN_RUN}/",
        hint="give a folder that `arca-diag scan` left, or its report.json",
    )


def read_result(path: Path) -> tuple[Path, Report]:
    """The folder and the report of a result folder or of a report file.

    Raises:
        ResultError: It is unfinished, unreadable, of another version, or contradicts itself.
    """
    file = path / REPORT if path.is_dir() else path
    if not file.is_file():
        raise ResultError(
            f"{path} holds a result that was not finished: there is no {REPORT}",
            hint="scan again; it goes on where it stopped",
        )
    try:
        if file.stat().st_size > _LIMIT:
            raise ResultError(f"{file} is larger than any report")
        content = file.read_bytes()
    except OSError as error:
        raise ResultError(f"{file} cannot be read: {error.strerror}") from None
    try:
        report = Report.from_json(content)
    except ValidationError as error:
        raise _refused(file, content, error) from None
    _check_figures(file, report.measurements)
    _check_places(file, report)
    return file.parent, report


def _check_places(file: Path, report: Report) -> None:
    """Checkpoints differ, and what is said of one is of one that was measured."""
    hint = "scan again with --force: the file was edited or damaged"
    names = [c.name for c in report.run.checkpoints]
    labels = [c.name if c.step is None else c.step for c in report.run.checkpoints]
    if len({*names}) < len(names) or len({*labels}) < len(labels):
        raise ResultError(f"{file} has two checkpoints of one name or step", hint=hint)
    measured = [c.measured for c in report.run.checkpoints]
    known = {label for label, there in zip(labels, measured, strict=True) if there}
    for part in ("measurements", "verdicts", "what_if"):
        for one in getattr(report, part):
            if one.checkpoint not in known:
                raise ResultError(
                    f"{file}: {part} speak of {one.checkpoint!r:.80}, no checkpoint that was "
                    "measured",
                    hint=hint,
                )


def _refused(file: Path, content: bytes, error: ValidationError) -> ResultError:
    """Why a file is no report: its version first, for that explains all the rest."""
    hint = "scan again with this version of arca-diag, or use the one that wrote it"
    try:
        document = json.loads(content)
        version = document["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        version = SCHEMA_VERSION
    if version != SCHEMA_VERSION:
        return ResultError(
            f"{file} is of schema version {version!r:.40}, and this is version {SCHEMA_VERSION}",
            hint=hint,
        )
    first = error.errors(include_url=False)[0]
    at = ".".join(str(part) for part in first["loc"])
    return ResultError(
        f"{file} is no report of this version: {at or 'the document'}: {first['msg']}", hint=hint
    )


def _check_figures(file: Path, measurements: list[Measurement]) -> None:
    """A figure lies in its interval, and there is one of each: else somebody edited the file."""
    seen = set()
    for m in measurements:
        key = (m.checkpoint, m.view, m.signal, m.sharpening, m.against, m.name)
        if key in seen:
            raise ResultError(f"{file} has two figures {m.name} of one place", hint="scan again")
        seen.add(key)
        if (m.low is None) != (m.high is None):
            raise ResultError(f"{file}: {m.name} has one limit of two", hint="scan again")
        if m.value is None or m.low is None or m.high is None:
            continue
        slack = 1e-9 * max(1.0, abs(m.value))
        if not m.low - slack <= m.value <= m.high + slack:
            raise ResultError(
                f"{file}: {m.name} at {m.checkpoint} lies outside its interval: {m.value:g} is not "
                f"in {m.low:g} to {m.high:g}",
                hint="scan again: the file was edited or damaged",
            )
