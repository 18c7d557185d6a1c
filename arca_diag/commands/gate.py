"""`arca-diag gate`: a saved result, or a run that is scanned if need be, held to a policy."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from arca_diag.commands.holding import hold, policy_of
from arca_diag.commands.options import Verbose
from arca_diag.commands.output import Output, check_not_read, outputs, write_file
from arca_diag.config_sources import FILES
from arca_diag.errors import ArcaError
from arca_diag.gate.checks import OnDisk
from arca_diag.gate.loading import Resolved
from arca_diag.gate.outcome import GateResult
from arca_diag.gate.reading import REPORT
from arca_diag.gating import make_baseline, run_gate
from arca_diag.report.gate.anchor import Anchor, lines_of
from arca_diag.report.gate.markdown import render_markdown
from arca_diag.report.gate.text import text_lines
from arca_diag.report.gate.words import error_line, last_line
from arca_diag.results import ExitCode, Report
from arca_diag.terminal import (
    fixable_errors,
    print_raw,
    progress_bar,
    say_more,
    shown,
    stderr,
    stdout,
)

_BEGUN = time.monotonic()
#: What Typer raises of a command line that it cannot read: UsageError of whichever Click it has.
_USAGE: Any = typer.BadParameter.__mro__[1]


def gate(
    target: Annotated[
        Path,
        typer.Argument(metavar="DIR|RUN", help="A result folder; or a run, scanned if need be."),
    ],
    config: Annotated[
        Path | None,
        typer.Option(help="Policy and options, TOML. (default: arca.toml, pyproject.toml here)"),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="recommended, strict or lenient. (default: recommended)"),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="An accepted result to compare with.")
    ] = None,
    update_baseline: Annotated[
        bool,
        typer.Option(
            "--update-baseline",
            help="Write it from this result, if that passes, against the old one too.",
        ),
    ] = False,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="last|all|N", help="Which are judged. (default: last)")
    ] = None,
    view: Annotated[
        str | None, typer.Option(metavar="on-policy|fixed-set", help="(default: on-policy)")
    ] = None,
    fail_on: Annotated[
        str | None, typer.Option(metavar="error|warn|never", help="(default: error)")
    ] = None,
    select: Annotated[
        str | None, typer.Option(metavar="IDS", help="Only these rules, and our own checks.")
    ] = None,
    ignore: Annotated[str | None, typer.Option(metavar="IDS", help="All but these rules.")] = None,
    credit: Annotated[
        str | None,
        typer.Option(
            metavar="uniform|SIGNAL|top_entropy:Q",
            help="The credit that can fail the run. (default: what the result says)",
        ),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Judge the saved tables again with this floor.")
    ] = None,
    sharpening: Annotated[
        float | None, typer.Option(help="Judge the saved tables again at this power.")
    ] = None,
    inconclusive: Annotated[
        str | None,
        typer.Option(metavar="fail|pass", help="What is not known exits 3, or 0. (default: fail)"),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FMT[=FILE]",
            help="text, json, junit, github, sarif, markdown; may be repeated. (default: text)",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="File for the one format that is not text.")
    ] = None,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Exit 0 where the gate fails or is inconclusive.")
    ] = False,
    verbose: Verbose = 0,
) -> None:
    """Hold a saved result to a policy: exit 0 passed, 1 failed, 3 inconclusive. No model."""
    flags = {
        "profile": profile,
        "checkpoint": checkpoint,
        "view": view,
        "fail_on": fail_on,
        "select": select,
        "ignore": ignore,
        "inconclusive": inconclusive,
        "baseline": baseline,
    }
    judging = {"credit": credit, "epsilon": epsilon, "sharpening": sharpening}
    with last_line_on_errors():
        say_more(verbose)
        asked = outputs(formats or [], output)
        read = [target / REPORT, target, *([config] if config else map(Path, FILES))]
        _check_outputs(asked, [*read, *([baseline] if baseline else [])])
        with _errors_written(asked):
            resolved = policy_of(target, flags, config)
            named = [resolved.policy.baseline] if resolved.policy.baseline else []
            _check_outputs(asked, named)
            if update_baseline:
                check_not_read(named, read)
            with progress_bar() as progress:
                held = hold(target, judging, config, progress)
            result = _gated(
                held.report, resolved, disk=held.disk, credit=held.credit, update=update_baseline
            )
            _publish(result, asked, _anchor(resolved, config))
    raise typer.Exit(ExitCode.DONE if exit_zero else result.exit_code)


def gate_a_scan(report: Report, resolved: Resolved, *, to_stderr: bool) -> int:
    """What `scan --fail-on LEVEL` does after the scan: the same gate and exit codes."""
    result = _gated(report, resolved, disk=OnDisk(compared=True))
    console = stderr() if to_stderr else stdout()
    for line in text_lines(result):
        console.print(line, soft_wrap=True)
    console.print(Text(last_line(result, time.monotonic() - _BEGUN)), soft_wrap=True)
    return result.exit_code


def _gated(
    report: Report,
    resolved: Resolved,
    *,
    disk: OnDisk,
    credit: str | None = None,
    update: bool = False,
) -> GateResult:
    policy = resolved.policy
    file = policy.baseline
    if update and file is None:
        raise ArcaError("--update-baseline without a file", hint="say which: --baseline FILE")
    if update and file is not None and not os.path.lexists(file):  # the first: nothing to hold to
        ignore = (*policy.ignore, *policy.comparing())
        policy = policy.model_copy(update={"ignore": ignore, "baseline": None})
    result = run_gate(report, policy, credit=credit, disk=disk, resolved=resolved)
    if update and file is not None:
        worse = [r.id for r in result.failed() if r.id in result.judged.compared]
        if result.status != "PASSED" or worse or not result.judged.tokens:
            why = f"{', '.join(worse)} failed" if worse else "this result is not an accepted one"
            note = f"{file} was not written: {why}; to start a new one all the same, delete it"
        else:
            write_file(file, make_baseline(report, policy, result).to_json())
            held = ", ".join(result.judged.compared)
            old = f", which passed against the old one ({held})" if held else ""
            note = f"{shown(file)} was written from this result{old}"
        result = result.model_copy(update={"notes": [*result.notes, note]})
    return result


def _check_outputs(asked: list[Output], read: list[Path]) -> None:
    """Check that no output is the report, the policy or the baseline, which are read."""
    check_not_read([one.file for one in asked if one.file is not None], read)


def _anchor(resolved: Resolved, config: Path | None) -> Anchor:
    """The policy's file as a repository knows it, and the lines of its rules."""
    if resolved.file is None:
        return Anchor()
    path = config or Path(resolved.file)
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        text = ""
    near = path.resolve().is_relative_to(Path.cwd())
    return Anchor(
        path=str(shown(path)) if near else path.name,
        lines=lines_of(text, resolved.policy.rules),
    )


