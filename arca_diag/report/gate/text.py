"""The gate on a terminal: what failed first, what to do about it, what is not known."""

from rich.text import Text

from arca_diag.gate.outcome import GateResult, RuleOutcome
from arca_diag.report.gate.words import harmless, place, summary, told

_STYLE = {"error": "bold red", "warn": "bold yellow", "note": "bold"}
_SHOWN = 6


def text_lines(result: GateResult) -> list[Text]:
    """Every line but the last, which has the time in it."""
    out = [Text(f"{label:13} {value}") for label, value in summary(result)]
    out.append(Text(""))
    for rule in result.failed():
        out += _lines(rule, rule.level, _STYLE[rule.level])
    for rule in result.of_status("inconclusive"):
        weight = "" if rule.holds else ", which does not gate"
        out += _lines(rule, f"inconclusive ({rule.level}{weight})", "bold magenta")
    for rule in result.of_status("suppressed"):
        reason = next(c.suppressed or "" for c in rule.cases if c.status == "suppressed")
        out.append(Text(f"suppressed [{rule.id}]: {harmless(reason)}; {told(rule)}"))
    out += [Text(f"note: {harmless(note)}") for note in result.notes]
    passed = result.of_status("passed")
    out.append(Text(f"{len(passed)} of {len(result.rules)} rules passed"))
    if others := [*result.failed(), *result.of_status("inconclusive")]:
        out.append(Text(f"more on any of them: {others[0].help}"))
    return out


def _lines(rule: RuleOutcome, word: str, style: str) -> list[Text]:
    """A rule, what to do, and the other places where it holds."""
    out = [Text.assemble((word, style), f" [{rule.id}]: {told(rule)}")]
    places = list(dict.fromkeys(harmless(place(c)) for c in rule.deciding()[1:] if place(c)))
    if places:
        more = f", and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        out.append(Text(f"     also: {'; '.join(places[:_SHOWN])}{more}"))
    if rule.action:
        out.append(Text(f"     do: {harmless(rule.action)}"))
    return out
