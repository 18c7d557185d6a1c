"""Kill scans dead in the middle of their passes, let the same scan finish, and print what came.

    python -m tests.killing RUN OUT KILLS SEED

Prints JSON: the report of a scan that nobody disturbed, and for every kill how many units the
dead scan had finished and the report of the one after it. Forks, so that torch is loaded once.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from arca_diag import store
from arca_diag.config import ScanConfig
from arca_diag.pipeline import diagnose


def start(config: ScanConfig) -> int:
    """A child that scans; its number."""
    child = os.fork()
    if child == 0:
        try:
            diagnose(config)
        finally:
            os._exit(0)
    return child


def units(out: Path) -> int:
    """How many finished units lie beside the result."""
    return len(list((out / store.UNITS).glob("*.safetensors")))


def report(out: Path) -> dict[str, object]:
    """The finished report."""
    return json.loads((out / store.REPORT).read_bytes())


def kill_within(config: ScanConfig, out: Path, after: int, late: float) -> int:
    """Kill a scan so many seconds after it has so many units; how many it left."""
    child = start(config)
    while units(out) < after and not (out / store.REPORT).exists():
        time.sleep(0.0005)
    time.sleep(late)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return units(out)


def main(run: str, out: str, kills: str, seed: str) -> None:
    """See the module."""
    draw = random.Random(int(seed))
    folder = Path(out)
    config = ScanConfig(
        run=Path(run),
        out=folder,
        groups=1,
        fixed_groups=2,
        checkpoints="2,20",
        no_cache=True,
        no_render=True,
        batch_tokens=150,
    )
    most = 0
    child = start(config)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        most = max(most, units(folder))
        time.sleep(0.0005)
    told = {"undisturbed": report(folder), "units": most, "kills": []}
    for _ in range(int(kills)):
        shutil.rmtree(folder)
        left = kill_within(config, folder, draw.randrange(most), 0.01 * draw.random())
        finished = (folder / store.REPORT).exists()
        os.waitpid(start(config), 0)
        told["kills"].append({"left": left, "finished": finished, "report": report(folder)})
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
