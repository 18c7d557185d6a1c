"""Whether a result is still of the run beside it, on hand-made runs."""

import hashlib
import json
from pathlib import Path

import pytest

from arca_diag.gate.freshness import look_beside
from arca_diag.results import Report
from tests.gate import report, write


def run_with_result(root: Path, **parts: object) -> tuple[Path, Report]:
    """A run of two checkpoints, and where a scan leaves it the result that is of them."""
    inputs = {}
    for step in (10, 20):
        folder = root / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}", "utf-8")
        (folder / "adapter_model.safetensors").write_bytes(b"weights %d" % step)
        weights = hashlib.sha256(b"weights %d" % step)
        inputs[folder.name] = weights.hexdigest()
        inputs[f"{folder.name}/adapter_config.json"] = hashlib.sha256(b"{}").hexdigest()
    document = json.loads(report().to_json())
    document["provenance"]["inputs"] = inputs
    made = Report.from_json(json.dumps(document | parts))
    return write(root / "arca-diag", made), made


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
