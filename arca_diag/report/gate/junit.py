"""The gate as JUnit XML, which Jenkins, GitLab and Azure show: one test case a rule.

A rule that fails the gate is a failure; one that leaves it open is an error, or skipped where the
policy lets it pass; what is suppressed, had nothing to look at, or is open without gating is
skipped. A warning that does
not gate passes, with its words in system-out. Elements and attributes are those of the schema
that Jenkins' xUnit plug-in validates with (junit-10.xsd).
"""

from xml.etree import ElementTree

from arca_diag.gate.outcome import GateResult, RuleOutcome
from arca_diag.report.gate.words import place, summary, told
from arca_diag.report.words import harmless


def render_junit(result: GateResult) -> str:
    """The XML document."""
    cases = [_case(rule, result) for rule in result.rules]
    counts = {kind: sum(c.find(kind) is not None for c in cases) for kind in _KINDS}
    totals = {
        "tests": str(len(cases)),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
    }
    root = ElementTree.Element("testsuites", {"name": "arca-diag", **totals})
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": "arca-diag.gate", **totals, "skipped": str(counts["skipped"])}
    )
    properties = ElementTree.SubElement(suite, "properties")
    for label, value in [("Status", result.status), *summary(result)]:
        ElementTree.SubElement(properties, "property", {"name": label, "value": value})
    suite.extend(cases)
    if result.notes:
        text = "\n".join(f"note: {harmless(note)}" for note in result.notes)
        ElementTree.SubElement(suite, "system-out").text = text
    return document(root)


def document(root: ElementTree.Element) -> str:
    """The text of a document; in ASCII, so that it is what it declares on whatever stdout."""
    ElementTree.indent(root)
    return ElementTree.tostring(root, "us-ascii", xml_declaration=True).decode() + "\n"


_KINDS = ("failure", "error", "skipped")


def _case(rule: RuleOutcome, result: GateResult) -> ElementTree.Element:
    attributes = {"classname": f"arca-diag.gate.{rule.kind}", "name": harmless(rule.id)}
    case = ElementTree.Element("testcase", attributes)
    open_ = rule.status == "inconclusive"
    fails = result.policy.inconclusive == "fail"
    if rule.fails:
        _add(case, "failure", rule, rule.level)
    elif rule.holds and fails:
        _add(case, "error", rule, "inconclusive")
    elif open_ or rule.status in ("suppressed", "skipped"):
        _add(case, "skipped", rule, rule.status)
    elif rule.status == "failed":
        ElementTree.SubElement(case, "system-out").text = f"{rule.level}: {_all(rule)}"
    return case


def _add(case: ElementTree.Element, kind: str, rule: RuleOutcome, type_: str) -> None:
    reason = next((c.suppressed for c in rule.cases if c.suppressed), None)
    message = told(rule) if reason is None else f"suppressed: {harmless(reason)}"
    ElementTree.SubElement(case, kind, {"type": type_, "message": message}).text = _all(rule)


def _all(rule: RuleOutcome) -> str:
    """Every case that made the status, and what to do, a line each."""
    lines = [
        harmless(f"{place(c)}: {c.message}" if place(c) else c.message) for c in rule.deciding()
    ]
    if rule.action:
        lines.append(f"do: {harmless(rule.action)}")
    return "\n".join([*lines, rule.help])
