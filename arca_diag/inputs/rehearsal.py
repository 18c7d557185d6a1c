"""Tries out a run's own patterns and tokenizer, in a process that may be lost.

A regular expression can match for ever, and a tokenizer's file can turn a letter into terabytes or
make its library end the process. Both do the same every time: what went well there goes well here.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.child import run_child

_CHILD = Path(__file__).with_name("rehearsal_child.py")
_SECONDS = 5  # far more than names, or loading a tokenizer, takes
_PLAIN = re.compile(r"[\w.]*")  # a name of a layer: nothing in it repeats


def check_patterns(config: Mapping[str, Any], names: Iterable[str], shown: str) -> None:
    """Check that the patterns in an adapter's configuration can be matched in bounded time.

    Args:
        config: adapter_config.json. PEFT takes the value of `target_modules`, keys of
            `rank_pattern` and others for regular expressions.
        names: Names of layers that they will be matched with.
        shown: How messages name the configuration.

    Raises:
        CheckpointError: One is not valid, or was not done in time.
    """
    odd = [pattern for pattern in _patterns(config) if not _PLAIN.fullmatch(pattern)]
    if not odd:
        return
    said = _rehearse({"patterns": odd, "names": list(names)}, _SECONDS)
    if said:
        raise CheckpointError(
            f"{shown}: a pattern in it cannot be matched with the layers' names: {said}",
            hint="give the names of the target modules as a list",
        )


def check_tokenizer(
    file: str,
    shown: str,
    texts: Collection[str] = (),
    ids: Sequence[Sequence[int]] = (),
) -> None:
    """Check that a tokenizer can be loaded, and does what it will be asked to.

    Args:
        file: The contents of tokenizer.json.
        shown: How messages name it.
        texts: What it will have to encode.
        ids: What it will have to decode.

    Raises:
        ArcaError: It fails, or needs more time or memory than the limits.
    """
    seconds = _SECONDS + 1e-5 * sum(map(len, texts))  # a tenth of what tokenizers manage
    said = _rehearse({"tokenizer": file, "texts": list(texts), "ids": list(ids)}, seconds)
    if said:
        raise ArcaError(
            f"{shown}: the tokenizer cannot be used: {said}",
            hint="copy or save it again; is it the one the run was trained with?",
        )


def _patterns(config: Mapping[str, Any]) -> list[str]:
    """Every text that PEFT may match names with."""
    found: list[Any] = []
    for key in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save",
                "rank_pattern", "alpha_pattern"):  # fmt: skip
        value = config.get(key)
        found += value if isinstance(value, list | dict) else [value]
    return [pattern for pattern in found if isinstance(pattern, str)]


def _rehearse(request: dict[str, Any], seconds: float) -> str:
    """What went wrong; empty if nothing did."""
    line = json.dumps(request | {"seconds": seconds}).encode() + b"\n"
    answers, ended = run_child(_CHILD, [line], seconds)
    if not answers:
        return ended
    return str(answers[0].get("fault") or "")
