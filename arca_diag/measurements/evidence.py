"""What figures are taken from: the tables of a result, and the places that a figure can be of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from arca_diag.results import View
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import GRADIENTS, NOISE
from arca_diag.thresholds import DEFAULT, Cuts

_VIEWS: tuple[tuple[View, Literal["own_set", "fixed_set"]], ...] = (
    ("on-policy", "own_set"),
    ("fixed-set", "fixed_set"),
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """One checkpoint in one view.

    Attributes:
        name: Folder name of the checkpoint.
        step: Its step, or None.
        view: Which completions.
        rows: Those of `Evidence.rows` that are here: a row a completion, signal and sharpening.
    """

    name: str
    step: int | None
    view: View
    rows: pd.DataFrame

    @property
    def label(self) -> int | str:
        """How reports name the checkpoint."""
        return self.name if self.step is None else self.step

    def of(self, signal: str, sharpening: float) -> pd.DataFrame:
        """A row a completion, for one signal at one sharpening. Do not change it."""
        return self._parts.get((signal, sharpening), self.rows.iloc[:0])

    @cached_property
    def _parts(self) -> dict[tuple[str, float], pd.DataFrame]:
        """Asked for by every figure, so it is taken apart once."""
        parts: dict[Any, pd.DataFrame] = dict(
            list(self.rows.groupby(["signal", "sharpening"], sort=False))
        )
        return parts

    @property
    def completions(self) -> pd.DataFrame:
        """A row a completion, whatever the signal."""
        return self.of(SIGNAL_NAMES[0], 1.0)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The tables of a result and the options that they are judged by.

    Attributes:
        tokens: As from `crediting.judge`.
        trajectories: As from `crediting.judge`.
        rollouts: As from `tables.rollout_table`.
        noise: As from `tables.noise_table`; empty where no noise was measured.
        gradients: As from `tables.gradient_table`; empty where none were measured.
        steps: Name -> step of every measured checkpoint; one without completions in a view has
            its figures too, null with the reason.
        sharpening: The configured power; figures are given at 1 too.
        epsilon: The floor of every score.
        seed: Of permutations.
        cuts: Those in force.
    """

    tokens: pd.DataFrame
    trajectories: pd.DataFrame
    rollouts: pd.DataFrame
    noise: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=NOISE.names))
    gradients: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=GRADIENTS.names))
    steps: Mapping[str, int | None]
    sharpening: float = 1.0
    epsilon: float = 1e-8
    seed: int = 0
    cuts: Cuts = DEFAULT

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The trajectories with the prompt of each, in a column `cluster`."""
        clusters = self.rollouts.set_index("rollout_id")["cluster"]
        return self.trajectories.assign(cluster=self.trajectories["rollout_id"].map(clusters))

    @cached_property
    def powers(self) -> tuple[float, ...]:
        """The sharpenings that figures are given at."""
        return tuple(sorted({1.0, float(self.sharpening)}))

    def places(self) -> Iterator[Place]:
        """Every checkpoint in both views, whether or not it has completions there."""
        for name, step in self.steps.items():
            at = self.rows[self.rows["checkpoint"] == name]
            for view, member in _VIEWS:
                yield Place(name=name, step=step, view=view, rows=at[at[member]])
