"""The base model, found on disk or in the local cache and not loaded.

A folder of safetensors, a hub id in the local Hugging Face cache, or a GGUF file.
"""

import dataclasses
import hashlib
import importlib.metadata
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from arca_diag.errors import ArcaError
from arca_diag.inputs.files import children
from arca_diag.inputs.quantised import (
    Quantisation,
    check_packages,
    check_strings,
    quantisation_of,
)
from arca_diag.inputs.untrusted import check_inside, inside, read_json

_WANTED = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model", "*.txt")
_MOST_LAYERS = 10_000
# A name of a branch or tag, or a commit hash: never a path out of the cache's folder of them.
_REVISION = re.compile(r"(?!.*\.\.)[\w][\w./-]{0,199}")
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
        quantize: `8bit` or `4bit`: quantise its weights on loading; None leaves them as they are.
    """

    name: str
    folder: Path
    gguf_file: str | None
    revision: str | None
    stands_for: str = ""
    trusted: bool = False
    quantize: str | None = None

    @cached_property
    def quantisation(self) -> Quantisation | None:
        """How its weights are quantised when it runs; None for plain ones.

        What a GGUF file holds becomes plain on loading.

        Raises:
            ArcaError: By nothing that is known, or twice.
        """
        said = f"base model {self.name!r:.200}"
        if self.gguf_file and self.quantize:
            raise ArcaError(
                f"{said} is a GGUF file, which --quantize cannot quantise again",
                hint="leave --quantize away, or give the base as safetensors with --base",
            )
        if self.gguf_file:
            return None
        return quantisation_of(_read(said, self.folder / "config.json"), self.quantize, said)

    def quantised(self, asked: str | None) -> "Base":
        """The same base, quantised on loading if that is asked for.

        Raises:
            ArcaError: It cannot be, or what it is loaded with is not installed.
        """
        base = dataclasses.replace(self, quantize=asked)
        if base.quantisation:
            check_packages(base.quantisation, f"base model {self.name!r:.200}")
        return base

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
    revision: object = None,
    trust_remote_code: bool = False,
) -> Base:
    """Find the base that `--base` or else the adapter names.

    A relative folder is tried against the working directory, the run, and the run's parent; a
    name that is no folder is looked up as a hub id in the local Hugging Face cache.

    Args:
        asked: What `--base` says.
        named: What the adapter's configuration says; both may be empty.
        run_root: The run. No link in it is followed out of it, and no code in it is run.
        allow_download: Fetch what the cache lacks.
        revision: What the adapter's configuration says of the base's; of no account for a
            folder, or where `asked` goes before `named`.
        trust_remote_code: Code that the base brings may be run.

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
                base = Base(name=name, folder=path.parent, gguf_file=path.name, revision=None)
                return _checked(base, run_root)
            if (path / "config.json").is_file():
                trusted = trust_remote_code and not inside(path, run_root)
                base = Base(name=name, folder=path, gguf_file=None, revision=None, trusted=trusted)
                return _checked(base, run_root)
    except (OSError, ValueError):
        pass  # a name that can be no path, too long or with a NUL in it: no hub id either
    wanted = None if asked else _revision(revision)
    found = _from_cache(name, wanted, allow_download, explicit=bool(asked), code=trust_remote_code)
    return dataclasses.replace(_checked(found, run_root), trusted=trust_remote_code)


