"""Models that are laid out over several devices: where a part computes, and what waits elsewhere.

accelerate hangs a hook on every such part, which brings inputs to it and, where its weights wait in
the CPU's memory or on disk, them too. The rest is for us: what is made beside such a part.
"""

from typing import Any

import torch
from torch import nn


def computes_on(module: Any) -> torch.device:
    """The device that a module computes on, wherever its weights are at the moment."""
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if isinstance(device, int):  # as accelerate counts GPUs
            return torch.device("cuda", device)
        if device is not None:
            return torch.device(device)
    return next(module.parameters()).device


def entry(model: Any) -> torch.device:
    """Where token ids go: the embedding's device."""
    return computes_on(model.get_input_embeddings())


def end(model: Any) -> torch.device:
    """Where logits are made: the head's device."""
    return computes_on(model.get_output_embeddings())


def kinds(model: Any) -> str:
    """The kinds of device that a model computes on, such as `cuda` or `cpu+cuda`."""
    found = {computes_on(module).type for module in model.modules() if _has_own(module)}
    return "+".join(sorted(found))


def waits(module: nn.Module) -> bool:
    """Whether some of a module's weights are not where they compute, and cannot be looked at."""
    return any(parameter.is_meta for parameter in module.parameters())


def _has_own(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None
