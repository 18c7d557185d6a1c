"""Where a gate's outcome goes: `--format FMT[=FILE]`, at most one of them to stdout."""

import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from arca_diag.errors import ArcaError
from arca_diag.gate.names import unknown
from arca_diag.gate.reading import MARKER, REPORT, is_result

FORMATS = ("text", "json", "junit", "github", "sarif", "markdown")


@dataclass(frozen=True, kw_only=True)
class Output:
    """One view of the outcome; `file` is None for stdout."""

    format: str
    file: Path | None


def outputs(formats: Sequence[str], output: Path | None) -> list[Output]:
    """What `--format` and `--output` ask for; text on stdout where nothing is asked.

    Raises:
        ArcaError: No such format, two for stdout, two for one file, or an --output that does not
            say which format it is for.
    """
    asked = []
    for text in formats:
        name, has_file, file = text.partition("=")
        if name not in FORMATS:
            raise unknown("format", name, FORMATS, "--format")
        if has_file and not file:
            raise ArcaError(f"--format {text}: no file after =", hint=f"write {name}=FILE")
        asked.append(Output(format=name, file=Path(file) if has_file else None))
    if output is not None:
        if len(asked) != 1 or asked[0].format == "text" or asked[0].file is not None:
            raise ArcaError(
                "--output is for exactly one --format that is not text and names no file",
                hint="with several, write each as FMT=FILE",
            )
        return [Output(format=asked[0].format, file=output)]
    bare = [one.format for one in asked if one.file is None]
    if len(bare) > 1:
        raise ArcaError(
            f"{' and '.join(bare)} would both go to stdout",
            hint=f"give all but one a file: --format {bare[0]}=FILE",
        )
    files = [one.file for one in asked if one.file is not None]
    if len({os.path.realpath(file) for file in files}) < len(files):
        raise ArcaError("two formats go to one file", hint="give each its own")
    return asked or [Output(format="text", file=None)]


def check_not_read(written: Iterable[Path], read: Iterable[Path]) -> None:
    """Check that nothing is written over what is read.

    Raises:
        ArcaError: Something would be.
    """
    inputs = {os.path.realpath(path) for path in read}
    for path in written:
        if os.path.realpath(path) in inputs:
            raise ArcaError(
                f"{path} would be written over, and it is read", hint="give another name"
            )


def check_not_of_a_result(written: Iterable[Path]) -> None:
    """Check that no part of any result is written over; the pages made from one may be.

    Raises:
        ArcaError: A report, its marker, a table or a plot would be.
    """
    for path in written:
        place = Path(os.path.realpath(path))
        for folder in (place.parent, place.parent.parent):
            name = place.relative_to(folder).as_posix()
            part = name in (REPORT, MARKER) or name.endswith(".parquet")
            if is_result(folder) and (part or name.startswith("plots/")):
                raise ArcaError(
                    f"{path} would be written over, and it is part of a result",
                    hint="give another name",
                )


def write_file(path: Path, text: str) -> None:
    """Write text whole, as UTF-8 (see `write_bytes`)."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole: beside its place, then renamed. What is no plain file is written into.

    Raises:
        ArcaError: It cannot be written.
    """
    try:
        if path.exists() and not path.is_file():  # /dev/null or a pipe; a folder refuses
            path.write_bytes(content)
            return
        place = Path(os.path.realpath(path))  # what a link leads to, not the link
        # A name that nobody can have put there, and never through a link.
        beside = place.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with beside.open("xb") as handle:
                handle.write(content)
            os.replace(beside, place)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ArcaError(
            f"{path} cannot be written: {error.strerror}", hint="give a file that can be written"
        ) from None
