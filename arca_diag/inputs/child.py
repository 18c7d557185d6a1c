"""Runs a program of ours as a process that may hang, fill its memory or die."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# What a Python may need to start, and the zone that a template's clock goes by.
_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT", "TZ")


def run_child(
    program: Path, request: Iterable[bytes], seconds: float
) -> tuple[list[dict[str, Any]], str]:
    """Hand a request to a program and wait for its end, or end it.

    Args:
        program: A script. It finds installed packages, and neither this one nor what lies in the
            working directory; of the environment it sees next to nothing.
        request: Lines of its standard input.
        seconds: Wall clock that it may take.

    Returns:
        The JSON objects that it wrote, one a line, and how it ended, for where some are missing.
    """
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        given.writelines(request)
        given.seek(0)
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(program)], stdin=given, stdout=output, stderr=errors,
                env=environment, timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            ended = f"not done within {seconds:g} s"
        else:
            errors.seek(0)
            lines = errors.read(2**16).decode("utf-8", "replace").strip().splitlines()
            said = [line for line in lines if not line.startswith("note:")]  # Rust's advice
            ended = f"the process ended early, with status {done.returncode}"
            ended += f": {said[-1][:300]}" if said else ""
        output.seek(0)
        return _objects(output), ended


def _objects(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # the process was ended while it wrote
            break
        if isinstance(value, dict):
            found.append(value)
    return found
