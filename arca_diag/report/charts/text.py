"""How pictures write names and ticks. Text of a model or a folder is hostile."""

from arca_diag.report.numbers import unit_share
from arca_diag.report.words import safe

#: Characters of a token that are shown.
LONGEST = 20


def shown(text: str, longest: int = LONGEST) -> str:
    """A stranger's text in one short line: what cannot be seen is escaped, the rest cut.

    What is left has no control character, no mark that turns the direction of writing, and
    nothing that XML forbids.
    """
    line = safe(text)
    return line if len(line) <= longest else line[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def tick(value: float) -> str:
    """A number on an axis in at most five characters or so: `0.25`, `12k`, `1e-5`."""
    size = abs(value)
    if 1e3 <= size < 1e4:
        return f"{value:.0f}"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{value / (1e3 if name == 'k' else unit):.3g}{name}"
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e") if value else "0"


def listed(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(([", ".join(parts[:-1])] if parts[:-1] else []) + parts[-1:])


def capital(text: str) -> str:
    """The text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def signed(value: float | None) -> str:
    """A figure between -1 and 1 in two decimals without the leading zero: `-.03`."""
    if value is None:
        return unit_share(None)
    short = unit_share(abs(value))
    return f"-{short}" if value < 0 else short


def step_name(checkpoint: int | str) -> str:
    """A checkpoint on an axis: its step, shortly."""
    return tick(checkpoint) if isinstance(checkpoint, int) else shown(checkpoint, 12)
