"""The result folder: whether it is ours, whether it is this scan's, and writing it whole.

A marker file lists what lies in the folder and what it was made from, with the SHA-256 of the
report, so that the gate notices another. Only listed files are ever replaced or deleted.
`report.json` comes last: without it a result is not finished.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from arca_diag.errors import ResultError
from arca_diag.results import SCHEMA_VERSION, Report

MARKER = ".arca-diag.json"
REPORT = "report.json"
#: Finished passes of a scan that is not finished, where they are not in the user's cache.
UNITS = ".units"
#: What says of a folder which share of a scan its passes are.
SHARE = ".share.json"
UNIT_FILES = (".safetensors", ".part")
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a result is of: replay options, and the files it was made from.

    Attributes:
        options: Options that move a number and need the model.
        inputs: SHA-256 of every input file, by its path within the run.
    """

    options: Mapping[str, Any]
    inputs: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A result that lies in the folder already.

    Attributes:
        identity: What it is of.
        report: None if it was never finished, or cannot be read.
        version: Of its schema, where that is another than ours; else None.
    """

    identity: Identity
    report: Report | None
    version: int | None = None


def look(folder: Path) -> Earlier | None:
    """What is in the folder: None if it does not exist or is empty.

    Raises:
        ResultError: It is no folder, a symbolic link, or holds files that are not ours.
    """
    if folder.is_symlink():
        raise ResultError(f"{folder} is a symbolic link", hint="give another folder with --out")
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder", hint="give another one with --out")
    marker = folder / MARKER
    if not marker.is_file() or marker.is_symlink():
        if any(folder.iterdir()):
            raise ResultError(
                f"{folder} is not empty and is no result of arca-diag",
                hint="give another folder with --out; nothing in this one is touched",
            )
        return None
    written = _read_marker(marker)
    identity = Identity(options=written["options"], inputs=written["inputs"])
    try:
        content = (folder / REPORT).read_bytes()
    except OSError:
        return Earlier(identity=identity, report=None)
    try:
        return Earlier(identity=identity, report=Report.from_json(content))
    except ValidationError:
        return Earlier(identity=identity, report=None, version=_other_version(content))


def _other_version(content: bytes) -> int | None:
    try:
        version = json.loads(content)["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return version if isinstance(version, int) and version != SCHEMA_VERSION else None


def check_version(folder: Path, earlier: Earlier) -> None:
    """Check that a finished result is not one that only another version can read.

    Raises:
        ResultError: It is: a scan would replace it without looking.
    """
    if earlier.version is not None:
        raise ResultError(
            f"{folder} holds a result of schema version {earlier.version}, and this is version "
            f"{SCHEMA_VERSION}",
            hint="choose another folder with --out, or replace that result with --force",
        )


def check_same(folder: Path, earlier: Identity, now: Identity) -> None:
    """Check that a new scan would continue this result and not replace it.

    More inputs than before is growth; a changed or a missing one is another scan.

    Raises:
        ResultError: Another scan; the first difference is named.
    """
    hint = "choose another folder with --out, or replace this result with --force"
    for key, value in now.options.items():
        if earlier.options.get(key) != value:
            raise ResultError(
                f"{folder} holds a result of other options: {key} was "
                f"{earlier.options.get(key)!r}, now {value!r}",
                hint=hint,
            )
    for path, digest in earlier.inputs.items():
        if now.inputs.get(path) != digest:
            what = "has changed" if path in now.inputs else "is gone"
            raise ResultError(f"{folder} holds a result of other inputs: {path} {what}", hint=hint)


def prepare(folder: Path, identity: Identity, *, keep: bool) -> None:
    """Make the folder ours, before the long work, and find out now whether it can be written.

    Args:
        folder: The result folder; made if need be.
        identity: What the coming result is of.
        keep: Leave a finished result where it is until the new one takes its place; otherwise
            the files that the marker lists are deleted.

    Raises:
        ResultError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if keep:
            _write_file(folder / MARKER, (folder / MARKER).read_bytes())
            return
        listed = _read_marker(folder / MARKER)["files"] if (folder / MARKER).is_file() else []
        for name in listed:
            _inside(folder, name).unlink(missing_ok=True)
        _write_marker(folder, identity, files=[])
    except OSError as error:
        raise _unwritable(folder, error) from None


def stage(folder: Path, writers: Mapping[str, Callable[[BinaryIO], None]]) -> dict[str, str]:
    """Write large files beside their places, for `write` to rename: they are never held whole.

    Args:
        folder: The result folder.
        writers: Path of each in the folder, and what writes it.

    Returns:
        The SHA-256 of each.

    Raises:
        ResultError: The folder cannot be written.
    """
    digests = {}
    try:
        for name, writer in writers.items():
            with _open_beside(_inside(folder, name)) as handle:
                writer(handle)
            with _beside(folder / name).open("rb") as written:
                digests[name] = hashlib.file_digest(written, "sha256").hexdigest()
    except OSError as error:
        raise _unwritable(folder, error) from None
    return digests


