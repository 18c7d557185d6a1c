"""Which model stands for the reference policy, and why: found on disk before any is loaded."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.adapters import Adapter, read_adapter
from arca_diag.inputs.arguments import number_of
from arca_diag.inputs.kinds import saved_start
from arca_diag.inputs.runs import Checkpoint, Run

Kind = Literal["adapter-off", "base", "ref-adapter", "init-adapter", "path"]
Read = Callable[[Checkpoint], Adapter]

_REF_SINCE = (0, 27)  # TRL clones a pre-trained adapter to "ref" from this version on
_CHOOSE = "choose another with --reference"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference policy of a run.

    Attributes:
        kind: What it is, as the report names it.
        reason: Why it was taken.
        uncertain: Why the reference that training had cannot be known or had; None if it is this.
        adapters: Checkpoint name -> the adapter that is active in its reference; a checkpoint
            without one is measured against the bare base (or against the model at `path`).
        initial: Checkpoint name -> the saved initial adapter of a checkpoint that rewrites the
            base: what was taken from the base when training began.
        path: The folder that the user gave: an adapter, or another base model.
        asked: It was asked for, whatever training had.
    """

    kind: Kind
    reason: str
    uncertain: str | None = None
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    initial: Mapping[str, Adapter] = field(default_factory=dict)
    path: Path | None = None
    asked: bool = False

    @property
    def model(self) -> Path | None:
        """The folder of the other base model, where the reference is one."""
        return None if self.adapters else self.path


def rewrites_base(adapter: Adapter) -> bool:
    """Whether PEFT changes the base's weights when it makes or loads this adapter."""
    return adapter.init.startswith(("pissa", "olora"))


def trains_biases(adapter: Adapter) -> bool:
    """Whether the base's own biases were trained, and stay changed with the adapter off."""
    return adapter.config.get("bias", "none") not in ("none", None)


def choose_reference(
    asked: str, run: Run, adapters: tuple[Adapter, ...], *, read: Read = read_adapter
) -> Reference:
    """Find the reference policy that was asked for, or the one that training had.

    Args:
        asked: auto, base, adapter-off, ref-adapter, init-adapter, or a folder: an adapter, or
            another base model.
        run: The run; its trainer and what it recorded decide where nothing was asked.
        adapters: Of the checkpoints that are to be measured.
        read: Reads the adapters that stand for the reference, or only opens them.

    Raises:
        ArcaError: What was asked for is not there, or an adapter in it cannot be read.
    """
    chosen = _choose(asked, run, adapters, read)
    initial: dict[str, Adapter] = {}
    for adapter in adapters:
        start = saved_start(adapter.checkpoint.path) if adapter.init.startswith("pissa") else None
        if start is None:
            continue
        try:
            initial[adapter.checkpoint.name] = read(
                Checkpoint(name="pissa_init", step=None, path=start)
            )
        except CheckpointError as error:
            uncertain = f"what training started from was saved and cannot be read: {error}"
            chosen = replace(chosen, uncertain=chosen.uncertain or uncertain)
    return replace(chosen, initial=initial, asked=asked != "auto")


def _choose(asked: str, run: Run, adapters: tuple[Adapter, ...], read: Read) -> Reference:
    if asked == "auto":
        return _automatic(run, adapters, read)
    if asked == "base":
        return Reference(kind="base", reason="asked for: the base without any adapter")
    if asked == "adapter-off":
        return _adapter_off(adapters)
    if asked == "ref-adapter":
        return _ref_adapter(run, adapters, read, insist=True)
    if asked == "init-adapter":
        return _init_adapter(run, adapters, read)
    return _path(asked, adapters, read)


def _automatic(run: Run, adapters: tuple[Adapter, ...], read: Read) -> Reference:
    if any(ref_folder(a) for a in adapters):
        return _ref_adapter(run, adapters, read, insist=False)
    kind: Kind = "base"
    if odd := next((a for a in adapters if rewrites_base(a)), None):
        reason = (
            f"init_lora_weights={odd.init!r} takes part of the base into the adapter: the "
            "reference is a base loaded without PEFT, not the base with the adapter off"
        )
    elif odd := next((a for a in adapters if trains_biases(a)), None):
        reason = (
            f"bias={odd.config['bias']!r} leaves the trained biases in place when the adapter is "
            "off: the reference is the base with its own"
        )
    else:
        kind, reason = "adapter-off", _plain_reason(run)
    return Reference(kind=kind, reason=reason, uncertain=_doubt(run, adapters))


