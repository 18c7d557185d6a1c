"""What can be planted in a made-up run: each changes the scores of a signal, or of the adapter."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from tests.benchmarks import planted
from tests.benchmarks.planted import EACH, EPSILON, MARKS, Plant


def one_hot(signal: str) -> Plant:
    """One token, anywhere, has it all but for crumbs."""

    def plant(frame: pd.DataFrame, rng: np.random.Generator) -> None:
        order = pd.Series(rng.random(len(frame))).groupby(frame["completion"]).rank()
        _set(frame, signal, np.where(order == 1, 5.0, 1e-3 * rng.gamma(1.0, size=len(frame))))

    return plant


def flat(signal: str) -> Plant:
    """Every token has nearly the same."""
    return lambda frame, rng: _set(frame, signal, np.exp(0.03 * rng.standard_normal(len(frame))))


def floored(signal: str, floor_share: float) -> Plant:
    """So small that epsilon has this share of the credit."""

    def plant(frame: pd.DataFrame, rng: np.random.Generator) -> None:
        mean = frame[signal].groupby(frame["completion"]).transform("mean")
        own = np.exp(0.3 * rng.standard_normal(planted.PROMPTS))[frame["prompt"]]
        _set(frame, signal, frame[signal] / mean * own * EPSILON * (1 / floor_share - 1))

    return plant


def inherited(signal: str, spread: float) -> Plant:
    """The reference's scores, each off by a factor of about e^spread."""

    def plant(frame: pd.DataFrame, rng: np.random.Generator) -> None:
        off = np.exp(spread * rng.standard_normal(len(frame)))
        frame[signal] = frame[f"ref_{signal}"] * off
        if signal == "surprisal":
            frame["log_ratio"] = frame["ref_surprisal"] - frame["surprisal"]

    return plant


def by_type(signal: str, spread: float) -> Plant:
    """Punctuation has twenty times what other tokens have, off by a factor of about e^spread."""
    return partial(_by, signal, spread, lambda frame: np.where(MARKS[frame["token_id"]], 20.0, 1.0))


def by_place(signal: str, spread: float) -> Plant:
    """Early tokens have more, whatever they say, off by a factor of about e^spread."""
    return partial(_by, signal, spread, lambda frame: np.exp(-5.0 * frame["place"].to_numpy()))


def _by(
    signal: str,
    spread: float,
    rule: Callable[[pd.DataFrame], np.ndarray],
    frame: pd.DataFrame,
    rng: np.random.Generator,
) -> None:
    _set(frame, signal, rule(frame) * np.exp(spread * rng.standard_normal(len(frame))))


def climbing(share: float) -> Plant:
    """Entropy that climbs slowly and falls at once, in a share of the tokens; else no order.

    The falls are far fewer than among the same entropies in random order.
    """

    def plant(frame: pd.DataFrame, rng: np.random.Generator) -> None:
        steps = (
            frame["position"] + rng.integers(0, 10, planted.PROMPTS * EACH)[frame["completion"]]
        ) % 10
        ordered = 0.1 + 0.1 * steps + 0.005 * rng.random(len(frame))
        # Whole stretches of ten have an order or have none.
        stretch = frame["completion"] * 100 + frame["position"] // 10
        _, member = np.unique(stretch, return_inverse=True)
        in_order = (rng.random(member.max() + 1) < share)[member]
        frame["entropy"] = np.where(in_order, ordered, rng.permutation(ordered))

    return plant


def falling() -> Plant:
    """Entropy that falls slowly and climbs at once: nearly every token reduces it, and alike."""

    def plant(frame: pd.DataFrame, rng: np.random.Generator) -> None:
        steps = (
            frame["position"] + rng.integers(0, 10, planted.PROMPTS * EACH)[frame["completion"]]
        ) % 10
        slope = np.cumsum(rng.gamma(2.0, size=(len(frame), 10)) / 20, axis=1)
        frame["entropy"] = 1.2 - slope[np.arange(len(frame)), steps].clip(max=1.15)

    return plant


def inert() -> Plant:
    """The adapter does nothing at all."""

    def plant(frame: pd.DataFrame, rng: np.random.Generator) -> None:
        for name in ("residual", "relative_residual", "kl_exact", "log_ratio"):
            frame[name] = 0.0
        for name in ("surprisal", "entropy"):
            frame[name] = frame[f"ref_{name}"]

    return plant


def in_prompts(share: float, plant: Plant) -> Plant:
    """A plant in this share of the prompts."""

    def some(frame: pd.DataFrame, rng: np.random.Generator) -> None:
        changed = frame.copy()
        plant(changed, rng)
        there = frame["prompt"].to_numpy() < round(share * planted.PROMPTS)
        for name in frame:
            frame[name] = changed[name].where(there, frame[name])

    return some


def _set(frame: pd.DataFrame, signal: str, scores: np.ndarray | pd.Series) -> None:
    """Give a signal other scores; a divergence is the size of a log-ratio."""
    if signal == "divergence":
        sign = np.where(frame["log_ratio"] < 0, -1.0, 1.0)
        frame["log_ratio"] = sign * np.asarray(scores)
    else:
        frame[signal] = np.asarray(scores)


def short(share: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Lengths, this share of them below five tokens."""

    def lengths(rng: np.random.Generator, count: int) -> np.ndarray:
        return np.where(
            rng.random(count) < share, rng.integers(2, 5, count), rng.integers(20, 53, count)
        )

    return lengths
