"""The base model and the tokenizer, loaded: never their code, unless the user asked for it."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants as hub_constants

from arca_diag.errors import ArcaError
from arca_diag.inputs.base import GIVE_BASE, Base
from arca_diag.inputs.quantised import BITSANDBYTES, check_packages
from arca_diag.inputs.rehearsal import check_tokenizer
from arca_diag.inputs.untrusted import check_inside, inside, read_bytes, read_json

#: What tokenizers are made of. Whatever else lies in the folder is not shown to transformers.
_TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "config.json", "vocab.json", "vocab.txt",
    "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model", "tekken.json",
)  # fmt: skip
_AGAIN = "copy or save it again"
#: Device of a model that is laid out over all there are.
SPREAD = "auto"
_LARGEST = 256 * 2**20  # bytes of one of these files


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


def load_model(base: Base, dtype: torch.dtype, device: str | dict[str, str]) -> Any:
    """The base as a causal language model in evaluation mode.

    Args:
        base: The base; quantised on loading if it says so.
        dtype: Of its weights; of the products, where they are quantised.
        device: A kind of device; `SPREAD`, or where each part goes, for a base that is larger than
            one.

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
    arguments |= _quantising(base, dtype)
    # A quantised model is put in its place while it is loaded, and never moved.
    placed = base.quantisation is not None or device == SPREAD or isinstance(device, dict)
    if placed:
        arguments["device_map"] = device
    try:
        model = _loading(base, transformers.AutoModelForCausalLM, arguments)
    except ArcaError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        # Some families, such as Gemma 2, have no such attention.
        arguments["attn_implementation"] = "eager"
        model = _loading(base, transformers.AutoModelForCausalLM, arguments)
    _check_quantised(base, model)
    if not placed:
        model = model.to(device)
    return model.eval().requires_grad_(False)


def _check_quantised(base: Base, model: Any) -> None:
    """Check that layers of bitsandbytes hold its weights: transformers takes plain ones as well."""
    for name, layer in model.named_modules():
        ours = [type(x).__module__.partition(".")[0] for x in (layer, getattr(layer, "weight", 0))]
        if ours[0] == BITSANDBYTES and ours[1] != BITSANDBYTES:
            raise ArcaError(
                f"base model {base.name!r:.200}: config.json says that it is quantised "
                f"({base.quantisation}), and the weights of {name} are not",
                hint="remove quantization_config from config.json, or copy the model again",
            )


def _quantising(base: Base, dtype: torch.dtype) -> dict[str, Any]:
    """What transformers is to be told of a base's quantisation.

    Raises:
        ArcaError: A package is missing, or the method has no such precision.
    """
    quantisation = base.quantisation
    if quantisation is None:
        return {}
    said = f"base model {base.name!r:.200}"
    check_packages(quantisation, said)
    if dtype == torch.float64:
        raise ArcaError(
            f"{said} is quantised ({quantisation}), and there is no float64 for that",
            hint="use --dtype float32, or give the base in 16 bits with --base",
        )
    if quantisation.method == BITSANDBYTES:
        # In 8 bits it warns at every product that it rounds what goes in.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if quantisation.asked:
        if quantisation.bits == 8:
            how = transformers.BitsAndBytesConfig(load_in_8bit=True)
        else:
            how = transformers.BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=quantisation.kind,
                bnb_4bit_compute_dtype=dtype,
            )
        return {"quantization_config": how}
    config = load_config(base)
    written = dict(config.quantization_config)
    if quantisation.method == BITSANDBYTES and quantisation.bits == 4:
        # The weights are what was quantised; what they are multiplied in is the scan's to say.
        written["bnb_4bit_compute_dtype"] = str(dtype).removeprefix("torch.")
    if quantisation.unpacked:
        written["dequantize"] = True
    config.quantization_config = written
    return {"config": config}


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


def load_tokenizer(folders: list[Path], base: Base, root: Path) -> Any | None:
    """The run's tokenizer: the first folder that holds one, else the base's, else None.

    Args:
        folders: Where to look first; training may have changed the tokenizer or its template.
            Code in them is never run, whoever is trusted.
        base: The fall-back.
        root: The run, out of which no link may lead.

    Raises:
        ArcaError: It is damaged, or a link out of the run.
    """
    for folder in [*folders, base.folder]:
        if not ((folder / "tokenizer.json").is_file() or (folder / "tokenizer.model").is_file()):
            continue
        if folder == base.folder and base.trusted:
            return _tokenizer(folder, folder.name, trusted=True)
        with tempfile.TemporaryDirectory() as copy:
            _copy_tokenizer(folder, Path(copy), root)
            return _tokenizer(Path(copy), folder.name, trusted=False)
    if base.gguf_file:
        return _tokenizer(base.folder, base.gguf_file, trusted=False, gguf_file=base.gguf_file)
    return None


def _copy_tokenizer(folder: Path, copy: Path, root: Path) -> None:
    """Put a tokenizer's files, and nothing that would lead to others, into an empty folder."""
    for name in _TOKENIZER:
        path = folder / name
        if not path.is_file():
            continue
        if inside(folder, root):
            check_inside(path, root)
        content = read_bytes(path, limit=_LARGEST)
        if name.endswith(".json"):
            value = read_json(path, limit=_LARGEST)  # no deeper than the libraries bear
            if not isinstance(value, dict):
                raise ArcaError(f"{folder.name}/{name} does not hold an object", hint=_AGAIN)
            if name == "tokenizer.json":
                check_tokenizer(content.decode("utf-8"), f"{folder.name}/{name}")
            elif name.endswith("config.json"):
                content = json.dumps(_harmless(name, value)).encode()
        (copy / name).write_bytes(content)


def _harmless(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without code to run and without files elsewhere, which libraries open.

    Of the model's own, what says which class of tokenizer it has: the rest, such as a number of
    layers, makes transformers build lists of any length.
    """
    if name == "config.json":
        return {k: config[k] for k in ("model_type", "tokenizer_class") if k in config}
    elsewhere = ("_file", "_files")
    return {k: v for k, v in config.items() if k != "auto_map" and not k.endswith(elsewhere)}


def _tokenizer(folder: Path, shown: str, *, trusted: bool, **arguments: Any) -> Any:
    # A tokenizer saved by another major version names a class that this one lacks; the plain
    # class reads it all the same.
    for loader in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        try:
            return loader.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=trusted, **arguments
            )
        except Exception as error:  # damaged files make transformers raise anything at all
            fault = error
    raise ArcaError(
        f"{shown}: the tokenizer cannot be loaded: {type(fault).__name__}: {fault}"[:1000],
        hint=_AGAIN,
    ) from fault


def end_tokens(tokenizer: Any | None, base: Base) -> frozenset[int]:
    """Ids that end a completion: the tokenizer's, and those of the base's generation config."""
    ids: set[int] = set()
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    path = base.folder / "generation_config.json"
    if path.is_file():
        try:
            listed = read_json(path).get("eos_token_id")
        except (ArcaError, AttributeError):
            listed = None
        listed = listed if isinstance(listed, list) else [listed]
        ids.update(i for i in listed if isinstance(i, int) and not isinstance(i, bool))
    return frozenset(ids)


def stay_offline() -> None:
    """Make sure that loading from disk asks the network for nothing."""
    hub_constants.HF_HUB_OFFLINE = True
