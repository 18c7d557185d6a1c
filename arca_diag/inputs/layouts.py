"""How each framework lays its checkpoints out, told from names of folders and files alone.

`LAYOUTS` is the list of them all. A step folder either leads to the folder of a LoRA adapter, or
holds a training state without one: then the command that makes an adapter of it is worth more
than "not found".
"""

import functools
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from arca_diag.errors import ArcaError
from arca_diag.inputs.files import children, read_json, read_text, step_number, within

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")

#: Folders beside or in a step folder whose adapter, if any, is not that step's policy.
_NEVER = re.compile(r"\.|_?critic|_?ref(erence)?(_adapter)?$|default$|pissa_|merged$|optim")

_DEPTH = 4  # folders below a step folder in which an adapter is looked for
_MAX_FOLDERS = 500  # so many of them


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One saved adapter.

    Attributes:
        name: How it is shown and keyed, unique in the run: the step folder's name.
        step: Optimizer steps done when it was saved; None for a bare adapter folder.
        path: The folder with the adapter's files in it.
        layout: Which of `LAYOUTS` it was found by, or "bare".
    """

    name: str
    step: int | None
    path: Path
    layout: str = "hf"

    @property
    def label(self) -> int | str:
        """The step, or the folder's name where there is none: how reports name it."""
        return self.name if self.step is None else self.step


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A checkpoint that cannot be used as it lies there.

    Attributes:
        name: The folder's name, or what the trainer calls it.
        step: Optimizer steps done when it was saved; None if nothing says so.
        path: The folder or file that was recognised.
        reason: Why there is no adapter to read.
        hint: The command that makes an adapter of it, to be run in the run's folder, or else
            what to do.
    """

    name: str
    step: int | None
    path: Path
    reason: str
    hint: str


@dataclass(frozen=True)
class Fault:
    """Why a step folder gives no adapter, and the command or advice that mends it."""

    reason: str
    hint: str


#: Given a step folder and the run: the adapter's folder, a fault, or None if it is neither.
Look = Callable[[Path, Path], Path | Fault | None]


@dataclass(frozen=True)
class Place:
    """Where in the run step folders lie (the run itself is ""), how they are called, what is in."""

    folder: str
    step: re.Pattern[str]
    look: Look

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders between the run and its step folders."""
        return PurePosixPath(self.folder).parts


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One framework's way.

    Attributes:
        name: Short, for reports.
        evidence: What it is recognised by, in words.
        places: Where step folders lie; where two hold the same step the earlier place counts.
        signs: Names in a run's folder that show it to be a run, whatever number of checkpoints
            it has.
        needs: A file without which it is not this layout; empty if there is none.
        others: Refused checkpoints that have no folder.
    """

    name: str
    evidence: str
    places: tuple[Place, ...]
    signs: re.Pattern[str]
    needs: str = ""
    others: Callable[[Path], Iterator[Refused]] = lambda root: iter(())


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a folder holds.

    Attributes:
        checkpoints: In step order.
        refused: Those that cannot be used, in step order.
        layout: The layout of the checkpoints, or None if there are none.
    """

    checkpoints: tuple[Checkpoint, ...] = ()
    refused: tuple[Refused, ...] = ()
    layout: Layout | None = field(default=None)


def has_adapter(folder: Path) -> bool:
    """Whether any of an adapter's files is there."""
    return any((folder / name).is_file() for name in ADAPTER_FILES)


def survey(root: Path) -> Survey:
    """Find the checkpoints of a run's folder, whatever left them.

    Raises:
        ArcaError: Two checkpoints have the same step.
    """
    listed = functools.cache(children)
    chosen: Layout | None = None
    usable: dict[int, Checkpoint] = {}
    refused: list[Refused] = []
    for layout in LAYOUTS:
        if layout.needs and not (root / layout.needs).is_file():
            continue
        found = list(_collect(layout, root, listed))
        refused += [f for f in found if isinstance(f, Refused)]
        if not usable:
            usable = _by_step([f for f in found if isinstance(f, Checkpoint)], root)
            chosen = layout if usable else None
    left = {(r.name if r.step is None else r.step): r for r in reversed(refused)}
    return Survey(
        checkpoints=tuple(usable[step] for step in sorted(usable)),
        refused=tuple(sorted((left[k] for k in left if k not in usable), key=_refused_order)),
        layout=chosen,
    )


