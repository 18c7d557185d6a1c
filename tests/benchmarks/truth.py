"""What is true of a pool, from its own numbers and by plain arithmetic.

Figures of the whole population, each completion by itself and every prompt weighing the same, are
held against the cuts. Those within the zone of `BORDERLINE` around a cut say neither yes nor no.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from arca_diag.signals import SIGNAL_NAMES
from arca_diag.thresholds import DEFAULT
from tests import reference
from tests.benchmarks.planted import EPSILON, Pool

#: Between these a figure is too near to its cut to say what is true.
BORDERLINE = {
    "inert-noise": (0.3, 0.75),
    "noise-share": (0.05, 0.2),
    "short-share": (0.25, 0.80),
    "floor-share": (0.35, 0.65),
    "structural-excess": (0.02, 0.08),
    "inherited-tv": (0.07, 0.13),
    "agnostic-share": (0.35, 0.65),
}
#: A regime is true where this share of completions or more is on its side, and untrue below the
#: first.
_SIDE = (0.25, 0.80)

_ADAPTER_SIGNALS = ("residual", "relative_residual", "divergence", "kl_exact")
_SHARED_SIGNALS = ("surprisal", "entropy", "entropy_reduction")
_PERMUTATIONS = 40

#: Cause -> the cut that decides it, root causes first.
CUT_OF = {
    "adapter-inert": "inert-noise",
    "completions-short": "short-share",
    "numeric-noise": "noise-share",
    "credit-floor": "floor-share",
    "sharpening-only": None,
    "credit-structural": "structural-excess",
    "credit-inherited": "inherited-tv",
    "credit-task-agnostic": "agnostic-share",
}
_REGIMES = {
    "no-signal": ("no-signal",),
    "sparse": ("sparse",),
    "leaning-sparse": ("sparse", "leaning-sparse"),
    "uniform": ("uniform",),
    "leaning-uniform": ("uniform", "leaning-uniform"),
    "middle": ("middle",),
}


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Of one signal of a pool, at one sharpening and in one view.

    Attributes:
        figures: Cause -> the population's figure; absent where there is none.
        holds: Cause -> whether it is so; None near the cut.
        regime: What the rule says of the population; None where a side's share is borderline.
    """

    figures: Mapping[str, float]
    holds: Mapping[str, bool | None]
    regime: str | None

    @property
    def borderline(self) -> bool:
        """Whether the root cause cannot be said, one before it being near its cut."""
        for held in self.holds.values():
            if held is not False:
                return held is None
        return False

    @property
    def root(self) -> str | None:
        """The first cause that holds, or None."""
        return next((cause for cause, held in self.holds.items() if held), None)


def truths(
    pool: Pool, signals: Iterable[str] = SIGNAL_NAMES
) -> dict[tuple[str, str, float], Truth]:
    """View, signal, sharpening -> what is true there."""
    clusters = dict(zip(pool.rollouts["rollout_id"], pool.rollouts["cluster"], strict=True))
    out: dict[tuple[str, str, float], Truth] = {}
    for view in ("on-policy", "fixed-set") if pool.fixed else ("on-policy",):
        parts = [
            part
            for name, part in pool.tokens.groupby("rollout_id", sort=False)
            if (name in pool.fixed) == (view == "fixed-set")
        ]
        prompts = np.array([clusters[part["rollout_id"].iloc[0]] for part in parts])
        for power in sorted({1.0, pool.sharpening}):
            for signal in signals:
                plain = out.get((view, signal, 1.0))
                out[view, signal, power] = _truth(pool, signal, power, parts, prompts, plain)
    return out


def _truth(
    pool: Pool,
    signal: str,
    power: float,
    parts: list[pd.DataFrame],
    prompts: np.ndarray,
    plain: Truth | None,
) -> Truth:
    weights = [_weights(part[signal], power) for part in parts]
    figures = {
        "adapter-inert": pool.residual_rounding if signal in _ADAPTER_SIGNALS else math.nan,
        "completions-short": _mean([len(p) < DEFAULT["tokens-short"] for p in parts], prompts),
        "numeric-noise": pool.true_noise[signal],
        "credit-floor": _mean([_floor(p[signal]) for p in parts], prompts),
        "credit-task-agnostic": _agnostic(parts, weights, prompts),
    }
    if signal == "entropy_reduction":
        rng = np.random.default_rng(0)
        figures["credit-structural"] = _mean(
            [
                np.nan if w is None else _gini(w) - _gini_in_random_order(p["entropy"], power, rng)
                for p, w in zip(parts, weights, strict=True)
            ],
            prompts,
        )
    kl_known = pool.true_noise["kl_exact"] < BORDERLINE["noise-share"][0]
    if signal in _SHARED_SIGNALS and kl_known and pool.tokens["kl_exact"].any():
        figures["credit-inherited"] = _mean(
            [
                _variation(w, _weights(p[f"ref_{signal}"], power))
                for p, w in zip(parts, weights, strict=True)
            ],
            prompts,
        )
    figures = {cause: value for cause, value in figures.items() if not math.isnan(value)}
    regime = _regime(weights, prompts)
    holds = {
        cause: _past(cut, figures.get(cause)) if cut else _only_power(power, regime, plain)
        for cause, cut in CUT_OF.items()
    }
    return Truth(figures=figures, holds=holds, regime=regime)


