"""What a console and a JSON document look like, whole: a change of them shows as a diff.

Written anew with `ARCA_DIAG_GOLDEN=write python -m pytest tests/test_golden.py`.
"""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from arca_diag import __version__
from arca_diag.compared import Comparison
from arca_diag.comparing import compare_results
from arca_diag.report.comparison import print_comparison
from arca_diag.report.console import print_report
from arca_diag.results import Report
from tests.comparing.planted import noise, result
from tests.golden_files import check_golden
from tests.test_results import finding

STEPS = (2, 20, 40, 60, 80, 100, 120)


def planted_report(folder: Path) -> Report:
    """Seven checkpoints, one of them without surprisal; a warning and a note."""
    made = Report.from_json((result(folder, steps=STEPS) / "report.json").read_bytes())
    figures = []
    for m in made.measurements:
        if m.name in ("gini_corrected", "effn_corrected") and m.signal == "surprisal":
            value: float | None = STEPS.index(int(m.checkpoint)) / 6
            reason = None
            if m.checkpoint == 40:
                value, reason = None, "every raw score is exactly zero"
            given = {"value": value, "low": None, "high": None, "reason": reason}
            m = m.model_copy(update=given)
        figures.append(m)
    found = [
        finding(level="warn", checkpoint=20, message="the adapter does nothing"),
        finding(id="entropy-low", level="note", checkpoint=None, message="entropy fell"),
    ]
    options = made.provenance.options | {"credit_source": "stock trainers weight tokens evenly"}
    provenance = made.provenance.model_copy(update={"options": options})
    return made.model_copy(
        update={"measurements": figures, "findings": found, "provenance": provenance}
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A change that holds, one that does not, noise, what is equal and what is undefined."""
    folder = tmp_path_factory.mktemp("pair")
    plain = noise(0) + 0.5
    after = {
        "surprisal": plain + 0.05 + noise(1, scale=0.01),
        "entropy_reduction": plain + 0.02 + noise(2, scale=0.025),
        "divergence": plain + noise(5),
        "residual": plain * float("nan"),
    }
    regimes = {"surprisal": "leaning-sparse"}
    before = result(folder / "a", options={"epsilon": 1e-6})
    result(folder / "b", after, regimes=regimes, findings=[finding(checkpoint=60)])
    found = compare_results(before, folder / "b")
    sides = {k: getattr(found, k).model_copy(update={"label": f"runs/{k}"}) for k in ("a", "b")}
    return found.model_copy(update=sides)


def plain_text(printed: io.StringIO) -> str:
    """Without what pads a line to its table's width."""
    return "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())


def rounded(value: Any) -> Any:
    """Six significant digits: the last ones depend on the machine."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def test_the_console_of_a_scan(tmp_path: Path) -> None:
    printed = io.StringIO()
    made = planted_report(tmp_path / "result")
    print_report(Console(file=printed, width=120), made, Path("out"), "arca-diag gate out")
    check_golden("console.txt", plain_text(printed))


def test_the_console_of_a_comparison(pair: Comparison) -> None:
    printed = io.StringIO()
    print_comparison(Console(file=printed, width=120), pair)
    check_golden("comparison.txt", plain_text(printed))


def test_the_json_of_a_comparison(pair: Comparison) -> None:
    figures = [f for f in pair.figures if f.view == "fixed-set"]
    shorter = pair.model_copy(update={"figures": figures})
    document = rounded(json.loads(shorter.to_json()))
    assert document["tool"].pop("version") == __version__
    check_golden("comparison.json", json.dumps(document, indent=1) + "\n")


def test_nothing_is_written_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCA_DIAG_GOLDEN", "write")
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="not written in CI"):
        check_golden("console.txt", "other")


def test_another_text_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARCA_DIAG_GOLDEN", raising=False)
    with pytest.raises(AssertionError):
        check_golden("console.txt", "other")
    with pytest.raises(pytest.fail.Exception, match="is missing"):
        check_golden("no-such-file.txt", "other")
