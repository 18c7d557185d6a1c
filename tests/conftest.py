"""Builders of padded batches, and how hypothesis runs here."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jaxtyping
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

# The same examples on every machine, however slow and busy it is.
settings.register_profile("arca", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("arca")

#: What may stand where no token counts.
GARBAGE = (0.0, -7.0, math.inf, -math.inf, math.nan)

#: Raw scores or weights: exact zeros, ties, and many orders of magnitude.
SCORES = st.one_of(
    st.sampled_from([0.0, 0.0, 1.0, 1e-5]),
    st.floats(0.0, 1e6, allow_subnormal=False),
)


@dataclass(frozen=True)
class Ragged:
    """Completions as lists of their counted tokens, and the same as a padded batch."""

    rows: list[list[float]]
    values: np.ndarray
    mask: np.ndarray


def laid_out(rows: Sequence[Sequence[float]], *, spare: int, seed: int) -> Ragged:
    """Counted tokens in order at random places, garbage elsewhere; `spare` columns too many."""
    rng = np.random.default_rng(seed)
    width = max((len(row) for row in rows), default=0) + spare
    values = rng.choice(GARBAGE, size=(len(rows), width))
    mask = np.zeros((len(rows), width), dtype=bool)
    for index, row in enumerate(rows):
        places = np.sort(rng.permutation(width)[: len(row)])
        values[index, places] = row
        mask[index, places] = True
    return Ragged([list(row) for row in rows], values, mask)


def batch(*rows: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Completions side by side, flush left, NaN in the padding."""
    width = max((len(row) for row in rows), default=0)
    values = np.full((len(rows), width), np.nan)
    mask = np.zeros((len(rows), width), dtype=bool)
    for index, row in enumerate(rows):
        values[index, : len(row)] = row
        mask[index, : len(row)] = True
    return values, mask


@st.composite
def completions(
    draw: st.DrawFn,
    elements: st.SearchStrategy[float] = SCORES,
    *,
    min_tokens: int = 0,
) -> list[list[float]]:
    """One to five completions of up to eight counted tokens."""
    one = st.lists(elements, min_size=min_tokens, max_size=8)
    return draw(st.lists(one, min_size=1, max_size=5))


@st.composite
def ragged(
    draw: st.DrawFn,
    elements: st.SearchStrategy[float] = SCORES,
    *,
    min_tokens: int = 0,
) -> Ragged:
    """The same, padded and with uncounted tokens between the counted ones."""
    rows = draw(completions(elements, min_tokens=min_tokens))
    return laid_out(rows, spare=draw(st.integers(0, 3)), seed=draw(st.integers(0, 2**32 - 1)))


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Run the package as users do: jaxtyping checks annotated shapes only under pytest."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