def _past(cut: str, value: float | None) -> bool | None:
    low, high = BORDERLINE[cut]
    if value is None:
        return False
    if low < value < high:
        return None
    return value >= high if DEFAULT.side(cut) == "above" else value <= low


def _only_power(power: float, regime: str | None, plain: Truth | None) -> bool | None:
    if power == 1 or plain is None:
        return False
    if regime is None or plain.regime is None:
        return None
    return regime != plain.regime


def _weights(scores: Iterable[float], power: float) -> np.ndarray | None:
    raw = np.asarray(scores, dtype=float)
    if not raw.any():
        return None
    powered = ((raw + EPSILON) / (raw.max() + EPSILON)) ** power
    return powered / powered.sum()


def _gini(weights: np.ndarray) -> float:
    """G^ as the mean absolute difference of two different tokens, over twice the mean."""
    n = len(weights)
    apart = np.abs(weights[:, None] - weights[None, :]).sum()
    return float(apart / (2 * n * (n - 1) * weights.mean())) if n > 1 else math.nan


def _effective(weights: np.ndarray) -> float:
    n = len(weights)
    return float((1 / (weights**2).sum() - 1) / (n - 1)) if n > 1 else math.nan


def _gini_in_random_order(
    entropies: Iterable[float], power: float, rng: np.random.Generator
) -> float:
    found = []
    for _ in range(_PERMUTATIONS):
        shuffled = rng.permutation(np.asarray(entropies, dtype=float))
        weights = _weights(np.append(np.maximum(0, shuffled[:-1] - shuffled[1:]), 0.0), power)
        if weights is not None:
            found.append(_gini(weights))
    return float(np.mean(found)) if found else math.nan


def _floor(scores: Iterable[float]) -> float:
    raw = np.asarray(scores, dtype=float)
    return float(len(raw) * EPSILON / (raw + EPSILON).sum()) if raw.any() else math.nan


def _variation(one: np.ndarray | None, other: np.ndarray | None) -> float:
    if one is None or other is None or len(one) < 2:
        return math.nan
    return float(np.maximum(one - other, 0).sum())


def _agnostic(
    parts: list[pd.DataFrame], weights: list[np.ndarray | None], prompts: np.ndarray
) -> float:
    """How far type or place, learned on the other prompts, goes from even credit to this one."""
    used = [i for i, w in enumerate(weights) if w is not None and len(w) > 1]
    if not used:
        return math.nan
    frame = pd.DataFrame(
        {
            "completion": np.repeat(used, [len(parts[i]) for i in used]),
            "prompt": np.repeat(prompts[used], [len(parts[i]) for i in used]),
            "type": np.concatenate([parts[i]["token"].to_numpy(object) for i in used]),
            "place": np.concatenate([np.arange(len(parts[i])) * 10 // len(parts[i]) for i in used]),
            "weight": np.concatenate([weights[i] for i in used]),
            "even": np.concatenate([np.full(len(parts[i]), 1 / len(parts[i])) for i in used]),
        }
    )
    frame["lift"] = frame["weight"] / frame["even"]
    return max(_explained(frame, by) for by in ("type", "place"))


def _explained(frame: pd.DataFrame, by: str) -> float:
    """1 - TV(weights, what `by` gives) / TV(weights, even), from lifts on the other prompts."""
    whole = frame.groupby(by)["lift"].agg(["sum", "size"])
    own = frame.groupby(["prompt", by])["lift"].agg(["sum", "size"])
    at = own.reindex(pd.MultiIndex.from_frame(frame[["prompt", by]])).to_numpy()
    elsewhere = whole.reindex(frame[by]).to_numpy() - at
    lift = np.divide(
        elsewhere[:, 0], elsewhere[:, 1], out=np.ones(len(frame)), where=elsewhere[:, 1] > 0
    )
    given = frame["even"] * lift
    given /= given.groupby(frame["completion"]).transform("sum")
    apart = frame.assign(
        given=(frame["weight"] - given).abs(), even=(frame["weight"] - frame["even"]).abs()
    )
    sums = apart.groupby(["prompt", "completion"])[["given", "even"]].sum()
    share = (1 - sums["given"] / sums["even"]).groupby("prompt").mean()
    return float(share.mean())


def _regime(weights: list[np.ndarray | None], prompts: np.ndarray) -> str | None:
    classes = np.array(
        [
            reference.classify(math.nan, math.nan, 9, True)
            if w is None
            else reference.classify(_gini(w), _effective(w), len(w), False)
            for w in weights
        ],
        dtype=object,
    )
    classed = np.array([c not in (None, "short") for c in classes])
    unsure = False
    for name, members in _REGIMES.items():
        share = _mean(np.isin(classes, members)[classed], prompts[classed])
        if share >= _SIDE[1]:
            return None if unsure else name
        unsure = unsure or share > _SIDE[0]
    return None if unsure else "mixed"


def _mean(values: Iterable[float], prompts: np.ndarray) -> float:
    """Of prompts' means; NaN where nothing is defined."""
    frame = pd.DataFrame({"value": np.asarray(list(values), dtype=float), "prompt": prompts})
    return float(frame.groupby("prompt")["value"].mean().mean()) if len(frame) else math.nan