def _publish(result: GateResult, asked: list[Output], anchor: Anchor) -> None:
    """Render everything, then write the files, then print; the last line comes last."""
    rendered = [
        (one, _rendered(result, one.format, anchor)) for one in asked if one.format != "text"
    ]
    if any(one.format == "github" for one in asked):
        _append_summary(result)
    texts = [one for one in asked if one.format == "text"]
    for one, text in rendered:
        if one.file is not None:
            write_file(one.file, text)
    for one in texts:
        if one.file is not None:
            write_file(one.file, "".join(f"{line.plain}\n" for line in text_lines(result)))
    for one, text in rendered:
        if one.file is None:
            print_raw(text)
    if any(one.file is None for one in texts):
        console = stdout()
        for line in text_lines(result):
            console.print(line, soft_wrap=True)
    machine = any(one.file is None for one, _ in rendered)
    console = stderr() if machine else stdout()
    console.print(Text(last_line(result, time.monotonic() - _BEGUN)), soft_wrap=True)


def _rendered(result: GateResult, name: str, anchor: Anchor) -> str:
    """A view for machines; each is imported where it is asked for."""
    if name == "json":
        return result.to_json()
    if name == "junit":
        from arca_diag.report.gate.junit import render_junit

        return render_junit(result)
    if name == "github":
        from arca_diag.report.gate.github import render_github

        return render_github(result, anchor)
    if name == "sarif":
        from arca_diag.report.gate.sarif import render_sarif

        return render_sarif(result, anchor)
    assert name == "markdown", name
    return render_markdown(result)


def _append_summary(result: GateResult) -> None:
    """Add the Markdown to the step's summary, where GitHub says that there is one."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if not summary:
        return
    try:
        with Path(summary).open("a", encoding="utf-8") as handle:
            handle.write(render_markdown(result))
    except OSError as error:
        raise ArcaError(
            f"GITHUB_STEP_SUMMARY: {summary} cannot be written: {error.strerror}"
        ) from None


@contextmanager
def _errors_written(asked: list[Output]) -> Iterator[None]:
    """Where an error ends the gate, no output of an earlier one is left to be taken for it."""
    try:
        yield
    except ArcaError as error:
        from arca_diag.report.gate.error import render_error

        message = f"{error} -- do: {error.hint}" if error.hint else str(error)
        for one in asked:
            text = render_error(one.format, message)
            with suppress(ArcaError, OSError):  # it may be the very file that cannot be written
                if one.file is None and one.format != "text":
                    print_raw(text or "")
                elif one.file is not None and text is not None:
                    write_file(one.file, text)
                elif one.file is not None and one.file.is_file():
                    one.file.unlink()
        raise


class Command(TyperCommand):
    """`gate`, whose last line comes even where an option that there is not ends it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer does it, with our words and our last line for what it refuses."""
        with last_line_on_errors():
            try:
                return super().parse_args(ctx, args)
            except _USAGE as error:
                hint = "`arca-diag gate --help` lists every option"
                raise ArcaError(error.format_message(), hint=hint) from None


def tell_error(message: str) -> None:
    """The last line of a gate that could not be held."""
    line = error_line(message, time.monotonic() - _BEGUN)
    stderr().print(Text(line), soft_wrap=True)


@contextmanager
def last_line_on_errors() -> Iterator[None]:
    """Messages for what has to be mended, and the last line after them."""
    told = ""
    try:
        with fixable_errors():
            try:
                yield
            except ArcaError as error:
                told = str(error)
                raise
    except typer.Exit as ended:
        if ended.exit_code == ExitCode.BAD_INPUT:
            tell_error(told)
        raise
