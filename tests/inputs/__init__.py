"""Builders of what trainers leave on disk: runs, adapters, pickles and rollout files."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from arca_diag.inputs.rollouts.census import Entry, find_source, load, none_found, take_census
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.rollouts.tokenise import to_rollouts
from arca_diag.inputs.runs import Checkpoint, Run

#: A real run: checkpoints of a 22-token model, with the tables that TRL and the recorder left.
SAMPLE = Path(__file__).parents[2] / "sample_runs" / "tiny-addition"

#: The end-of-sequence id of its tokenizer.
EOS = 2


def sample_copy(
    root: Path, checkpoints: Sequence[int] = (2, 20), tables: Sequence[int] = (3, 20, 21)
) -> Path:
    """The sample with fewer checkpoints and tables, under the name that its base is found by."""
    run = root / SAMPLE.name
    run.mkdir(parents=True)
    shutil.copytree(SAMPLE / "base", run / "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "trainer_state.json"):
        shutil.copy(SAMPLE / name, run)
    for step in checkpoints:
        shutil.copytree(SAMPLE / f"checkpoint-{step}", run / f"checkpoint-{step}")
    (run / "completions").mkdir()
    for number in tables:
        shutil.copy(
            SAMPLE / "completions" / f"completions_{number:05d}.parquet", run / "completions"
        )
    return run


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON object on disk; None removes the key."""
    content = json.loads(path.read_text("utf-8")) | changes
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), "utf-8")


LORA = {"peft_type": "LORA", "base_model_name_or_path": "some/base", "r": 2, "lora_alpha": 4}


def lora_tensors(layer: str = "base_model.model.layer", **changed: torch.Tensor) -> dict[str, Any]:
    """One A and one B matrix of rank 2; `lora_A` or `lora_B` replaces one of them."""
    pair = {"lora_A": torch.ones(2, 3), "lora_B": torch.ones(4, 2)} | changed
    return {f"{layer}.{side}.weight": tensor for side, tensor in pair.items()}


def write_adapter(
    folder: Path,
    config: dict[str, Any] | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
) -> Checkpoint:
    """An adapter folder; `config` is laid over a plain LoRA's."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(LORA | (config or {}))
    (folder / "adapter_config.json").write_text(text, "utf-8")
    save_file(lora_tensors() if tensors is None else tensors, folder / "adapter_model.safetensors")
    step = folder.name.removeprefix("checkpoint-")
    return Checkpoint(name=folder.name, step=int(step) if step.isdigit() else None, path=folder)


def checkpoint(step: int | None, name: str = "") -> Checkpoint:
    """A checkpoint that need not lie on disk."""
    name = name or f"checkpoint-{step}"
    return Checkpoint(name=name, step=step, path=Path(name))


def a_run(**given: Any) -> Run:
    """A run as `find_run` would describe it."""
    plain: dict[str, Any] = {
        "root": Path("run"),
        "checkpoints": (),
        "named": None,
        "framework": "trl",
        "steps": None,
        "logging_steps": None,
        "training_args": {},
        "training_args_source": "",
        "reward_columns": (),
        "completions": None,
    }
    return Run(**(plain | given))


@dataclass(frozen=True)
class Found:
    """What the readers make of files: the completions, and what is counted beside them."""

    rollouts: tuple[Rollout, ...]
    source: str
    files: tuple[str, ...]
    duplicates_dropped: int
    lines_skipped: int
    eval_excluded: int
    left_out: dict[str, int]
    unknown_fields: dict[str, int]
    step_source: str


def read_rollouts(
    path: Path | None, tokenizer: Any = None, *, skip_bad_lines: bool = False, **run: Any
) -> Found:
    """Read every completion at `path`, as a scan that chose all of them would."""
    described = a_run(**run)
    source = find_source(path, described)
    if source is None:
        raise none_found(described)
    census = take_census(source, described, skip_bad_lines=skip_bad_lines)
    samples = load(census, described, {entry.group_id for entry in census.entries})
    notes = census.notes
    return Found(
        rollouts=to_rollouts(samples.values(), tokenizer, frozenset({EOS}), described),
        source=source.label,
        files=tuple(notes.files),
        duplicates_dropped=notes.duplicates,
        lines_skipped=census.lines_skipped,
        eval_excluded=notes.eval_excluded,
        left_out=dict(notes.left_out),
        unknown_fields=dict(notes.unknown_fields),
        step_source=notes.step_source,
    )


def record(number: int = 0, **given: Any) -> dict[str, Any]:
    """One line of canonical rollouts; two neighbours share a prompt."""
    plain = {"id": f"r{number}", "prompt_ids": [1, 4 + number // 2], "completion_ids": [5, 6, EOS]}
    return plain | given


def write_jsonl(path: Path, lines: Iterable[Any]) -> Path:
    """A line each; text and bytes are written as they are."""
    raw = [
        line
        if isinstance(line, bytes)
        else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    path.write_bytes(b"".join(line + b"\n" for line in raw))
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A table of these rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def trl_row(number: int = 0, **given: Any) -> dict[str, Any]:
    """One row as TRL writes it without the recorder; two neighbours share a prompt."""
    plain = {
        "step": 3,
        "prompt": f"{number // 2}+1>",
        "completion": f"={number % 10}",
        "exact_match": float(number % 2),
        "advantage": 0.5,
    }
    return plain | given


def recorded(number: int = 0, **given: Any) -> dict[str, Any]:
    """The same with the recorder's columns; in the sample's tokenizer `=` is 15 and `0` is 4."""
    ids = {"arca_completion_ids": [15, 4 + number % 10, EOS], "arca_gen_step": 2}
    return trl_row(number, **(ids | given))


def entry(number: int = 0, **given: Any) -> Entry:
    """A completion as the census knows it."""
    plain: dict[str, Any] = {
        "id": f"r{number}",
        "step": 0,
        "group_id": "g0",
        "tokens": 5,
        "has_ids": True,
        "ids_exact": True,
        "batch": "",
        "fingerprint": number,
        "guessed_size": False,
        "guessed_prompt": False,
    }
    return Entry(**(plain | given))


def rollout(number: int = 0, **given: Any) -> Rollout:
    """A rollout already read."""
    plain: dict[str, Any] = {
        "id": f"r{number}",
        "step": 0,
        "group_id": "g0",
        "prompt_ids": (1, 4),
        "completion_ids": (5, 6, EOS),
        "mask": (True, True, True),
    }
    return Rollout(**(plain | given))


def write_torch_pickle(path: Path, content: Any, protocol: int = 2) -> Path:
    """A file as `torch.save` lays it out, around a pickle (bytes are taken as one)."""
    payload = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
    return path
