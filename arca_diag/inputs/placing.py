"""What PEFT would make of an adapter's configuration and names, told without loading it."""

import re

from arca_diag.inputs.adapters import Adapter, peft_name
from arca_diag.inputs.reference import trains_biases

#: What to do about tensors that PEFT would not place.
MEND_NAMES = (
    "save the adapter with `model.save_pretrained(path)`, or rename the tensors to "
    "base_model.model.<module>.lora_A.weight, of modules that target_modules names"
)


def lora_tensors(adapter: Adapter) -> list[str]:
    """Names of the tensors that belong to LoRA itself, by PEFT's names."""
    return [key for key in adapter.shapes if ".lora_" in key]


def unplaced(adapter: Adapter) -> list[str]:
    """LoRA tensors that PEFT would not place: oddly named, or of modules that are no target.

    The odd ones by their names in the file. prime-rl's odd names are its way, not a fault: its
    files are made for vLLM, which reads them.
    """
    odd = () if adapter.checkpoint.layout == "prime-rl" else adapter.odd_keys
    known = {peft_name(key) for key in odd}
    return [*odd, *(key for key in _strays(adapter) if key not in known)]


def trains_more(adapter: Adapter) -> bool:
    """Whether something beside A and B was trained, that may act while B A is zero."""
    more = ("modules_to_save", "trainable_token_indices", "lora_bias", "use_dora")
    return trains_biases(adapter) or any(adapter.config.get(key) for key in more)


def trains_nothing(adapter: Adapter) -> str | None:
    """Why PEFT would train nothing by this configuration; None if it would train something."""
    config = adapter.config
    more = ("modules_to_save", "trainable_token_indices", "target_parameters")
    # Where target_modules is null, PEFT knows those of the model's family.
    if config.get("target_modules") in ([], "") and not any(config.get(key) for key in more):
        return "it names no module, no parameter and no token"
    if adapter.rank == 0 and not config.get("rank_pattern"):
        return "its rank r is 0"
    wanted = config.get("layers_to_transform")
    chosen = {n for n in (wanted if isinstance(wanted, list) else [wanted]) if isinstance(n, int)}
    parts = {part for key in lora_tensors(adapter) for part in key.split(".")}
    if chosen and not chosen & {int(p) for p in parts if re.fullmatch("[0-9]{1,9}", p)}:
        return f"layers_to_transform={wanted!r:.100} is none of the layers that it holds"
    return None


def _strays(adapter: Adapter) -> list[str]:
    """Tensors of modules that the list of targets leaves out; a pattern is not tried."""
    listed = adapter.config.get("target_modules")
    if not isinstance(listed, list) or not listed or adapter.config.get("target_parameters"):
        return []
    ends = tuple(f".{target}" for target in adapter.targets)
    modules = {key: key.partition(".lora_")[0] for key in lora_tensors(adapter)}
    return [key for key, module in modules.items() if not f".{module}".endswith(ends)]
