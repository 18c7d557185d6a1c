"""What CI systems read: JUnit by Jenkins' schema, SARIF 2.1.0, GitHub's commands, Markdown."""

import json
import re
from typing import Any, ClassVar
from xml.etree import ElementTree

import jsonschema
import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from arca_diag.gate.outcome import GateResult
from arca_diag.gating import run_gate
from arca_diag.report.escaping import inline
from arca_diag.report.gate.anchor import Anchor, lines_of
from arca_diag.report.gate.error import render_error
from arca_diag.report.gate.github import render_github
from arca_diag.report.gate.junit import render_junit
from arca_diag.report.gate.markdown import MOST_BYTES, render_markdown
from arca_diag.report.gate.sarif import render_sarif
from arca_diag.report.gate.text import text_lines
from arca_diag.report.gate.words import followers, last_line
from arca_diag.report.words import harmless
from tests.gate import figure, finding, gated, policy, report, verdict

#: Element -> its attributes and children, as junit-10.xsd of Jenkins' xUnit plug-in has them; an
#: attribute that it requires ends in an exclamation mark.
JENKINS: dict[str, tuple[set[str], set[str]]] = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {
            *("name!", "tests!", "failures!", "errors!", "group", "time", "skipped", "timestamp"),
            *("hostname", "id", "package", "file", "log", "url"),
        },
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name!", "value!"}, set()),
    "testcase": (
        {"name!", "time", "classname", "group"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "failure": ({"type", "message"}, set()),
    "error": ({"type", "message"}, set()),
    "skipped": ({"type", "message"}, set()),
    "system-out": (set(), set()),
}

TEXT = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string", "minLength": 1}},
    "additionalProperties": False,
}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


LEVEL = {"enum": ["none", "note", "warning", "error"]}
#: The objects of SARIF 2.1.0 that are written here, by the standard's sections 3.13 to 3.52.
SARIF = closed(
    ["version", "runs"],
    **{"$schema": {"type": "string", "format": "uri"}},
    version={"const": "2.1.0"},
    runs={
        "type": "array",
        "items": closed(
            ["tool"],
            automationDetails=closed([], id={"type": "string"}),
            columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
            invocations={
                "type": "array",
                "items": closed(
                    ["executionSuccessful"],
                    executionSuccessful={"type": "boolean"},
                    exitCode={"type": "integer"},
                    toolExecutionNotifications={
                        "type": "array",
                        "items": closed(["message"], level=LEVEL, message=TEXT),
                    },
                ),
            },
            tool=closed(
                ["driver"],
                driver=closed(
                    ["name"],
                    name={"type": "string"},
                    semanticVersion={"type": "string"},
                    rules={
                        "type": "array",
                        "uniqueItems": True,
                        "items": closed(
                            ["id"],
                            id={"type": "string"},
                            shortDescription=TEXT,
                            fullDescription=TEXT,
                            help=TEXT,
                            defaultConfiguration=closed([], level=LEVEL),
                        ),
                    },
                ),
            ),
            results={
                "type": "array",
                "items": closed(
                    ["message"],
                    ruleId={"type": "string"},
                    ruleIndex={"type": "integer", "minimum": 0},
                    kind={
                        "enum": ["notApplicable", "pass", "fail", "review", "open", "informational"]
                    },
                    level=LEVEL,
                    message=TEXT,
                    locations={
                        "type": "array",
                        "items": closed(
                            [],
                            physicalLocation=closed(
                                ["artifactLocation"],
                                artifactLocation=closed(
                                    [],
                                    uri={"type": "string", "pattern": r"^[^\s:/][^\s:]*$"},
                                    uriBaseId={"type": "string"},
                                ),
                                region=closed([], startLine={"type": "integer", "minimum": 1}),
                            ),
                        ),
                    },
                    partialFingerprints={
                        "type": "object",
                        "additionalProperties": {"type": "string"},
                    },
                    suppressions={
                        "type": "array",
                        "items": closed(
                            ["kind"],
                            kind={"enum": ["inSource", "external"]},
                            justification={"type": "string"},
                        ),
                    },
                ),
            },
        ),
    },
)

