"""What a gate that could not be held leaves where its outcome should be: an error, in its format.

A file of an earlier gate would be taken for this one's. SARIF has no results then, by the
standard, and not none: alerts are not closed by it.
"""

import json
from xml.etree import ElementTree

from arca_diag import __version__
from arca_diag.report.escaping import inline
from arca_diag.report.gate.github import told_error
from arca_diag.report.gate.junit import document
from arca_diag.report.gate.sarif import SCHEMA, plain
from arca_diag.report.words import harmless


def render_error(name: str, message: str) -> str | None:
    """The document of a format; None for `json`, whose schema has none."""
    if name == "sarif":
        return _sarif(message)
    if name == "junit":
        return _junit(message)
    if name == "github":
        return told_error(message)
    if name == "markdown":
        return f"## arca-diag: ERROR\n\n{inline(message)}\n"
    return None if name == "json" else f"arca-diag: ERROR {harmless(message)}\n"


def _sarif(message: str) -> str:
    notification = {"level": "error", "message": {"text": plain(message)}}
    run = {
        "tool": {"driver": {"name": "arca-diag", "semanticVersion": __version__}},
        "invocations": [
            {
                "executionSuccessful": False,
                "exitCode": 2,
                "toolExecutionNotifications": [notification],
            }
        ],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _junit(message: str) -> str:
    totals = {"tests": "1", "failures": "0", "errors": "1"}
    root = ElementTree.Element("testsuites", {"name": "arca-diag", **totals})
    suite = ElementTree.SubElement(root, "testsuite", {"name": "arca-diag.gate", **totals})
    case = ElementTree.SubElement(
        suite, "testcase", {"classname": "arca-diag.gate", "name": "gate"}
    )
    attributes = {"type": "error", "message": harmless(message)}
    ElementTree.SubElement(case, "error", attributes)
    return document(root)
