"""The gate as GitHub workflow commands: annotations on the job, the most important first.

GitHub shows at most 10 errors and 10 warnings of a step; what is over is counted, and the step
summary, which is the Markdown view, has all of it.
"""

from collections.abc import Mapping

from arca_diag.gate.outcome import GateResult, RuleOutcome
from arca_diag.report.gate.anchor import Anchor
from arca_diag.report.gate.words import and_followers, followers, told
from arca_diag.report.words import count, harmless

MOST = 10


def render_github(result: GateResult, anchor: Anchor) -> str:
    """One command a line, and nothing else on any line."""
    follow = followers(result)
    folded = {rule for ids in follow.values() for rule in ids}
    open_ = [r for r in result.of_status("inconclusive") if r.id not in folded]
    errors = [
        *(r for r in result.failed() if r.level == "error"),
        *(r for r in open_ if r.holds),
        *(r for r in result.failed() if r.fails and r.level != "error"),
    ]
    warnings = [
        *(r for r in result.failed() if not r.fails and r.level == "warn"),
        *(r for r in open_ if not r.holds),
    ]
    if result.exit_code == 0:  # nothing of a gate that let pass is an error of the job
        errors, warnings = [], [*errors, *warnings]
    lines = [_command("error", rule, anchor, result, follow) for rule in errors[:MOST]]
    lines += [_command("warning", rule, anchor, result, follow) for rule in warnings[:MOST]]
    over = [
        count(len(rules) - MOST, f"more {word}")
        for word, rules in (("error", errors), ("warning", warnings))
        if len(rules) > MOST
    ]
    if over:
        told_ = _data(f"{' and '.join(over)}: see the step summary")
        lines.append(f"::notice title=arca-diag::{told_}")
    return "".join(f"{line}\n" for line in lines)


def told_error(message: str) -> str:
    """The command for a gate that could not be held."""
    return f"::error title=arca-diag::{_data(message)}\n"


def _command(
    word: str,
    rule: RuleOutcome,
    anchor: Anchor,
    result: GateResult,
    follow: Mapping[str, list[str]],
) -> str:
    """At its line, where the policy's file, of which the anchor is, wrote the rule out."""
    title = f"arca-diag {rule.id}"
    if rule.status == "inconclusive":
        title += " (inconclusive)"
    where = (
        f"file={_property(anchor.path)},line={anchor.line(rule.id)},"
        if rule.origin is not None and rule.origin == result.policy.file
        else ""
    )
    text = told(rule)
    if rule.id in follow:
        text += f"; inconclusive {and_followers(follow[rule.id])}"
    if rule.action:
        text += f" -- do: {harmless(rule.action)}"
    return f"::{word} {where}title={_property(title)}::{_data(text)}"


def _data(text: str) -> str:
    """The text of a command, escaped as the runner's toolkit does it."""
    text = harmless(text)
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A property of a command: no sign that ends it."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
