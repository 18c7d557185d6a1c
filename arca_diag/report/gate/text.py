"""The gate on a terminal: what failed first, what to do about it, what is not known."""

from rich.text import Text

from arca_diag.gate.outcome import GateResult, RuleOutcome
from arca_diag.report.gate.words import and_followers, followers, place, summary, told
from arca_diag.report.words import harmless

_STYLE = {"error": "bold red", "warn": "bold yellow", "note": "bold"}
_SHOWN = 6


def text_lines(result: GateResult) -> list[Text]:
    """Every line but the last, which has the time in it."""
    out = [Text(f"{label:13} {value}") for label, value in summary(result)]
    out.append(Text(""))
    follow = followers(result)
    for rule in result.failed():
        out += _lines(rule, rule.level, _STYLE[rule.level], follow.get(rule.id, []))
    folded = {rule for ids in follow.values() for rule in ids}
    for rule in [r for r in result.of_status("inconclusive") if r.id not in folded]:
        weight = "" if rule.holds else ", which does not gate"
        word = f"inconclusive ({rule.level}{weight})"
        out += _lines(rule, word, "bold magenta", follow.get(rule.id, []))
    for rule in result.of_status("suppressed"):
        reason = next(c.suppressed or "" for c in rule.cases if c.status == "suppressed")
        out.append(Text(f"suppressed [{rule.id}]: {harmless(reason)}; {told(rule)}"))
    out += [Text(f"note: {harmless(note)}") for note in result.notes]
    passed = result.of_status("passed")
    out.append(Text(f"{len(passed)} of {len(result.rules)} rules passed"))
    by_reason: dict[str, list[str]] = {}
    for rule in result.of_status("skipped"):
        by_reason.setdefault(rule.message, []).append(rule.id)
    if by_reason:
        reasons = "; ".join(f"{', '.join(ids)} ({why})" for why, ids in by_reason.items())
        out.append(Text(f"skipped: {harmless(reasons)}"))
    others = [*result.failed(), *result.of_status("inconclusive")]
    if explained := [r.of for r in others if r.kind != "measurement"]:
        out.append(Text(f"more on any of them: arca-diag explain {explained[0]}"))
    return out


def _lines(rule: RuleOutcome, word: str, style: str, follow: list[str]) -> list[Text]:
    """A rule, what to do, and the other places where it holds."""
    out = [Text.assemble((word, style), f" [{rule.id}]: {told(rule)}")]
    places = list(dict.fromkeys(harmless(place(c)) for c in rule.deciding()[1:] if place(c)))
    if places:
        more = f", and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        out.append(Text(f"     also: {'; '.join(places[:_SHOWN])}{more}"))
    if follow:
        out.append(Text(f"     inconclusive {and_followers(follow)}"))
    if rule.action:
        out.append(Text(f"     do: {harmless(rule.action)}"))
    return out
