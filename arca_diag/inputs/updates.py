"""How far an adapter moves each layer's weights, and in how many directions: from A and B alone.

A layer's update is s B A, with A (rank, in), B (out, rank) and the scale s of PEFT. Its singular
values are those of a rank x rank matrix: with the QR decompositions B = Q_b R_b and A^T = Q_a R_a,

    s B A = Q_b (s R_b R_a^T) Q_a^T,

so the product of shape (out, in) is never formed. All is float64 NumPy. Of DoRA this is the
low-rank part only, before the magnitudes; of PiSSA and OLoRA, and of a run that continued an
adapter, it includes what training started from. Copies of whole modules (`modules_to_save`),
of base weights, and trained tokens are no part of it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arca_diag.inputs.adapters import PREFIX, Adapter
from arca_diag.inputs.files import number

_MATRIX = re.compile(
    r"(?P<layer>.+)\.(?:lora_(?P<side>[AB])\.weight|lora_embedding_(?P<table>[AB]))"
)

_Floats = npt.NDArray[np.floating[Any]]

_LONGEST = 200  # characters of a pattern, and of a name that is tried against one

#: A singular value this small beside the largest, times the longer side, is rounding: values are
#: stored in float32 or less.
_ROUNDING = float(np.finfo(np.float32).eps)


#: A quotient this near to orthogonal is made orthogonal to rounding by one more step.
_NEARLY = 1e-2


class _Unclear(Exception):
    """Why a layer's update cannot be told from its tensors and the configuration."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One adapted layer, from configuration and header alone.

    Attributes:
        name: Of the module in the base.
        tensors: Names of A and B in the adapter, those that are there.
        scale: What PEFT multiplies B A with: alpha / r, or alpha / sqrt(r) with rsLoRA, by the
            layer's own rank and alpha; NaN if it cannot be told.
        experts: How many weights are stacked in A and B; 1 for all but mixtures of experts.
        reason: Why its update cannot be computed; None if it can.
    """

    name: str
    tensors: tuple[str, ...]
    scale: float = math.nan
    experts: int = 1
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class LayerUpdate:
    """The update of one layer; of stacked experts, of all of them as one block-diagonal matrix.

    Attributes:
        layer: Which it is.
        norm: Frobenius norm of s B A, in units of the weights; NaN if undefined.
        stable_rank: ||.||_F^2 / ||.||_2^2, from 1 to the rank; NaN of a zero or undefined update.
        effective_rank: exp of the entropy, in nats, of the singular values over their sum
            (Roy & Vetterli 2007), from 1 to the rank; NaN of a zero or undefined update.
        rank_used: Singular values above max(in, out) * 2^-23 of the largest: numerical rank, for
            values that were stored in float32; None of an undefined update.
        rank_given: Rank r of A and B, summed over experts; None if they do not show it.
        reason: Why it is undefined; None if it is not.
    """

    layer: Layer
    norm: float = math.nan
    stable_rank: float = math.nan
    effective_rank: float = math.nan
    rank_used: int | None = None
    rank_given: int | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All layers' updates together.

    Attributes:
        norm: Root of the sum of the layers' squared norms; None if any is undefined.
        shares: Each layer's part of the squared norm, in the layers' order, summing to 1; NaN
            where `norm` is zero or undefined.
        stable_rank: Median over the layers that have one; None if none has.
        effective_rank: The same.
        rank_used: Sum over the layers whose update is defined.
        rank_given: Sum over the same layers.
    """

    norm: float | None
    shares: tuple[float, ...]
    stable_rank: float | None
    effective_rank: float | None
    rank_used: int
    rank_given: int


#: Checkpoint name -> the updates of its layers.
Updates = Mapping[str, tuple[LayerUpdate, ...]]


def adapted_layers(adapter: Adapter) -> tuple[Layer, ...]:
    """Every layer that has a LoRA matrix, in the file's order; no tensor is read."""
    pairs: dict[str, dict[str, str]] = {}
    for key in adapter.shapes:
        if found := _MATRIX.fullmatch(key):
            name = found["layer"].removeprefix(PREFIX)
            pairs.setdefault(name, {})[found["side"] or found["table"]] = key
    ranks, alphas = (_Patterns(adapter.config.get(k)) for k in ("rank_pattern", "alpha_pattern"))
    return tuple(_layer(adapter, name, sides, ranks, alphas) for name, sides in pairs.items())


