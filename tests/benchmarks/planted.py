"""Runs whose faults are planted: tables written directly, and replays of the tiny trained model.

A `Pool` is a population: runs are drawn from it by resampling its prompts. What is true of it is
computed from its own numbers (`truth.py`), never taken from its name.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import NOISE, TOKENS

CHECKPOINT, STEP = "checkpoint-60", 60
EPSILON = 1e-8
PROMPTS, EACH = 96, 8
#: Rounding of a float32 replay, over the signal.
QUIET = 1e-5

#: Pieces of the made-up vocabulary, by what kind of token they are.
_WORDS = ["Ġso", "Ġwe", "Ġadd", "Ġthe", "Ġtens", "Ġand", "Ġcarry", "Ġone", "Ġthen", "Ġget"]
_DIGITS = list("0123456789")
_MARKS = [",", ".", "=", "+", ":"]
_SPACE = ["Ċ", "Ġ"]
PIECES = ["<eos>", *_WORDS, *_DIGITS, *_MARKS, *_SPACE]
MARKS = np.isin(PIECES, _MARKS)
END = 0


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A population of completions with their signals.

    Attributes:
        name: For tables only.
        tokens: Columns of `tables.TOKENS` but for the weights; rows of a completion together.
        rollouts: Columns of `tables.ROLLOUTS`.
        noise: Columns of `tables.NOISE`, for every completion that may be replayed again.
        true_noise: Signal -> rounding over signal, known and not measured.
        residual_rounding: That of the residual in float32; infinite where there is no residual.
        fixed: Rollouts of the fixed set; all others are the checkpoint's own.
        sharpening: The configured power.
        prompts: How many are drawn for a run.
        healthy: Signals that would be sound credit here.
        curve: Cause of the dose curve that this is a point of, and the signal that it is in.
    """

    name: str
    tokens: pd.DataFrame
    rollouts: pd.DataFrame
    noise: pd.DataFrame
    true_noise: dict[str, float]
    residual_rounding: float
    fixed: frozenset[str] = frozenset()
    sharpening: float = 1.0
    prompts: int = 32
    healthy: tuple[str, ...] = ()
    curve: tuple[str, str] | None = None


#: Changes the tokens of a pool: a row a token, with `prompt`, `completion`, `place` (0 to 1).
Plant = Callable[[pd.DataFrame, np.random.Generator], None]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a synthetic pool is made: a healthy run, changed by plants in this order.

    Attributes:
        name: For tables only.
        plants: Changes.
        lengths: From a generator and a count, counted tokens of completions.
        rounding: Signal -> rounding over signal, where it is not `QUIET`.
    """

    name: str
    plants: Sequence[Plant] = ()
    lengths: Callable[[np.random.Generator, int], np.ndarray] = lambda rng, n: rng.integers(
        28, 53, n
    )
    rounding: dict[str, float] = field(default_factory=dict)
    sharpening: float = 1.0
    prompts: int = 32
    healthy: tuple[str, ...] = ()
    curve: tuple[str, str] | None = None

    def build(self, seed: int) -> Pool:
        """The population, from random numbers that depend on the name and the seed alone."""
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        frame = _healthy_tokens(self.lengths(rng, PROMPTS * EACH), rng)
        for plant in self.plants:
            plant(frame, rng)
        frame["divergence"] = np.abs(frame["log_ratio"])
        for prefix in ("", "ref_"):
            frame[f"{prefix}entropy_reduction"] = _drops(frame[f"{prefix}entropy"], frame)
        true_noise = {name: self.rounding.get(name, QUIET) for name in SIGNAL_NAMES}
        return Pool(
            name=self.name,
            tokens=frame[[name for name in TOKENS.names if name in frame]],
            rollouts=_rollouts(frame),
            noise=_rounded(frame, true_noise, rng),
            true_noise=true_noise,
            residual_rounding=true_noise["residual"] if frame["residual"].any() else math.inf,
            sharpening=self.sharpening,
            prompts=self.prompts,
            healthy=self.healthy,
            curve=self.curve,
        )


def _healthy_tokens(lengths: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Every signal in the middle, alike within a prompt, and knowing nothing of type or place."""
    total = int(lengths.sum())
    completion = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    last = position == np.repeat(lengths, lengths) - 1
    prompt = completion // EACH
    token_id = np.where(last, END, rng.integers(1, len(PIECES), total))

    def scores(shape: float) -> np.ndarray:
        # Prompts differ in how uneven their scores are.
        own = shape * np.exp(0.1 * rng.standard_normal(PROMPTS))
        return rng.gamma(own[prompt]) / own[prompt]

    reference, policy = 0.5 * scores(1.4), 0.5 * scores(1.4)
    residual, norm = 3.0 * scores(1.4), np.exp(0.1 * rng.standard_normal(total))
    return pd.DataFrame(
        {
            "prompt": prompt,
            "completion": completion,
            "place": position / np.repeat(lengths, lengths),
            "checkpoint": CHECKPOINT,
            "checkpoint_step": STEP,
            "rollout_id": [f"p{p}/c{c}" for p, c in zip(prompt, completion, strict=True)],
            "rollout_step": STEP,
            "group_id": [f"p{p}" for p in prompt],
            "position": position,
            "token_id": token_id,
            "token": np.array(PIECES, dtype=object)[token_id],
            "counted": True,
            "surprisal": policy,
            "ref_surprisal": reference,
            "log_ratio": reference - policy,
            "entropy": 0.6 * scores(1.4),
            "ref_entropy": 0.6 * scores(1.4),
            "kl_exact": 0.1 * scores(1.4),
            "residual": residual,
            "relative_residual": residual / (20.0 * norm),
            # Derived when all is planted; here so that columns stand in the order of the schema.
            "entropy_reduction": 0.0,
            "divergence": 0.0,
            "ref_entropy_reduction": 0.0,
        }
    )


