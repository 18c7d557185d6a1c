"""The figures of a report: every diagnostic of every credit, summarised over prompts."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from arca_diag.diagnostics import DIAGNOSTICS
from arca_diag.diagnostics.agreement import AGREEMENTS, MIN_TOKENS, rank_tokens
from arca_diag.diagnostics.uncertainty import cluster_mean
from arca_diag.results import Measurement, View
from arca_diag.shapes import padded
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import chunks_with_span, completion_starts
from arca_diag.verdict import NO_SIGNAL

#: Every figure of every pair: (signal, against, figure).
_PAIRED = tuple(
    (signal, against, figure)
    for signal, against in itertools.combinations(SIGNAL_NAMES, 2)
    for figure in AGREEMENTS
)


def measure(
    tokens: pd.DataFrame,
    trajectories: pd.DataFrame,
    rollouts: pd.DataFrame,
    steps: Mapping[str, int | None],
    sharpening: float,
) -> list[Measurement]:
    """Every figure of every checkpoint, view, signal and sharpening, with what it is of.

    A pair of signals has the figures of `AGREEMENTS`: `signal` is the one that `SIGNAL_NAMES`
    has first, `against` the other.

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
    agreements = _agreements(tokens)
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
            keys = pd.MultiIndex.from_frame(one[["checkpoint", "rollout_id"]])
            for signal in SIGNAL_NAMES:
                values = means[signal].reindex(keys).to_numpy(float)
                out.append(_one(label, view, signal, None, "mean", values, one))
                for power in sorted({1.0, float(sharpening)}):
                    part = inside[(inside["signal"] == signal) & (inside["sharpening"] == power)]
                    for diagnostic in DIAGNOSTICS:
                        values = part[diagnostic.name].to_numpy(float)
                        out.append(_one(label, view, signal, power, diagnostic.name, values, part))
            at_keys = agreements.reindex(keys)
            for signal, against, figure in _PAIRED:
                values = at_keys[signal, against, figure].to_numpy(float)
                out.append(_one(label, view, signal, None, figure, values, one, against))
    return out


def _agreements(tokens: pd.DataFrame) -> pd.DataFrame:
    """What every two signals have in common, a row a checkpoint and completion.

    Returns:
        A column for each of `_PAIRED`; NaN where undefined.
    """
    starts = completion_starts(tokens)
    lengths = np.diff(np.append(starts, len(tokens)))
    counted = tokens["counted"].to_numpy(bool)
    found = {key: np.full(len(starts), np.nan) for key in _PAIRED}
    for rows, part, span in chunks_with_span(lengths):
        mask = padded(counted[rows], part, False)
        ranked = {
            name: rank_tokens(padded(tokens[name].to_numpy(float)[rows], part, np.nan), mask)
            for name in SIGNAL_NAMES
        }
        for (signal, against, figure), values in found.items():
            values[span] = AGREEMENTS[figure](ranked[signal], ranked[against])
    head = tokens.iloc[starts][["checkpoint", "rollout_id"]]
    return pd.DataFrame(found, index=pd.MultiIndex.from_frame(head))


def _one(
    checkpoint: int | str,
    view: View,
    signal: str | None,
    sharpening: float | None,
    name: str,
    values: np.ndarray,
    rows: pd.DataFrame,
    against: str | None = None,
) -> Measurement:
    defined = ~np.isnan(values)
    found = cluster_mean(values, rows["cluster"].to_numpy(object))
    used = rows[defined]
    why = _reason(view, rows) if against is None else _pair_reason(view, rows, name)
    return Measurement(
        checkpoint=checkpoint,
        view=view,
        signal=signal,
        sharpening=sharpening,
        against=against,
        name=name,
        value=_known(found.value),
        low=_known(found.low),
        high=_known(found.high),
        n_clusters=found.n_clusters,
        n_groups=used["group_id"].nunique(),
        n_completions=len(used),
        n_tokens=int(used["n_tokens"].sum()),
        reason=None if found.n_clusters else why,
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


def _pair_reason(view: View, rows: pd.DataFrame, name: str) -> str:
    if rows.empty:
        return _reason(view, rows)
    if (rows["n_tokens"] < MIN_TOKENS).all():
        return f"every completion counts fewer than {MIN_TOKENS} tokens"
    still = "the same at every token"
    if name == "rank_agreement_partial":
        still += ", or in the order of the tokens,"
    return f"one of the two is {still} in every completion of {MIN_TOKENS} tokens or more"


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