def step_folders(path: Path) -> Iterator[tuple[Path, Path, bool]]:
    """Step folders that a path is, or lies in, by their names alone.

    Yields:
        The run that the step folder would be of, the step folder, and whether it lies in the
        run directly. The nearest step folder comes first, and its farthest run.
    """
    places = sorted((p for lay in LAYOUTS for p in lay.places), key=lambda p: -len(p.parts))
    seen = set()
    for folder in (path, *itertools.islice(path.parents, _DEPTH)):
        for place in places:
            root = Path(*folder.parts[: -1 - len(place.parts)])
            fits = folder.parts[-1 - len(place.parts) : -1] == place.parts
            if fits and (root, folder) not in seen and place.step.fullmatch(folder.name):
                seen.add((root, folder))
                yield root, folder, not place.parts


def run_above(path: Path) -> Path:
    """The run, where a path is a folder in which a run keeps its steps; else the path."""
    for layout in LAYOUTS:
        for parts in {p.parts for p in layout.places if p.parts}:
            root = Path(*path.parts[: -len(parts)])
            if path.parts[-len(parts) :] == parts and has_signs(root, layout, but=parts[0]):
                return root
    return path


def has_signs(root: Path, layout: Layout, but: str = "") -> bool:
    """Whether what a trainer leaves beside its checkpoints is there, another name than `but`."""
    return any(layout.signs.fullmatch(p.name) and p.name != but for p in children(root))


def sharded_fault(found: tuple[Refused, ...], root: Path) -> ArcaError:
    """The error where nothing but refused checkpoints is there: the newest one's reason."""
    newest = found[-1]
    names = ", ".join(r.name for r in found[:5]) + (", ..." if len(found) > 5 else "")
    return ArcaError(
        f"{root.name}: no LoRA adapter that can be read ({names}): {newest.name}: {newest.reason}",
        hint=f"in {root}: {newest.hint}",
    )


def _collect(
    layout: Layout, root: Path, listed: Callable[[Path], list[Path]]
) -> Iterator[Checkpoint | Refused]:
    yield from layout.others(root)
    before: set[int | None] = set()
    for place in layout.places:
        base = root.joinpath(*place.parts)
        if not base.is_dir():
            continue
        if not within(base, root):
            yield _leads_out(base.name, None, base)
            continue
        here: set[int | None] = set()
        for folder in listed(base):
            match = place.step.fullmatch(folder.name)
            step = step_number(match[1]) if match else None
            if step is None or step in before or not folder.is_dir():
                continue
            found = _entry(layout, place, root, folder, step)
            if isinstance(found, Checkpoint):
                here.add(step)
            if found is not None:
                yield found
        before |= here


def _entry(
    layout: Layout, place: Place, root: Path, folder: Path, step: int
) -> Checkpoint | Refused | None:
    if not within(folder, root):
        return _leads_out(folder.name, step, folder)
    found = place.look(folder, root)
    if isinstance(found, Fault):
        return Refused(
            name=folder.name, step=step, path=folder, reason=found.reason, hint=found.hint
        )
    if found is not None and not within(found, root):
        return _leads_out(folder.name, step, found)
    if found is None:
        return None
    return Checkpoint(name=folder.name, step=step, path=found, layout=layout.name)


def _leads_out(name: str, step: int | None, path: Path) -> Refused:
    return Refused(
        name=name,
        step=step,
        path=path,
        reason="a symbolic link that leads out of the run, which is not followed",
        hint="copy what it points at into the run, or scan that itself",
    )


