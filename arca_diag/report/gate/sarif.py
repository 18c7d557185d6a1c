"""The gate as SARIF 2.1.0, for code scanning: a result for each rule and signal, at the policy.

Fingerprints are of rule, signal and view, and not of the checkpoint or the figures, so that an
alert stays the same alert from run to run. What is not known has the kind `open`, which the
standard has for it, and by the standard then the level `none`.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from arca_diag.explanations import EXPLANATIONS
from arca_diag.explanations.entry import Explanation
from arca_diag.explanations.gate import CHECKS
from arca_diag.gate.outcome import LEVELS, Case, GateResult, RuleOutcome, Status
from arca_diag.report.gate.anchor import Anchor
from arca_diag.report.words import at, harmless

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"error": "error", "warn": "warning", "note": "note"}
_ENTRIES: dict[str, Explanation] = {e.id: e for e in (*EXPLANATIONS, *CHECKS)}
_SHOWN = 20
#: Status of a rule -> those of its cases that are results, what decides a place first.
_RESULTS: dict[Status, tuple[Status, ...]] = {
    "failed": ("failed", "inconclusive", "suppressed"),
    "inconclusive": ("inconclusive", "suppressed"),
    "suppressed": ("suppressed",),
    "passed": (),
    "skipped": (),
}


def render_sarif(result: GateResult, anchor: Anchor) -> str:
    """The JSON document."""
    results = [
        found for index, rule in enumerate(result.rules) for found in _results(rule, index, anchor)
    ]
    run = {
        "tool": {
            "driver": {
                "name": result.tool["name"],
                "semanticVersion": result.tool["version"],
                "rules": [_descriptor(rule) for rule in result.rules],
            }
        },
        "automationDetails": {"id": f"arca-diag/gate/{harmless(result.judged.run)}/"},
        "columnKind": "utf16CodeUnits",
        "invocations": [{"executionSuccessful": True, "exitCode": result.exit_code}],
        "results": results,
    }
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _descriptor(rule: RuleOutcome) -> dict[str, Any]:
    """A rule with its help; of a figure, what it is held to."""
    entry = _ENTRIES.get(rule.of)
    if entry is None:
        bound = next((c.bound for c in rule.cases if c.bound), "within the policy's bounds")
        short = f"{rule.of}: {bound}"
        text, actions = f"A figure of report.json, held by the policy to: {bound}.", []
    else:
        short, text, actions = entry.says, entry.meaning, list(entry.actions)
    steps = "".join(f"\n- {plain(action)}" for action in actions)
    return {
        "id": harmless(rule.id),
        "shortDescription": {"text": plain(short)},
        "fullDescription": {"text": plain(text)},
        "help": {"text": f"{plain(text)}{steps}\n\n{plain(rule.help)}"},
        "defaultConfiguration": {"level": _LEVELS[entry.levels[0] if entry else rule.level]},
    }


def _results(rule: RuleOutcome, index: int, anchor: Anchor) -> Iterable[dict[str, Any]]:
    by_place: dict[tuple[str | None, str | None], list[Case]] = {}
    for case in rule.cases:
        if case.level != "note" and case.status in _RESULTS[rule.status]:
            by_place.setdefault((case.signal, case.view), []).append(case)
    for (signal, view), cases in by_place.items():
        shown = _RESULTS[rule.status]
        cases = sorted(cases, key=lambda c: (shown.index(c.status), LEVELS.index(c.level)))
        first = cases[0]
        alike = [c for c in cases if c.status == first.status]
        steps = list(dict.fromkeys(at(c.checkpoint) for c in alike if c.checkpoint is not None))
        more = f", and {len(steps) - _SHOWN} more" if len(steps) > _SHOWN else ""
        where = f"{', '.join(steps[:_SHOWN])}{more}: " if steps else ""
        word = "inconclusive: " if first.status == "inconclusive" else ""
        text = f"{word}{where}{first.message}"
        known = "\n".join((rule.id, signal or "", view or ""))
        found: dict[str, Any] = {
            "ruleId": harmless(rule.id),
            "ruleIndex": index,
            "kind": "open" if first.status == "inconclusive" else "fail",
            "level": "none" if first.status == "inconclusive" else _LEVELS[first.level],
            "message": {"text": plain(text)},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": anchor.uri, "uriBaseId": "%SRCROOT%"},
                        "region": {"startLine": anchor.line(rule.id)},
                    }
                }
            ],
            "partialFingerprints": {
                "arcaDiagGate/v1": hashlib.sha256(
                    known.encode("utf-8", "surrogatepass")
                ).hexdigest()
            },
        }
        if first.status == "suppressed":
            reason = harmless(first.suppressed or "")
            found["suppressions"] = [{"kind": "external", "justification": reason}]
        yield found


def plain(text: str) -> str:
    """Text without what SARIF reads in a message: embedded links and placeholders."""
    for sign in ("\\", "[", "]"):
        text = text.replace(sign, f"\\{sign}")
    return harmless_lines(text.replace("{", "{{").replace("}", "}}"))


def harmless_lines(text: str) -> str:
    """Every line of a text made harmless."""
    return "\n".join(harmless(line) for line in text.split("\n"))
