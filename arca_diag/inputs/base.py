"""The base model, found on disk or in the local cache and not loaded.

A folder of safetensors, a hub id in the local Hugging Face cache, or a GGUF file.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path

from arca_diag.errors import ArcaError

_WANTED = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model", "*.txt")
#: What to do about a base that is not at hand.
GIVE_BASE = "give the base with --base FOLDER, --base HUB_ID or --base FILE.gguf"


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base model on this disk.

    Attributes:
        name: How it was named: by the user or by the adapter.
        folder: The folder to load from.
        gguf_file: The GGUF file's name in `folder`, or None for safetensors.
        revision: Commit hash where it came from the Hugging Face cache, else None.
        stands_for: The quantised model that was named, where this is its 16-bit original.
        trusted: Its own code may be run: the user said so, and it does not lie in the run.
    """

    name: str
    folder: Path
    gguf_file: str | None
    revision: str | None
    stands_for: str = ""
    trusted: bool = False

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


def find_base(
    asked: str | None,
    named: str,
    run_root: Path,
    *,
    allow_download: bool,
    trust_remote_code: bool = False,
) -> Base:
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
            hint=GIVE_BASE,
        )
    roots = [Path(), run_root, run_root.parent]
    try:
        for root in roots:
            path = root / name
            if path.is_file() and path.suffix == ".gguf":
                return Base(name=name, folder=path.parent, gguf_file=path.name, revision=None)
            if (path / "config.json").is_file():
                trusted = trust_remote_code and not path.resolve().is_relative_to(run_root)
                return _checked(
                    Base(name=name, folder=path, gguf_file=None, revision=None, trusted=trusted)
                )
    except (OSError, ValueError):
        pass  # a name that can be no path, too long or with a NUL in it: no hub id either
    found = _from_cache(name, allow_download, explicit=asked is not None)
    return dataclasses.replace(found, trusted=trust_remote_code)


def sixteen_bit_name(name: str) -> str:
    """The name of the model that Unsloth quantised to `name`; empty if it is no such name."""
    for ending in ("-unsloth-bnb-4bit", "-bnb-4bit"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return ""


def _from_cache(name: str, allow_download: bool, explicit: bool) -> Base:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    who = "--base" if explicit else "adapter_config.json"
    try:
        found = snapshot_download(
            name, allow_patterns=list(_WANTED), local_files_only=not allow_download
        )
    except LocalEntryNotFoundError:  # first: in older versions it is a ValueError too
        if original := sixteen_bit_name(name):
            base = _from_cache(original, allow_download, explicit)
            return dataclasses.replace(base, stands_for=name)
        raise ArcaError(
            f"base model {name!r} (named by {who}) is not a folder with a model in it "
            "and not in the local Hugging Face cache",
            hint=f"{GIVE_BASE}, or allow fetching it with --allow-download",
        ) from None
    except ValueError:  # HFValidationError is one
        raise ArcaError(
            f"base model {name!r:.200} (named by {who}) is not a folder with a model in it, "
            "nor a hub id",
            hint=GIVE_BASE,
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ArcaError(
            f"base model {name!r} (named by {who}) could not be fetched: {type(error).__name__}",
            hint=GIVE_BASE,
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
            f"base model {base.name!r}: config.json is not valid: {error}", hint=GIVE_BASE
        ) from None
    # transformers 5 moved rope_theta into rope_parameters, which 4.x does not know: it would
    # load the model with a default theta and be wrong without a word.
    if "rope_parameters" in written and "rope_theta" not in written and _transformers_major() < 5:
        raise ArcaError(
            f"base model {base.name!r} was saved by transformers 5 and would be read wrongly by "
            f"the installed transformers {importlib.metadata.version('transformers')}",
            hint="upgrade transformers, or add rope_theta to the model's config.json",
        )
    return base


def _transformers_major() -> int:
    return int(importlib.metadata.version("transformers").split(".")[0])
