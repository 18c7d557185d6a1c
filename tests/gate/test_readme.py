"""What the README says of the gate works as pasted."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from arca_diag.cli import app
from arca_diag.explanations.gate import CHECKS
from arca_diag.gate.loading import resolve_policy
from arca_diag.gate.profiles import PROFILES
from tests.gate import report, write
from tests.test_docs import README, rows, section

HERE = "Gate a pipeline"


def block(name: str) -> list[str]:
    """The fenced texts between two marks."""
    found = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", README, re.S)
    assert found, name
    return re.findall(r"^```\w+\n(.*?)^```$", found[1], re.M | re.S)


def commands(text: str) -> list[list[str]]:
    """Every call of arca-diag in a text: its words."""
    return [
        m[1].replace("$(RUN)", "run").split()
        for m in re.finditer(r"(?<!pip install )arca-diag ([^\n\"]+)", text)
    ]


def known_options(command: str) -> set[str]:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "250"}).stdout
    return set(re.findall(r"--[a-z-]+", shown))


def test_the_policy_is_one() -> None:
    (text,) = block("policy")
    found = resolve_policy([("arca.toml", tomllib.loads(text)["gate"])]).policy
    assert {"credit-uniform", "gini_corrected", "surprisal-drift"} <= set(found.active())
    assert "layers-dead" not in found.active()
    assert found.suppressions[0].id == "temperature-assumed"


def test_the_jobs_install_this_package_and_not_their_own_repository() -> None:
    for name in ("github", "gitlab"):
        (text,) = block(name)
        assert set(re.findall(r"pip install (\S+)", text)) == {"arca-diag"}


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_the_jobs_are_yaml_and_their_commands_exist(name: str) -> None:
    (text,) = block(name)
    jobs = yaml.safe_load(text)
    assert {"scan", "gate"} <= set(jobs.get("jobs", jobs))
    called = commands(text)
    assert [words[0] for words in called] == ["scan", "gate"]
    for words in called:
        options = {w for w in words if w.startswith("--")}
        assert options <= known_options(words[0])


def test_the_gates_of_the_jobs_run_and_write_what_the_jobs_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    write(tmp_path / "arca-result", report())
    for name in ("github", "gitlab"):
        (text,) = block(name)
        (words,) = (w for w in commands(text) if w[0] == "gate")
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.stderr
        for uploaded in re.findall(r"(?:sarif_file|junit): (\S+)", text):
            assert (tmp_path / uploaded).is_file()
    assert (tmp_path / "summary.md").read_text("utf-8").startswith("## arca-diag: PASSED")


def test_the_lines_for_make_and_slurm_name_options_that_exist() -> None:
    called = [words for text in block("shell") for words in commands(text)]
    assert len(called) == 3
    for words in called:
        assert {w for w in words if w.startswith("--")} <= known_options(words[0])


def test_the_python_is_python_and_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = block("python")
    monkeypatch.chdir(tmp_path)
    scanned = "report = diagnose(resolve({"
    assert scanned in text
    made = re.sub(r"^report = .*$", "report = handed", text, flags=re.M)
    names: dict[str, Any] = {"handed": report()}
    exec(made, names)
    assert names["gate"].exit_code == 0


def test_profiles_and_checks_have_their_rows() -> None:
    found = rows(HERE)
    assert {*PROFILES, *(c.id for c in CHECKS)} == set(found)
    for check in CHECKS:
        assert found[check.id] == f"| `{check.id}` | {check.says} |"


def test_every_option_of_the_gate_is_named() -> None:
    text = section(HERE)
    missing = known_options("gate") - set(re.findall(r"--[a-z-]+", text)) - {"--help", "--verbose"}
    assert missing <= {"--profile", "--epsilon", "--sharpening", "--credit"}, missing
