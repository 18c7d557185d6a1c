"""The README names what the code has, and nothing else."""

import ast
import json
import re
import shlex
from pathlib import Path

import jq
import pandas as pd
import pytest
from typer.testing import CliRunner

from arca_diag.cli import app
from arca_diag.config import ScanConfig
from arca_diag.diagnostics import DIAGNOSTICS
from arca_diag.explanations import EXPLANATIONS
from arca_diag.explanations.terms import TERMS
from arca_diag.faults import ACTIONS
from arca_diag.inputs.rollouts import READERS
from arca_diag.report.explanation import levels
from arca_diag.results import ExitCode
from arca_diag.signals import SIGNALS
from arca_diag.tables import TOKENS
from arca_diag.thresholds import REGIME_THRESHOLDS
from arca_diag.verdict import CLASSES, NO_SIGNAL, SHORT
from tests.test_results import finding, measurement, report, verdict

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def section(title: str) -> str:
    """The text under a second-level heading."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.M | re.S)
    assert found, f"README has no section {title}"
    return found[1]


def rows(title: str) -> dict[str, str]:
    """First cell -> whole row, of every table row whose first cell is code."""
    return {m[1]: m[0] for m in re.finditer(r"^\| `([^`]+)` \|.*$", section(title), re.M)}


#: Modules whose calls give findings an id.
RULES = ("findings.py", "lint.py", "logs.py", "fidelity/__init__.py")


def finding_ids() -> set[str]:
    """Every id that a finding can have, read from the source: each call gives it first."""
    ids = set()
    for name in RULES:
        tree = ast.parse((ROOT / "arca_diag" / name).read_text("utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "id", "")
            given = [k.value for k in node.keywords if k.arg == "id" and called == "Finding"]
            if called == "_finding":
                given.append(node.args[0])
            ids |= {
                part.value
                for value in given
                for part in ast.walk(value)
                if isinstance(part, ast.Constant) and re.fullmatch(r"[a-z]+(-[a-z]+)+", part.value)
            }
    return ids | set(ACTIONS)  # a signal's: `faults` gives no other


def test_every_signal_has_its_row() -> None:
    assert set(rows("Signals")) == {s.name for s in SIGNALS}


def test_every_diagnostic_and_class_has_its_row() -> None:
    expected = {d.name for d in DIAGNOSTICS} | {*CLASSES, SHORT, NO_SIGNAL}
    assert set(rows("Diagnostics")) == expected


def test_every_finding_has_its_row() -> None:
    assert len(finding_ids()) >= 30
    assert set(rows("Findings")) == finding_ids()


def test_the_rows_of_findings_are_what_explain_says_cell_by_cell() -> None:
    found = {name: row.split(" | ") for name, row in rows("Findings").items()}
    assert list(found) == [e.id for e in EXPLANATIONS]
    for explanation in EXPLANATIONS:
        first, level, says = found[explanation.id]
        assert first == f"| `{explanation.id}`"
        assert level == levels(explanation)
        assert says == f"{explanation.says} |"


def test_every_option_has_its_row() -> None:
    options = {
        name
        for cell in re.findall(r"^\| (`[a-z].*?) \|", section("Your own run"), re.M)
        for name in re.findall(r"`([^`]+)`", cell)
    }
    fields = {f.replace("_", "-") for f in ScanConfig.model_fields} - {"run", "thresholds"}
    assert options == fields | {"json", "fail-on"}
    assert "[thresholds]" in section("Your own run")  # a table of the file, and no option


def test_every_option_of_inspect_is_one_of_scans_or_named() -> None:
    shown = CliRunner().invoke(app, ["inspect", "--help"], env={"COLUMNS": "200"}).stdout
    options = set(re.findall(r"--([a-z-]+)", shown)) - {"help", "verbose"}
    fields = {f.replace("_", "-") for f in ScanConfig.model_fields} | {"json"}
    for option in options - fields - {"tensors"}:
        assert f"--{option}" in README, option


def test_every_option_of_compare_has_its_row() -> None:
    shown = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "200"}).stdout
    options = set(re.findall(r"--([a-z-]+)", shown)) - {"help", "verbose"}
    cells = re.findall(r"^\| (`[a-z].*?) \|", section("Compare two results"), re.M)
    assert options == {name for cell in cells for name in re.findall(r"`([a-z-]+)`", cell)}


def test_every_option_of_report_has_its_row() -> None:
    shown = CliRunner().invoke(app, ["report", "--help"], env={"COLUMNS": "200"}).stdout
    options = set(re.findall(r"--([a-z-]+)", shown)) - {"help", "verbose"}
    cells = re.findall(r"^\| (`[a-z].*?) \|", section("Pages to look at"), re.M)
    assert options == {name for cell in cells for name in re.findall(r"`([a-z-]+)`", cell)}


def test_every_reader_has_its_row() -> None:
    formats = section("Your own run")
    for reader in READERS:
        assert reader.name in formats, reader.name


def test_every_exit_code_has_its_row() -> None:
    codes = {int(m) for m in re.findall(r"^\| (\d+) \|", section("Results"), re.M)}
    assert codes == {int(code) for code in ExitCode}


@pytest.mark.parametrize("threshold", REGIME_THRESHOLDS, ids=lambda t: t.id)
def test_every_cut_in_the_readme_is_the_one_in_the_code(threshold) -> None:
    side, _, name = threshold.id.partition("-")
    if side == "tokens":
        assert f"fewer than {threshold.value:g} tokens" in rows("Diagnostics")[SHORT]
        return
    if side in ("share", "clusters"):
        assert f"{threshold.value:g}" in section("Diagnostics").partition("A checkpoint")[2]
        return
    cells = rows("Diagnostics")[name].split("|")
    cell = cells[2 if side == "gini" else 3].strip()
    assert cell == f"{threshold.comparator} {threshold.value:.2f}".replace(" 0.", " .")


def test_every_module_is_in_the_file_tree() -> None:
    tree = section("Where things are")
    for path in (ROOT / "arca_diag").rglob("*.py"):
        if not path.name.startswith("__"):
            assert path.name in tree, path.name


def test_every_word_of_a_verdict_that_explain_knows_is_in_the_readme() -> None:
    words = {t.id for t in TERMS} - {"undefined"}
    assert {w for w in words if f"`{w}`" not in README and f"`{w}s`" not in README} == set()


def test_what_is_pointwise_and_what_is_corrected_is_said() -> None:
    (told,) = re.findall(r"^\*\*One interval, one question\.\*\*.*$", section("Diagnostics"), re.M)
    for word in ("regimes", "onsets", "reward gaps", "pointwise", "not corrected", "Holm"):
        assert word in told


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `demo-result` in the working directory, as a scan leaves one, but small."""
    folder = tmp_path / "demo-result"
    folder.mkdir()
    given = {"name": "gini_corrected", "view": "fixed-set", "sharpening": 1.0, "reason": None}
    figures = [measurement(checkpoint=n, value=n / 10, **given) for n in (2, 8)]
    found = [finding(level="note"), finding(id="adapter-broken", level="error", message="holed")]
    one = report(
        measurements=figures,
        verdicts=[verdict(), verdict(view="fixed-set", signal="entropy")],
        findings=found,
    )
    (folder / "report.json").write_text(one.to_json(), "utf-8")
    names = ["checkpoint", "token_class", "counted", "w_residual"]
    assert set(names) <= set(TOKENS.names)
    rows = [["c-2", "digit", True, 0.25], ["c-2", "digit", True, 0.75], ["c-2", "word", False, 9.0]]
    pd.DataFrame(rows, columns=names).to_parquet(folder / "tokens.parquet")
    monkeypatch.chdir(tmp_path)
    return folder


