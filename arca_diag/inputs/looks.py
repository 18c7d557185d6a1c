"""What a step folder leads to, by each framework's way of saving: a function a way.

Each is given the step folder and the run, and gives the adapter's folder, a fault, or None where
the folder is neither.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from arca_diag.inputs.checkpoints import Fault, Refused, has_adapter
from arca_diag.inputs.files import children, read_json, read_text, step_number, within

#: Folders beside or in a step folder whose adapter, if any, is not that step's policy.
_NEVER = re.compile(r"\.|_?critic|_?ref(erence)?(_adapter)?$|default$|pissa_|merged$|optim")

#: Where LLaMA-Factory puts a PiSSA adapter that it has converted to a plain LoRA.
CONVERTED = "pissa_converted"

DEPTH = 4  # folders below a step folder in which an adapter is looked for
_MAX_FOLDERS = 500  # so many of them


def _shown(path: Path, root: Path) -> str:
    """A path as it stands in a command that is run in the run's folder."""
    return shlex.quote(path.relative_to(root).as_posix())


def _names(folder: Path) -> list[str]:
    return [p.name for p in children(folder)] if folder.is_dir() else []


def search(folder: Path, root: Path) -> Path | Fault | None:
    """The one adapter nearest below a step folder; a fault where two are equally near."""
    level, seen = [folder], 0
    for _ in range(DEPTH + 1):
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


def _gather_dcp(shards: Path, target: str, root: Path) -> str:
    """The same for a distributed checkpoint of torch."""
    return (
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
        f"{_shown(shards, root)} state.pt, then save the tensors in it that have lora_ in their "
        f"names as {target}/adapter_model.safetensors and write the run's LoraConfig beside them "
        f"with save_pretrained({target!r})"
    )


def hf(folder: Path, root: Path) -> Path | Fault | None:
    """HF Trainer and all that build on it.

    ms-swift may keep the adapter in default/; a PiSSA adapter that was converted to a plain LoRA
    counts before the one that it was made of.
    """
    for place in (folder / CONVERTED, folder, folder / "default"):
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


def verl(folder: Path, root: Path) -> Path | Fault | None:
    """verl: actor/lora_adapter (old), merged lora_adapter, Megatron's export, or shards."""
    found = search(folder, root)
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
    more = "; for the next run: hf_model in actor.checkpoint.save_contents"
    return Fault(
        f"verl's {backend} shards, no adapter",
        f"python -m verl.model_merger merge --backend {backend} "
        f"--local_dir {_shown(actor, root)} --target_dir {shlex.quote(f'merged/{folder.name}')}"
        + (more if backend == "megatron" else ""),
    )


def broadcast(folder: Path, root: Path) -> Path | Fault | None:
    """prime-rl: an adapter is whole once the trainer has written STABLE beside it."""
    if (folder / "STABLE").is_file():
        return folder if has_adapter(folder) else None
    if not has_adapter(folder):
        return None
    return Fault(
        "no STABLE file beside the adapter: prime-rl was still writing it",
        f"wait until the trainer has written it; or scan {_shown(folder, root)} itself",
    )


def plain(folder: Path, root: Path) -> Path | Fault | None:
    """Step folders of any other trainer; prime-rl's have a marker to wait for."""
    return None if root.name == "broadcasts" else search(folder, root)


def prime_state(folder: Path, root: Path) -> Path | Fault | None:
    """prime-rl's training state, which holds no adapter."""
    if not (folder / "trainer").is_dir():
        return None
    return Fault(
        "prime-rl's sharded training state, no adapter",
        _gather_dcp(folder / "trainer", f"weights/{folder.name}/lora_adapters", root)
        + "; for the next run: trainer.ckpt.weights.save_adapter_separately = true",
    )


def saved(folder: Path, root: Path) -> Path | Fault | None:
    """A folder that is the adapter's itself."""
    return folder if has_adapter(folder) else None


def openrlhf_state(folder: Path, root: Path) -> Path | Fault | None:
    """OpenRLHF's training state, which holds no adapter."""
    if not _is_deepspeed(folder):
        return None
    return Fault(
        "OpenRLHF's DeepSpeed state, no adapter",
        _gather_deepspeed(folder.parent, folder.name, root, f"{folder.name}_hf")
        + "; for the next run: --ckpt.save_hf",
    )


def nemo(folder: Path, root: Path) -> Path | Fault | None:
    """NeMo-RL: an adapter once its converter, or Automodel, has written one."""
    policy = folder / "policy"
    if not (policy.is_dir() or (folder / "training_info.json").is_file()):
        return None
    found = search(folder, root)
    if found is not None:
        return found
    weights, out = policy / "weights", f"{folder.name}/hf_adapter"
    iterations = [n for n in _names(weights) if re.fullmatch(r"iter_[0-9]+", n)]
    if iterations:
        return Fault(
            "NeMo-RL's Megatron checkpoint, no adapter",
            "uv run --extra mcore python examples/converters/convert_lora_to_hf.py "
            "--base-ckpt BASE_MEGATRON_CHECKPOINT "
            f"--adapter-ckpt {_shown(weights / iterations[-1], root)} "
            f"--hf-model-name BASE_MODEL --hf-ckpt-path {out} --adapter-only",
        )
    for shards in (weights / "model", weights):
        if any(name.endswith(".distcp") for name in _names(shards)):
            return Fault(
                "NeMo-RL's distributed checkpoint (DCP), no adapter",
                _gather_dcp(shards, out, root)
                + "; for the next run: checkpointing.model_save_format=safetensors",
            )
    return None


def deepspeed(folder: Path, root: Path) -> Path | Fault | None:
    """DeepSpeed's training state, which holds no adapter."""
    if not _is_deepspeed(folder):
        return None
    target = f"checkpoint-{folder.name.removeprefix('global_step')}"
    return Fault(
        "DeepSpeed ZeRO shards, no adapter",
        _gather_deepspeed(folder.parent, folder.name, root, target),
    )


def tinker_remote(root: Path) -> Iterator[Refused]:
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
