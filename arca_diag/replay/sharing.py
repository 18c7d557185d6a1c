"""Whether an architecture lets completions share what they begin with."""

import math
from typing import Any

import torch

from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.spread import entry
from arca_diag.replay.trees import grow

#: What configurations call the farthest distance that attention in some layers sees.
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")

#: Two sequences to try it on.
_TRIED = ((1, 2, 3, 4, 5, 6), (1, 2, 3, 7, 8))


def can_share(model: AdaptedModel, longest: int) -> bool:
    """Whether rows that are trees give what plain sequences give.

    Where attention sees less than all that comes before (a sliding window), sequences must be no
    longer than that. The rest is tried on a few tokens: states that run along the sequence,
    positions that the model takes from elsewhere, masks of its own.

    Args:
        model: The base with the adapters resident; adapters see one token at a time.
        longest: Tokens of the longest sequence.
    """
    bases: list[tuple[str | None, Any]] = [(None, model.base)]
    if model.other is not None:
        bases.append((model.OTHER_BASE, model.other))
    return all(_reach(base.config) >= longest and _same(model, name, base) for name, base in bases)


def _same(model: AdaptedModel, name: str | None, base: Any) -> bool:
    size = base.config.get_text_config().vocab_size
    device = entry(base)
    (row,) = grow(_TRIED, longest=99)
    ids, depth, end = (torch.tensor([v], device=device) for v in (row.ids, row.depth, row.end))
    ids %= size
    with model.using(name), torch.inference_mode():
        try:
            shared = model.hidden_of_trees(ids, depth, end)[0]
        except Exception:  # anything at all, of masks and positions that are unknown to it
            return False
        for path in row.paths:
            alone = ids[:, path]
            plain = model.hidden(alone, torch.ones_like(alone, dtype=torch.bool))[0].double()
            wide = base.dtype in (torch.float32, torch.float64) and not _is_quantised(base)
            apart = torch.linalg.vector_norm(shared[path].double() - plain)
            if not apart <= (1e-4 if wide else 5e-2) * torch.linalg.vector_norm(plain):
                return False
    return True


def _is_quantised(base: Any) -> bool:
    """Whether inputs of layers may be rounded, and a last digit so may move a whole step.

    What came from a GGUF file is called quantised by transformers, and is not any more.
    """
    method = getattr(base, "quantization_method", None)
    return bool(getattr(base, "is_quantized", False)) and getattr(method, "value", "") != "gguf"


def _reach(config: Any) -> float:
    """How far back attention sees in every layer, as far as a configuration tells."""
    text = config.get_text_config()
    limits = (getattr(text, name, None) for name in _WINDOWS)
    return float(min((limit for limit in limits if isinstance(limit, int)), default=math.inf))
