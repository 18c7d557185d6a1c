"""Which kinds of LoRA can be replayed rightly, told from adapter_config.json alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arca_diag.errors import CheckpointError

#: Initialisations that leave the base alone.
_PLAIN = ("gaussian", "orthogonal", "eva", "mica")
#: Those that take a starting point out of the base's weights which the weights give again.
_REPEATABLE = ("pissa", "olora")
#: Those that take one out which only training had: data, gradients, or rounding.
_UNREPEATABLE = ("corda", "lora_ga", "loftq")

#: Settings that change what an adapter does beyond scale B A -> what they do.
_VARIANTS = {
    "alora_invocation_tokens": "an activated LoRA (aLoRA) acts from its invocation tokens on only",
    "arrow_config": "Arrow sends every token through another mixture of adapters",
    "kasa_config": "KaSA cuts the smallest singular values out of the base",
    "layer_replication": "it stacks copies of the base's layers to another depth",
    "monteclora_config": "MonteCLoRA draws the matrices at random",
    "use_bdlora": "BD-LoRA has block-diagonal matrices",
    "use_qalora": "QA-LoRA pools the inputs of a quantised base",
}

_CONVERT = "convert it to a plain LoRA (PEFT: `path_initial_model_for_weight_conversion`)"


def check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that an adapter is of a kind that can be replayed rightly.

    Args:
        folder: The adapter's.
        config: Its adapter_config.json.

    Raises:
        CheckpointError: It is not; the message says what the kind does.
    """
    for key, what in _VARIANTS.items():
        if config.get(key):
            raise CheckpointError(
                f"{folder.name}: {key} is set: {what}, which is not replayed",
                hint="plain LoRA, rsLoRA, DoRA, PiSSA and OLoRA are; train one of these",
            )
    init = config.get("init_lora_weights")
    if isinstance(init, str):
        _check_start(folder, init)
    if config.get("target_parameters") and _is_by_old_unsloth(config):
        raise CheckpointError(
            f"{folder.name}: the B matrices of experts may be in the order of older versions of "
            "Unsloth, and PEFT reads them in another",
            hint="load it and save it again with a version of Unsloth that writes lora_B_layout "
            "into adapter_config.json",
        )


def saved_start(folder: Path) -> Path | None:
    """Where LLaMA-Factory keeps what a PiSSA adapter started from: in the folder, or beside it."""
    for parent in (folder, folder.parent):
        start = parent / "pissa_init"
        if not start.is_symlink() and (start / "adapter_config.json").is_file():
            return start
    return None


def _is_by_old_unsloth(config: Mapping[str, Any]) -> bool:
    """Whether nothing says that the columns of B are in the order that PEFT reads."""
    mapping = config.get("auto_mapping")
    by_unsloth = isinstance(mapping, dict) and bool(mapping.get("unsloth_fixed"))
    return by_unsloth and config.get("lora_B_layout") != "rank_major"


def _check_start(folder: Path, init: str) -> None:
    kind = init.lower()
    if kind in _PLAIN or kind in _REPEATABLE:
        return
    if kind.startswith("pissa"):
        if saved_start(folder) is None:
            raise CheckpointError(
                f"{folder.name}: init_lora_weights={init!r:.100} rewrites the base model by a "
                "randomised decomposition, which loading cannot repeat",
                hint=f"put the initial adapter beside the checkpoint as pissa_init/, or {_CONVERT}",
            )
    elif kind in _UNREPEATABLE:
        raise CheckpointError(
            f"{folder.name}: init_lora_weights={init!r:.100} rewrites the base model by what only "
            "its training had, so that neither the policy nor the reference can be put together",
            hint=_CONVERT,
        )
    else:
        raise CheckpointError(
            f"{folder.name}: init_lora_weights={init!r:.100} is not known, and may rewrite the "
            "base model",
            hint=f"if it does not, write true in its place in adapter_config.json; else {_CONVERT}",
        )
