"""Builders of padded batches, a small copy of the tiny sample, and how hypothesis runs here.

Golden figures are written anew with

    python -m pytest tests/test_end_to_end.py -k golden --update-golden

which fails on purpose: look at the difference, then run the test again without the option.
"""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

# Tiny models gain nothing from threads, and lose much where the cores are shared. Read by torch
# when it is imported, so it must stand here, before any test module does that.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No folder can be made there: every scan measures anew, and nothing comes from another test's.
# Libraries keep theirs.
_CACHES = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
os.environ.setdefault("MPLCONFIGDIR", os.path.join(_CACHES, "matplotlib"))
os.environ.setdefault("HF_HOME", os.path.join(_CACHES, "huggingface"))
os.environ["XDG_CACHE_HOME"] = os.devnull

# The same examples on every machine, however slow and busy it is.
settings.register_profile("arca", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("arca")

ROOT = Path(__file__).parents[1]
TINY = ROOT / "sample_runs" / "tiny-addition"

#: Pages and pictures take seconds, and most tests look at neither.
UNRENDERED = {"ARCA_DIAG_NO_RENDER": "1"}

#: What the small copy of the tiny sample holds: for each checkpoint N the file N + 1, which it
#: sampled, and a few others.
TINY_CHECKPOINTS = (2, 20, 100)
TINY_COMPLETIONS = (1, 2, 3, 4, 10, 19, 20, 21, 22, 50, 99, 100, 101)

#: What may stand where no token counts.
GARBAGE = (0.0, -7.0, math.inf, -math.inf, math.nan)

#: Raw scores or weights: exact zeros, ties, and many orders of magnitude.
SCORES = st.one_of(
    st.sampled_from([0.0, 0.0, 1.0, 1e-5]),
    st.floats(0.0, 1e6, allow_subnormal=False),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write tests/golden anew from this checkout, and fail so that somebody looks",
    )


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny sample with three of its checkpoints. Shared: results go to another folder."""
    run = tmp_path_factory.mktemp("sample") / TINY.name
    shutil.copytree(TINY / "base", run / "base")
    for step in TINY_CHECKPOINTS:
        shutil.copytree(TINY / f"checkpoint-{step}", run / f"checkpoint-{step}")
    (run / "completions").mkdir()
    for number in TINY_COMPLETIONS:
        name = f"completions/completions_{number:05}.parquet"
        shutil.copyfile(TINY / name, run / name)
    for path in TINY.glob("*.json"):
        shutil.copyfile(path, run / path.name)
    return run


@pytest.fixture
def own_run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_run` that a test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "sample" / tiny_run.name))


@pytest.fixture(scope="session")
def trl_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> folder of every run of tests/trl_runs.py, as the installed TRL leaves them.

    Half a minute, once. Shared: a test that changes a run copies it first.
    """
    out = tmp_path_factory.mktemp("trl")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "trl_runs.py", out],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"tests/trl_runs.py ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return {path.parent.name: path.parent for path in sorted(out.glob("*/completions"))}


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


#: Where annotated shapes are checked as tests run: those of single functions. What scans and
#: judges runs as users run it, which takes half the time; `shapes` marks one that is checked.
_SHAPES = ("diagnostics", "replay", "test_credit.py", "test_shapes.py", "test_signals.py")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Turn the checks on or off before any fixture of the test is made."""
    at = item.path.relative_to(ROOT / "tests").parts[0]
    checked = at in _SHAPES or item.get_closest_marker("shapes") is not None
    jaxtyping.config.update("jaxtyping_disable", not checked)


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Run the package as users do: jaxtyping checks annotated shapes only under pytest."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
