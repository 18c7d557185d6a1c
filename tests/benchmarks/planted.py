"""Runs that are made up: a healthy one, as tables, and what a recipe plants in it.

A `Pool` is a population: runs are drawn from it by resampling its prompts. What is true of it is
computed from its own numbers (`truth.py`), never taken from its name.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from arca_diag.replay.scores import FLOAT64
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
_CLASSES = (
    ["special"]
    + ["word"] * len(_WORDS)
    + ["digit"] * len(_DIGITS)
    + ["punctuation"] * len(_MARKS)
    + ["whitespace"] * len(_SPACE)
)
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
        times: How many runs are drawn, in multiples of what was asked for.
    """

    name: str
    plants: Sequence[Plant] = ()
    lengths: Callable[[np.random.Generator, int], np.ndarray] = lambda rng, n: rng.integers(
        28, 53, n
    )
    rounding: dict[str, float] = field(default_factory=dict)
    times: float = 1.0
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
            "token_class": np.array(_CLASSES, dtype=object)[token_id],
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
    """The same tokens replayed in float64: every signal off by its share of itself, on the mean.

    Rounding of a residual is that of a vector, so that its length says little of it.
    """
    columns: dict[str, object] = {
        "checkpoint": frame["checkpoint"],
        "rollout_id": frame["rollout_id"],
        "replica": FLOAT64,
        "position": frame["position"],
    }
    per_token = np.sqrt(np.pi / 2)  # the mean of |z| is the root of 2 / pi
    for name in SIGNAL_NAMES:
        size = frame[name].to_numpy()
        off = share[name] * per_token * size * rng.standard_normal(len(frame))
        columns[name] = np.abs(size + off)
        if name == "divergence":
            columns["log_ratio"] = frame["log_ratio"] + off
        if name in ("residual", "relative_residual"):
            columns[f"{name}_apart"] = np.abs(off)
    return pd.DataFrame(columns)[NOISE.names]
