"""The gate as Markdown, for a pull request's comment or GitHub's step summary.

Text that comes from a run or a model makes no link, no mention, no markup and no HTML.
"""

import re

from arca_diag.gate.outcome import GateResult, RuleOutcome
from arca_diag.report.escaping import inline, table
from arca_diag.report.gate.words import and_followers, followers, place, summary, told

#: A step summary may have 1 MiB; what is over is cut at a line, and that is said.
MOST_BYTES = 2**20 - 1024


def render_markdown(result: GateResult) -> str:
    """The document, cut to what a step summary may have."""
    follow = followers(result)
    folded = {rule for ids in follow.values() for rule in ids}
    open_ = [r for r in result.of_status("inconclusive") if r.id not in folded]
    blocks = [
        f"## arca-diag: {result.status}",
        table(("", ""), [(label, inline(value)) for label, value in summary(result)]),
        _rules("Failed", result.failed(), follow),
        _rules("Inconclusive", open_, follow),
        _suppressed(result.of_status("suppressed")),
        "\n".join(f"- {inline(note)}" for note in result.notes),
        "\n".join(
            f"- skipped: {inline(f'{rule.id} ({rule.message})')}"
            for rule in result.of_status("skipped")
        ),
        _passed(result.of_status("passed")),
    ]
    return _cut("\n\n".join(block for block in blocks if block) + "\n")


def _rules(title: str, rules: list[RuleOutcome], follow: dict[str, list[str]]) -> str:
    if not rules:
        return ""
    rows = [
        (
            f"{rule.level}{' (gates)' if rule.fails or rule.holds else ''}",
            f"`{rule.id}`" if re.fullmatch(r"[\w.-]+", rule.id) else inline(rule.id),
            inline(
                "; inconclusive ".join(
                    t for t in (told(rule), and_followers(follow.get(rule.id, []))) if t
                )
            ),
            inline(rule.action or ""),
        )
        for rule in rules
    ]
    return f"### {title}\n\n{table(('level', 'rule', 'what', 'do'), rows)}"


def _suppressed(rules: list[RuleOutcome]) -> str:
    rows = [
        (inline(rule.id), inline(place(case)), inline(case.suppressed or ""))
        for rule in rules
        for case in rule.cases
        if case.status == "suppressed"
    ]
    return f"### Suppressed\n\n{table(('rule', 'where', 'why'), rows)}" if rows else ""


def _passed(rules: list[RuleOutcome]) -> str:
    names = ", ".join(inline(rule.id) for rule in rules)
    return f"<details><summary>{len(rules)} rules passed</summary>\n\n{names}\n\n</details>"


def _cut(text: str) -> str:
    raw = text.encode()
    if len(raw) <= MOST_BYTES:
        return text
    kept = raw[:MOST_BYTES].decode("utf-8", "ignore").rpartition("\n")[0]
    return f"{kept}\n\nThe rest does not fit: `--format json` has all of it.\n"