def _plain_reason(run: Run) -> str:
    who, version = run.framework, run.framework_version
    off = "takes the base with the adapter off, also where a run continued an adapter"
    if who in ("verl", "ms-swift"):
        return f"{who} {off}"
    if number_of(run, "beta") == 0:
        return (
            "plain LoRA starts from the base itself; training used no reference (beta = 0), and "
            "the base is what the policy is measured from"
        )
    if who == "trl" and (parsed := release(version)) and parsed < _REF_SINCE:
        return f"TRL {version} {off}"
    return "plain LoRA starts from the base itself"


def _doubt(run: Run, adapters: tuple[Adapter, ...]) -> str | None:
    """Why the run may have started from, or been held to, something that is not on disk."""
    arguments = run.training_args
    if any(a.config.get("init_lora_weights") is False for a in adapters):
        return (
            "init_lora_weights=False starts from a random adapter: the initial policy is not the "
            "base, and was not saved"
        )
    earlier = _names(arguments.get("adapter_name_or_path"))
    if arguments.get("create_new_adapter") is not True:
        earlier = earlier[:-1]  # LLaMA-Factory goes on with the last one
    if earlier:
        return (
            "training merged earlier adapters into the base (adapter_name_or_path): the base on "
            "disk is not the one it was trained on"
        )
    if number_of(run, "beta") == 0:
        return None
    for key in ("ref_adapters", "ref_model_adapters", "ref_model"):
        if named := _names(arguments.get(key)):
            return (
                f"training had a reference of its own ({key}: {Path(named[0]).name!r:.100}), "
                "which is not saved with the run"
            )
    if run.framework == "openrlhf":
        return (
            "OpenRLHF holds the policy to a model of its own, by default the base, and does not "
            "write down which"
        )
    return None


def _adapter_off(adapters: tuple[Adapter, ...]) -> Reference:
    for adapter in adapters:
        if rewrites_base(adapter) or trains_biases(adapter):
            what = "init_lora_weights" if rewrites_base(adapter) else "bias"
            raise ArcaError(
                f"--reference adapter-off: {adapter.checkpoint.name} has "
                f"{what}={adapter.config[what]!r}, and with the adapter off its base stays changed",
                hint="take the unchanged base with --reference base",
            )
    return Reference(kind="adapter-off", reason="asked for: the base with every adapter off")


def _ref_adapter(run: Run, adapters: tuple[Adapter, ...], read: Read, *, insist: bool) -> Reference:
    """The `ref/` that TRL keeps in each checkpoint: one copy of one adapter, if all is well."""
    found: dict[str, Adapter] = {}
    faults: dict[str, CheckpointError] = {}
    for adapter in adapters:
        if folder := ref_folder(adapter):
            name = adapter.checkpoint.name
            try:
                found[name] = read(Checkpoint(name=f"{name}/ref", step=None, path=folder))
            except CheckpointError as error:
                faults[name] = error
    if not found:
        if insist and faults:
            raise next(iter(faults.values()))
        if insist:
            raise ArcaError(
                f"--reference ref-adapter: no checkpoint of {run.root.name} has a ref/ folder",
                hint="only TRL from 0.27.0 on keeps one, where a run continued an adapter and "
                f"beta is not 0; {_CHOOSE}",
            )
        name, fault = next(iter(faults.items()))
        return Reference(
            kind="adapter-off",
            reason="the reference adapter in ref/ cannot be read",
            uncertain=f"training had a reference adapter in {name}/ref: {fault}",
        )
    names = list(found)  # in the order of the checkpoints
    first = found[names[0]]
    other = next((n for n in names if _content(found[n]) != _content(first)), None)
    reason = f"training kept its reference adapter in {names[0]}/ref"
    if not _moves_anything(first):
        reason += "; its B is zero (the adapter was fresh), so it equals the base itself"
    uncertain = None
    if other is None:  # one adapter, so a checkpoint that lost its copy has the same reference
        found = {a.checkpoint.name: first for a in adapters}
    else:
        uncertain = (
            f"{names[0]}/ref and {other}/ref differ, and one run has one reference: each "
            "checkpoint is measured against its own"
        )
    if any(rewrites_base(a) for a in (*adapters, *found.values())):
        uncertain = (
            "PEFT rewrote the base twice in training, for the adapter and again for ref/, and "
            "the weights it left are not saved"
        )
    return Reference(kind="ref-adapter", reason=reason, uncertain=uncertain, adapters=found)


