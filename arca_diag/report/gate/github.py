"""The gate as GitHub workflow commands: annotations on the job, the most important first.

GitHub shows at most 10 errors and 10 warnings of a step; what is over is counted, and the step
summary, which is the Markdown view, has all of it.
"""

from arca_diag.gate.outcome import GateResult, RuleOutcome
from arca_diag.report.gate.anchor import Anchor
from arca_diag.report.gate.words import harmless, told
from arca_diag.report.words import count

MOST = 10


def render_github(result: GateResult, anchor: Anchor) -> str:
    """One command a line, and nothing else on any line."""
    open_ = result.of_status("inconclusive")
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
    file = result.policy.file
    lines = [_command("error", rule, anchor, file) for rule in errors[:MOST]]
    lines += [_command("warning", rule, anchor, file) for rule in warnings[:MOST]]
    over = [
        count(len(rules) - MOST, f"more {word}")
        for word, rules in (("error", errors), ("warning", warnings))
        if len(rules) > MOST
    ]
    if over:
        told_ = _data(f"{' and '.join(over)}: see the step summary")
        lines.append(f"::notice title=arca-diag::{told_}")
    return "".join(f"{line}\n" for line in lines)


def _command(word: str, rule: RuleOutcome, anchor: Anchor, file: str | None) -> str:
    """At its line, where the policy's file, of which the anchor is, wrote the rule out."""
    title = f"arca-diag {rule.id}"
    if rule.status == "inconclusive":
        title += " (inconclusive)"
    where = (
        f"file={_property(anchor.path)},line={anchor.line(rule.id)},"
        if rule.origin is not None and rule.origin == file
        else ""
    )
    text = told(rule) + (f" -- do: {harmless(rule.action)}" if rule.action else "")
    return f"::{word} {where}title={_property(title)}::{_data(text)}"


def _data(text: str) -> str:
    """The text of a command, escaped as the runner's toolkit does it."""
    text = harmless(text)
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A property of a command: no sign that ends it."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