def sixteen_bit_name(name: str) -> str:
    """The name of the model that Unsloth quantised to `name`; empty if it is no such name."""
    for ending in ("-unsloth-bnb-4bit", "-bnb-4bit"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return ""


def _revision(found: object) -> str | None:
    if found is None or found == "":
        return None
    if not isinstance(found, str) or not _REVISION.fullmatch(found):
        raise ArcaError(
            f"adapter_config.json: revision is {found!r:.200}, which is no branch, tag or commit",
            hint=GIVE_BASE,
        )
    return found


def _from_cache(
    name: str, revision: str | None, allow_download: bool, *, explicit: bool, code: bool
) -> Base:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    who = "--base" if explicit else "adapter_config.json"
    shown = f"{name!r:.200}" + (f" at revision {revision!r}" if revision else "")
    try:
        found = snapshot_download(
            name,
            revision=revision,
            allow_patterns=[*_WANTED, *(["*.py"] if code else [])],
            local_files_only=not allow_download,
        )
    except LocalEntryNotFoundError:  # first: in older versions it is a ValueError too
        if original := sixteen_bit_name(name):
            # The revision was the quantised model's.
            base = _from_cache(original, None, allow_download, explicit=explicit, code=code)
            return dataclasses.replace(base, stands_for=name)
        raise ArcaError(
            f"base model {shown} (named by {who}) is not a folder with a model in it "
            "and not in the local Hugging Face cache",
            hint=f"{GIVE_BASE}, or allow fetching it with --allow-download",
        ) from None
    except ValueError:  # HFValidationError is one
        raise ArcaError(
            f"base model {shown} (named by {who}) is not a folder with a model in it, nor a hub id",
            hint=GIVE_BASE,
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ArcaError(
            f"base model {shown} (named by {who}) could not be fetched: {type(error).__name__}",
            hint=GIVE_BASE,
        ) from None
    folder = Path(found)
    return Base(name=name, folder=folder, gguf_file=None, revision=folder.name)


def _checked(base: Base, run_root: Path) -> Base:
    """Check what can be checked before a library opens it, which may believe all that it reads."""
    said = f"base model {base.name!r:.200}"
    if Path(os.path.abspath(base.folder)).is_relative_to(run_root):
        for path in children(base.folder):
            check_inside(path, run_root)
    if (base.folder / "adapter_config.json").exists():
        raise ArcaError(
            f"{said} has an adapter in its folder, which transformers would load along with it",
            hint="put the model into a folder of its own, without adapter_config.json, and "
            "give it with --base",
        )
    if base.gguf_file:
        return base
    weights = [path for path in base.files() if path.suffix == ".safetensors"]
    if not weights:
        raise ArcaError(
            f"{said} has no safetensors weights",
            hint="pickled weights (.bin) are never opened: save the model again with "
            "`save_pretrained(path)`",
        )
    for path in weights:
        _check_header(said, path)
    written = _read(said, base.folder / "config.json")
    if inside(base.folder, run_root):
        check_strings(written.get("quantization_config"), said)
    for key, value in _scalars(written):
        counts = isinstance(value, int | float) and re.search("layers?$|blocks?$|experts", key)
        if counts and value > _MOST_LAYERS:
            raise ArcaError(
                f"{said}: config.json says {key} {value!r:.30}, and no model has so many",
                hint=GIVE_BASE,
            )
        if (key == "use_kernels" and value) or ("implementation" in key and "/" in str(value)):
            raise ArcaError(
                f"{said}: config.json asks for kernels from the hub ({key} {value!r:.100}), which "
                "are code, and are not run",
                hint="remove the key from config.json: the model is the same without them",
            )
    if (base.folder / "generation_config.json").is_file():
        _read(said, base.folder / "generation_config.json")
    for index in base.folder.glob("*.safetensors.index.json"):
        for _, name in _scalars(_read(said, index).get("weight_map")):
            if "/" in str(name) or "\\" in str(name):
                raise ArcaError(
                    f"{said}: {index.name} names a file outside of the folder: {name!r:.100}",
                    hint=GIVE_BASE,
                )
    # transformers 5 moved rope_theta into rope_parameters, which 4.x does not know: it would
    # load the model with a default theta and be wrong without a word.
    if "rope_parameters" in written and "rope_theta" not in written and _transformers_major() < 5:
        raise ArcaError(
            f"{said} was saved by transformers 5 and would be read wrongly by "
            f"the installed transformers {importlib.metadata.version('transformers')}",
            hint="upgrade transformers, or add rope_theta to the model's config.json",
        )
    return base


def _check_header(said: str, path: Path) -> None:
    """Let the safetensors library hold a header to its limits, and the file to its header."""
    try:
        if not path.is_file():
            raise ValueError("not a regular file")  # a named pipe would never open
        with safe_open(path, "numpy"):
            pass
    except (SafetensorError, ValueError, OSError) as error:
        raise ArcaError(
            f"{said} cannot be loaded: {path.name}: {error}",
            hint=f"the file is truncated or damaged: copy or fetch it again, or {GIVE_BASE}",
        ) from None


def _read(said: str, path: Path) -> dict[str, Any]:
    """The object in one of the model's JSON files."""
    try:
        value = read_json(path)
        if not isinstance(value, dict):
            raise ArcaError("not an object")
    except ArcaError as error:
        raise ArcaError(f"{said}: {path.name} is not valid: {error}", hint=GIVE_BASE) from None
    return value


def _scalars(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no others, under the nearest key."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _scalars(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _scalars(item, key)
    else:
        yield key, value


def _transformers_major() -> int:
    return int(importlib.metadata.version("transformers").split(".")[0])
