"""Where completions of one group part, and whether a signal is large where their rewards do too.

Completions of a group that begin with the same tokens form a tree. Where they part, rewards tell
what the choice of a token was worth, without any model: an estimate of the value of a prefix from
the few completions that have it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from arca_diag.diagnostics.uncertainty import Estimate, cluster_mean

#: Completions that a value is the mean of, on either side of a branching token.
MIN_SIDE = 2
#: Branching tokens below which an order says too little.
MIN_BRANCHES = 8

#: Decimals of a value change over the largest: equal ones must tie, whatever rounding does.
_DECIMALS = 9
#: Of the largest reward: a value that changes by less does not change.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Branches:
    """The branching tokens of a group, each once: a prefix and one of the tokens that follow it.

    Attributes:
        positions: Place of the token in the completions that take it, from 0.
        sharers: True for each completion that begins with the prefix.
        takers: True for those of them that go on with the token.
    """

    positions: Int[np.ndarray, " branch"]
    sharers: Bool[np.ndarray, "branch completion"]
    takers: Bool[np.ndarray, "branch completion"]


def branching_tokens(
    ids: Sequence[Int[np.ndarray, " _"]], counted: Sequence[Bool[np.ndarray, " _"]]
) -> Branches:
    """Every token where a group's completions part, with two or more of them on each side.

    One side takes the token, the other has the same prefix and takes another. A completion that
    ends with the prefix takes none and is on neither side. Only tokens that count for all who
    take them are given; others may stand in a prefix. Completions that are the same all the way
    are members each, and part nowhere.

    Args:
        ids: Token ids of each completion.
        counted: True where a token counts, of the same lengths.

    Returns:
        From the root of the tree on, in the order of the completions.
    """
    found: list[tuple[int, list[int], list[int]]] = []
    open_prefixes = [(0, list(range(len(ids))))]
    while open_prefixes:
        depth, sharers = open_prefixes.pop()
        following: dict[int, list[int]] = {}
        for member in sharers:
            if depth < len(ids[member]):
                following.setdefault(int(ids[member][depth]), []).append(member)
        going_on = sum(len(takers) for takers in following.values())
        for takers in following.values():
            both_sides = min(len(takers), going_on - len(takers)) >= MIN_SIDE
            if both_sides and all(counted[member][depth] for member in takers):
                found.append((depth, sharers, takers))
            if len(takers) >= 2 * MIN_SIDE:  # fewer cannot part into two sides
                open_prefixes.append((depth + 1, takers))
    found.sort(key=lambda branch: (branch[0], branch[2]))
    everyone = np.arange(len(ids))
    shape = (len(found), len(ids))
    return Branches(
        positions=np.array([depth for depth, _, _ in found], dtype=np.int64),
        sharers=np.array([np.isin(everyone, s) for _, s, _ in found], dtype=bool).reshape(shape),
        takers=np.array([np.isin(everyone, t) for _, _, t in found], dtype=bool).reshape(shape),
    )


def value_changes(
    branches: Branches, rewards: Float[np.ndarray, "completion draw"]
) -> Float[np.ndarray, "branch draw"]:
    r"""How far each branching token moves the mean reward of the completions that begin so.

        |V(prefix + token) - V(prefix)|,   V(z) = mean reward of the completions that begin with z.

    An estimate from a handful of completions. By chance alone it is larger where fewer take the
    token, so signals that are larger at unlikely tokens rise with it: compare shuffled rewards.

    Args:
        branches: Of the group.
        rewards: Of its completions, in any unit; a column a draw.
    """
    after, before = (
        side / side.sum(axis=1, keepdims=True) for side in (branches.takers, branches.sharers)
    )
    changes = np.abs((after - before) @ rewards)
    return np.where(changes > _ROUNDING * np.abs(rewards).max(initial=0.0), changes, 0.0)


def order_agreement(
    signals: Float[np.ndarray, "branch signal"], changes: Float[np.ndarray, "branch draw"]
) -> Float[np.ndarray, "signal draw"]:
    """Spearman's rank correlation over branching tokens, of each signal with each draw.

    1 where a signal is larger wherever the value changes more. The tokens are those of many
    groups: one has two or three. They are no independent draws: the two sides of one prefix
    mirror each other, and of these the rarer changes the value more whatever the rewards. And
    prompts differ in how far their rewards lie apart. All of that is in shuffled rewards too, so
    0 is not where chance lies, but where the same figure lies with rewards shuffled within groups.

    Args:
        signals: In any unit, one column a signal.
        changes: As from `value_changes`.

    Returns:
        A correlation in [-1, 1]. NaN below `MIN_BRANCHES` branching tokens, and where a side is
        the same at all of them.
    """
    if len(signals) < MIN_BRANCHES:
        return np.full((signals.shape[1], changes.shape[1]), np.nan)
    largest = changes.max(axis=0)
    exact = np.round(changes / np.where(largest > 0, largest, 1.0), _DECIMALS)
    one, other = (_standardised(stats.rankdata(side, axis=0)) for side in (signals, exact))
    return np.clip(one.T @ other, -1.0, 1.0)


def order_agreement_interval(
    signals: Float[np.ndarray, "branch signal"],
    changes: Float[np.ndarray, " branch"],
    clusters: Int[np.ndarray, " branch"],
) -> list[Estimate]:
    r"""`order_agreement` of each signal with its 95% interval over prompts.

    A correlation over all prompts is no mean over them, so its error is the jackknife's. With the
    n pseudo-values n r - (n - 1) r_{-c}, where r_{-c} is the correlation without prompt c, and
    their standard deviation s,

        r +- t_{n-1, .975} s / \sqrt{n},   clipped to [-1, 1].

    Simulated with two tokens a prompt, it holds the truth in .93 at 8 and 12 prompts and in .94 at
    16 and 32.

    Args:
        signals: In any unit, one column a signal.
        changes: The change of value at each token.
        clusters: Number of each token's prompt.

    Returns:
        One a signal. No limits where the figure is undefined without some prompt.

    Source:
        Tukey (1958), Annals of Mathematical Statistics 29:614, on the jackknife.
    """
    prompts = np.unique(clusters)
    n = len(prompts)
    whole = order_agreement(signals, changes[:, None])[:, 0]
    without = [clusters != prompt for prompt in prompts]
    left = [order_agreement(signals[kept], changes[kept, None])[:, 0] for kept in without]
    pseudo = n * whole - (n - 1) * np.reshape(left, (n, len(whole)))
    out = []
    for value, of_signal in zip(whole, pseudo.T, strict=True):
        spread = cluster_mean(of_signal, prompts)
        half = (spread.high - spread.low) / 2 if spread.n_clusters == n else math.nan
        low, high = np.clip([value - half, value + half], -1.0, 1.0)
        defined = 0 if math.isnan(value) else n
        found = Estimate(value=float(value), low=float(low), high=float(high), n_clusters=defined)
        out.append(found)
    return out


def _standardised(ranks: Float[np.ndarray, "branch column"]) -> Float[np.ndarray, "branch column"]:
    """Each column less its mean and of length 1; NaN where it is constant."""
    centred = ranks - (len(ranks) + 1) / 2
    length = np.sqrt((centred**2).sum(axis=0))
    return centred / np.where(length > 0, length, np.nan)
