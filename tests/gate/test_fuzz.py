"""Garbage is something to mend: never a traceback, never a pass or a failure.

2,000 cases in all with the slow ones. A mutated document that the published schema refuses must
exit 2; one that it accepts may be any outcome, but an outcome.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from arca_diag.cli import app
from arca_diag.errors import ArcaError
from arca_diag.gate.baseline import Baseline
from arca_diag.gate.loading import resolve_policy
from arca_diag.gate.names import FIGURES, FINDING_IDS, SIGNALS
from arca_diag.gate.policy import Policy
from arca_diag.gating import make_baseline, run_gate
from arca_diag.results import published_schema
from tests.gate import figure, finding, policy, report, verdict

MADE = report(
    credit="surprisal",
    figures=(figure(value=0.9), figure("rank_agreement", 0.3, against="residual")),
    findings=(finding("layers-dead", "warn", checkpoint=20),),
    verdicts=(verdict("surprisal", "leaning-sparse", causes=["credit-structural"]),),
)
DOCUMENT = json.loads(MADE.to_json())
BASELINE = json.loads(make_baseline(MADE, policy(), run_gate(MADE, policy())).to_json())
VALID = jsonschema.Draft202012Validator(published_schema()).is_valid

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
        st.sampled_from([*FINDING_IDS[:5], *SIGNALS, "last", "error", "::error::x", "", "\x00"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
RUNNER = CliRunner()


def cases(quick: int, slow: int) -> Callable[..., Any]:
    """So many in the quick suite, and so many more in the slow one."""
    return pytest.mark.parametrize(
        "examples", [quick, pytest.param(slow, marks=pytest.mark.slow)], ids=["some", "many"]
    )


def every(examples: int) -> settings:
    return settings(
        max_examples=examples, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )


@st.composite
def mutated(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """The document with one place replaced, taken away, or added to."""
    out = copy.deepcopy(document)
    here: Any = out
    for _ in range(draw(st.integers(1, 6))):
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if isinstance(here[key], dict | list) and draw(st.integers(0, 3)):
            here = here[key]
            continue
        what = draw(st.sampled_from(["replace", "replace", "take", "add"]))
        if what == "replace":
            here[key] = draw(JSON)
        elif what == "take":
            del here[key]
        elif isinstance(here, dict):
            here[draw(st.text(max_size=8))] = draw(JSON)
        else:
            here.append(draw(JSON))
        break
    return out


def gate(folder: Path, *arguments: str) -> int:
    """The exit code; anything but an exit is a traceback."""
    done = RUNNER.invoke(app, ["gate", str(folder), *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in (0, 1, 2, 3)
    return done.exit_code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "result"
    out.mkdir()
    (out / "report.json").write_text(MADE.to_json(), "utf-8")
    return out


@cases(60, 300)
def test_a_report_that_is_no_report_exits_2(folder: Path, examples: int) -> None:
    whole = MADE.to_json().encode()

    @every(examples)
    @given(
        st.one_of(
            st.binary(max_size=200),
            JSON.map(lambda value: json.dumps(value).encode()),
            st.integers(0, len(whole) - 3).map(lambda n: whole[:n]),
        )
    )
    def check(content: bytes) -> None:
        (folder / "report.json").write_bytes(content)
        assert gate(folder) == 2

    check()


@cases(100, 700)
def test_a_mutated_report_is_an_outcome_or_exits_2(folder: Path, examples: int) -> None:
    refused = []

    @every(examples)
    @given(mutated(DOCUMENT))
    def check(document: dict[str, Any]) -> None:
        (folder / "report.json").write_text(json.dumps(document), "utf-8")
        code = gate(folder, "--format", "json")
        if not VALID(document):
            assert code == 2
            refused.append(code)

    check()
    assert len(refused) > examples / 4  # it does mutate


@cases(60, 200)
def test_a_baseline_that_is_none_exits_2_and_a_mutated_one_never_crashes(
    folder: Path, examples: int
) -> None:
    path = folder / "b.json"
    valid = jsonschema.Draft202012Validator(Baseline.model_json_schema()).is_valid

    @every(examples)
    @given(st.one_of(st.binary(max_size=100), mutated(BASELINE)))
    def check(content: bytes | dict[str, Any]) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(raw)
        code = gate(folder, "--baseline", str(path))
        if isinstance(content, bytes) or not valid(content):
            assert code == 2

    check()


@cases(60, 150)
def test_a_policy_that_is_no_toml_exits_2(folder: Path, examples: int) -> None:
    path = folder.parent / "policy.toml"

    @every(examples)
    @given(st.one_of(st.binary(max_size=100), st.text(max_size=80)))
    def check(content: bytes | str) -> None:
        raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        path.write_bytes(b"[gate]\nrules = 3\n" + raw)
        assert gate(folder, "--config", str(path)) == 2

    check()


RULE_KEYS = st.sampled_from(
    ["level", "max", "min", "max-increase", "max_decrease", "aggregate", "signals", "view",
     "against", "finding", "measurement"]
)  # fmt: skip
VALUES = st.one_of(
    JSON,
    st.sampled_from(["error", "warn", "off", "as-found", "20%", "any", "all", "declared"]),
    st.floats(),
    st.lists(st.sampled_from(SIGNALS), max_size=3),
)
TABLES = st.dictionaries(
    st.one_of(
        st.sampled_from([*(n.replace("_", "-") for n in Policy.model_fields), "rules"]),
        st.text(max_size=6),
    ),
    st.one_of(
        VALUES,
        st.dictionaries(
            st.one_of(st.sampled_from([*FINDING_IDS, *FIGURES]), st.text(max_size=6)),
            st.one_of(VALUES, st.dictionaries(RULE_KEYS, VALUES, max_size=3)),
            max_size=2,
        ),
        st.lists(
            st.dictionaries(
                st.sampled_from(["id", "reason", "expires", "checkpoint", "signal"]), VALUES
            ),
            max_size=2,
        ),
    ),
    max_size=3,
)


@cases(150, 650)
def test_a_policy_is_read_whole_or_refused_and_what_is_read_gates(examples: int) -> None:
    read = []

    @every(examples)
    @given(TABLES)
    def check(table: dict[str, Any]) -> None:
        try:
            asked = resolve_policy([("arca.toml", table)]).policy
        except ArcaError:
            return
        read.append(asked)
        try:
            result = run_gate(MADE, asked)
        except ArcaError:
            return  # a checkpoint that the result has not
        assert result.exit_code in (0, 1, 3)
        json.loads(result.to_json())

    check()
    assert read