HOSTILE = (
    "::error::stop\n::set-output name=x::y\r##[group]z ##vso[task.setvariable]q\x1b[31m "
    "]]> <script>alert(1)</script> &amp; \x00 \ud800 \u202e @octocat #1 GH-2 http://evil.test "
    "www.evil.test [x](http://evil.test) ![i](x) `c` | **b** {0} {{x}} %0A::warning::no"
)


def hostile() -> GateResult:
    """A result whose every text came from somebody else."""
    made = report(
        findings=(
            finding("adapter-inert", message=HOSTILE, action=HOSTILE),
            finding("layers-dead", "warn", message=HOSTILE, checkpoint=20),
            finding("file-unreadable", "warn", message="known"),
        ),
        fidelity="cannot-tell",
    )
    made = made.model_copy(
        update={
            "run": made.run.model_copy(update={"name": HOSTILE}),
            "replay_fidelity": [
                f.model_copy(update={"reason": HOSTILE}) for f in made.replay_fidelity
            ],
        }
    )
    table = {
        "suppressions": [{"id": "file-unreadable", "reason": HOSTILE, "expires": "2099-01-01"}],
        "rules": {"my-rule": {"finding": "layers-dead"}},
    }
    found = run_gate(made, policy(table))
    judged = found.judged.model_copy(update={"credit": HOSTILE})
    return found.model_copy(update={"judged": judged})


RESULTS = {
    "passed": gated(report()),
    "failed": gated(
        report(findings=(finding("adapter-inert"), finding("layers-dead", "warn", checkpoint=20)))
    ),
    "open": gated(report(evidence={"n_clusters": 2})),
    "let pass": gated(report(evidence={"n_clusters": 2}), inconclusive="pass"),
    "a figure": gated(
        report(figures=(figure(value=0.9), figure(value=0.2, signal="residual"))),
        {"rules": {"gini_corrected": {"max": 0.5, "signals": ["surprisal", "residual"]}}},
    ),
    "hostile": hostile(),
}
ANCHOR = Anchor(path="ci/arca gate.toml", lines={"gini_corrected": 7})
every = pytest.mark.parametrize("result", RESULTS.values(), ids=list(RESULTS))


def check_jenkins(element: ElementTree.Element) -> None:
    attributes, children = JENKINS[element.tag]
    assert {a.removesuffix("!") for a in attributes} >= set(element.attrib)
    assert {a[:-1] for a in attributes if a.endswith("!")} <= set(element.attrib)
    for child in element:
        assert child.tag in children
        check_jenkins(child)


class TestJUnit:
    @every
    def test_it_is_as_jenkins_has_it_and_is_read_back(self, result: GateResult) -> None:
        text = render_junit(result)
        check_jenkins(ElementTree.fromstring(text))
        (suite,) = JUnitXml.fromstring(text.encode())
        cases = list(suite)
        assert [c.name for c in cases] == [harmless(r.id) for r in result.rules]
        kinds = [type(entry) for case in cases for entry in case.result]
        assert suite.tests == len(result.rules)
        assert suite.failures == kinds.count(Failure) == sum(r.fails for r in result.rules)
        assert suite.errors == kinds.count(Error)
        assert suite.skipped == kinds.count(Skipped)
        assert bool(suite.failures) == (result.status == "FAILED")
        assert bool(suite.failures + suite.errors) == (result.exit_code != 0)

    def test_a_failure_says_why_and_what_to_do(self) -> None:
        root = ElementTree.fromstring(render_junit(RESULTS["failed"]))
        (failure,) = root.iter("failure")
        assert failure.get("message") == "what adapter-inert says"
        assert "mend adapter-inert" in (failure.text or "")
        assert "arca-diag explain adapter-inert" in (failure.text or "")
        (warned,) = root.iterfind(".//testcase[@name='layers-dead']/system-out")
        assert "step 20" in (warned.text or "")

    def test_what_is_open_and_let_pass_is_skipped(self) -> None:
        assert "<error" in render_junit(RESULTS["open"])
        assert "<error" not in render_junit(RESULTS["let pass"])
        assert "<skipped" in render_junit(RESULTS["let pass"])


