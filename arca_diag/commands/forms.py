"""Where pages go: `--html`, `--pdf` and `--md`, of every command that has them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from arca_diag.commands.output import check_not_of_a_result, check_not_read, write_bytes
from arca_diag.errors import ArcaError
from arca_diag.report.words import safe
from arca_diag.terminal import print_raw, shown, stderr

if TYPE_CHECKING:  # pictures take a while to import
    from arca_diag.rendering import Pages

STDOUT = Path("-")


@dataclass(frozen=True, kw_only=True)
class Forms:
    """What was asked for; None for a form that was not."""

    html: Path | None
    pdf: Path | None
    md: Path | None
    font: Path | None

    @property
    def files(self) -> list[Path]:
        """What will be written to."""
        return [f for f in (self.html, self.pdf, self.md) if f is not None and f != STDOUT]

    @property
    def any(self) -> bool:
        """Whether a form was asked for at all."""
        return any(f is not None for f in (self.html, self.pdf, self.md))

    def check(self, *, json: bool) -> None:
        """Check that they do not get in each other's way.

        Raises:
            ArcaError: A page for a terminal, two forms for one place, a font without a PDF, or a
                form over the font or over a part of a result.
        """
        for option, file in (("--html", self.html), ("--pdf", self.pdf)):
            if file == STDOUT:
                raise ArcaError(f"{option} - : a page is not for a terminal", hint="give a file")
        if json and self.md == STDOUT:
            raise ArcaError("--json and --md - would both go to stdout", hint="give --md a file")
        for option, file in (("--html", self.html), ("--pdf", self.pdf), ("--md", self.md)):
            if file is not None and file.is_dir():
                raise ArcaError(f"{option} names the folder {file}", hint="give a file")
        named = {os.path.realpath(file) for file in self.files}
        if len(named) < len(self.files):
            raise ArcaError("two forms go to one file", hint="give each its own")
        if self.font is not None and self.pdf is None:
            raise ArcaError("--font is for the PDF", hint="add --pdf FILE")
        check_not_read(self.files, [self.font] if self.font else [])
        check_not_of_a_result(self.files)

    def write(self, made: "Pages") -> None:
        """Render everything, then write it: a form that fails leaves no half of the others."""
        rendered: list[tuple[Path, bytes]] = []
        if self.html is not None:
            rendered.append((self.html, made.html()))
        if self.pdf is not None:
            rendered.append((self.pdf, made.pdf(self.font)))
        if self.md is not None and self.md != STDOUT:
            rendered.append((self.md, made.markdown().encode("utf-8")))
        for file, content in rendered:
            write_bytes(file, content)
            stderr().print(Text(safe(f"{shown(file)} was written")), soft_wrap=True)
        if self.md == STDOUT:
            print_raw(made.markdown())
