"""Options that several commands have, each written once."""

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path | None, typer.Option(help="Result folder. (default: RUN/arca-diag)")]
Json = Annotated[bool, typer.Option("--json", help="Print report.json, and nothing else.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Say more on stderr; -vv for all.")
]
