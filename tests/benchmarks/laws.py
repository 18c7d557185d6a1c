"""What the completions of synthetic runs look like, with a true value that is known.

Values of completions are given by laws of several shapes. Completions of a prompt share a Gaussian
score, the law's quantile function makes values of scores, and `correlation` is that of the scores
of two completions of a prompt. Where a figure needs tokens, these are drawn too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from arca_diag.diagnostics.agnosticism import POSITIONS, Layout, positions

#: Random numbers, prompts, completions of each -> what an estimate is made of.
Draw = Callable[[np.random.Generator, int, int], Any]


@dataclass(frozen=True, kw_only=True)
class Law:
    """What completions look like.

    Attributes:
        shape: In words.
        correlation: Of two completions of a prompt.
        draw: A run: values, (prompt, completion), unless the law is of tokens.
        unguarded: Why no bar is held against it, if none is.
    """

    shape: str
    correlation: float
    draw: Draw
    unguarded: str | None = None


def correlated(
    shape: str,
    quantile: Callable[[np.ndarray], np.ndarray],
    correlations: Sequence[float] = (0.0, 0.3, 0.7),
) -> list[Law]:
    """A shape at several correlations within a prompt."""

    def law(correlation: float) -> Law:
        def draw(rng: np.random.Generator, prompts: int, each: int) -> np.ndarray:
            shared = np.sqrt(correlation) * rng.standard_normal((prompts, 1))
            own = np.sqrt(1 - correlation) * rng.standard_normal((prompts, each))
            return quantile(special.ndtr(shared + own))

        return Law(shape=shape, correlation=correlation, draw=draw)

    return [law(correlation) for correlation in correlations]


def normal(mean: float, spread: float) -> list[Law]:
    """A bell: what differences of concentrations look like."""
    return correlated(f"normal, sd {spread:g}", lambda u: mean + spread * special.ndtri(u))


def beta(mean: float, spread: float, correlations: Sequence[float] = (0.0, 0.3, 0.7)) -> list[Law]:
    """Between 0 and 1: a bump, skewed near an end, a bathtub where the spread is large."""
    weight = mean * (1 - mean) / spread**2 - 1
    return correlated(
        f"beta, sd {spread:g}",
        lambda u: special.betaincinv(mean * weight, (1 - mean) * weight, u),
        correlations,
    )


def lognormal(mean: float, sigma: float) -> list[Law]:
    """Skewed to the right, without a bound."""
    return correlated(
        f"lognormal, sigma {sigma:g}",
        lambda u: mean * np.exp(sigma * special.ndtri(u) - sigma**2 / 2),
    )


def in_or_out(mean: float) -> list[Law]:
    """Completions that are in or out, prompts all alike."""
    return correlated("in or out", lambda u: u > 1 - mean, (0.0, 0.1, 0.3, 0.7, 0.95))


def two_kinds(mean: float, few: float, odd: float, unguarded: str | None = None) -> Law:
    """A share `few` of the prompts is in with chance `odd`, the others so that the mean holds."""
    others = (mean - few * odd) / (1 - few)

    def draw(rng: np.random.Generator, prompts: int, each: int) -> np.ndarray:
        chance = np.where(rng.random((prompts, 1)) < few, odd, others)
        return rng.random((prompts, each)) < chance

    shape = f"{few:.0%} of prompts in by {odd:.0%}"
    return Law(shape=shape, correlation=0.0, draw=draw, unguarded=unguarded)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A run's credit, and the label that some of it goes by; see `diagnostics.agnosticism`."""

    weights: np.ndarray
    labels: np.ndarray
    layout: Layout


def by_label(types: int | None, spread: float, mean: float) -> Law:
    """Credit a part of which goes by a label, the rest by context; prompts differ in the part.

    Args:
        types: How many there are, a few of them frequent; None where the label is the place.
        spread: Between prompts, of the part that goes by the label: a beta law's.
        mean: Of that part. So that a table learned from very many prompts explains half of the
            way from even credit: found by bisection.
    """

    def draw(rng: np.random.Generator, prompts: int, each: int) -> Tokens:
        lengths = rng.integers(20, 41, size=prompts * each)
        layout = Layout(
            completion=np.repeat(np.arange(len(lengths)), lengths),
            prompt=np.repeat(np.arange(prompts), each),
        )
        if types is None:
            labels = positions(layout)
            marked = labels == POSITIONS.index("tenth-3")
        else:
            chance = 1 / np.arange(1, types + 1)
            labels = rng.choice(types, size=lengths.sum(), p=chance / chance.sum())
            marked = labels % 6 == 2
        part = np.full(prompts, mean)
        if spread:
            weight = mean * (1 - mean) / spread**2 - 1
            part = rng.beta(mean * weight, (1 - mean) * weight, size=prompts)
        part = part[layout.prompt][layout.completion]
        label = _normalised(np.where(marked, 1.0, 1e-3), layout)
        context = _normalised(rng.exponential(size=len(labels)) ** 4, layout)
        return Tokens(weights=part * label + (1 - part) * context, labels=labels, layout=layout)

    what = "place" if types is None else f"{types} types"
    return Law(shape=f"by {what}, sd {spread:g}", correlation=0.0, draw=draw)


def _normalised(scores: np.ndarray, layout: Layout) -> np.ndarray:
    return scores / np.bincount(layout.completion, weights=scores)[layout.completion]
