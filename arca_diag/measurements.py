"""The figures of a report: every diagnostic of every credit, summarised over prompts."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from arca_diag.diagnostics import DIAGNOSTICS
from arca_diag.diagnostics.uncertainty import cluster_mean
from arca_diag.results import Measurement, View
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.verdict import NO_SIGNAL


def measure(
    tokens: pd.DataFrame,
    trajectories: pd.DataFrame,
    rollouts: pd.DataFrame,
    steps: Mapping[str, int | None],
    sharpening: float,
) -> list[Measurement]:
    """Every figure of every checkpoint, view, signal and sharpening, with what it is of.

    Args:
        tokens: As from `judge`.
        trajectories: As from `judge`.
        rollouts: As from `rollout_table`.
        steps: Name -> step of every measured checkpoint; one without completions in a view has
            its figures too, null with the reason.
        sharpening: The configured power; figures are given at 1 too.
    """
    clusters = rollouts.set_index("rollout_id")["cluster"]
    rows = trajectories.assign(cluster=trajectories["rollout_id"].map(clusters))
    counted = tokens[tokens["counted"]]
    means = counted.groupby(["checkpoint", "rollout_id"], sort=False)[list(SIGNAL_NAMES)].mean()
    out = []
    for name, step in steps.items():
        at = rows[rows["checkpoint"] == name]
        label: int | str = name if step is None else step
        views: tuple[tuple[View, str], ...] = (
            ("on-policy", "own_set"),
            ("fixed-set", "fixed_set"),
        )
        for view, member in views:
            inside = at[at[member]]
            one = inside[(inside["signal"] == SIGNAL_NAMES[0]) & (inside["sharpening"] == 1.0)]
            out += _distances(label, view, one, step)
            for signal in SIGNAL_NAMES:
                pairs = pd.MultiIndex.from_frame(one[["checkpoint", "rollout_id"]])
                values = means[signal].reindex(pairs).to_numpy(float)
                out.append(_one(label, view, signal, None, "mean", values, one))
                for power in sorted({1.0, float(sharpening)}):
                    part = inside[(inside["signal"] == signal) & (inside["sharpening"] == power)]
                    for diagnostic in DIAGNOSTICS:
                        values = part[diagnostic.name].to_numpy(float)
                        out.append(_one(label, view, signal, power, diagnostic.name, values, part))
    return out


def _one(
    checkpoint: int | str,
    view: View,
    signal: str | None,
    sharpening: float | None,
    name: str,
    values: np.ndarray,
    rows: pd.DataFrame,
) -> Measurement:
    defined = ~np.isnan(values)
    found = cluster_mean(values, rows["cluster"].to_numpy(object))
    used = rows[defined]
    return Measurement(
        checkpoint=checkpoint,
        view=view,
        signal=signal,
        sharpening=sharpening,
        against=None,
        name=name,
        value=_known(found.value),
        low=_known(found.low),
        high=_known(found.high),
        n_clusters=found.n_clusters,
        n_groups=used["group_id"].nunique(),
        n_completions=len(used),
        n_tokens=int(used["n_tokens"].sum()),
        reason=None if found.n_clusters else _reason(view, rows),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _reason(view: View, rows: pd.DataFrame) -> str:
    if rows.empty:
        where = "its window of steps" if view == "on-policy" else "the fixed set"
        return f"no completion in {where}"
    if (rows["class"] == NO_SIGNAL).any():
        return "every raw score is exactly zero"
    return "every completion counts fewer than two tokens"


def _distances(
    checkpoint: int | str, view: View, rows: pd.DataFrame, step: int | None
) -> list[Measurement]:
    """How many steps lie between a checkpoint and the policies that sampled its rollouts."""
    known = rows[rows["rollout_step"].notna()]
    apart = None
    if step is not None and len(known):
        apart = (known["rollout_step"].astype("int64") - step).abs()
    out = []
    for name, value in (
        ("step_distance_median", None if apart is None else float(apart.median())),
        ("step_distance_max", None if apart is None else float(apart.max())),
    ):
        used = known if apart is not None else rows.iloc[:0]
        out.append(
            Measurement(
                checkpoint=checkpoint,
                view=view,
                signal=None,
                sharpening=None,
                against=None,
                name=name,
                value=value,
                low=None,
                high=None,
                n_clusters=used["cluster"].nunique(),
                n_groups=used["group_id"].nunique(),
                n_completions=len(used),
                n_tokens=int(used["n_tokens"].sum()),
                reason=None
                if value is not None
                else (
                    _reason(view, rows)
                    if rows.empty
                    else "the step of the checkpoint or of the rollouts is unknown"
                ),
            )
        )
    return out
