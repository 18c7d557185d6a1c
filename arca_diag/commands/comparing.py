"""`arca-diag compare`: two saved results side by side."""

from pathlib import Path
from typing import Annotated

import typer

from arca_diag.commands.forms import Forms
from arca_diag.commands.options import Font, Html, Markdown, Pdf, Verbose
from arca_diag.commands.output import check_not_read
from arca_diag.terminal import fixable_errors, print_raw, progress_bar, say_more, stdout

_RESULT = "A result folder, its report.json, or a run that has one."


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help=_RESULT)],
    after: Annotated[Path, typer.Argument(metavar="B", help=_RESULT)],
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="C|FROM:TO|all",
            help="Of both, or one of each; may be repeated. (default: the last of both)",
        ),
    ] = None,
    html: Html = None,
    pdf: Pdf = None,
    md: Markdown = None,
    font: Font = None,
    redact_text: Annotated[
        bool, typer.Option("--redact-text", help="Keep out what files of completions are called.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the comparison as JSON, and nothing else.")
    ] = False,
    verbose: Verbose = 0,
) -> None:
    """Say what changed between two results, and whether it is outside noise: no model."""
    with fixable_errors():
        say_more(verbose)
        forms = Forms(html=html, pdf=pdf, md=md, font=font)
        forms.check(json=json)
        check_not_read(forms.files, (before, after))
        with progress_bar() as progress:
            progress.stage("reading the results")
            from arca_diag.comparing import compare_results, without_text

            found = compare_results(before, after, checkpoint or [])
        if redact_text:
            found = without_text(found)
        if json:
            print_raw(found.to_json())
        if forms.any:
            from arca_diag.rendering import comparison_pages

            forms.write(comparison_pages(found))
        if json or forms.any:
            return
        from arca_diag.report.comparison import print_comparison

        print_comparison(stdout(), found)
