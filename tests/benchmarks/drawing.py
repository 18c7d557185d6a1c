"""Runs drawn from a pool, and what the package says of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from arca_diag import attribution, crediting, faults, verdict
from arca_diag.measurements.agnosticism import measure_agnosticism
from arca_diag.measurements.causes import measure_causes
from arca_diag.measurements.evidence import Evidence
from arca_diag.measurements.noise import measure_noise
from arca_diag.replay.subsample import PROMPTS
from arca_diag.results import Measurement, Verdict
from arca_diag.thresholds import DEFAULT
from tests.benchmarks.planted import EPSILON, Pool

#: The measures that causes read; the others of a report would cost most of the time.
MEASURES = (measure_noise, measure_causes, measure_agnosticism)
#: Cause -> names of the figures that decide it, the worst of which is meant.
FIGURES = {
    "adapter-inert": ("noise_share",),
    "completions-short": ("short_share",),
    "numeric-noise": ("noise_share",),
    "credit-floor": ("floor_share",),
    "credit-structural": ("structural_excess",),
    "credit-inherited": ("inherited_tv",),
    "credit-task-agnostic": ("type_explained", "class_explained", "position_explained"),
}


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the package says of one signal of a drawn run.

    Attributes:
        view: In which view.
        signal: Which.
        sharpening: At which power.
        regime: The word.
        causes: Root cause first.
        figures: Cause -> (value, low, high, prompts) of the figure that decides it, if any.
    """

    view: str
    signal: str
    sharpening: float
    regime: str
    causes: tuple[str, ...]
    figures: dict[str, tuple[float, float, float, int]]


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What the package says of a drawn run.

    Attributes:
        said: Of every signal.
        loud: Credit that the run is said to have used -> ids of errors and warnings.
    """

    said: list[Said]
    loud: dict[str, list[str]]


class Source:
    """A pool, judged once a completion, to draw runs from."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        names = pool.tokens[["checkpoint", "rollout_id"]].drop_duplicates()
        fixed = names["rollout_id"].isin(pool.fixed)
        members = names.assign(own_set=~fixed, fixed_set=fixed)
        self.tokens, self.trajectories = crediting.judge(
            pool.tokens,
            members.set_index(["checkpoint", "rollout_id"]),
            pool.rollouts,
            epsilon=EPSILON,
            sharpening=pool.sharpening,
        )
        (self.checkpoint,) = pool.tokens["checkpoint"].unique()
        self.step = int(pool.tokens["checkpoint_step"].iloc[0])
        # A prompt of the fixed set is another cluster than the same prompt of the own set only if
        # their completions differ: pools keep them apart.
        cluster = pool.rollouts.set_index("rollout_id")["cluster"]
        self.prompts = [
            np.unique(cluster[[name for name in cluster.index if (name in pool.fixed) == inside]])
            for inside in ((False, True) if pool.fixed else (False,))
        ]
        self._rows = {
            name: _rows_of(frame["rollout_id"].map(cluster))
            for name, frame in (
                ("tokens", self.tokens),
                ("trajectories", self.trajectories),
                ("rollouts", pool.rollouts),
                ("noise", pool.noise),
            )
        }

    def draw(self, rng: np.random.Generator) -> Evidence:
        """A run of resampled prompts; one that is drawn twice is two prompts.

        As in a scan, one completion each of a few prompts of either set is replayed again.
        """
        chosen, again = [], []
        for prompts in self.prompts:
            drawn = list(rng.choice(prompts, self.pool.prompts))
            again += range(len(chosen), len(chosen) + min(PROMPTS, len(drawn)))
            chosen += drawn
        few = [chosen[turn] for turn in again]
        return Evidence(
            tokens=self._take("tokens", self.tokens, chosen),
            trajectories=self._take("trajectories", self.trajectories, chosen),
            rollouts=self._take("rollouts", self.pool.rollouts, chosen),
            noise=self._take("noise", self.pool.noise, few, turns=again),
            steps={self.checkpoint: self.step},
            sharpening=self.pool.sharpening,
            epsilon=EPSILON,
            seed=int(rng.integers(2**31)),
        )

    def _take(
        self, name: str, frame: pd.DataFrame, prompts: list[str], turns: Iterable[int] | None = None
    ) -> pd.DataFrame:
        rows = [self._rows[name][prompt] for prompt in prompts]
        turn = np.repeat(list(turns or range(len(prompts))), [len(r) for r in rows])
        taken = frame.iloc[np.concatenate(rows)].reset_index(drop=True)
        mark = pd.Series(turn.astype(str), dtype=object)
        named = [c for c in ("rollout_id", "group_id", "cluster", "completion") if c in taken]
        return taken.assign(**{c: taken[c] + "#" + mark for c in named})


def opinion(run: Evidence, healthy: Iterable[str]) -> Opinion:
    """What the package says of a run, and how loud it is where its credit is sound.

    Args:
        run: The run.
        healthy: Signals to say that the run weighted its tokens by, beside even credit.
    """
    measured = [found for measure in MEASURES for found in measure(run)]
    regimes = verdict.judge_regimes(run.trajectories, run.rollouts, DEFAULT)
    judged = attribution.judge_causes(regimes, measured, DEFAULT)
    loud = {}
    for credit in ("uniform", *healthy):
        findings = [
            *faults.credit_findings(judged, measured, credit, run.sharpening, {}),
            *faults.rounding_findings(judged),
        ]
        loud[credit] = [f.id for f in findings if f.level != "note"]
    of = _by_place(measured)
    return Opinion(
        said=[
            Said(
                view=v.view,
                signal=v.signal,
                sharpening=v.sharpening,
                regime=v.regime,
                causes=tuple(v.causes),
                figures={c: f for c in FIGURES if (f := _deciding(c, v, of)) is not None},
            )
            for v in judged.verdicts
        ],
        loud=loud,
    )


_ByPlace = Mapping[tuple[str, str, str | None, float | None], list[Measurement]]


def _by_place(measured: Iterable[Measurement]) -> _ByPlace:
    found: dict[tuple[str, str, str | None, float | None], list[Measurement]] = {}
    for m in measured:
        found.setdefault((m.view, m.name, m.signal, m.sharpening), []).append(m)
    return found


def _deciding(cause: str, v: Verdict, of: _ByPlace) -> tuple[float, float, float, int] | None:
    """Value, limits and prompts of the figure that decides a cause: the largest of several."""
    signal = {"adapter-inert": "residual", "completions-short": None}.get(cause, v.signal)
    found = [
        m
        for name in FIGURES[cause]
        for power in (None, v.sharpening)
        for m in of.get((v.view, name, signal, power), [])
        if m.value is not None
    ]
    if not found:
        return None
    worst = max(found, key=lambda m: m.value or 0.0)
    assert worst.value is not None
    low, high = (np.nan if limit is None else limit for limit in (worst.low, worst.high))
    return worst.value, low, high, worst.n_clusters


def _rows_of(clusters: pd.Series) -> dict[str, np.ndarray]:
    """Prompt -> places of its rows."""
    order = np.argsort(clusters.to_numpy(str), kind="stable")
    names, first = np.unique(clusters.to_numpy(str)[order], return_index=True)
    return dict(zip(names, np.split(order, first[1:]), strict=True))
