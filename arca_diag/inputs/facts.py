"""What a run's small files say: who trained it, with which arguments, and what was logged."""

import functools
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arca_diag.errors import ArcaError
from arca_diag.inputs.files import children, number, read_json, read_object, read_text, step_number
from arca_diag.inputs.layouts import Layout
from arca_diag.inputs.pickles import read_training_args

_STATE_LIMIT = 256 * 2**20  # bytes of trainer_state.json that we are willing to parse
_TEXT_LIMIT = 2**20  # bytes of a model card
_CONFIG_LIMIT = 2**16  # bytes of a YAML or TOML file, whose parsers are slow

#: ms-swift's args.json uses TRL's names, but holds credentials too: these and no others.
_SWIFT = (
    "temperature", "beta", "num_generations", "num_iterations", "steps_per_generation",
    "max_completion_length", "loss_type", "scale_rewards", "top_p", "top_k", "min_p", "epsilon",
    "epsilon_high", "learning_rate", "logging_steps", "save_steps", "max_steps", "seed",
    "per_device_train_batch_size", "gradient_accumulation_steps", "ref_adapters",
    "top_entropy_quantile",
)  # fmt: skip

#: TRL's name -> where NeMo-RL's config.yaml says the same.
_NEMO: Mapping[str, tuple[str, ...]] = {
    "temperature": ("policy.generation.temperature",),
    "top_p": ("policy.generation.top_p",),
    "top_k": ("policy.generation.top_k",),
    "max_completion_length": ("policy.generation.max_new_tokens",),
    "num_generations": ("grpo.num_generations_per_prompt",),
    "max_steps": ("grpo.max_num_steps",),
    "seed": ("grpo.seed",),
    "beta": ("loss_fn.reference_policy_kl_penalty",),
    "learning_rate": ("policy.optimizer.kwargs.lr",),
}

#: What LLaMA-Factory's own training_args.yaml says of the models that training started from.
_LLAMA_FACTORY = ("adapter_name_or_path", "create_new_adapter", "ref_model", "ref_model_adapters")

#: TRL's name -> where prime-rl's orchestrator.toml says the same, newest spelling first.
_PRIME: Mapping[str, tuple[str, ...]] = {
    "temperature": ("train.sampling.temperature", "sampling.temperature"),
    "max_completion_length": (
        "train.sampling.max_completion_tokens",
        "sampling.max_completion_tokens",
        "sampling.max_tokens",
    ),
    "num_generations": ("group_size", "rollouts_per_example"),
    "max_steps": ("max_steps",),
    "seed": ("seed",),
}


@dataclass(frozen=True, kw_only=True)
class Framework:
    """Who left a run: `name`, its `version` where a file says so, and the `evidence` in words."""

    name: str
    version: str | None
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A trainer's arguments by TRL's names, and the file they come from, relative to the run.

    Where none were found, `ignored` says why files that may hold them could not be read.
    """

    values: dict[str, Any]
    source: str
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class State:
    """What trainer_state.json says.

    Attributes:
        log: Rows of the log, in step order.
        logging_steps: Steps between two rows; None if unknown.
        steps: Every count of steps that was found.
        found: Whether there was such a file.
        ignored: Why there was one that could not be read.
    """

    log: tuple[dict[str, Any], ...]
    logging_steps: int | None
    steps: tuple[int, ...]
    found: bool
    ignored: tuple[str, ...]


def read_arguments(root: Path, folders: list[Path]) -> Arguments:
    """The trainer's arguments: those of the first folder that has any that can be read."""
    found = _first_arguments(root, folders)
    path = root / "training_args.yaml"
    node = _compose(path, root)
    said = {key: _yaml_value(node, key) for key in _LLAMA_FACTORY}
    more = _arguments({k: v for k, v in said.items() if isinstance(v, str | bool)}, path, root)
    return Arguments(
        values=found.values | more.values,
        source=found.source or more.source,
        ignored=() if found.source else tuple(_unread_arguments(root, folders)),
    )


def _first_arguments(root: Path, folders: list[Path]) -> Arguments:
    for folder in folders:
        # Not unpickled: see `read_training_args`.
        binary = folder / "training_args.bin"
        if read_text(binary, root) and (values := _plain(read_training_args(binary))):
            return _arguments(values, binary, root)
    for folder in folders:
        swift = folder / "args.json"
        known = read_json(swift, root)
        if values := _plain({k: known[k] for k in _SWIFT if known.get(k) is not None}):
            return _arguments(values, swift, root)
    path = next((p for d in folders if (p := d / "config.yaml").is_file()), None)
    if path and (values := _translated(_compose(path, root), _NEMO, _yaml_value)):
        return _arguments(values, path, root)
    path = root / "configs" / "orchestrator.toml"
    return _arguments(_read_toml(path, root), path, root)


def _unread_arguments(root: Path, folders: list[Path]) -> Iterator[str]:
    for folder in folders:
        if os.path.lexists(folder / "training_args.bin"):
            yield (
                f"{folder.name}/training_args.bin holds no arguments that can be read without "
                "running it, or more than a trainer's"
            )
        try:
            read_object(folder / "args.json", root)
        except ArcaError as fault:
            yield str(fault)