class TestSarif:
    @every
    def test_it_is_as_the_standard_has_it(self, result: GateResult) -> None:
        document = json.loads(render_sarif(result, ANCHOR))
        jsonschema.Draft202012Validator(SARIF).validate(document)
        (run,) = document["runs"]
        rules = run["tool"]["driver"]["rules"]
        for found in run["results"]:
            assert rules[found["ruleIndex"]]["id"] == found["ruleId"]
            assert (found["kind"] == "fail") == (found["level"] != "none")
        prints = [found["partialFingerprints"]["arcaDiagGate/v1"] for found in run["results"]]
        assert len(prints) == len(set(prints))

    def test_a_fingerprint_is_the_same_at_another_checkpoint_with_other_figures(self) -> None:
        def prints(step: int, value: float) -> set[str]:
            made = report(
                steps=(step,),
                figures=(figure(value=value, checkpoint=step),),
                findings=(finding("layers-dead", checkpoint=step, message=f"at {step}"),),
            )
            table = {"rules": {"gini_corrected": {"max": 0.5, "signals": ["surprisal"]}}}
            found = json.loads(render_sarif(gated(made, table), ANCHOR))["runs"][0]["results"]
            return {r["partialFingerprints"]["arcaDiagGate/v1"] for r in found}

        assert prints(20, 0.9) == prints(40, 0.8)
        assert len(prints(20, 0.9)) == 2

    def test_a_rule_is_anchored_to_its_line_of_the_policy(self) -> None:
        (found,) = json.loads(render_sarif(RESULTS["a figure"], ANCHOR))["runs"][0]["results"]
        place = found["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "ci/arca%20gate.toml"
        assert place["region"]["startLine"] == 7

    def test_text_makes_no_link_and_no_placeholder(self) -> None:
        texts = [
            r["message"]["text"]
            for r in json.loads(render_sarif(RESULTS["hostile"], ANCHOR))["runs"][0]["results"]
        ]
        assert any("evil.test" in text for text in texts)
        for text in texts:
            assert not re.search(r"(?<!\\)\[", text)
            assert not re.search(r"(?<!\{)\{(?!\{)", re.sub(r"\{\{", "", text))

    def test_every_rule_has_help(self) -> None:
        (run,) = json.loads(render_sarif(RESULTS["a figure"], ANCHOR))["runs"]
        for rule in run["tool"]["driver"]["rules"]:
            assert len(rule["help"]["text"]) > 20, rule["id"]

    def test_a_suppressed_result_carries_its_reason(self) -> None:
        (run,) = json.loads(render_sarif(RESULTS["hostile"], ANCHOR))["runs"]
        found = [r for r in run["results"] if r["ruleId"] == "file-unreadable"]
        assert "2099-01-01" in found[0]["suppressions"][0]["justification"]


COMMAND = re.compile(r"::(error|warning|notice) ((?:\w+=[^:,\r\n]*,?)+)::[^\r\n]*")


class TestGitHub:
    @every
    def test_every_line_is_one_command_and_no_more_than_ten_of_a_kind(
        self, result: GateResult
    ) -> None:
        lines = render_github(result, ANCHOR).splitlines()
        assert all(COMMAND.fullmatch(line) for line in lines)
        assert sum(line.startswith("::error ") for line in lines) <= 10
        assert sum(line.startswith("::warning ") for line in lines) <= 10
        assert any(line.startswith("::error ") for line in lines) == (result.exit_code != 0)

    def test_data_is_escaped_as_the_runner_asks(self) -> None:
        made = report(findings=(finding("adapter-inert", message="50%, a\nb"),))
        (line,) = render_github(gated(made), ANCHOR).splitlines()
        assert "::50%25, a b" in line

    def test_the_most_important_come_first_and_the_rest_is_counted(self) -> None:
        ids = [
            *("adapter-broken", "adapter-sharded", "keys-unmatched", "nothing-trainable"),
            *("checkpoint-unreadable", "replay-mismatch", "sampler-mismatch", "no-advantage"),
            *("entropy-collapsed", "nothing-moves", "gradients-broken", "rollouts-unreadable"),
        ]
        warned = ("layers-dead", "rslora-lost")
        made = report(findings=(*(finding(i, "warn") for i in warned), *(finding(i) for i in ids)))
        lines = render_github(gated(made), ANCHOR).splitlines()
        assert [line.partition(" ")[0] for line in lines] == [
            *["::error"] * 10,
            *["::warning"] * 2,
            "::notice",
        ]
        assert "adapter-broken" in lines[0]
        assert "2 more errors" in lines[-1]

    def test_a_rule_of_the_policy_points_into_its_file_and_a_profiles_does_not(self) -> None:
        from arca_diag.gate.loading import resolve_policy

        table = {"rules": {"gini_corrected": {"max": 0.5, "signals": ["surprisal"]}}}
        made = report(figures=(figure(value=0.9),), findings=(finding("adapter-inert"),))
        result = run_gate(made, resolved=resolve_policy([("arca.toml", table)]))
        lines = render_github(result, ANCHOR).splitlines()
        assert "file=" not in next(line for line in lines if "adapter-inert" in line)
        assert "file=ci/arca gate.toml,line=7," in next(x for x in lines if "gini" in x)


class TestMarkdown:
    @every
    def test_no_text_is_markup_link_or_mention(self, result: GateResult) -> None:
        text = render_markdown(result)
        assert "<script" not in text
        assert not re.search(r"@\w|#\d|GH-\d|://|www\.", text)
        assert not re.search(r"(?<!\\)\]\(", text)
        for line in text.splitlines():
            if line.startswith("|"):
                cells = re.split(r"(?<!\\)\|", line)
                assert len(cells) in (4, 5, 6), line

    def test_it_leads_with_the_status_and_what_failed(self) -> None:
        lines = render_markdown(RESULTS["failed"]).splitlines()
        assert lines[0] == "## arca-diag: FAILED"
        assert any("`adapter-inert`" in line for line in lines)

    def test_it_fits_into_a_step_summary(self) -> None:
        made = report(findings=(finding("adapter-inert", message="\u00e9" * 3 * 2**20),))
        text = render_markdown(gated(made))
        assert len(text.encode()) <= MOST_BYTES + 200
        assert "does not fit" in text

    def test_inline_keeps_the_words(self) -> None:
        assert inline("a_b | <c>") == r"a\_b \| &lt;c&gt;"


def views(result: GateResult) -> dict[str, str]:
    return {
        "junit": render_junit(result),
        "sarif": render_sarif(result, ANCHOR),
        "markdown": render_markdown(result),
        "text": "\n".join(line.plain for line in text_lines(result)),
        "last": last_line(result, 1.0),
    }


@every
@pytest.mark.parametrize("name", ["junit", "sarif", "markdown", "text", "last"])
def test_no_line_is_a_command_and_no_control_character_is_left(
    name: str, result: GateResult
) -> None:
    text = views(result)[name]
    assert "\x1b" not in text
    assert "\x00" not in text
    text.encode()  # no lone surrogate
    for line in text.splitlines():
        assert not line.strip().startswith("::"), line
        assert not re.search(r"##\w*\[", line), line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("::error::x", ": :error: :x"),
        ("a\n::warning::b", "a : :warning: :b"),
        ("##[group]x", "## [group]x"),
        ("see ##vso[task.x]", "see ## vso[task.x]"),
        ("##teamcity[x]", "## teamcity[x]"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("plain: text # 1", "plain: text # 1"),
    ],
)
def test_what_a_ci_system_or_a_terminal_would_read_is_broken(text: str, told: str) -> None:
    assert harmless(text) == told


