"""Whether a result is still of the run beside it: recorded hashes against what lies on disk.

A result is often gated where its run is not: then nothing can be compared, and that is said. What
the run has deleted since (trainers keep their last checkpoints only) is named.
"""

import hashlib
import json
import os
from pathlib import Path

from arca_diag.errors import ArcaError
from arca_diag.gate.checks import OnDisk
from arca_diag.gate.reading import MARKER, REPORT
from arca_diag.inputs import untrusted
from arca_diag.inputs.checkpoints import Checkpoint
from arca_diag.inputs.files import within
from arca_diag.inputs.survey import survey
from arca_diag.results import Report

_WEIGHTS = "adapter_model.safetensors"


def look_beside(
    folder: Path, report: Report, run: Path | None = None, *, growing: bool = False
) -> OnDisk:
    """Compare a result with its own tables, and with its run where that is at hand.

    Args:
        folder: Where report.json lies.
        report: What it holds.
        run: The run, where it was named; else the result's parent, which is the run by default.
        growing: A scan will add what is new: newer checkpoints make nothing stale.
    """
    folder = folder.resolve()  # of "." the parent would be "." again
    foreign = [*_report(folder), *_tables(folder, report)]
    root = (run or folder.parent).resolve()
    try:
        there = survey(root).checkpoints if root.is_dir() else ()
    except (ArcaError, OSError):
        there = ()
    recorded = report.provenance.inputs
    known = {c.name for c in report.run.checkpoints}
    shared = [name for name in recorded if _is_there(root, name)]
    if not shared and not any(c.name in known for c in there):
        if there and (run is not None or folder.name == "arca-diag"):
            names = ", ".join(c.name for c in there[-3:])
            foreign += [f"the run here ({root.name}: {names}) has nothing that the report is of"]
        return OnDisk(foreign=tuple(foreign))
    stale = [f"{name} has changed" for name in shared if _changed(root, name, recorded[name])]
    gone = [name for name in recorded if _is_file(name) and not os.path.lexists(root / name)]
    if shared and len(stale) == len(shared):
        foreign += [f"no recorded input is as it was ({shared[0]} and all others)"]
        return OnDisk(compared=True, foreign=tuple(foreign))
    stale += [] if growing else _newer(there, report)
    return OnDisk(
        compared=bool(shared), stale=tuple(stale), gone=tuple(gone), foreign=tuple(foreign)
    )


def _report(folder: Path) -> list[str]:
    """Another report than the scan left: edited, damaged or copied here. Not proof against malice.

    The marker is no part of the result: without one nothing can be said.
    """
    try:
        wanted = json.loads((folder / MARKER).read_bytes())["report"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    path = folder / REPORT
    if wanted is None or not path.is_file() or _sha256(path) == wanted:
        return []
    return [f"{REPORT} is not the one that the scan wrote"]


def _tables(folder: Path, report: Report) -> list[str]:
    """Tables that another scan left: absent ones are no fault, the gate does not read them."""
    told = []
    for name, digest in report.files.items():
        path = folder / name
        if digest is None or not name.endswith(".parquet") or not os.path.isfile(path):
            continue
        if not within(path, folder) or _sha256(path) != digest:
            told.append(f"{name} is not the one that the report was made with")
    return told


def _newer(there: tuple[Checkpoint, ...], report: Report) -> list[str]:
    """Checkpoints after the last that was measured: the result is not of the run's end."""
    last = max((c.step for c in report.run.checkpoints if c.step is not None), default=None)
    if last is None:
        return []
    newer = [c.name for c in there if c.step is not None and c.step > last]
    return [f"{newer[-1]} came after the scan"] if newer else []


def _is_file(name: str) -> bool:
    """Whether an input's name is that of something in the run."""
    return name != "tokenizer" and not name.startswith("reference:")


def _is_there(root: Path, name: str) -> bool:
    if not _is_file(name):
        return False
    path = root / name
    # Unlike Path's these are false of a name that no file can have, and of a pipe.
    return (os.path.isfile(path) or os.path.isdir(path)) and within(path, root)


def _changed(root: Path, name: str, digest: str) -> bool:
    """Whether an input is another than the recorded; as `inputs.gather` hashes it."""
    path = root / name
    if path.is_dir():
        weights = path / _WEIGHTS
        return weights.is_file() and within(weights, root) and _sha256(weights) != digest
    if path.name == "adapter_config.json":
        try:
            return _hash_of_config(path) != digest
        except ArcaError:
            return True
    return _sha256(path) != digest


def _sha256(path: Path) -> str | None:
    """None of what cannot be read: nobody can say that it is as it was."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return None


def _hash_of_config(path: Path) -> str:
    config = untrusted.read_json(path)
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
