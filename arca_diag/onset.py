"""When credit went to one side and stayed there: onset of a collapse, on the fixed set.

The fixed set is the same completions under every checkpoint, so that its classes change with the
policy alone. What the checkpoints say one by one is the share of completions on a side with its
interval; an onset is read off their order and lies between two checkpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from arca_diag.diagnostics.uncertainty import Estimate, cluster_share
from arca_diag.results import Onset
from arca_diag.thresholds import DEFAULT, Cuts
from arca_diag.verdict import NO_SIGNAL, REGIMES, SHORT

Side = Literal["sparse", "uniform", "no-signal"]
#: Side -> the classes on it.
SIDES: dict[Side, tuple[str, ...]] = {
    "sparse": REGIMES["leaning-sparse"],
    "uniform": REGIMES["leaning-uniform"],
    "no-signal": REGIMES[NO_SIGNAL],
}

#: Where the share of a checkpoint lies.
_Place = Literal["above", "below", "undecided"]


@dataclass(frozen=True, kw_only=True)
class _Point:
    """A checkpoint on the way: how much is on the side, and whether that is surely most."""

    step: int
    share: Estimate
    place: _Place


def find_onsets(
    trajectories: pd.DataFrame,
    rollouts: pd.DataFrame,
    steps: Mapping[str, int | None],
    sharpening: float,
    cuts: Cuts = DEFAULT,
) -> list[Onset]:
    """The onset of every signal and side that the last checkpoint is on, or seems to be on.

    With the share s_k of the classed completions on a side at checkpoint k: `by` is the first step
    from which on, up to the last, the lower limit of s_k is above the cut `share-majority`, and
    `after` the last before it at which the upper limit is below. Under `clusters-least` prompts a
    checkpoint decides nothing, exact zeros in all completions or in none excepted.

    Checkpoints without a step have no place in the order and are left out; from a single one there
    is no onset to see.

    Args:
        trajectories: A row a completion, checkpoint, signal and sharpening.
        rollouts: For each completion its cluster (prompt).
        steps: Checkpoint name -> its step.
        sharpening: The configured power.
        cuts: Those in force.

    Returns:
        In the order of the signals in the table and of `SIDES`. Where the last checkpoint's share
        is past the cut and its interval is not, an onset with no `by` says what is missing.
    """
    dated = sorted((step, name) for name, step in steps.items() if step is not None)
    if len(dated) < 2:
        return []
    rows = trajectories[trajectories["fixed_set"] & (trajectories["sharpening"] == sharpening)]
    rows = rows[rows["class"].notna() & (rows["class"] != SHORT)]
    rows = rows.assign(cluster=rows["rollout_id"].map(rollouts.set_index("rollout_id")["cluster"]))
    found = []
    for signal, of_signal in rows.groupby("signal", sort=False):
        parts = [(step, of_signal[of_signal["checkpoint"] == name]) for step, name in dated]
        for side in SIDES:
            way = [_point(step, part, side, cuts) for step, part in parts if len(part)]
            found.append(_onset(str(signal), sharpening, side, way, cuts))
    return [onset for onset in found if onset is not None]


def _point(step: int, part: pd.DataFrame, side: Side, cuts: Cuts) -> _Point:
    inside = part["class"].isin(SIDES[side]).to_numpy(bool)
    share = cluster_share(inside, part["cluster"].to_numpy(object))
    exact = side == NO_SIGNAL and (inside.all() or not inside.any())
    low, high = (share.value, share.value) if exact else (share.low, share.high)
    place: _Place = "undecided"
    if exact or cuts.passed("clusters-least", share.n_clusters):
        half = cuts["share-majority"]
        place = "above" if low > half else "below" if high < half else "undecided"
    return _Point(step=step, share=share, place=place)


def _onset(
    signal: str, sharpening: float, side: Side, way: Sequence[_Point], cuts: Cuts
) -> Onset | None:
    """None where most completions of the last checkpoint are elsewhere."""
    if len(way) < 2 or way[-1].share.value <= cuts["share-majority"]:
        return None

    settled = len(way)
    while settled and way[settled - 1].place == "above":
        settled -= 1
    before = [point.step for point in way if point.place == "below"]
    if settled == len(way):
        by, reason = None, _undecided(way[-1], cuts)
    elif settled == 0:
        by, reason = way[0].step, "already so at the first checkpoint that was measured"
    elif not before:
        by, reason = way[settled].step, "no checkpoint before it is surely off this side"
    else:
        by, reason = way[settled].step, None
    return Onset(
        view="fixed-set",
        signal=signal,
        sharpening=sharpening,
        side=side,
        after=before[-1] if before else None,
        by=by,
        n_clusters=way[-1].share.n_clusters,
        reason=reason,
    )


def _undecided(last: _Point, cuts: Cuts) -> str:
    """Why the last checkpoint, most of whose completions are on the side, decides nothing."""
    share, least = last.share, cuts["clusters-least"]
    seen = f"at step {last.step} {share.value:.0%} of the completions are on this side"
    if not cuts.passed("clusters-least", share.n_clusters):
        return f"{seen}, of {share.n_clusters} prompts: none is judged below {least:g}"
    return (
        f"{seen}, and the interval over {share.n_clusters} prompts ({share.low:.0%} to "
        f"{share.high:.0%}) has {cuts['share-majority']:.0%} in it: more prompts would settle it"
    )
