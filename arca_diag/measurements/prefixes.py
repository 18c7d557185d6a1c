"""Whether signals are large where the rewards of a group say that a token mattered."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from arca_diag.diagnostics.prefixes import (
    MIN_BRANCHES,
    MIN_SIDE,
    branching_tokens,
    order_agreement,
    order_agreement_interval,
    value_changes,
)
from arca_diag.diagnostics.uncertainty import Estimate, cluster_mean
from arca_diag.measurements.evidence import Evidence, Place
from arca_diag.measurements.figures import measurement, why_undefined
from arca_diag.measurements.groups import generator, with_rollouts
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import completion_starts

#: Times that a group's rewards are shuffled for the null.
_SHUFFLES = 200


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """Columns of the tokens table; `scores` has a column a signal."""

    ids: Shaped[np.ndarray, " token"]
    counted: Bool[np.ndarray, " token"]
    scores: Float[np.ndarray, "token signal"]


@dataclass(frozen=True, kw_only=True)
class _Group:
    """The branching tokens of a group.

    Attributes:
        rows: Its completions.
        signals: Raw scores, means over the completions that take the token.
        changes: Of value, by the rewards as they are and then by shuffled ones.
    """

    rows: pd.DataFrame
    signals: Float[np.ndarray, "branch signal"]
    changes: Float[np.ndarray, "branch draw"]


def measure_prefixes(evidence: Evidence) -> list[Measurement]:
    """`prefix_nodes` of every place, and of every signal `prefix_agreement` and its null.

    `prefix_nodes` is the mean number of branching tokens of a group (see
    `diagnostics.prefixes.branching_tokens`).

    `prefix_agreement` is Spearman's rank correlation between a signal's raw score at a branching
    token and the change of value |V(prefix + token) - V(prefix)| that its group's rewards show
    there, over the branching tokens of all groups with spread in reward; not a mean over prompts,
    and its interval over prompts is the jackknife's. Raw scores: neither epsilon nor sharpening
    moves it.

    `prefix_agreement_null` is the mean of the same over shuffles of the rewards within each group,
    the tree kept. Its `low` and `high` are no confidence interval: 95% of the shuffles lie there.

    Evidence, not a verdict: values of a prefix are means of a few completions, completions part
    where the policy is unsure and mostly early, and shuffling does not keep together the rewards
    of completions that are the same. Entropy, `kl_exact` and both residuals belong to the prefix:
    they are one number for all tokens that follow it, so they can only tell prefixes apart.
    """
    tokens = evidence.tokens
    starts = completion_starts(tokens)
    of = pd.MultiIndex.from_frame(tokens.iloc[starts][["checkpoint", "rollout_id"]])
    spans = pd.DataFrame({"start": starts, "end": [*starts[1:], len(tokens)]}, index=of)
    arrays = _Tokens(
        ids=tokens["token_id"].to_numpy(),
        counted=tokens["counted"].to_numpy(bool),
        scores=tokens[list(SIGNAL_NAMES)].to_numpy(float),
    )
    redacted = bool(tokens["token_id"].isna().all())
    out = []
    for place in evidence.places():
        rows = with_rollouts(place, evidence, ["reward"])
        rows = rows.join(spans, on=["checkpoint", "rollout_id"])
        rng = generator(evidence, place)
        groups = [
            _measured(members, arrays, rng)
            for _, members in rows.groupby("group_id", sort=False)
            if not redacted
        ]
        out += _measurements(place, groups, redacted)
    return out


def _measured(rows: pd.DataFrame, tokens: _Tokens, rng: np.random.Generator) -> _Group:
    """One group's branching tokens, with what signals and rewards say of them."""
    spans = [slice(start, end) for start, end in zip(rows["start"], rows["end"], strict=True)]
    branches = branching_tokens(
        [tokens.ids[span].astype(np.int64) for span in spans], [tokens.counted[s] for s in spans]
    )
    firsts = rows["start"].to_numpy()
    signals = [
        tokens.scores[firsts[takers] + position].mean(axis=0)
        for position, takers in zip(branches.positions, branches.takers, strict=True)
    ]
    rewards = rows["reward"].to_numpy(float)
    shuffled = rng.permuted(np.tile(rewards, (_SHUFFLES, 1)), axis=1)
    return _Group(
        rows=rows,
        signals=np.reshape(signals, (-1, len(SIGNAL_NAMES))),
        changes=value_changes(branches, np.vstack([rewards, shuffled]).T),
    )


def _measurements(place: Place, groups: list[_Group], redacted: bool) -> list[Measurement]:
    reason = "token ids are redacted" if redacted else _why_undefined(place, groups)
    n_branches = np.array([len(group.signals) for group in groups], dtype=float)
    nodes = cluster_mean(n_branches, _clusters(groups))
    out = [measurement(place, "prefix_nodes", nodes, _rows(place, groups), reason=reason)]

    telling = [group for group in groups if len(group.signals) and _has_spread(group)]
    signals = np.concatenate([np.empty((0, len(SIGNAL_NAMES))), *(g.signals for g in telling)])
    changes = np.concatenate([np.empty((0, 1 + _SHUFFLES)), *(g.changes for g in telling)])
    clusters = np.repeat(_clusters(telling), [len(group.signals) for group in telling])
    observed = order_agreement_interval(signals, changes[:, 0], clusters)
    shuffled = order_agreement(signals, changes[:, 1:])
    for signal, found, draws in zip(SIGNAL_NAMES, observed, shuffled, strict=True):
        used = _rows(place, telling if found.n_clusters else [])
        for name, estimate in (
            ("prefix_agreement", found),
            ("prefix_agreement_null", _null(found, draws)),
        ):
            out.append(measurement(place, name, estimate, used, reason=reason, signal=signal))
    return out


def _null(observed: Estimate, draws: Float[np.ndarray, " draw"]) -> Estimate:
    """Mean of the shuffles, and the limits of 95% of them."""
    if not observed.n_clusters:
        return observed
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return replace(observed, value=float(np.nanmean(draws)), low=float(low), high=float(high))


def _clusters(groups: list[_Group]) -> Int[np.ndarray, " group"]:
    """Number of each group's prompt."""
    names = np.array([group.rows["cluster"].iloc[0] for group in groups], dtype=object)
    return pd.factorize(names)[0]


def _rows(place: Place, groups: list[_Group]) -> pd.DataFrame:
    """The completions of some groups."""
    names = [group.rows["group_id"].iloc[0] for group in groups]
    return place.completions[place.completions["group_id"].isin(names)]


def _has_spread(group: _Group) -> bool:
    rewards = group.rows["reward"]
    return bool(rewards.notna().all() and rewards.nunique() > 1)


def _why_undefined(place: Place, groups: list[_Group]) -> str:
    """Why the agreement of a signal is undefined."""
    if not groups:
        return why_undefined(place.view, place.completions)
    if not any(group.rows["reward"].notna().all() for group in groups):
        return "rewards are unknown"
    if not any(_has_spread(group) for group in groups):
        return "no group has spread in reward"
    found = sum(len(group.signals) for group in groups if _has_spread(group))
    if found < MIN_BRANCHES:
        return (
            f"{found} branching tokens with {MIN_SIDE} completions or more on each side, and "
            f"an order takes {MIN_BRANCHES}"
        )
    return "the signal or the change of value is the same at every branching token"
