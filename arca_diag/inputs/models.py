"""The base model and the tokenizer, loaded: never their code, unless the user asked for it."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants as hub_constants

from arca_diag.errors import ArcaError
from arca_diag.inputs.base import GIVE_BASE, Base


def load_config(base: Base) -> Any:
    """The base's configuration, in seconds and without its weights."""
    arguments = {"gguf_file": base.gguf_file} if base.gguf_file else {}
    config = _loading(
        base, transformers.AutoConfig, {**arguments, "trust_remote_code": base.trusted}
    )
    if not isinstance(getattr(config, "vocab_size", None), int):
        raise ArcaError(
            f"base model {base.name!r} cannot be loaded: its config.json has no vocab_size that is "
            "a number",
            hint=GIVE_BASE,
        )
    return config


def load_model(base: Base, dtype: torch.dtype, device: str) -> Any:
    """The base as a causal language model in evaluation mode.

    Raises:
        ArcaError: transformers cannot load it; what it said is in the message.
    """
    # transformers 4.56 renamed the argument.
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    arguments: dict[str, Any] = {"dtype" if version >= (4, 56) else "torch_dtype": dtype}
    if base.gguf_file:
        arguments["gguf_file"] = base.gguf_file
    else:
        arguments["use_safetensors"] = True
    arguments |= {"trust_remote_code": base.trusted, "attn_implementation": "sdpa"}
    model = _loading(base, transformers.AutoModelForCausalLM, arguments)
    return model.to(device).eval().requires_grad_(False)


def _loading(base: Base, loader: Any, arguments: dict[str, Any]) -> Any:
    try:
        return loader.from_pretrained(str(base.folder), local_files_only=True, **arguments)
    except Exception as error:  # damaged files make transformers raise anything at all
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        hint = "pip install 'arca-diag[gguf]'" if "gguf" in first.lower() else GIVE_BASE
        if "trust_remote_code" in str(error):
            first = "it brings code of its own, which is not run"
            hint = (
                "if you trust who wrote it, give --trust-remote-code (for a base inside the run's "
                "folder its code is never run: copy it elsewhere)"
            )
        raise ArcaError(
            f"base model {base.name!r} cannot be loaded: {type(error).__name__}: {first}",
            hint=hint,
        ) from error


def load_tokenizer(folders: list[Path], base: Base) -> Any | None:
    """The run's tokenizer: the first folder that holds one, else the base's, else None.

    Args:
        folders: Where to look first; training may have changed the tokenizer or its template.
        base: The fall-back.
    """
    for folder in [*folders, base.folder]:
        if not ((folder / "tokenizer.json").is_file() or (folder / "tokenizer.model").is_file()):
            continue
        # A tokenizer saved by another major version names a class that this one lacks; the plain
        # class reads it all the same.
        for loader in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
            try:
                return loader.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=base.trusted
                )
            except Exception as error:  # damaged files make transformers raise anything at all
                fault = error
        raise ArcaError(
            f"{folder.name}: the tokenizer cannot be loaded: {type(fault).__name__}: {fault}",
            hint="copy or save it again",
        ) from fault
    if base.gguf_file:
        return transformers.AutoTokenizer.from_pretrained(
            str(base.folder), gguf_file=base.gguf_file, local_files_only=True
        )
    return None


def end_tokens(tokenizer: Any | None, base: Base) -> frozenset[int]:
    """Ids that end a completion: the tokenizer's, and those of the base's generation config."""
    ids: set[int] = set()
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    path = base.folder / "generation_config.json"
    if path.is_file():
        try:
            listed = json.loads(path.read_bytes()).get("eos_token_id")
        except (ValueError, AttributeError, RecursionError):
            listed = None
        listed = listed if isinstance(listed, list) else [listed]
        ids.update(i for i in listed if isinstance(i, int) and not isinstance(i, bool))
    return frozenset(ids)


def stay_offline() -> None:
    """Make sure that loading from disk asks the network for nothing."""
    hub_constants.HF_HUB_OFFLINE = True
