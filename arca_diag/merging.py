"""Shares of one scan, run apart, into one result: as one scan would have given it."""

from collections.abc import Sequence
from pathlib import Path

from arca_diag import store
from arca_diag.config import ScanConfig
from arca_diag.errors import ResultError
from arca_diag.pipeline import Diagnosis, diagnose
from arca_diag.progress import Progress


def merge_shards(
    folders: Sequence[Path], out: Path | None, progress: Progress, *, no_render: bool = False
) -> Diagnosis:
    """Join the shares of a scan: the same scan, which finds every pass done.

    The base is loaded once more; a pass that no share has is run.

    Args:
        folders: What every share of the scan left.
        out: The result folder; the run's own if not given.
        progress: Hears of what is done.
        no_render: Write report and tables alone.

    Raises:
        ResultError: A folder holds no share, one is missing or is there twice, or they are of
            different scans.
    """
    shares = [store.read_share(folder) for folder in folders]
    first = shares[0]
    for share in shares[1:]:
        scans = [(s.of, s.run, dict(s.asked), s.identity) for s in (first, share)]
        if scans[0] != scans[1]:
            raise ResultError(
                f"{first.folder} and {share.folder} are shares of different scans",
                hint="run every share with the same options over the same files",
            )
    wanted, found = set(range(1, first.of + 1)), [share.number for share in shares]
    if missing := sorted(wanted.difference(found)):
        raise ResultError(
            f"share {missing[0]}/{first.of} is missing",
            hint=f"give all {first.of} folders; a missing one is made with --shard "
            f"{missing[0]}/{first.of}",
        )
    if len(found) > first.of:
        raise ResultError(
            f"{len(found)} folders for {first.of} shares: one is there twice",
            hint="give every share once",
        )
    config = ScanConfig(run=first.run, out=out, no_cache=True, no_render=no_render, **first.asked)
    folder = out or first.run / "arca-diag"
    store.look(folder)
    store.prepare(folder, first.identity, keep=False)
    for share in shares:
        store.take_units(share, folder)
    return diagnose(config, progress)
