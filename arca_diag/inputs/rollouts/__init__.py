"""Rollout files -> `Sample`s. One reader a format; `READERS` is the list of them all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from arca_diag.inputs.rollouts import (
    canonical,
    ms_swift,
    nemo_rl,
    open_instruct,
    prime_rl,
    tinker,
    trl,
    verifiers,
    verifiers_results,
    verl,
)
from arca_diag.inputs.rollouts.record import Notes, Rollout, Sample
from arca_diag.inputs.runs import Run

__all__ = ["READERS", "Notes", "Reader", "Rollout", "Sample"]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One format.

    Attributes:
        name: How reports and messages name it.
        places: Where in a run its files lie, as glob patterns relative to the run; the folder
            or file that matches is handed to `sniff`. Empty if only `--rollouts` leads to it.
        sniff: Whether a file or folder is of this format; looks at no more than a few KB.
        read: Yields samples in file order, in bounded memory, and tells `Notes` what it met
            beside them. Called twice for a scan, it yields the same twice.
    """

    name: str
    places: tuple[str, ...]
    sniff: Callable[[Path], bool]
    read: Callable[[Path, Run, Notes], Iterator[Sample]]


READERS = (
    Reader(
        name="TRL completions",
        places=("completions",),
        sniff=trl.sniff,
        read=trl.read,
    ),
    Reader(
        name="prime-rl token export",
        places=("token_exports", "run_*/token_exports"),
        sniff=prime_rl.sniff,
        read=prime_rl.read,
    ),
    Reader(
        name="verifiers traces",
        places=("rollouts", "run_*/rollouts"),
        sniff=verifiers.sniff,
        read=verifiers.read,
    ),
    Reader(
        name="verifiers evaluation results",
        places=(),
        sniff=verifiers_results.sniff,
        read=verifiers_results.read,
    ),
    Reader(
        name="NeMo-RL training data",
        places=("logs", "logs/*", "exp_*"),
        sniff=nemo_rl.sniff,
        read=nemo_rl.read,
    ),
    Reader(
        name="open-instruct traces",
        places=("rollouts",),
        sniff=open_instruct.sniff,
        read=open_instruct.read,
    ),
    Reader(
        name="verl rollout data",
        places=("rollout*",),
        sniff=verl.sniff,
        read=verl.read,
    ),
    Reader(
        name="ms-swift completions",
        places=("completions.jsonl", "v[0-9]*/completions.jsonl"),
        sniff=ms_swift.sniff,
        read=ms_swift.read,
    ),
    Reader(
        name="Tinker samples",
        places=("capture", "iteration_*"),
        sniff=tinker.sniff,
        read=tinker.read,
    ),
    Reader(
        name="canonical JSONL or parquet",
        places=(),
        sniff=canonical.sniff,
        read=canonical.read,
    ),
)
