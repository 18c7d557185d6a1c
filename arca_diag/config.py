"""One frozen configuration: flag > environment ARCA_DIAG_* > file > default. Unknown keys fail.

The file is `arca.toml`, or `[tool.arca-diag]` of `pyproject.toml`, in the working directory.
Its table `[thresholds]` gives cuts other values.
It never comes from the run's folder, which is untrusted: if the working directory lies inside
the run, no file is read.
"""

import difflib
import itertools
import math
import os
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from arca_diag.config_sources import GATE_PREFIX, PREFIX, config_tables, environment
from arca_diag.errors import ConfigError
from arca_diag.thresholds import ASCENDING, DEFAULT, Cuts

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
DeviceMap = Literal["auto"]
Quantize = Literal["8bit", "4bit"]
#: What a run can have weighted its tokens by; and `top_entropy:Q`, TRL's `top_entropy_quantile`.
CREDITS = (
    "uniform",
    "surprisal",
    "entropy",
    "entropy_reduction",
    "divergence",
    "kl_exact",
    "residual",
    "relative_residual",
)
TOP_ENTROPY = "top_entropy:"
#: Options that say how to judge saved tables; another value needs no model.
JUDGING = ("credit", "epsilon", "sharpening", "seed")

#: Options that say which result this is; other values over an existing result are refused.
REPLAY = (
    "base",
    "rollouts",
    "columns",
    "device",
    "device_map",
    "dtype",
    "quantize",
    "temperature",
    "groups",
    "fixed_groups",
    "window",
    "redact_text",
    "skip_bad_lines",
    "trust_remote_code",
    "reference",
    "prompts",
    "generate",
    "max_new_tokens",
    "gradients",
)


class ScanConfig(BaseModel):
    """What `arca-diag scan` was asked to do. Field names are the flags' names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Path
    base: str | None = None
    rollouts: Path | None = None
    columns: str | None = None
    checkpoints: str = "all"
    out: Path | None = None
    device: Device = "auto"
    device_map: DeviceMap | None = None
    dtype: Dtype = "auto"
    quantize: Quantize | None = None
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] | None = None
    epsilon: Annotated[float, Field(ge=0)] = 1e-8
    sharpening: Annotated[float, Field(gt=0)] = 1.0
    credit: str | None = None
    groups: Annotated[int, Field(ge=1)] = 16
    fixed_groups: Annotated[int, Field(ge=0)] = 32
    window: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    batch_tokens: Annotated[int, Field(ge=1)] | None = None
    no_prefix_sharing: bool = False
    no_cache: bool = False
    cache_dir: Path | None = None
    shard: str | None = None
    cache_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    force: bool = False
    no_render: bool = False
    redact_text: bool = False
    skip_bad_lines: bool = False
    allow_download: bool = False
    trust_remote_code: bool = False
    reference: str = "auto"
    prompts: Path | None = None
    generate: Annotated[int, Field(ge=1)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    gradients: Annotated[int, Field(ge=0)] = 0
    thresholds: Annotated[Mapping[str, float], AfterValidator(MappingProxyType)] = Field(
        default_factory=lambda: MappingProxyType({})
    )

    @property
    def cuts(self) -> Cuts:
        """Every cut, with the values that the configuration gives."""
        return DEFAULT.replaced(self.thresholds)

    def thresholds_of(self, cuts: Cuts) -> dict[str, float] | None:
        """The values that differ from those of `cuts`; None if there are none."""
        return {
            cut.id: value
            for cut in cuts
            if (value := self.thresholds.get(cut.id, cut.value)) != cut.value
        } or None

    @property
    def each(self) -> int:
        """Completions to sample a prompt."""
        return self.generate or 8

    @field_validator("temperature", "epsilon", "sharpening")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value

    def asked(self) -> dict[str, Any]:
        """What a share of a scan has in common with the others, to be asked for again."""
        place = {"run", "out", "shard", "force", "no_cache", "cache_dir", "cache_gib", "no_render"}
        rest = self.model_dump(mode="json", exclude={*place, "thresholds"})
        return rest | {"thresholds": dict(self.thresholds)}

    @property
    def share(self) -> tuple[int, int]:
        """Which share of the passes is run, from 0, and of how many."""
        number, _, of = (self.shard or "1/1").partition("/")
        return int(number) - 1, int(of)

    @field_validator("shard")
    @classmethod
    def _one_of_some(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", value)
        if not parts or int(parts[1]) > int(parts[2]):
            raise ValueError("give i/n with i from 1 to n, such as 1/4")
        return value

    @field_validator("credit")
    @classmethod
    def _known_credit(cls, value: str | None) -> str | None:
        return None if value is None else known_credit(value)

    @field_validator("thresholds", mode="before")
    @classmethod
    def _known_cuts(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"thresholds is not a table of ids and numbers: found {value!r:.100}",
                hint="write [thresholds], and below it lines such as gini-sparse = 0.9",
            )
        for name, number in value.items():
            _check_cut(name, number)
        _check_order(DEFAULT.replaced(value))
        return value

    @field_validator("checkpoints")
    @classmethod
    def _steps_or_word(cls, value: str) -> str:
        if value not in ("all", "last") and not all(p.strip() for p in value.split(",")):
            raise ValueError("give all, last, or steps with commas between, such as 10,30")
        return value


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where finished passes are kept if nothing else is said, by the platform's custom."""
    if sys.platform == "win32" and environ.get("LOCALAPPDATA"):
        return Path(environ["LOCALAPPDATA"]) / "arca-diag" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "arca-diag"
    # A path that is not absolute is to be ignored, says the XDG specification.
    given = Path(environ.get("XDG_CACHE_HOME") or "")
    return (given if given.is_absolute() else Path.home() / ".cache") / "arca-diag"


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A configuration, and the origin of each of its values that is no default."""

    config: ScanConfig
    origins: Mapping[str, str]


def resolve(
    flags: Mapping[str, Any],
    *,
    environ: Mapping[str, str] = os.environ,
    cwd: Path | None = None,
    runs: Collection[Path] = (),
    file: Path | None = None,
) -> ScanConfig:
    """As `resolve_with_origins`, the configuration alone."""
    found = resolve_with_origins(flags, environ=environ, cwd=cwd, runs=runs, file=file)
    return found.config


def resolve_with_origins(
    flags: Mapping[str, Any],
    *,
    environ: Mapping[str, str] = os.environ,
    cwd: Path | None = None,
    runs: Collection[Path] = (),
    file: Path | None = None,
) -> Resolved:
    """Merge flags (None means not given), environment, file and defaults into one config.

    Args:
        flags: What the command line says.
        environ: The environment.
        cwd: The working directory.
        runs: Runs that the path in `flags` may be a checkpoint of: no file in them is read either.
        file: Read instead of the working directory's files.

    Raises:
        ConfigError: A key nobody knows (the nearest one is named), or a value out of range.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    origins: dict[str, str] = {}
    merged: dict[str, Any] = {}
    layers = (
        *(
            (name, {key: value for key, value in table.items() if key != "gate"})
            for name, table in config_tables(file, cwd, [Path(given["run"]), *runs])
        ),
        ("environment", environment(environ)),
        ("flag", given),
    )
    for origin, values in layers:
        for key, value in values.items():
            below = merged.get(_known(key, origin))
            tables = isinstance(below, dict) and isinstance(value, dict)
            merged[key] = below | value if tables else value
            origins[key] = origin
    try:
        config = ScanConfig(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise ConfigError(
            f"{key.replace('_', '-')} (from {origins.get(key, 'default')}): "
            f"{first['msg'].removeprefix('Value error, ')}, found {first['input']!r}",
            hint="`arca-diag scan --help` lists every option",
        ) from None
    _check_together(config)
    return Resolved(config=config, origins=origins)


def known_credit(value: str) -> str:
    """A credit as it is written everywhere else.

    Raises:
        ValueError: There is no such credit; the nearest one is named.
    """
    if value in CREDITS:
        return value
    if value.startswith(TOP_ENTROPY):
        try:
            share = float(value.removeprefix(TOP_ENTROPY))
        except ValueError:
            share = math.nan
        if 0 <= share <= 1:
            return f"{TOP_ENTROPY}{share}"
    near = difflib.get_close_matches(value[:100], (*CREDITS, f"{TOP_ENTROPY}Q"), n=1)
    did_you_mean = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"{did_you_mean}give {', '.join(CREDITS)}, or {TOP_ENTROPY}Q with Q from 0 to 1"
    )