def _by_step(found: list[Checkpoint], root: Path) -> dict[int, Checkpoint]:
    chosen: dict[int, Checkpoint] = {}
    for checkpoint in found:
        assert checkpoint.step is not None, "step folders have a step"
        other = chosen.setdefault(checkpoint.step, checkpoint)
        if other is not checkpoint:
            raise ArcaError(
                f"{root.name}: {other.name} and {checkpoint.name} are both step {checkpoint.step}",
                hint="keep one of them in the run and move the other out of it",
            )
    return chosen


def _refused_order(refused: Refused) -> tuple[int, str]:
    return (-1 if refused.step is None else refused.step, refused.name)


def _shown(path: Path, root: Path) -> str:
    """A path as it stands in a command that is run in the run's folder."""
    return shlex.quote(path.relative_to(root).as_posix())


def _names(folder: Path) -> list[str]:
    return [p.name for p in children(folder)] if folder.is_dir() else []


def _search(folder: Path, root: Path) -> Path | Fault | None:
    """The one adapter nearest below a step folder; a fault where two are equally near."""
    level, seen = [folder], 0
    for _ in range(_DEPTH + 1):
        found = [f for f in level if has_adapter(f)]
        if len(found) > 1:
            names = ", ".join(_shown(f, root) for f in found[:5])
            return Fault(f"several adapters: {names}", "scan one of these folders itself")
        if found:
            return found[0]
        level = [
            child
            for parent in level
            for child in children(parent)
            if child.is_dir() and not _NEVER.match(child.name) and within(child, root)
        ]
        seen += len(level)
        if seen > _MAX_FOLDERS:
            return None
    return None


def _is_deepspeed(folder: Path) -> bool:
    return any(re.match(r"(bf16_)?zero_pp_rank_|mp_rank_", name) for name in _names(folder))


def _gather_deepspeed(folder: Path, tag: str, root: Path, target: str) -> str:
    """How to make an adapter of ZeRO shards, and where a later scan of the run finds it."""
    return (
        f"python -m deepspeed.utils.zero_to_fp32 {_shown(folder, root)} "
        f"{shlex.quote(f'merged/{target}')} --tag {shlex.quote(tag)} --exclude_frozen_parameters, "
        "then load the result into the PEFT model with load_state_dict(state, strict=False) and "
        f"call model.save_pretrained({target!r})"
    )


def _hf(folder: Path, root: Path) -> Path | Fault | None:
    """HF Trainer and all that build on it; ms-swift may keep the adapter in default/."""
    for place in (folder, folder / "default"):
        if has_adapter(place):
            return place
    if (folder / "pytorch_model_fsdp_0").is_dir():
        shards, out = _shown(folder / "pytorch_model_fsdp_0", root), _shown(folder, root)
        return Fault(
            "FSDP shards (pytorch_model_fsdp_0), no adapter",
            f"accelerate merge-weights {shards} {out} && "
            f"mv {out}/model.safetensors {out}/adapter_model.safetensors, then write the run's "
            f"LoraConfig beside it with save_pretrained({out!r}); for the next run: "
            "fsdp_state_dict_type FULL_STATE_DICT",
        )
    for name in _names(folder):
        if re.fullmatch(r"global_step[0-9]+", name) and _is_deepspeed(folder / name):
            return Fault(
                f"DeepSpeed ZeRO shards ({name}), no adapter",
                f"{_gather_deepspeed(folder, name, root, folder.name)}; for the next run: "
                "stage3_gather_16bit_weights_on_model_save=true",
            )
    return folder  # half-written or not LoRA: whoever reads it names the file that is missing


