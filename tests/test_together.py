"""One scan by two processes over gloo, as torchrun and accelerate start them: that of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from arca_diag.config import ScanConfig
from arca_diag.pipeline import diagnose
from arca_diag.together import Team, team
from tests.conftest import ROOT, UNRENDERED
from tests.test_resume import apart_from_provenance

LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}


#: `--multi_gpu` is how accelerate starts several processes on one machine, with GPUs or without.
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"),
        *("--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"),
    ],
}


@pytest.mark.parametrize(
    "launcher", ["torchrun", pytest.param("accelerate", marks=pytest.mark.slow)]
)
def test_two_processes_give_what_one_gives(tiny_run: Path, tmp_path: Path, launcher: str) -> None:
    options = {"groups": 1, "fixed_groups": 2, "checkpoints": "2,20"}
    whole = diagnose(
        ScanConfig(run=tiny_run, out=tmp_path / "whole", no_cache=True, no_render=True, **options)
    )
    out = tmp_path / "out"
    flags = [w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            *LAUNCHERS[launcher],
            "-m",
            "arca_diag",
            "scan",
            tiny_run,
            *flags,
            "--out",
            out,
            "--json",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | UNRENDERED,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((out / "report.json").read_bytes())
    assert json.loads(done.stdout) == found
    assert apart_from_provenance(found) == apart_from_provenance(whole.report)
    assert found["provenance"]["reused_passes"] > 0
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "out"}


def test_a_process_of_a_launcher_is_told_from_one_alone() -> None:
    assert team(LAUNCHED) == Team(rank=1, size=2, local=1)
    assert team({}) is None
    assert team(LAUNCHED | {"WORLD_SIZE": "1"}) is None
    for name in LAUNCHED:
        assert team({k: v for k, v in LAUNCHED.items() if k != name}) is None