def write(
    folder: Path, identity: Identity, files: Mapping[str, bytes], staged: Collection[str] = ()
) -> None:
    """Write all files beside their places, then rename them, report.json last.

    An earlier report is taken away before the first rename: cut short at any moment, the folder
    holds the old result, the new one, or none, and never a mixture.

    Args:
        folder: The result folder.
        identity: What the result is of.
        files: Content of each file, by its path in the folder.
        staged: Files that `stage` has written there already.

    Raises:
        ResultError: The folder cannot be written.
    """
    names = [*staged, *(name for name in files if name != REPORT), REPORT]
    try:
        for name in names[len(staged) :]:
            _write_beside(_inside(folder, name), files[name])
        (folder / REPORT).unlink(missing_ok=True)
        # Listed before they are there: what a crash leaves behind is ours to delete.
        digest = hashlib.sha256(files[REPORT]).hexdigest()
        _write_marker(folder, identity, files=names, report=digest)
        for name in names:
            os.replace(_beside(folder / name), folder / name)
    except OSError as error:
        raise _unwritable(folder, error) from None


def write_share(folder: Path, share: str, run: Path, asked: Mapping[str, Any]) -> None:
    """Say of a folder which share of which scan its units are, once they are all there.

    Args:
        folder: The share's result folder.
        share: Which, as i/n.
        run: The run, kept as seen from the folder.
        asked: The scan's options.

    Raises:
        ResultError: It cannot be written.
    """
    seen = os.path.relpath(run.resolve(), folder.resolve())
    content = {"share": share, "run": seen, "asked": dict(asked)}
    try:
        _write_file(folder / SHARE, json.dumps(content, indent=1, sort_keys=True).encode())
    except OSError as error:
        raise _unwritable(folder, error) from None


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of a scan's passes, as `write_share` left it."""

    folder: Path
    number: int
    of: int
    run: Path
    asked: Mapping[str, Any]
    identity: Identity


def read_share(folder: Path) -> Share:
    """Which share of which scan lies in a folder.

    Raises:
        ResultError: None does, or it was not finished.
    """
    earlier = look(folder)
    try:
        written = json.loads((folder / SHARE).read_bytes())
        number, _, of = written["share"].partition("/")
        if earlier is None or not isinstance(written["asked"], dict):
            raise ValueError
        return Share(
            folder=folder,
            number=int(number),
            of=int(of),
            run=(folder.resolve() / written["run"]).resolve(),
            asked=written["asked"],
            identity=earlier.identity,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ResultError(
            f"{folder} holds no finished share of a scan",
            hint="give the folders that `arca-diag scan RUN --shard I/N` left; one that was "
            "stopped is finished by the same command",
        ) from None


def take_units(share: Share, folder: Path) -> None:
    """Copy a share's finished passes beside a result that is to be.

    Raises:
        ResultError: They cannot be copied.
    """
    source = share.folder / UNITS
    for path in source.iterdir() if source.is_dir() and not source.is_symlink() else ():
        if path.name.endswith(UNIT_FILES[0]) and path.is_file() and not path.is_symlink():
            keep_unit(folder, path.name, path.read_bytes())


def keep_unit(folder: Path, name: str, content: bytes) -> None:
    """Put a finished pass from elsewhere beside a result that is to be.

    Raises:
        ResultError: It cannot be written.
    """
    units = folder / UNITS
    try:
        units.mkdir(exist_ok=True, mode=0o700)
        if units.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        _write_file(units / name, content)
    except OSError as error:
        raise _unwritable(folder, error) from None


def clear_units(folder: Path) -> None:
    """Delete what was kept of a scan for its continuation: it has finished."""
    units = folder / UNITS
    if units.is_symlink() or not units.is_dir():
        return
    for path in units.iterdir():
        if path.name.endswith(UNIT_FILES) and not path.is_dir():
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is in it: not ours to delete
        units.rmdir()


def clear_share(folder: Path) -> None:
    """Delete a share that has been joined with the others; what is not ours in it stays."""
    clear_units(folder)
    for name in (SHARE, MARKER):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()


def _inside(folder: Path, name: str) -> Path:
    """A listed file's path; never one outside the folder."""
    path = folder / name
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ResultError(
            f"{folder / MARKER} lists a file outside the folder: {name}",
            hint="give another folder with --out",
        )
    return path


def _read_marker(path: Path) -> dict[str, Any]:
    try:
        written = json.loads(path.read_bytes())
        if written["format"] != _FORMAT:
            raise ValueError(f"format {written['format']}")
        ok = isinstance(written["options"], dict) and isinstance(written["inputs"], dict)
        if not ok or not all(isinstance(n, str) and "\0" not in n for n in written["files"]):
            raise ValueError("damaged")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultError(
            f"{path} is damaged or of another version: {error}",
            hint="give another folder with --out",
        ) from None
    return written


def _write_marker(
    folder: Path, identity: Identity, files: list[str], report: str | None = None
) -> None:
    content = {
        "format": _FORMAT,
        "made_by": "arca-diag",
        "options": dict(identity.options),
        "inputs": dict(identity.inputs),
        "files": files,
        "report": report,
    }
    _write_file(folder / MARKER, json.dumps(content, indent=1, sort_keys=True).encode())


def _write_file(path: Path, data: bytes) -> None:
    _write_beside(path, data)
    os.replace(_beside(path), path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _write_beside(path: Path, data: bytes) -> None:
    with _open_beside(path) as handle:
        handle.write(data)


def _open_beside(path: Path) -> BinaryIO:
    path.parent.mkdir(exist_ok=True)
    _beside(path).unlink(missing_ok=True)
    return _beside(path).open("xb")  # never through a link that somebody planted


def _unwritable(folder: Path, error: OSError) -> ResultError:
    return ResultError(
        f"{folder} cannot be written: {error.strerror}",
        hint="give a folder that can be written with --out",
    )
