"""`arca-diag merge`: the shares of one scan into one result."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from arca_diag.commands.options import Json, NoRender, Out, Verbose
from arca_diag.report.words import safe
from arca_diag.results import ExitCode
from arca_diag.terminal import (
    fixable_errors,
    print_raw,
    progress_bar,
    say_more,
    shown,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from arca_diag.pipeline import Diagnosis


def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="What `scan --shard I/N` left, all N.")
    ],
    out: Out = None,
    no_render: NoRender = False,
    json: Json = False,
    verbose: Verbose = 0,
) -> None:
    """Join the shares that `scan --shard I/N` ran into one result, as one scan would give."""
    with fixable_errors():
        say_more(verbose)
        with progress_bar() as progress:
            progress.stage("starting")
            from arca_diag.merging import merge_shards

            diagnosis = merge_shards(folders, out, progress, no_render=no_render)
        print_diagnosis(diagnosis, json)
        if diagnosis.report is not None and diagnosis.report.status == "nothing-measured":
            raise typer.Exit(ExitCode.NOTHING_MEASURED)


def print_diagnosis(diagnosis: "Diagnosis", as_json: bool) -> None:
    """What a scan found; of a share, where it lies."""
    folder = shown(diagnosis.folder)
    if diagnosis.report is None:
        said = f"{folder}: {diagnosis.did}; join all with `arca-diag merge`"
        stderr().print(Text(safe(said)), soft_wrap=True)
        return
    if diagnosis.did != "measured":
        stderr().print(Text(safe(f"{diagnosis.folder}: {diagnosis.did}")), soft_wrap=True)
    if as_json:
        print_raw((diagnosis.folder / "report.json").read_text("utf-8"))
        return
    from arca_diag.report.console import print_report

    next_command = f"arca-diag gate {folder}"
    print_report(stdout(), diagnosis.report, folder, next_command)
