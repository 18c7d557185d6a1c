"""What every command does with a terminal: streams, progress, messages, exit codes. No commands."""

import io
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from arca_diag.errors import ArcaError
from arca_diag.results import ExitCode


def shown(path: Path) -> Path:
    """Relative to the working directory where that is shorter to read."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path


class _RichProgress:
    """Progress on stderr: the stage, then how much is done, the rate and the time left."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task = bar.add_task("starting", total=None, rate="")
        self.begun = 0.0
        self.given = 0
        self.unit = ""

    def stage(self, name: str) -> None:
        self.bar.update(self.task, description=name, rate="")

    def start(self, total: int, unit: str) -> None:
        self.begun = time.monotonic()
        self.unit = unit
        self.given = 0
        self.bar.update(self.task, total=total, completed=0)

    def reused(self, done: int) -> None:
        # Out of what the bar knows: its rate and time left are those of the work to do.
        self.given += done
        self.bar.update(self.task, total=(self.bar.tasks[0].total or 0) - done)

    def advance(self, done: int) -> None:
        task = self.bar.tasks[0]
        rate = (task.completed + done) / max(time.monotonic() - self.begun, 1e-9)
        of = f"{task.completed + done + self.given:,.0f}/{(task.total or 0) + self.given:,.0f}"
        told = f"{of} {self.unit}, {rate:,.0f}/s"
        self.bar.update(self.task, advance=done, rate=told)


@contextmanager
def progress_bar() -> Iterator[Any]:
    """Progress on stderr, off where that is no terminal or in CI."""
    from arca_diag.progress import Silent

    console = stderr()
    if not console.is_terminal or os.environ.get("CI"):
        yield Silent()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _RichProgress(bar)


def _once() -> Callable[[logging.LogRecord], bool]:
    """A filter of warnings that were given before: what reads a file twice warns of it twice."""
    given: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        told = record.getMessage()
        new = record.levelno < logging.WARNING or told not in given
        given.add(told)
        return new

    return is_new


def open_streams() -> None:
    """Make both streams writable: closed ones lead nowhere, and no character is one too many."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # for the whole process
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say_more(loudness: int) -> None:
    """Configure the package's logger and quiet the libraries; only a command may do this."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_once())
    logger = logging.getLogger("arca_diag")
    logger.handlers = [handler]
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(loudness, 2)])
    if loudness == 0:
        # What the libraries warn of is not the user's to mend; -v shows it.
        warnings.filterwarnings("ignore", module=r"(transformers|peft|torch|huggingface_hub)\b")
    if loudness < 2:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")


def stdout() -> Console:
    """Where the result goes."""
    return Console(highlight=False, soft_wrap=False)


def stay_quiet(console: Console) -> None:
    """What a console does when its reader has gone; Rich itself would exit with 1."""
    console.quiet = True
    mute_stdout()


def stderr() -> Console:
    """Where everything else goes."""
    return Console(stderr=True, highlight=False)


def print_raw(text: str) -> None:
    """Print a machine's text as it is, as UTF-8 whatever the locale; a reader gone is no error."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.flush()
    except BrokenPipeError:
        mute_stdout()


def mute_stdout() -> None:
    """Nobody reads any more: let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def fixable_errors() -> Iterator[None]:
    """Turn what a user can mend into a message on stderr and an exit code; bugs pass through."""
    try:
        yield
    except ArcaError as error:
        from arca_diag.report.words import lines

        stderr().print(Text(lines(f"error: {error}")), soft_wrap=True)
        if error.hint:
            stderr().print(Text(lines(f"   do: {error.hint}")), soft_wrap=True)
        raise typer.Exit(ExitCode.BAD_INPUT) from None
    except KeyboardInterrupt:
        stderr().print(Text("interrupted: no finished result was touched"))
        raise typer.Exit(ExitCode.INTERRUPTED) from None
