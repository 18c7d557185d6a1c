"""Whether credit knows the reward, and how many groups have one to know."""

import math

import numpy as np
import pandas as pd

from arca_diag.diagnostics.multiplicity import holm
from arca_diag.diagnostics.rewards import advantage_sides, reward_gap
from arca_diag.diagnostics.uncertainty import Estimate, cluster_share_exact
from arca_diag.measurements.evidence import Evidence, Place
from arca_diag.measurements.figures import measurement, why_undefined
from arca_diag.measurements.groups import generator, with_rollouts
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES


def measure_rewards(evidence: Evidence, column: str = "gini_inner") -> list[Measurement]:
    """Of every signal `reward_gap`, `reward_gap_p` and `reward_gap_p_holm`; of groups their spread.

    `reward_gap` is how much more concentrated the credit of good completions is than that of bad
    ones of the same group at like length (see `diagnostics.rewards.reward_gap`), at the
    configured sharpening. Good is a reward above the group's mean; where rewards are unknown, an
    advantage above 0. A completion that occurs k times in a group counts once.

    A gap is no proof of insight: a rare completion is a surprising one, so where most of a group
    are good the bad ones differ in surprisal for being few.

    `reward_gap_p` is its p-value. `reward_gap_p_holm` holds the seven signals of one checkpoint in
    one view together as a family; other checkpoints and the other view are families of their own.

    `groups_without_spread`, `groups_all_best` and `groups_all_worst` are shares of the groups of
    two completions or more whose rewards are known: those whose completions all have one reward,
    and those in which it is the highest, or the lowest, of all rollouts in the report.

    Args:
        evidence: The tables of a result.
        column: What of a trajectory is compared: G^ without the first and the closing token.
    """
    return [
        found
        for place in evidence.places()
        for found in (*_gaps(evidence, place, column), *_spread(evidence, place))
    ]


def _gaps(evidence: Evidence, place: Place, column: str) -> list[Measurement]:
    power = float(evidence.sharpening)
    rows = with_rollouts(place, evidence, ["reward", "advantage", "completion"])
    for signal in SIGNAL_NAMES:
        rows[signal] = place.of(signal, power)[column].to_numpy(float)
    distinct = _distinct(rows)
    groups, clusters = (pd.factorize(distinct[name])[0] for name in ("group_id", "cluster"))
    sides = advantage_sides(distinct["advantage"].to_numpy(float), groups)
    lengths = distinct["n_tokens"].to_numpy(np.int64)
    gaps = {
        signal: reward_gap(
            distinct[signal].to_numpy(float),
            sides,
            lengths,
            groups,
            clusters,
            rng=generator(evidence, place),
        )
        for signal in SIGNAL_NAMES
    }
    adjusted = holm(np.array([gap.p for gap in gaps.values()]))
    out = []
    for (signal, gap), p_holm in zip(gaps.items(), adjusted, strict=True):
        reason = _why_no_gap(place, distinct, sides, signal)
        for name, value, low, high in (
            ("reward_gap", gap.value, gap.low, gap.high),
            ("reward_gap_p", gap.p, math.nan, math.nan),
            ("reward_gap_p_holm", float(p_holm), math.nan, math.nan),
        ):
            found = Estimate(value=value, low=low, high=high, n_clusters=gap.n_clusters)
            used = distinct[gap.used]
            out.append(
                measurement(
                    place, name, found, used, reason=reason, signal=signal, sharpening=power
                )
            )
    return out


def _distinct(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a group and distinct completion; `advantage` is reward less the group's mean."""
    rewards = rows.groupby("group_id", sort=False)["reward"]
    known = rewards.transform("count") == rewards.transform("size")
    less_mean = rows["reward"] - rewards.transform("mean")
    rows = rows.assign(advantage=less_mean.where(known, rows["advantage"]).astype(float))
    same = rows.groupby(["group_id", "completion"], sort=False)
    means = same[["advantage", *SIGNAL_NAMES]].mean()
    return same[["cluster", "n_tokens", "class"]].first().join(means).reset_index()


def _why_no_gap(place: Place, distinct: pd.DataFrame, sides: np.ndarray, signal: str) -> str:
    if distinct.empty:
        return why_undefined(place.view, distinct)
    if distinct["advantage"].isna().all():
        return "neither rewards nor advantages are known"
    spread = distinct.assign(side=sides).groupby("group_id")["side"].agg(["min", "max"])
    if not ((spread["min"] < 0) & (spread["max"] > 0)).any():
        return "no group has spread in reward"
    if distinct[signal].isna().all():
        return "credit is undefined in every completion: too few tokens, or no score above zero"
    return "no common length: no good and bad completion of a group are of like length"


def _spread(evidence: Evidence, place: Place) -> list[Measurement]:
    """Shares of groups that give no advantage, and whether that is for success or failure."""
    rows = with_rollouts(place, evidence, ["reward"])
    each = rows.groupby("group_id", sort=False).agg(
        cluster=("cluster", "first"),
        size=("reward", "size"),
        known=("reward", "count"),
        lowest=("reward", "min"),
        highest=("reward", "max"),
    )
    each = each[(each["size"] >= 2) & (each["known"] == each["size"])]
    used = rows[rows["group_id"].isin(each.index)]
    best, worst = (evidence.rollouts["reward"].agg(end) for end in ("max", "min"))
    reason = "no group of two completions or more has known rewards"
    out = []
    for name, inside in (
        ("groups_without_spread", each["lowest"] == each["highest"]),
        ("groups_all_best", each["lowest"] == best),
        ("groups_all_worst", each["highest"] == worst),
    ):
        found = cluster_share_exact(inside.to_numpy(bool), pd.factorize(each["cluster"])[0])
        out.append(
            measurement(
                place,
                name,
                found,
                used,
                reason=why_undefined(place.view, rows) if rows.empty else reason,
            )
        )
    return out