def layer_updates(adapter: Adapter) -> tuple[LayerUpdate, ...]:
    """The update of every adapted layer; one that cannot be computed says why."""
    return tuple(_update(adapter, layer) for layer in adapted_layers(adapter))


def summarise(updates: Sequence[LayerUpdate]) -> Summary:
    """Put the layers together."""
    norms = np.array([u.norm for u in updates], dtype=np.float64)
    largest = norms.max(initial=0.0)  # NaN if any is; by it, squares neither over- nor underflow
    parts = np.square(norms / largest) if largest > 0 else np.full(len(norms), math.nan)
    norm = float(largest * math.sqrt(parts.sum())) if largest > 0 else float(largest)
    defined = [u for u in updates if u.rank_used is not None]
    return Summary(
        norm=norm if math.isfinite(norm) else None,
        shares=tuple((parts / parts.sum()).tolist()),
        stable_rank=_median([u.stable_rank for u in defined]),
        effective_rank=_median([u.effective_rank for u in defined]),
        rank_used=sum(u.rank_used or 0 for u in defined),
        rank_given=sum(u.rank_given or 0 for u in defined),
    )


class _Patterns:
    """`rank_pattern` or `alpha_pattern`: regular expression -> value, read as PEFT reads it."""

    def __init__(self, given: object) -> None:
        known = given if isinstance(given, dict) else {}
        self._malformed = given is not None and not isinstance(given, dict)
        self._tried = [(_compiled(key), value) for key, value in known.items()]

    def __bool__(self) -> bool:
        return self._malformed or bool(self._tried)

    def get(self, name: str, default: object) -> object:
        """The value of the first key that fits the end of a module's name, from a dot on."""
        if self._malformed or (self._tried and len(name) > _LONGEST):
            raise _Unclear("rank_pattern or alpha_pattern cannot be read for it")
        for pattern, value in self._tried:
            if pattern is None:
                raise _Unclear("rank_pattern or alpha_pattern holds a pattern that is not tried")
            if pattern.match(name):
                return value
        return default


def _compiled(key: str) -> re.Pattern[str] | None:
    """None of a pattern that is broken, or that could take for ever: the file is untrusted."""
    choices = len(re.findall(r"(?<!\()[*+?]|\(", key))  # each may be tried at every letter
    if len(key) > _LONGEST or choices > 3 or "{" in key or re.search(r"\)[*+]", key):
        return None
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except re.error:
        return None


def _layer(
    adapter: Adapter, name: str, sides: dict[str, str], ranks: _Patterns, alphas: _Patterns
) -> Layer:
    tensors = tuple(sides[side] for side in sorted(sides))
    try:
        rank = ranks.get(name, adapter.rank)
        alpha = number(alphas.get(name, adapter.alpha))
        if not isinstance(rank, int) or not 0 < rank < 2**31 or alpha is None:
            raise _Unclear(f"its rank is {rank!r:.50} and its alpha {alpha!r:.50}")
        scale = alpha / (math.sqrt(rank) if adapter.use_rslora else rank)
    except _Unclear as error:
        return Layer(name=name, tensors=tensors, reason=str(error))
    try:
        experts = _experts(adapter, sides, rank, patterned=bool(ranks) or bool(alphas))
    except _Unclear as error:
        return Layer(name=name, tensors=tensors, scale=scale, reason=str(error))
    return Layer(name=name, tensors=tensors, scale=scale, experts=experts)