def test_the_last_line_is_as_promised() -> None:
    line = last_line(RESULTS["failed"], 1.23)
    assert re.fullmatch(
        r"arca-diag: FAILED 1 error, 1 warning \(\d+ rules, 1 checkpoint, 2,400 tokens\) in 1\.2 s",
        line,
    )


def test_lines_of_a_policy_are_found_by_key_and_by_header() -> None:
    text = (
        "[gate]\nprofile = 'strict'\n[gate.rules]\n\"credit-sparse\" = 'error'\n"
        'mean = { max = 1 }\n\n[gate.rules.gini]\nmax = 0.9\n[gate.rules."my.rule"]\n'
    )
    names = ("credit-sparse", "mean", "gini", "my.rule", "absent")
    assert lines_of(text, names) == {"credit-sparse": 4, "mean": 5, "gini": 7, "my.rule": 9}


def test_a_verdict_is_told_with_its_place() -> None:
    made = report(verdicts=(verdict("surprisal", "sparse"),), credit="surprisal")
    lines = [line.plain for line in text_lines(gated(made, fail_on="warn"))]
    assert any("step 20, surprisal, on-policy" in line for line in lines)


class TestErrors:
    """What stands where an outcome would, had the gate been held."""

    def test_junit_has_one_error(self) -> None:
        text = render_error("junit", HOSTILE)
        assert text is not None
        check_jenkins(ElementTree.fromstring(text))
        (suite,) = JUnitXml.fromstring(text.encode())
        (case,) = suite
        assert [type(entry) for entry in case.result] == [Error]

    def test_sarif_says_that_it_was_not_held_and_not_that_nothing_was_found(self) -> None:
        document = json.loads(render_error("sarif", HOSTILE) or "")
        jsonschema.Draft202012Validator(SARIF).validate(document)
        (run,) = document["runs"]
        assert not run["invocations"][0]["executionSuccessful"]
        assert "results" not in run

    def test_for_people_and_for_github_it_is_one_line(self) -> None:
        (line,) = (render_error("github", HOSTILE) or "").splitlines()
        assert line.startswith("::error title=arca-diag::")
        assert line.count("::") == 2
        assert len((render_error("text", HOSTILE) or "").splitlines()) == 1
        assert (render_error("markdown", HOSTILE) or "").startswith("## arca-diag: ERROR\n")

    def test_json_has_none(self) -> None:
        assert render_error("json", "x") is None


