"""How the terminal views word what they share: findings, counts, places. Model text is hostile."""

import re
from collections.abc import Iterable, Sequence

from rich.text import Text

from arca_diag.results import Finding, View

#: What a view shows.
VIEW_MEANS: dict[View, str] = {
    "on-policy": "each checkpoint on the completions nearest to it",
    "fixed-set": "the same completions under every checkpoint",
}
_HEAD = 14  # columns: `step 1,234,567`, and six of them beside the names of signals
#: The two figures of concentration, as text, tables and the axes of pictures all name them.
GINI, EFFN = "corrected Gini (G^)", "corrected effective tokens (e^)"
_STYLE = {"error": "bold red", "warn": "bold yellow", "note": "bold"}


_FEW = 6  # places that are named one by one
#: What CI systems read as a command wherever it stands in a line: GitHub's `##[group]`, Azure's
#: `##vso[`, TeamCity's `##teamcity[`.
_COMMAND = re.compile(r"##(?=\w*\[)")
#: What begins one of GitHub's commands, `::error::`, at a line's start.
_COLONS = re.compile(r":(?=:)")


def safe(text: str) -> str:
    """The text with control characters as escapes: a file's name may hold a terminal's commands.

    Those of a CI system that are read anywhere in a line are broken by a space.
    """
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return _COMMAND.sub("## ", line)


def lines(text: str) -> str:
    """The text with every further line marked as ours: CI systems read commands at a line's start.

    Several faults come in several lines; so may a name that a stranger chose.
    """
    return "\n     - ".join(map(safe, text.split("\n")))


def harmless(text: str) -> str:
    """One line that no terminal and no CI system reads as a command."""
    return _COLONS.sub(": ", safe(" ".join(text.split())))


def at(checkpoint: int | str) -> str:
    """A checkpoint as it is named in a sentence."""
    return f"step {checkpoint}" if isinstance(checkpoint, int) else checkpoint


def head(checkpoint: int | str) -> str:
    """A checkpoint at the head of a column: of a long name the end, by which names differ."""
    name = safe(at(checkpoint))
    return name if len(name) <= _HEAD else ".." + name[2 - _HEAD :]


def places(names: Sequence[int | str], noun: str = "checkpoints") -> str:
    """Checkpoints in a row: `step 2, step 15`; of more than a few the first ones and the last.

    Args:
        names: Their steps or names, in order.
        noun: What they are, if they are not all steps.
    """
    if len(names) <= _FEW:
        return ", ".join(map(at, names))
    steps = all(isinstance(name, int) for name in names)
    first = ", ".join(map(str, names[: _FEW // 2]))
    told = f"{first}, ... {names[-1]} ({len(names):,} {'steps' if steps else noun})"
    return f"steps {told}" if steps else told


def count(number: int, noun: str) -> str:
    """`1 group`, `1,200 groups`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def finding_lines(findings: Iterable[Finding]) -> list[Text]:
    """Each finding and what to do about it, and where more is said of it; empty without one.

    What holds at several checkpoints is said once, in the words of the last: it is the model that
    the run ended with, and the headline is about it.
    """
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.id, finding.level, finding.action), []).append(finding)
    out = []
    for (identity, level, action), same in alike.items():
        names = list(dict.fromkeys(f.checkpoint for f in same if f.checkpoint is not None))
        where = f" at {places(names)}" if names else ""
        whose = "" if len({f.message for f in same}) == 1 else f" (figures of {at(names[-1])})"
        told = f"[{identity}]{where}: {same[-1].message}{whose}"
        if consequences := list(dict.fromkeys(c for f in same for c in f.cause_of)):
            told += f"; from this follow: {', '.join(consequences)}"
        out.append(Text.assemble((f"{level} ", _STYLE[level]), lines(told)))
        out.append(Text(lines(f"     do: {action}")))
    if alike:
        out.append(Text(f"more on any of them: arca-diag explain {next(iter(alike))[0]}"))
    return out
