"""Bases with weights of 8 bits or fewer: what their configuration says, and what we ask for.

transformers loads them, with a package that is made for the method; LoRA sits on top in floats.
"""

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from arca_diag.errors import ArcaError

BITSANDBYTES = "bitsandbytes"
#: Method, as transformers names it -> packages that it needs. Others are refused: transformers
#: leaves what it does not know unsaid, or fetches code for it from the hub.
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    BITSANDBYTES: (BITSANDBYTES,),
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel",),
    "hqq": ("hqq",),
    "torchao": ("torchao",),
    "aqlm": ("aqlm",),
    "fp8": (),
    "mxfp4": (),
}
#: Methods whose weights are turned into plain ones on loading: the same model, and no kernels.
_UNPACKED = ("fp8", "mxfp4")
_HINT = "give the base in 16 bits with --base, and quantise it with --quantize if training did"
_PATTERN = re.compile(r"[*+?{(|\[]")


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """How the weights of a base are quantised when it runs.

    Attributes:
        method: As transformers names it.
        bits: Bits a weight; None where the configuration does not say.
        kind: The data type of 4-bit weights, where it is known, such as `nf4`.
        asked: By `--quantize`, of a base in 16 bits or more; else the base came so.
    """

    method: str
    bits: int | None
    kind: str = ""
    asked: bool = False

    def __str__(self) -> str:
        """The method and the bits, such as `bitsandbytes 4-bit nf4`."""
        parts = [self.method, f"{self.bits}-bit" if self.bits else "", self.kind]
        return " ".join(part for part in parts if part)

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that it is loaded with, beside transformers."""
        return _PACKAGES[self.method]

    @property
    def unpacked(self) -> bool:
        """Whether the weights become plain ones on loading."""
        return self.method in _UNPACKED

    @property
    def in_float32(self) -> bool:
        """Whether the very same weights can be computed with in float32.

        In 8 bits bitsandbytes rounds what goes into a layer too, to 8 bits and float16, whatever
        the precision around it; kernels of other methods have one precision.
        """
        return self.unpacked or (self.method == BITSANDBYTES and self.bits == 4)

    def versions(self) -> dict[str, str]:
        """Of the packages."""
        return {name: importlib.metadata.version(name) for name in self.packages}


def quantisation_of(config: Mapping[str, Any], asked: str | None, said: str) -> Quantisation | None:
    """How a base will be quantised; None if it is not.

    Args:
        config: The base's config.json.
        asked: `8bit` or `4bit`: quantise it on loading.
        said: How messages name the base.

    Raises:
        ArcaError: Its configuration makes no sense, is of a method that is not known, or quantises
            the base already where that is asked for.
    """
    written = config.get("quantization_config")
    if written is None:
        if asked is None:
            return None
        kind = "nf4" if asked == "4bit" else ""
        return Quantisation(method=BITSANDBYTES, bits=int(asked[0]), kind=kind, asked=True)
    own = _own(written, said)
    if asked is not None:
        raise ArcaError(
            f"{said} is quantised already ({own}): --quantize {asked} would round it twice",
            hint="leave --quantize away, or give the base in 16 bits with --base",
        )
    return own


def _own(written: object, said: str) -> Quantisation:
    if not isinstance(written, Mapping):
        raise ArcaError(
            f"{said}: config.json has a quantization_config that is no object", hint=_HINT
        )
    loads = {bits: written.get(f"load_in_{bits}bit") is True for bits in (8, 4)}
    method = written.get("quant_method")
    if method is None and any(loads.values()):
        method = BITSANDBYTES  # as its first versions wrote it
    if not isinstance(method, str) or method not in _PACKAGES:
        raise ArcaError(
            f"{said} is quantised by a method that cannot be replayed here: {method!r:.100}",
            hint=f"known are {', '.join(_PACKAGES)}; or {_HINT}",
        )
    bits = written.get("bits", written.get("nbits"))
    kind = ""
    if method == BITSANDBYTES:
        bits = next((number for number, there in loads.items() if there), None)
        kind = str(written.get("bnb_4bit_quant_type", "fp4")) if bits == 4 else ""
        if bits is None or kind not in ("", "nf4", "fp4"):
            raise ArcaError(
                f"{said}: config.json says bitsandbytes and neither 8 bits nor nf4 or fp4",
                hint=_HINT,
            )
    is_number = isinstance(bits, int) and not isinstance(bits, bool)
    return Quantisation(method=method, bits=bits if is_number else None, kind=kind)


def check_packages(quantisation: Quantisation, said: str) -> None:
    """Check that what a quantised base is loaded with is installed.

    Raises:
        ArcaError: A package is missing; it is named.
    """
    missing = [name for name in quantisation.packages if not _is_installed(name)]
    if missing:
        ours = quantisation.method == BITSANDBYTES
        wanted = "'arca-diag[quantized]'" if ours else " ".join(missing)
        how = "is to be quantised" if quantisation.asked else "is quantised"
        raise ArcaError(
            f"{said} {how} with {quantisation}, which needs a package that is not installed: "
            f"{', '.join(missing)}",
            hint=f"pip install {wanted}; or give the base in 16 bits with --base",
        )


def check_strings(written: object, said: str) -> None:
    """Check that a stranger's quantization_config holds no pattern: one can match for ever.

    Raises:
        ArcaError: Something is.
    """
    for text in _strings(written):
        if _PATTERN.search(text):
            raise ArcaError(
                f"{said}: its quantization_config holds a pattern, {text!r:.100}, and the base "
                "lies in the run's folder",
                hint="if you trust who wrote it, copy the base elsewhere, and give it with --base",
            )


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
