"""Whether a result is still of the run beside it, on hand-made runs."""

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from arca_diag import store
from arca_diag.gate.freshness import look_beside
from arca_diag.gating import run_gate
from arca_diag.report.gate.junit import render_junit
from arca_diag.report.gate.text import text_lines
from tests.gate import policy, report, rule_of, run_with_result, write


@pytest.mark.parametrize("named", [".", "../arca-diag", "report.json"])
def test_from_within_the_result_its_run_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    folder, made = run_with_result(tmp_path / "run")
    (tmp_path / "run/checkpoint-20/adapter_model.safetensors").write_bytes(b"others")
    monkeypatch.chdir(folder)
    here = Path(named)
    disk = look_beside(here.parent if here.suffix else here, made)
    assert disk.compared
    assert disk.stale == ("checkpoint-20 has changed",)


def test_without_the_run_the_check_is_skipped_and_does_not_pass(tmp_path: Path) -> None:
    found = run_gate(write(tmp_path, report()))
    assert found.exit_code == 0
    assert rule_of(found, "result-stale").status == "skipped"
    case = next(
        c
        for c in ElementTree.fromstring(render_junit(found)).iter("testcase")
        if c.get("name") == "result-stale"
    )
    assert case.find("skipped") is not None
    shown = "\n".join(line.plain for line in text_lines(found))
    assert "skipped: result-stale (the run is not at hand)" in shown


def test_a_judged_checkpoint_that_is_gone_is_open_and_an_earlier_one_is_named(
    tmp_path: Path,
) -> None:
    folder, _ = run_with_result(tmp_path / "run")
    assert rule_of(run_gate(folder), "result-stale").status == "passed"
    shutil.rmtree(tmp_path / "run/checkpoint-10")
    found = run_gate(folder)
    assert found.exit_code == 0
    assert found.notes == [
        "not in the run now, and so not compared: 2 recorded inputs, such as "
        "checkpoint-10/adapter_config.json"
    ]
    assert run_gate(folder, policy(checkpoint="all")).exit_code == 3


def test_a_deleted_last_checkpoint_is_no_pass(tmp_path: Path) -> None:
    folder, _ = run_with_result(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoint-20")
    found = run_gate(folder)
    assert found.exit_code == 3
    assert "checkpoint-20 is gone from the run" in rule_of(found, "result-stale").message


def test_a_report_that_was_edited_is_not_the_scans(tmp_path: Path) -> None:
    made = report(files={"report.json": None})
    content = made.to_json().encode()
    identity = store.Identity(options={}, inputs={})
    store.write(tmp_path / "result", identity, {"report.json": content})
    assert run_gate(tmp_path / "result").exit_code == 0
    (tmp_path / "result/report.json").write_bytes(content.replace(b"0.05", b"0.04"))
    found = run_gate(tmp_path / "result")
    assert found.exit_code == 3
    assert (
        rule_of(found, "result-foreign").message == "report.json is not the one that the scan wrote"
    )


@pytest.mark.parametrize("marker", ["{", "[]", "{}", '{"report": null}', "[" * 100_000])
def test_a_marker_that_says_nothing_of_the_report_is_no_fault(tmp_path: Path, marker: str) -> None:
    write(tmp_path, report())
    (tmp_path / ".arca-diag.json").write_text(marker, "utf-8")
    assert run_gate(tmp_path).exit_code == 0
