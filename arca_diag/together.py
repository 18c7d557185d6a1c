"""One scan by several processes, as `torchrun` and `accelerate launch` start them.

Each runs its share of the passes, as `--shard` does, and the first gathers all and finishes.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load, save

from arca_diag import store
from arca_diag.config import ScanConfig
from arca_diag.errors import ConfigError
from arca_diag.inputs.runs import find_run
from arca_diag.pipeline import Diagnosis, diagnose
from arca_diag.progress import Progress, Silent

#: Name of a unit: it comes from another machine, and is to name a file here.
_UNIT = re.compile(r"[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Team:
    """Which of how many processes this is, and which on its machine."""

    rank: int
    size: int
    local: int


def team(environ: Mapping[str, str] = os.environ) -> Team | None:
    """What a launcher said; None where this process is alone."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "MASTER_ADDR" not in environ or not all(environ.get(n, "").isdecimal() for n in names):
        return None
    rank, size, local = (int(environ[name]) for name in names)
    return Team(rank=rank, size=size, local=local) if size > 1 else None


def diagnose_together(config: ScanConfig, members: Team, progress: Progress) -> Diagnosis | None:
    """Scan a run, its passes shared out among the processes.

    A result that is there already, and is added to or judged again, is the first one's alone.

    Args:
        config: What was asked for; the same in every process.
        members: Which process this is.
        progress: Hears of this process's passes.

    Returns:
        The result in the first process; None in the others.

    Raises:
        ConfigError: Every process would want every device.
    """
    if config.device_map:
        raise ConfigError(
            f"device-map {config.device_map} lays one model out over all devices, and here are "
            f"{members.size} processes with a model each",
            hint="start one process, or leave --device-map away",
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(members.local)
    folder = config.out or find_run(config.run).root / "arca-diag"
    dist.init_process_group("gloo")
    try:
        found = None if config.force else store.look(folder)
        if found:
            store.check_version(folder, found)
        done = torch.tensor(found is not None and found.report is not None)
        dist.broadcast(done, src=0)
        alone = bool(done)
        if not alone:
            _gather(config, members, folder, progress)
    finally:
        dist.destroy_process_group()
    if members.rank:
        return None
    return diagnose(config if alone else config.model_copy(update={"no_cache": True}), progress)


def _gather(config: ScanConfig, members: Team, folder: Path, progress: Progress) -> None:
    """Run every share, and bring its units beside the result that the first is to make."""
    which = f"{members.rank + 1}/{members.size}"
    own = folder.with_name(f"{folder.name}-{which.replace('/', '-of-')}")
    # Kept until all are done: a scan that is killed goes on with it.
    ran = diagnose(
        config.model_copy(update={"shard": which, "out": own}),
        progress if members.rank == 0 else Silent(),
    )
    units = {
        path.name: torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        for path in (ran.folder / store.UNITS).glob(f"*{store.UNIT_FILES[0]}")
    }
    parts = _bytes_of_all(save(units), members)
    if members.rank == 0:
        store.prepare(folder, store.read_share(own).identity, keep=False)
        for name, content in (item for part in parts for item in load(part).items()):
            if _UNIT.fullmatch(name):
                store.keep_unit(folder, name, content.numpy().tobytes())
    dist.barrier()
    store.clear_share(own)


def _bytes_of_all(own: bytes, members: Team) -> list[bytes]:
    """What every process has, in the first; nothing in the others.

    As numbers: what torch sends of objects is a pickle, and none is opened here.
    """
    size = torch.tensor([len(own)])
    sizes = [torch.empty_like(size) for _ in range(members.size)]
    dist.all_gather(sizes, size)
    padded = torch.zeros(max(int(n) for n in sizes), dtype=torch.uint8)
    padded[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8)
    if members.rank:
        dist.gather(padded)
        return []
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.gather(padded, parts)
    return [part[: int(n)].numpy().tobytes() for part, n in zip(parts, sizes, strict=True)]