def _verl(folder: Path, root: Path) -> Path | Fault | None:
    """verl: actor/lora_adapter (old), merged lora_adapter, Megatron's export, or shards."""
    found = _search(folder, root)
    if found is not None:
        return found
    actor = folder / "actor" if (folder / "actor").is_dir() else folder
    backend = ""
    if any(re.fullmatch(r"model_world_size_[0-9]+_rank_[0-9]+\.pt", n) for n in _names(actor)):
        backend = "fsdp"
    elif (actor / "dist_ckpt").is_dir():
        backend = "megatron"
    if not backend:
        return None
    return Fault(
        f"verl's {backend} shards, no adapter",
        f"python -m verl.model_merger merge --backend {backend} "
        f"--local_dir {_shown(actor, root)} --target_dir {shlex.quote(f'merged/{folder.name}')}",
    )


def _broadcast(folder: Path, root: Path) -> Path | Fault | None:
    """prime-rl: an adapter is whole once the trainer has written STABLE beside it."""
    if (folder / "STABLE").is_file():
        return folder if has_adapter(folder) else None
    if not has_adapter(folder):
        return None
    return Fault(
        "no STABLE file beside the adapter: prime-rl was still writing it",
        f"wait until the trainer has written it; or scan {_shown(folder, root)} itself",
    )


def _plain(folder: Path, root: Path) -> Path | Fault | None:
    """Step folders of any other trainer; prime-rl's have a marker to wait for."""
    return None if root.name == "broadcasts" else _search(folder, root)


def _prime_state(folder: Path, root: Path) -> Path | Fault | None:
    if not (folder / "trainer").is_dir():
        return None
    return Fault(
        "prime-rl's sharded training state, no adapter",
        f"uv run rl @ rl.toml --ckpt.resume-step {folder.name.removeprefix('step_')} "
        "--trainer.ckpt.weights.save-adapter-separately, with the run's own rl.toml, writes "
        "adapters below weights/; broadcasts/ keeps only the last ones",
    )


def _saved(folder: Path, root: Path) -> Path | Fault | None:
    return folder if has_adapter(folder) else None


def _openrlhf_state(folder: Path, root: Path) -> Path | Fault | None:
    if not _is_deepspeed(folder):
        return None
    return Fault(
        "OpenRLHF's DeepSpeed state, no adapter",
        _gather_deepspeed(folder.parent, folder.name, root, f"{folder.name}_hf")
        + "; for the next run: --ckpt.save_hf",
    )


def _nemo(folder: Path, root: Path) -> Path | Fault | None:
    """NeMo-RL: an adapter once its converter, or Automodel, has written one."""
    policy = folder / "policy"
    if not (policy.is_dir() or (folder / "training_info.json").is_file()):
        return None
    found = _search(folder, root)
    if found is not None:
        return found
    weights, out = policy / "weights", shlex.quote(f"{folder.name}/hf_adapter")
    if not weights.is_dir():
        return None
    iterations = [n for n in _names(weights) if re.fullmatch(r"iter_[0-9]+", n)]
    if iterations:
        return Fault(
            "NeMo-RL's Megatron checkpoint, no adapter",
            "uv run --extra mcore python examples/converters/convert_lora_to_hf.py "
            "--base-ckpt BASE_MEGATRON_CHECKPOINT "
            f"--adapter-ckpt {_shown(weights / iterations[-1], root)} "
            f"--hf-model-name BASE_MODEL --hf-ckpt-path {out} --adapter-only",
        )
    return Fault(
        "NeMo-RL's distributed checkpoint (DCP), no adapter",
        "uv run examples/converters/convert_dcp_to_hf.py "
        f"--config {_shown(folder / 'config.yaml', root)} --dcp-ckpt-path {_shown(weights, root)} "
        f"--hf-ckpt-path {out}",
    )


def _deepspeed(folder: Path, root: Path) -> Path | Fault | None:
    if not _is_deepspeed(folder):
        return None
    target = f"checkpoint-{folder.name.removeprefix('global_step')}"
    return Fault(
        "DeepSpeed ZeRO shards, no adapter",
        _gather_deepspeed(folder.parent, folder.name, root, target),
    )