def read_state(root: Path, folders: list[Path], last_step: int) -> State:
    """The newest trainer_state.json, which holds the log of all steps before it.

    Args:
        root: The run.
        folders: The run, then its checkpoints from the last to the first.
        last_step: The last checkpoint's: a state of that step is the newest there is.
    """
    states: list[dict[str, Any]] = []
    ignored: list[str] = []
    for folder in folders:
        try:
            state = read_object(folder / "trainer_state.json", root, _STATE_LIMIT)
        except ArcaError as fault:
            ignored.append(str(fault))
            continue
        if state:
            states.append(state)
        # Reading the others would cost seconds, and they only repeat the beginning of this one.
        if any(_rows(s) and (folder != root or _reached(s) >= last_step) for s in states):
            break
    states.sort(key=_reached, reverse=True)
    log = next((rows for s in states if (rows := _rows(s))), ())
    logging = [number(s.get("logging_steps")) for s in states]
    return State(
        log=tuple(sorted(log, key=lambda row: step_number(row.get("step")) or 0)),
        logging_steps=next((int(v) for v in logging if v is not None and v >= 1), None),
        steps=tuple(
            step
            for s in states
            for key in ("max_steps", "global_step")
            if (step := step_number(s.get(key))) is not None
        ),
        found=bool(states),
        ignored=tuple(ignored),
    )


def recognise(
    root: Path, folders: list[Path], layout: Layout | None, arguments: Arguments, state: State
) -> Framework:
    """Say which framework left the run, by the strongest evidence first."""
    layout_name = layout.name if layout else "bare"
    said = layout.evidence if layout else "an adapter folder"
    card = (read_text(root / "README.md", root, _TEXT_LIMIT) or b"").decode("utf-8", "replace")

    def found(name: str, evidence: str = "", version: str | None = None) -> Framework:
        both = f"{said} and {evidence}" if evidence else said
        return Framework(name=name, version=version, evidence=both)

    if layout_name in ("verl", "prime-rl", "openrlhf", "nemo-rl", "tinker"):
        return found(layout_name)
    if layout_name == "steps":
        if root.name.endswith("_checkpoints"):
            return found("open-instruct", "a name that ends in _checkpoints")
        if any(re.fullmatch(r".+_rollouts_[0-9]+\.jsonl", p.name) for p in children(root)):
            return found("open-instruct", "*_rollouts_*.jsonl")
        return found("unknown")
    for folder in folders:
        swift = read_json(folder / "args.json", root)
        if swift and ("swift_version" in swift or {"model", "tuner_backend"} <= swift.keys()):
            return found("ms-swift", "args.json", _version(swift.get("swift_version")))
    if (root / "completions.jsonl").is_file() and (root / "args.json").is_file():
        return found("ms-swift", "args.json and completions.jsonl")
    if match := re.search(r"^axolotl version: `([^`\n]{1,40})`", card, re.MULTILINE):
        return found("axolotl", "README.md", _version(match[1]))
    if (root / "trainer_log.jsonl").is_file():
        return found("llama-factory", "trainer_log.jsonl")
    for folder in folders:
        mapping = read_json(folder / "adapter_config.json", root).get("auto_mapping")
        if isinstance(mapping, dict) and mapping.get("unsloth_fixed") is True:
            return found("unsloth", "auto_mapping.unsloth_fixed in adapter_config.json")
    match = re.search(r"^- TRL: (\S{1,40})\s*$", card, re.MULTILINE)
    version = _version(match[1]) if match else None
    tables = root / "completions"
    if tables.is_dir() and any(tables.glob("completions_*.parquet")):
        return found("trl", "completions/completions_*.parquet", version)
    if "num_generations" in arguments.values:
        return found("trl", f"num_generations in {arguments.source}", version)
    if version:
        return found("trl", "README.md", version)
    if state.found:
        return found("hf-trainer", "trainer_state.json")
    return found("unknown")


def _version(value: object) -> str | None:
    good = isinstance(value, str) and re.fullmatch(r"[0-9][0-9A-Za-z.+-]{0,39}", value)
    return str(value) if good else None


def _rows(state: dict[str, Any]) -> list[dict[str, Any]]:
    history = state.get("log_history")
    return [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []


def _reached(state: dict[str, Any]) -> float:
    return number(state.get("global_step")) or 0.0


def _arguments(values: dict[str, Any], path: Path, root: Path) -> Arguments:
    return Arguments(values=values, source=path.relative_to(root).as_posix() if values else "")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Without integers of which no float can be made, which would trip whoever computes."""
    return {
        k: v
        for k, v in values.items()
        if not isinstance(v, int) or isinstance(v, bool) or number(v) is not None
    }


def _translated(
    found: Any, names: Mapping[str, tuple[str, ...]], get: Callable[[Any, str], Any]
) -> dict[str, Any]:
    """The numbers at the first of a name's places; `get` looks one key up in a mapping."""
    values = {}
    for name, places in names.items():
        for place in places:
            value = functools.reduce(get, place.split("."), found)
            if number(value) is not None:
                values[name] = value
                break
    return values


def _read_toml(path: Path, root: Path) -> dict[str, Any]:
    content = read_text(path, root, _CONFIG_LIMIT) or b""
    try:
        found = tomllib.loads(content.decode())
    except (ValueError, RecursionError):
        return {}
    return _translated(found, _PRIME, lambda v, key: v.get(key) if isinstance(v, dict) else None)


def _compose(path: Path, root: Path) -> Any:
    """The top node of a YAML file; None if there is none, or none that can be read.

    Only composed, never constructed: merge keys and aliases let a short file stand for an
    object of any size.
    """
    content = read_text(path, root, _CONFIG_LIMIT)
    if not content:
        return None
    import yaml  # type: ignore[import-untyped]  # only few runs need it

    try:
        return yaml.compose(content, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _yaml_value(node: Any, key: str) -> Any:
    """The node at a key of a YAML mapping; a scalar as what it stands for, else as text."""
    pairs = node.value if getattr(node, "id", "") == "mapping" else []
    value: Any = next((v for k, v in pairs if k.value == key), None)
    if getattr(value, "id", "") != "scalar":
        return value
    try:
        return json.loads(value.value)
    except (ValueError, RecursionError):
        return value.value