def _experts(adapter: Adapter, sides: dict[str, str], rank: int, *, patterned: bool) -> int:
    """How many pairs are stacked; PEFT stacks those of `target_parameters` along the rank."""
    if missing := {"A", "B"} - set(sides):
        raise _Unclear(f"its {missing.pop()} is missing")
    a, b = adapter.shapes[sides["A"]], adapter.shapes[sides["B"]]
    if min(len(a), len(b)) < 2 or 0 in a + b:
        raise _Unclear(f"its A has shape {list(a)} and its B {list(b)}: no matrices")
    rows, columns = a[0], math.prod(b[1:])
    if rows == columns == rank:
        return 1
    if not adapter.config.get("target_parameters") or rows != columns or rows % rank:
        raise _Unclear(
            f"its A has {rows} rows and its B {columns} columns, and the configuration gives it "
            f"rank {rank}"
        )
    if patterned:  # they are matched against a parameter's name, which the file does not hold
        raise _Unclear("the rank of its experts cannot be told: the configuration has patterns")
    return rows // rank


def _update(adapter: Adapter, layer: Layer) -> LayerUpdate:
    if layer.reason:
        return LayerUpdate(layer=layer, reason=layer.reason)
    rank = adapter.shapes[layer.tensors[0]][0]
    a, b = (adapter.tensors[key].astype(np.float64) for key in layer.tensors)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        why = "its A or B holds NaN or infinity"
        return LayerUpdate(layer=layer, rank_given=rank, reason=why)
    a = a.reshape(layer.experts, -1, a[0].size)  # (expert, rank, in); a convolution's rest is flat
    b = b.reshape(len(b), -1, layer.experts).transpose(2, 0, 1)  # (expert, out, rank)
    size_a, size_b = float(np.abs(a).max()), float(np.abs(b).max())
    size = abs(layer.scale) * size_a * size_b
    if 0 in (size_a, size_b, layer.scale):
        return LayerUpdate(layer=layer, norm=0.0, rank_used=0, rank_given=rank)
    # Scaled to 1, so that no square over- or underflows.
    values = _singular_values(a / size_a, b / size_b)
    norm = size * math.sqrt(np.square(values).sum())
    largest = float(values.max())
    if not math.isfinite(norm):
        return LayerUpdate(layer=layer, rank_given=rank, reason="its update overflows")
    if largest == 0:
        return LayerUpdate(layer=layer, norm=0.0, rank_used=0, rank_given=rank)
    portions = values[values > 0] / values.sum()
    return LayerUpdate(
        layer=layer,
        norm=norm,
        stable_rank=float(np.square(values / largest).sum()),
        effective_rank=math.exp(-(portions * np.log(portions)).sum()),
        rank_used=int((values > largest * max(a.shape[2], b.shape[1]) * _ROUNDING).sum()),
        rank_given=rank,
    )


def _singular_values(a: _Floats, b: _Floats) -> _Floats:
    """Of B A: a (expert, rank, in), b (expert, out, rank) -> (expert, at most rank)."""
    right, left = _triangle(a.swapaxes(1, 2)), _triangle(b)
    return np.linalg.svd(left @ right.swapaxes(1, 2), compute_uv=False)


def _triangle(matrices: _Floats) -> _Floats:
    """R of each QR decomposition of (stack, long, rank), by two Cholesky factors where they do.

    A tall matrix's QR costs ten times its products. The factor of M^T M loses half the digits,
    and that of the quotient M R^-1 gives them back (CholeskyQR2, Yamamoto et al. 2015), unless M
    is so near to a lower rank that the quotient is far from orthogonal.
    """
    return np.stack([_cholesky_twice(matrix) for matrix in matrices])


def _cholesky_twice(matrix: _Floats) -> _Floats:
    from scipy.linalg import solve_triangular  # long to import, and headers alone need none of it

    try:
        first = np.linalg.cholesky(matrix.T @ matrix).T
        quotient = solve_triangular(first, matrix.T, trans="T", check_finite=False)
        gram = quotient @ quotient.T
        if np.abs(gram - np.eye(len(gram))).max() < _NEARLY:
            return cast(_Floats, np.linalg.cholesky(gram).T @ first)
    except np.linalg.LinAlgError:
        pass
    return cast(_Floats, np.linalg.qr(matrix, mode="r"))


def _median(values: list[float]) -> float | None:
    defined = [v for v in values if math.isfinite(v)]
    return float(np.median(defined)) if defined else None