def _check_together(config: ScanConfig) -> None:
    """Options that say nothing without each other, or contradict."""
    if config.prompts is None and (config.generate or config.max_new_tokens):
        raise ConfigError(
            "generate and max-new-tokens sample completions, and no prompts are given",
            hint="add --prompts FILE",
        )
    if config.device_map is not None and config.device != "auto":
        raise ConfigError(
            f"device-map {config.device_map} lays the base out over all devices, and device "
            f"{config.device} names one kind",
            hint="leave one of them away",
        )
    if config.prompts is not None and config.rollouts is not None:
        raise ConfigError(
            "prompts and rollouts are both given",
            hint="completions are either sampled here (--prompts) or read (--rollouts)",
        )


def _check_cut(name: object, value: object) -> None:
    """A cut that there is, and a number that it can have."""
    if name not in DEFAULT:
        ids = [cut.id for cut in DEFAULT]
        near = difflib.get_close_matches(str(name)[:100], ids, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known thresholds: {', '.join(ids)}"
        raise ConfigError(f"unknown threshold {name!r:.100}", hint=hint)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= sys.float_info.max):  # type: ignore[operator]
        raise ConfigError(
            f"threshold {name}: must be a finite number >= 0, found {value!r:.100}",
            hint=f"`arca-diag explain {name}` says what it is of",
        )


def _check_order(cuts: Cuts) -> None:
    """A completion past the cut of a class is past those of the milder ones of its side."""
    for ladder in ASCENDING:
        for low, high in itertools.pairwise(ladder):
            if cuts[low] > cuts[high]:
                raise ConfigError(
                    f"threshold {low} ({cuts[low]:g}) is above {high} ({cuts[high]:g}): the "
                    "classes between them would overlap",
                    hint=f"in ascending order they are {', '.join(ladder)}",
                )


def _known(key: str, origin: str) -> str:
    fields = [name for name in ScanConfig.model_fields if name != "run"]
    if key in ScanConfig.model_fields and (key != "run" or origin == "flag"):
        return key
    if origin not in ("environment", "flag"):
        fields.append("gate")
    near = difflib.get_close_matches(key, fields, n=1)
    gate = "those of the gate's policy stand below [gate]"
    name, known = repr(key), fields
    if origin == "environment":
        name, known = PREFIX + key.upper(), [PREFIX + field.upper() for field in fields]
        gate = f"those of the gate's policy begin with {GATE_PREFIX}"
    meant = known[fields.index(near[0])] if near else ""
    hint = f"did you mean {meant}?" if near else f"known keys: {', '.join(known)}; {gate}"
    raise ConfigError(f"unknown key {name} in {origin}", hint=hint)
