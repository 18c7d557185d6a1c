"""`arca-diag report`: a saved result on the terminal, as a page, on paper, for a pull request."""

import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from arca_diag.commands.forms import STDOUT, Forms
from arca_diag.commands.holding import saved_as_asked
from arca_diag.commands.options import Font, Html, Json, Markdown, Pdf, Verbose
from arca_diag.commands.output import check_not_read, write_bytes
from arca_diag.config_sources import FILES
from arca_diag.errors import ArcaError
from arca_diag.report.words import safe
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
    from arca_diag.rendering import Pages


def report(
    target: Annotated[
        Path, typer.Argument(metavar="DIR", help="A result folder, or a run that has one.")
    ],
    html: Html = None,
    pdf: Pdf = None,
    md: Markdown = None,
    show: Annotated[
        bool, typer.Option("--open", help="Show the page in the browser of this machine.")
    ] = False,
    font: Font = None,
    redact_text: Annotated[
        bool,
        typer.Option("--redact-text", help="Keep prompts, completions, tokens and their ids out."),
    ] = False,
    credit: Annotated[
        str | None,
        typer.Option(
            metavar="uniform|SIGNAL|top_entropy:Q",
            help="The credit the run trained with. (default: what the result says)",
        ),
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Judge again with this floor.")] = None,
    sharpening: Annotated[float | None, typer.Option(help="Judge again at this power.")] = None,
    seed: Annotated[int | None, typer.Option(help="Judge again with this seed.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Options and cuts, TOML. (default: arca.toml, pyproject.toml here)"),
    ] = None,
    json: Json = False,
    verbose: Verbose = 0,
) -> None:
    """Show a saved result again, as it is or judged otherwise: no model, no network.

    Without a file to write it is printed as a scan prints it. The folder itself is not changed.
    """
    judging = {"credit": credit, "epsilon": epsilon, "sharpening": sharpening, "seed": seed}
    with fixable_errors():
        say_more(verbose)
        forms = Forms(html=html, pdf=pdf, md=md, font=font)
        forms.check(json=json)
        _check_open(show, json=json, md=md)
        check_not_read(forms.files, [target, *([config] if config else map(Path, FILES))])
        with progress_bar() as progress:
            progress.stage("reading the result")
            folder, found, frames = saved_as_asked(target, judging, config)
            if redact_text:
                from arca_diag.rendering import without_text

                found, frames = without_text(found, frames)
            if forms.any or show:
                progress.stage("drawing")
                from arca_diag.rendering import pages
                from arca_diag.report.headline import headline

                made = pages(found, frames)
                if forms.any:
                    stderr().print(Text(safe(headline(found))), soft_wrap=True)
                forms.write(made)
                if show:
                    _show(made, html)
        if json:
            print_raw(found.to_json())
        elif not forms.any and not show:
            from arca_diag.report.console import print_report

            print_report(stdout(), found, shown(folder), f"arca-diag gate {shown(folder)}")


def _check_open(show: bool, *, json: bool, md: Path | None) -> None:
    """Check that no browser is opened where a program reads what is printed.

    Raises:
        ArcaError: One would be.
    """
    printed = "--json" if json else "--md -" if md == STDOUT else ""
    if show and printed:
        raise ArcaError(
            f"--open and {printed}: nothing is opened beside what is printed for a program",
            hint="leave --open out" if json else "give --md a file, or leave --open out",
        )


def _show(made: "Pages", html: Path | None) -> None:
    """Open the page that was written, or one in a folder of its own."""
    if html is None:
        html = Path(tempfile.mkdtemp(prefix="arca-diag-")) / "report.html"
        write_bytes(html, made.html())
    if not webbrowser.open(html.resolve().as_uri()):
        raise ArcaError(
            "no browser could be started here", hint=f"the page is {html}: open it elsewhere"
        )
