"""A planted document with a block of every kind, and what reads the pages made of one."""

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pypdf
import pytest

from arca_diag.report.document import (
    Command,
    Document,
    Facts,
    Found,
    Paragraph,
    Section,
    Table,
)
from arca_diag.report.picture import Picture

#: What a model, a file's name or a policy may hold, and what a page shows of it.
HOSTILE = {
    "</script><script>alert(1)</script>": "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>": "<img src=x onerror=alert(1)>",
    "[/INST] [bold]red[/]": "[/INST] [bold]red[/]",
    "{{7*7}} {% raw %}": "{{7*7}} {% raw %}",
    '#import "/etc/passwd": * #panic("x")': '#import "/etc/passwd": * #panic("x")',
    "$x^2$ *a* _b_ `c` ~~d~~": "$x^2$ *a* _b_ `c` ~~d~~",
    "a\u202eb\u2066c": "aU+202EbU+2066c",
    "zero\u200bwidth\ufeff": "zeroU+200BwidthU+FEFF",
    "\x1b[31mred": "U+001B[31mred",
    "::error::planted": "::error::planted",
    "@everyone #123 GH-45 :smile:": "@everyone #123 GH-45 :smile:",
    "![x](http://x.example) www.x.example": "![x](http://x.example) www.x.example",
    "nul\0nul": "nulU+0000nul",
    "lone\ud800lone": "loneU+D800lone",
    "a|b\\|c": "a|b\\|c",
}
LONG = "q" * 100_000

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="200pt" height="60pt" viewBox="0 0 200 60">'
    '<rect x="5" y="5" width="190" height="50" fill="#d55e00"/>'
    '<text x="20" y="35" style="font: 10px \'DejaVu Sans\'">drawn words</text></svg>'
)


def picture(name: str = "trend") -> Picture:
    return Picture(
        id=name,
        section="Over the run",
        title="How it went",
        view="fixed-set",
        caption="Means over 12 prompts.",
        alt="It rose from 0.413 to 0.829.",
        svg=SVG,
    )


def found(message: str = "one token in 7 has the credit", **given: Any) -> Found:
    fields: dict[str, Any] = {
        "id": "credit-sparse",
        "level": "warn",
        "where": "surprisal, step 30",
        "message": message,
        "follows": ("credit-inherited",),
        "action": "weight tokens evenly",
        "evidence": (("effn_ratio", "0.151"), ("n_prompts", "12")),
        "source": "a paper",
    }
    return Found(**{**fields, **given})


def figures(rows: int = 3) -> Table:
    """A table of which each cell is another text."""
    cells = (
        (f"signal_{i}", f"0.{i:03}1 (0.{i:03}0 to 0.{i:03}2)", f"{7000 + i:,}") for i in range(rows)
    )
    return Table(
        title="How concentrated",
        head=("signal", "G^", "prompts"),
        rows=tuple(cells),
        caption="With 95% limits.",
        right=frozenset({1, 2}),
    )


def document(*sections: Section, **given: Any) -> Document:
    """A document of these sections; without any, of one of each kind of block."""
    fields: dict[str, Any] = {
        "title": "run-17",
        "level": "warn",
        "verdict": "1 warning",
        "headline": "At step 30 surprisal would rest on few tokens.",
        "sections": sections or whole(),
        "made": "2026-03-04T05:06:07+00:00",
        "maker": "arca-diag 9.8.7",
        "marks": ("3 checkpoints", "400 completions"),
    }
    return Document(**{**fields, **given})


def whole() -> tuple[Section, ...]:
    return (
        Section(id="findings", title="What was found", blocks=(found(),)),
        Section(
            id="run",
            title="The run",
            blocks=(Facts(rows=(("Base", "a small one"), ("", "in bfloat16"))),),
        ),
        Section(id="over", title="Over the run", blocks=(picture(),)),
        Section(
            id="figures",
            title="Figures",
            blocks=(Paragraph(text="What they are.", small=True), figures()),
            folded=True,
        ),
        Section(
            id="again",
            title="Reproduce",
            blocks=(Command(text="arca-diag scan run-17 --seed 4"),),
            folded=True,
        ),
    )


def hostile_document() -> Document:
    """Every hostile text at every place that a text has."""
    blocks = []
    for text in (*HOSTILE, LONG):
        blocks += [
            Paragraph(text=text),
            Facts(rows=((text[:40], text),)),
            Table(title=text, head=(text[:40], "b"), rows=((text, text),), caption=text),
            found(
                text,
                id=text[:60],
                where=text,
                follows=(text,),
                action=text,
                evidence=((text[:40], text),),
                source=text,
            ),
            Command(text=text),
        ]
    title = " ".join(HOSTILE)
    return document(
        Section(id="a", title=title, blocks=tuple(blocks)),
        title=title,
        verdict=title,
        headline=title,
        marks=tuple(HOSTILE),
        maker=title,
        made=title,
    )


def poppler(tool: str, data: bytes, folder: Path, *options: str, out: Path | str = "-") -> str:
    """What a tool of poppler says of a PDF."""
    if shutil.which(tool) is None:
        pytest.fail(f"{tool} is missing: apt-get install poppler-utils (or brew install poppler)")
    path = folder / "made.pdf"
    path.write_bytes(data)
    command = [tool, *options, str(path), *([str(out)] if tool != "pdffonts" else [])]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode()


def words_of(data: bytes) -> str:
    """The text of a PDF without any white space, so that no line break matters."""
    pages = pypdf.PdfReader(io.BytesIO(data)).pages
    return "".join("".join(page.extract_text() for page in pages).split())