def _init_adapter(run: Run, adapters: tuple[Adapter, ...], read: Read) -> Reference:
    """The adapter that training started with: checkpoint-0, or what PiSSA left beside the run."""
    start = next((c for c in run.checkpoints if c.step == 0), None)
    if start is not None:
        first = read(start)
        return Reference(
            kind="init-adapter",
            reason=f"asked for: {start.name} holds the adapter that training started with",
            adapters={a.checkpoint.name: first for a in adapters},
        )
    if any(saved_start(a.checkpoint.path) for a in adapters):
        return Reference(
            kind="init-adapter",
            reason="asked for: what pissa_init/ holds was taken from the base, so that the policy "
            "started as the base itself",
        )
    raise ArcaError(
        f"--reference init-adapter: {run.root.name} has neither checkpoint-0 nor pissa_init/",
        hint=f"give the folder of the initial adapter with --reference FOLDER, or {_CHOOSE}",
    )


def _path(asked: str, adapters: tuple[Adapter, ...], read: Read) -> Reference:
    folder = Path(asked)
    try:
        if (folder / "adapter_config.json").is_file():
            return _path_adapter(folder.resolve(), adapters, read)
        if (folder / "config.json").is_file():
            return Reference(
                kind="path",
                reason=f"asked for: the model in {folder.resolve().name}",
                path=folder.resolve(),
            )
    except (OSError, ValueError):
        pass  # a name that can be no path
    raise ArcaError(
        f"--reference {asked!r:.200}: neither a word that is known nor a folder with an adapter "
        "or a model in it",
        hint="give auto, base, adapter-off, ref-adapter, init-adapter, or a folder with "
        "adapter_config.json or config.json",
    )


def _path_adapter(folder: Path, adapters: tuple[Adapter, ...], read: Read) -> Reference:
    adapter = read(Checkpoint(name=folder.name, step=None, path=folder))
    uncertain = None
    if adapter.base_name and adapter.base_name != adapters[0].base_name:
        uncertain = (
            f"the adapter in {folder.name} names another base ({Path(adapter.base_name).name!r}) "
            f"than the run's ({Path(adapters[0].base_name).name!r})"
        )
    return Reference(
        kind="path",
        reason=f"asked for: the adapter in {folder.name}",
        uncertain=uncertain,
        adapters={a.checkpoint.name: adapter for a in adapters},
        path=folder,
    )


def ref_folder(adapter: Adapter) -> Path | None:
    """Where TRL put the checkpoint's copy of the reference adapter; None if it did not."""
    folder = adapter.checkpoint.path / "ref"
    there = not folder.is_symlink() and (folder / "adapter_config.json").is_file()
    return folder if there else None


def _moves_anything(adapter: Adapter) -> bool:
    """False where every product B A is zero and nothing else is in the file."""
    zero_side = (".lora_B.", ".lora_embedding_A")
    other_side = (".lora_A.", ".lora_embedding_B", ".lora_magnitude_vector")
    for key, values in adapter.tensors.items():
        if any(side in key for side in zero_side):
            if bool((values != 0).any()):
                return True
        elif not any(side in key for side in other_side):
            return True
    return False


def _content(adapter: Adapter) -> tuple[str, str]:
    return adapter.sha256, json.dumps(adapter.config, sort_keys=True)


def _names(value: Any) -> list[str]:
    """Paths, as one string with commas or as a list."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple):
        return []
    return [name for name in listed if isinstance(name, str) and name.strip()]


def release(text: Any) -> tuple[int, int] | None:
    """Major and minor number of a version; None if it is not one."""
    match = re.match(r"(\d{1,6})\.(\d{1,6})", text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2])) if match else None
