"""The gate as Markdown, for a pull request's comment or GitHub's step summary.

Text that comes from a run or a model makes no link, no mention, no markup and no HTML.
"""

import re
from collections.abc import Sequence

from arca_diag.gate.outcome import GateResult, RuleOutcome
from arca_diag.report.gate.words import and_followers, followers, harmless, place, summary, told

#: A step summary may have 1 MiB; what is over is cut at a line, and that is said.
MOST_BYTES = 2**20 - 1024
_MARKUP = re.compile(r"([\\`*_\[\]#|~$])")
#: Signs that readers turn into mentions, references and links wherever they stand.
_LIVE = re.compile(r"@|#(?=\w)|://|(?i:www)(?=\.)|(?i:gh)(?=-\d)")
_GAP = "\u200b"


def render_markdown(result: GateResult) -> str:
    """The document, cut to what a step summary may have."""
    follow = followers(result)
    folded = {rule for ids in follow.values() for rule in ids}
    open_ = [r for r in result.of_status("inconclusive") if r.id not in folded]
    blocks = [
        f"## arca-diag: {result.status}",
        _table(("", ""), [(label, inline(value)) for label, value in summary(result)]),
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


def inline(text: str) -> str:
    """Text as it is, in a line or a cell: nothing in it is markup or alive."""
    text = harmless(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _LIVE.sub(lambda m: m[0][:1] + _GAP + m[0][1:], text)
    return _MARKUP.sub(r"\\\1", text)


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
    return f"### {title}\n\n{_table(('level', 'rule', 'what', 'do'), rows)}"


def _suppressed(rules: list[RuleOutcome]) -> str:
    rows = [
        (inline(rule.id), inline(place(case)), inline(case.suppressed or ""))
        for rule in rules
        for case in rule.cases
        if case.status == "suppressed"
    ]
    return f"### Suppressed\n\n{_table(('rule', 'where', 'why'), rows)}" if rows else ""


def _passed(rules: list[RuleOutcome]) -> str:
    names = ", ".join(inline(rule.id) for rule in rules)
    return f"<details><summary>{len(rules)} rules passed</summary>\n\n{names}\n\n</details>"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cut(text: str) -> str:
    raw = text.encode()
    if len(raw) <= MOST_BYTES:
        return text
    kept = raw[:MOST_BYTES].decode("utf-8", "ignore").rpartition("\n")[0]
    return f"{kept}\n\nThe rest does not fit: `--format json` has all of it.\n"