def _tinker_remote(root: Path) -> Iterator[Refused]:
    """Checkpoints that lie on Tinker's servers: checkpoints.jsonl names them."""
    log = root / "checkpoints.jsonl"
    model = read_json(root / "config.json", root).get("model_name")
    base = model if isinstance(model, str) and re.fullmatch(r"[\w./-]+", model) else "BASE_MODEL"
    for line in (read_text(log, root) or b"").splitlines()[:10_000]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        row = row if isinstance(row, dict) else {}
        remote, name = row.get("sampler_path"), row.get("name")
        if not isinstance(remote, str) or not re.fullmatch(r"tinker://[\w./:-]+", remote):
            continue
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            continue
        yield Refused(
            name=name,
            step=step_number(row.get("batch", name)),
            path=log,
            reason="the adapter lies on Tinker's servers",
            hint='python -c "from tinker_cookbook import weights as w; '
            f"w.build_lora_adapter(base_model='{base}', adapter_path=w.download("
            f"tinker_path='{remote}', output_dir='downloads/{name}'), "
            f"output_path='adapters/{name}')\"",
        )


_STEP = re.compile(r"step_([0-9]+)")
_GLOBAL_STEP = re.compile(r"global_step_([0-9]+)")
_TAG = re.compile(r"global_step([0-9]+)")

LAYOUTS = (
    Layout(
        name="hf",
        evidence="checkpoint-* folders",
        places=(Place("", re.compile(r"checkpoint-([0-9]+)"), _hf),),
        signs=re.compile(
            r"completions(\.jsonl)?|(trainer_state|args)\.json|(logging|trainer_log)\.jsonl"
            r"|training_args\.bin"
        ),
    ),
    Layout(
        name="verl",
        evidence="global_step_* folders",
        places=(Place("", _GLOBAL_STEP, _verl), Place("merged", _GLOBAL_STEP, _verl)),
        signs=re.compile(r"latest_checkpointed_iteration\.txt|global_step_[0-9]+"),
    ),
    Layout(
        name="prime-rl",
        evidence="step_* folders with a STABLE file, or broadcasts/, weights/ or checkpoints/",
        places=(
            Place("broadcasts", _STEP, _broadcast),
            Place("run_default/broadcasts", _STEP, _broadcast),
            Place("weights", _STEP, _search),
            Place("", _STEP, _broadcast),
            Place("checkpoints", _STEP, _prime_state),
        ),
        signs=re.compile(
            r"broadcasts|weights|checkpoints|configs|control|rollouts|token_exports|run_default"
        ),
    ),
    Layout(
        name="openrlhf",
        evidence="global_step*_hf folders, or _actor/",
        places=(
            Place("", re.compile(r"(?:.+_)?global_step([0-9]+)_hf"), _saved),
            Place("_actor", _TAG, _openrlhf_state),
        ),
        signs=re.compile(r"_actor|_critic|global_step[0-9]+_hf"),
    ),
    Layout(
        name="nemo-rl",
        evidence="step_* folders with policy/ or training_info.json",
        places=(Place("", _STEP, _nemo),),
        signs=re.compile(r"tmp_step_[0-9]+"),
    ),
    Layout(
        name="tinker",
        evidence="checkpoints.jsonl",
        places=(
            Place("", re.compile(r"([0-9]+)"), _saved),
            Place("adapters", re.compile(r"([0-9]+)"), _saved),
        ),
        signs=re.compile(r"checkpoints\.jsonl"),
        needs="checkpoints.jsonl",
        others=_tinker_remote,
    ),
    Layout(
        name="steps",
        evidence="step_* folders with an adapter",
        places=(Place("", _STEP, _plain),),
        signs=re.compile(r".+_rollouts_[0-9]+\.jsonl"),
    ),
    Layout(
        name="deepspeed",
        evidence="global_step* folders of DeepSpeed",
        places=(Place("", _TAG, _deepspeed),),
        signs=re.compile(r"zero_to_fp32\.py|latest"),
    ),
)
