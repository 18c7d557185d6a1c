"""Options that several commands have, each written once."""

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path | None, typer.Option(help="Result folder. (default: RUN/arca-diag)")]
Json = Annotated[bool, typer.Option("--json", help="Print report.json, and nothing else.")]
NoRender = Annotated[
    bool,
    typer.Option("--no-render", help="Write report.json and tables alone: no HTML, PDF, plots."),
]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Say more on stderr; -vv for all.")
]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page that needs no network.")
]
Pdf = Annotated[Path | None, typer.Option("--pdf", metavar="FILE", help="Write a PDF.")]
Markdown = Annotated[
    Path | None,
    typer.Option("--md", metavar="FILE", help="Write Markdown, for a pull request; - for stdout."),
]
Font = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="For the PDF: a font with what its own lacks, such as CJK."),
]