def _drops(entropy: pd.Series, frame: pd.DataFrame) -> np.ndarray:
    following = entropy.groupby(frame["completion"]).shift(-1)
    return (entropy - following).clip(lower=0).fillna(0.0).to_numpy()


def _rollouts(frame: pd.DataFrame) -> pd.DataFrame:
    first = frame[frame["position"] == 0]
    return pd.DataFrame(
        {
            "rollout_id": first["rollout_id"],
            "group_id": first["group_id"],
            "cluster": first["group_id"],
            "completion": first["rollout_id"],
            "rollout_step": pd.array(first["rollout_step"], dtype="Int64"),
            "reward": 0.0,
            "advantage": 0.0,
            "finish_reason": "stop",
            "ids_exact": True,
            "n_prompt_tokens": 8,
            "n_completion_tokens": frame.groupby("completion").size().to_numpy(),
            "prompt_text": "",
            "completion_text": "",
        }
    ).reset_index(drop=True)


def _rounded(
    frame: pd.DataFrame, share: dict[str, float], rng: np.random.Generator
) -> pd.DataFrame:
    """The same tokens replayed again: every signal off by its share of itself, on the mean.

    Both replays are off, so that they differ by the root of 2 times that.
    """
    columns: dict[str, object] = {
        "checkpoint": frame["checkpoint"],
        "rollout_id": frame["rollout_id"],
        "replica": "other-batch",
        "position": frame["position"],
    }
    per_token = np.sqrt(np.pi / 2)  # the mean of |z| is the root of 2 / pi
    for name in SIGNAL_NAMES:
        size = frame[name].to_numpy()
        off = share[name] * per_token * size * rng.standard_normal(len(frame))
        columns[name] = np.abs(size + np.sqrt(2) * off)
        columns[f"noise_{name}"] = np.abs(off)
    return pd.DataFrame(columns)[[c for c in NOISE.names if c in columns]]


# What can be planted. Each takes the signal that it changes.


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
        own = np.exp(0.3 * rng.standard_normal(PROMPTS))[frame["prompt"]]
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
        steps = (frame["position"] + rng.integers(0, 10, PROMPTS * EACH)[frame["completion"]]) % 10
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
        steps = (frame["position"] + rng.integers(0, 10, PROMPTS * EACH)[frame["completion"]]) % 10
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
        there = frame["prompt"].to_numpy() < round(share * PROMPTS)
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
