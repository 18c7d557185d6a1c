"""The base model and the tokenizer: found on disk or in the local cache, never run as code.

A folder of safetensors, a hub id in the local Hugging Face cache, or a GGUF file.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants as hub_constants
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from arca_diag.errors import ArcaError

_WANTED = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model", "*.txt")
_GIVE_BASE = "give the base with --base FOLDER, --base HUB_ID or --base FILE.gguf"


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base model on this disk.

    Attributes:
        name: How it was named: by the user or by the adapter.
        folder: The folder to load from.
        gguf_file: The GGUF file's name in `folder`, or None for safetensors.
        revision: Commit hash where it came from the Hugging Face cache, else None.
    """

    name: str
    folder: Path
    gguf_file: str | None
    revision: str | None

    def files(self) -> list[Path]:
        """The files whose content decides every number, in a fixed order."""
        if self.gguf_file:
            return [self.folder / self.gguf_file]
        return [self.folder / "config.json", *sorted(self.folder.glob("*.safetensors"))]

    def sha256(self) -> str:
        """One hash over the names and contents of `files()`."""
        total = hashlib.sha256()
        for path in self.files():
            with path.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
            total.update(f"{path.name} {digest}\n".encode())
        return total.hexdigest()


def find_base(asked: str | None, named: str, run_root: Path, *, allow_download: bool) -> Base:
    """Find the base that `--base` or else the adapter names.

    A relative folder is tried against the working directory, the run, and the run's parent; a
    name that is no folder is looked up as a hub id in the local Hugging Face cache.

    Raises:
        ArcaError: Nothing named, nothing found, or no usable weights there.
    """
    name = asked or named
    if not name:
        raise ArcaError(
            "adapter_config.json does not name the base model (base_model_name_or_path)",
            hint=_GIVE_BASE,
        )
    roots = [Path(), run_root, run_root.parent]
    try:
        for root in roots:
            path = root / name
            if path.is_file() and path.suffix == ".gguf":
                return Base(name=name, folder=path.parent, gguf_file=path.name, revision=None)
            if (path / "config.json").is_file():
                return _checked(Base(name=name, folder=path, gguf_file=None, revision=None))
    except (OSError, ValueError):
        pass  # a name that can be no path, too long or with a NUL in it: no hub id either
    return _from_cache(name, allow_download, explicit=asked is not None)


def _from_cache(name: str, allow_download: bool, explicit: bool) -> Base:
    who = "--base" if explicit else "adapter_config.json"
    try:
        found = snapshot_download(
            name, allow_patterns=list(_WANTED), local_files_only=not allow_download
        )
    except LocalEntryNotFoundError:  # first: in older versions it is a ValueError too
        raise ArcaError(
            f"base model {name!r} (named by {who}) is not a folder with a model in it "
            "and not in the local Hugging Face cache",
            hint=f"{_GIVE_BASE}, or allow fetching it with --allow-download",
        ) from None
    except ValueError:  # HFValidationError is one
        raise ArcaError(
            f"base model {name!r:.200} (named by {who}) is not a folder with a model in it, "
            "nor a hub id",
            hint=_GIVE_BASE,
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ArcaError(
            f"base model {name!r} (named by {who}) could not be fetched: {type(error).__name__}",
            hint=_GIVE_BASE,
        ) from None
    folder = Path(found)
    return _checked(Base(name=name, folder=folder, gguf_file=None, revision=folder.name))


def _checked(base: Base) -> Base:
    if not any(base.folder.glob("*.safetensors")):
        raise ArcaError(
            f"base model {base.name!r} has no safetensors weights",
            hint="pickled weights (.bin) are never opened: save the model again with "
            "`save_pretrained(path)`",
        )
    try:
        written = json.loads((base.folder / "config.json").read_bytes())
        if not isinstance(written, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise ArcaError(
            f"base model {base.name!r}: config.json is not valid: {error}", hint=_GIVE_BASE
        ) from None
    # transformers 5 moved rope_theta into rope_parameters, which 4.x does not know: it would
    # load the model with a default theta and be wrong without a word.
    if "rope_parameters" in written and "rope_theta" not in written and _transformers_major() < 5:
        raise ArcaError(
            f"base model {base.name!r} was saved by transformers 5 and would be read wrongly by "
            f"the installed {transformers.__version__}",
            hint="upgrade transformers, or add rope_theta to the model's config.json",
        )
    return base


def load_config(base: Base) -> Any:
    """The base's configuration, in seconds and without its weights."""
    arguments = {"gguf_file": base.gguf_file} if base.gguf_file else {}
    config = _loading(base, transformers.AutoConfig, {**arguments, "trust_remote_code": False})
    if not isinstance(getattr(config, "vocab_size", None), int):
        raise ArcaError(
            f"base model {base.name!r} cannot be loaded: its config.json has no vocab_size that is "
            "a number",
            hint=_GIVE_BASE,
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
    arguments |= {"trust_remote_code": False, "attn_implementation": "sdpa"}
    model = _loading(base, transformers.AutoModelForCausalLM, arguments)
    return model.to(device).eval().requires_grad_(False)


def _loading(base: Base, loader: Any, arguments: dict[str, Any]) -> Any:
    try:
        return loader.from_pretrained(str(base.folder), local_files_only=True, **arguments)
    except Exception as error:  # damaged files make transformers raise anything at all
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        hint = "pip install 'arca-diag[gguf]'" if "gguf" in first.lower() else _GIVE_BASE
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
                    str(folder), local_files_only=True, trust_remote_code=False
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


def _transformers_major() -> int:
    return int(transformers.__version__.split(".")[0])


def stay_offline() -> None:
    """Make sure that loading from disk asks the network for nothing."""
    hub_constants.HF_HUB_OFFLINE = True
