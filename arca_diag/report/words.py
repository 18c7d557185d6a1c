"""How the terminal views word what they share: findings, counts, places. Model text is hostile."""

from collections.abc import Iterable

from rich.text import Text

from arca_diag.results import Finding

_STYLE = {"error": "bold red", "warn": "bold yellow", "note": "bold"}


def safe(text: str) -> str:
    """The text with control characters as escapes: a file's name may hold a terminal's commands."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def at(checkpoint: int | str) -> str:
    """A checkpoint as it is named in a sentence."""
    return f"step {checkpoint}" if isinstance(checkpoint, int) else checkpoint


def count(number: int, noun: str) -> str:
    """`1 group`, `1,200 groups`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def finding_lines(findings: Iterable[Finding]) -> list[Text]:
    """Each finding and what to do about it, and where more is said of it; empty without one."""
    out = []
    for finding in findings:
        where = "" if finding.checkpoint is None else f" at {at(finding.checkpoint)}"
        told = f"[{finding.id}]{where}: {finding.message}"
        out.append(Text.assemble((f"{finding.level} ", _STYLE[finding.level]), safe(told)))
        out.append(Text(safe(f"     do: {finding.action}")))
    if out:
        out.append(Text("arca-diag explain ID says how each finding is measured"))
    return out
