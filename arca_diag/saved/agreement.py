"""Whether a report says what its tables say: checkpoints, counts, and figures of each signal."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from arca_diag.results import Measurement, Report, View
from arca_diag.saved.refusal import refused
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import Tables, completion_starts

_MEMBERS: Mapping[View, str] = {"on-policy": "own_set", "fixed-set": "fixed_set"}
#: A sum of float64 in another order.
_CLOSE = 1e-6

_Of = tuple[int | str, View, str]


def check_agreement(folder: Path, report: Report, frames: Tables) -> None:
    """Check that the tables are those that the report's figures are of.

    Two figures stand for all: G^, of trajectories.parquet, and the mean, of tokens.parquet.

    Raises:
        ResultError: They have other checkpoints, completions, counts or figures.
    """
    _check_checkpoints(folder, report, frames)
    _check_counts(folder, report, frames)
    sharpening = _power(report)
    rows = frames.trajectories
    if len(rows) and set(rows["sharpening"].unique()) != {1.0, sharpening}:
        raise refused(
            folder / "trajectories.parquet",
            f"it is not of sharpening 1 and {sharpening!r:.40}, as the report is",
        )
    rows = rows[rows["sharpening"] == sharpening].assign(mean=_means(frames))
    clusters = frames.rollouts.set_index("rollout_id")["cluster"]
    rows["cluster"] = rows["rollout_id"].map(clusters)
    for name, file, power in (
        ("gini_corrected", "trajectories.parquet", sharpening),
        ("mean", "tokens.parquet", None),
    ):
        told = {
            (m.checkpoint, m.view, m.signal): m
            for m in report.measurements
            if m.name == name and m.against is None and m.sharpening == power and m.signal
        }
        _check_figure(folder / file, name, rows, told)


def _power(report: Report) -> float | None:
    """The configured power, where the report says it."""
    said = report.provenance.options.get("sharpening")
    return float(said) if isinstance(said, int | float) else None


def _check_checkpoints(folder: Path, report: Report, frames: Tables) -> None:
    """Those of each table are measured ones of the report, of the same step, in its order."""
    steps = {c.name: c.step for c in report.run.checkpoints if c.measured}
    order = {name: place for place, name in enumerate(steps)}
    for name in ("tokens", "trajectories", "noise", "gradients", "layers"):
        frame, file = getattr(frames, name), folder / f"{name}.parquet"
        strange = [c for c in frame["checkpoint"].unique() if c not in steps]
        if strange:
            raise refused(
                file, f"checkpoint {strange[0]!r:.80} is none that the report has measured"
            )
        if "checkpoint_step" not in frame:
            continue
        for checkpoint, step in frame[["checkpoint", "checkpoint_step"]].drop_duplicates().values:
            if (None if pd.isna(step) else int(step)) != steps[checkpoint]:
                raise refused(file, f"{checkpoint!r:.80} is of another step than in the report")
    places = frames.tokens["checkpoint"].map(order).to_numpy(float)
    if (np.diff(places) < 0).any():
        raise refused(folder / "tokens.parquet", "checkpoints are not in the report's order")


def _check_counts(folder: Path, report: Report, frames: Tables) -> None:
    tokens, rollouts, told = frames.tokens, frames.rollouts, report.rollouts
    counted = tokens.groupby(["checkpoint", "rollout_id"], sort=False)["counted"].sum()
    once = counted[~counted.index.get_level_values("rollout_id").duplicated()]
    fixed = frames.trajectories.loc[frames.trajectories["fixed_set"].astype(bool), "group_id"]
    for what, said, found in (
        ("completions", told.selected, len(rollouts)),
        ("groups", told.groups, rollouts["group_id"].nunique()),
        ("prompts", told.clusters, rollouts["cluster"].nunique()),
        ("counted tokens", told.tokens, int(once.sum())),
    ):
        if said != found:
            raise refused(
                folder / "rollouts.parquet",
                f"the report is of {said:,} {what}, the tables of {found:,}",
            )
    if set(fixed.unique()) != set(told.fixed_set):
        raise refused(
            folder / "trajectories.parquet", "the fixed set is of other groups than the report says"
        )


def _means(frames: Tables) -> np.ndarray:
    """Every signal's mean over a completion's counted tokens; NaN where none counts."""
    tokens = frames.tokens
    starts = completion_starts(tokens)
    if not len(starts):
        return np.empty(0)
    counted = tokens["counted"].to_numpy(bool)
    n = np.add.reduceat(counted.astype(float), starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        of = {
            s: np.add.reduceat(np.where(counted, tokens[s].to_numpy(float), 0.0), starts) / n
            for s in SIGNAL_NAMES
        }
    signals = frames.trajectories["signal"].unique()
    return np.concatenate([of[signal] for signal in signals])


def _check_figure(
    file: Path, name: str, rows: pd.DataFrame, told: Mapping[_Of, Measurement]
) -> None:
    """Check one figure at every checkpoint, view and signal against the rows of completions."""
    left = {of for of, m in told.items() if m.n_completions}
    for view, member in _MEMBERS.items():
        inside = rows[rows[member].astype(bool) & rows[name].notna()]
        for (checkpoint, signal), part in inside.groupby(["checkpoint", "signal"], sort=False):
            step = part["checkpoint_step"].iloc[0]
            of = (str(checkpoint) if pd.isna(step) else int(step), view, str(signal))
            left.discard(of)
            where = f"{name} of {signal} at {of[0]!s:.80}, {view}"
            if of not in told:
                raise refused(file, f"{where}: the report has none")
            said, value = told[of], float(part.groupby("cluster")[name].mean().mean())
            if said.n_completions != len(part) or said.n_tokens != int(part["n_tokens"].sum()):
                raise refused(
                    file,
                    f"{where}: the report is of {said.n_completions:,} completions with "
                    f"{said.n_tokens:,} tokens, the table of {len(part):,} with "
                    f"{int(part['n_tokens'].sum()):,}",
                )
            if said.value is None or not math.isclose(
                said.value, value, rel_tol=_CLOSE, abs_tol=_CLOSE * _CLOSE
            ):
                raise refused(file, f"{where} is {value:.6g}, and not what the report says")
    for checkpoint, view, signal in sorted(left, key=str):
        raise refused(
            file,
            f"{name} of {signal} at {checkpoint!s:.80}, {view}: the report has it, the table not",
        )