class TestOneCauseOneLine:
    FEW: ClassVar = [
        verdict(signal, "inconclusive", shares={}, settled_by={"clusters_more": 5, "reason": "few"})
        for signal in ("surprisal", "residual")
    ]
    RULES: ClassVar = {"gini_corrected": {"max": 0.9}, "mean": {"max": 9, "max-increase": "20%"}}

    @pytest.mark.parametrize("root", ["replay-mismatch", "evidence-too-little"])
    def test_what_follows_from_a_rule_is_told_with_it(self, root: str) -> None:
        made = report(
            credit="surprisal",
            verdicts=tuple(self.FEW),
            figures=(figure(n_clusters=3),),
            evidence={"n_clusters": 3},
        )
        if root == "replay-mismatch":
            made = report(
                credit="surprisal",
                findings=(finding(root, checkpoint=20),),
                figures=(figure(),),
                fidelity="fail",
            )
        found = gated(made, {"rules": self.RULES})
        follow = followers(found)[root]
        assert {"credit-sparse", "gini_corrected"} <= set(follow)
        assert "mean" not in follow  # the result has none: another cause
        text = "\n".join(line.plain for line in text_lines(found))
        assert f"for this {len(follow)} rules more: " in text
        assert "[credit-sparse]" not in text
        assert "[mean]" in text
        github = render_github(found, ANCHOR)
        assert github.count("credit-sparse") == 1
        assert github.count("::error ") == 2
        assert render_markdown(found).count("credit-sparse") == 1
        assert len(list(ElementTree.fromstring(render_junit(found)).iter("error"))) > 4

    def test_what_counts_for_more_than_its_cause_is_not_folded(self) -> None:
        made = report(figures=(figure(n_clusters=3),), evidence={"n_clusters": 3})
        rules = {"evidence-too-little": "warn", "gini_corrected": {"max": 0.9}}
        assert followers(gated(made, {"rules": rules})) == {}