def asking(language: str) -> str:
    """The block of the Results section."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", section("Results"), re.S)
    return block


def test_the_pandas_example_works_as_pasted(result, capsys) -> None:
    exec(compile(asking("python"), "README.md", "exec"), {})
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["checkpoint", "2", "8"] in shown
    assert ["surprisal", "0.2", "0.8"] in shown
    assert ["c-2", "digit", "0.5", "2"] in shown


def test_the_jq_examples_say_what_they_are_for(result) -> None:
    report = json.loads((result / "report.json").read_text("utf-8"))
    words = shlex.split(asking("sh"))
    asked = [words[place : place + 4] for place in range(0, len(words), 4)]
    assert {(*a[:2], a[3]) for a in asked} == {("jq", "-r", "demo-result/report.json")}
    found = [line for a in asked for line in jq.all(a[2], report)]
    assert found == [
        "60\tsurprisal\tinconclusive\tcompletions-short",
        "error adapter-broken: holed",
    ]


def test_the_change_log_has_the_heading_for_changed_verdicts() -> None:
    assert "### Changed verdicts" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_help_of_scan_shows_its_defaults() -> None:
    """Rich reads square brackets as markup and drops them, text and all."""
    shown = CliRunner().invoke(app, ["scan", "--help"]).stdout
    assert "(default: all)" in shown
    assert shown.count("(default:") >= 15
