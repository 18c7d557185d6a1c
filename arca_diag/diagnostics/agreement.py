"""Whether two signals credit the same tokens of a completion.

Every function maps two `Ranked` signals over the same counted tokens to one number a completion.
Only the order of raw scores matters, so epsilon and sharpening move nothing. Undefined is NaN:
fewer than `MIN_TOKENS` counted tokens, or a side that is the same at every one of them.

Signals are autocorrelated along a completion, so its tokens are no independent draws and shuffling
them would call strangers related. The null rotates one side against the other instead (a circular
shift over the T counted tokens, in order), which keeps each side's own pattern. Nothing is drawn:
means over all rotations have closed forms, and `rotation_share` goes through every one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import fft, stats

from arca_diag.shapes import check_masked

#: Counted tokens below which an order says too little.
MIN_TOKENS = 8

#: Of 1 - r^2. Below it, ranks follow position up to rounding.
_ROUNDING = 1e-14


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A signal in the form that all figures of its pairs share: ranked once. See `rank_tokens`.

    Arrays are flush left: the counted tokens of each completion in order, then zeros.

    Attributes:
        ranks: Mid-ranks less their mean (T + 1) / 2. Multiples of a half, so that their sums of
            products are exact.
        top: Membership of the top 20%, in [0, 1]; each completion's sum is K = ceil(T / 5).
        mask: True where a token counts, as it was given.
        n_tokens: T.
        varies: True where the completion has `MIN_TOKENS` and two different scores among them.
    """

    ranks: Float[np.ndarray, "completion token"]
    top: Float[np.ndarray, "completion token"]
    mask: Bool[np.ndarray, "completion token"]
    n_tokens: Int[np.ndarray, " completion"]
    varies: Bool[np.ndarray, " completion"]


def rank_tokens(
    signal: Float[np.ndarray, "completion token"],
    mask: Bool[np.ndarray, "completion token"],
) -> Ranked:
    """Rank the counted tokens of each completion, ties sharing their mean rank.

    Of tokens that tie across the edge of the top 20%, each is a member in part: with A scores
    above the tie, a tie of E tokens shares the K - A places left, (K - A) / E each. That is the
    chance to be chosen when ties are broken at random, so the order of tokens never matters.

    Args:
        signal: Raw scores in any unit. Uncounted entries are ignored.
        mask: True where a token counts.

    Raises:
        ValueError: The shapes differ, or a counted score is NaN or infinite.

    >>> rank_tokens(np.array([[5.0, 1.0, 5.0]]), np.ones((1, 3), dtype=bool)).ranks
    array([[ 0.5, -1. ,  0.5]])
    """
    check_masked(signal, mask)
    n = mask.sum(axis=1)
    in_order = np.argsort(~mask, axis=1, kind="stable")
    inside = np.arange(mask.shape[1]) < n[:, None]
    # Infinity ranks behind every score, so padding takes none of the ranks 1 to T.
    scores = np.where(inside, np.take_along_axis(signal, in_order, axis=1), np.inf)
    first = stats.rankdata(scores, method="min", axis=1)
    last = stats.rankdata(scores, method="max", axis=1)

    above = n[:, None] - last
    member = np.clip((_top_size(n)[:, None] - above) / (last - first + 1), 0.0, 1.0)
    ranks = np.where(inside, (first + last - n[:, None] - 1) / 2, 0.0)
    return Ranked(
        ranks=ranks,
        top=np.where(inside, member, 0.0),
        mask=mask,
        n_tokens=n,
        varies=(n >= MIN_TOKENS) & (ranks != 0).any(axis=1),
    )


def rank_agreement(one: Ranked, other: Ranked) -> Float[np.ndarray, " completion"]:
    r"""Spearman's rank correlation with mid-ranks over each completion's tokens.

    With ranks a_t and b_t less their means,

        rho = \sum_t a_t b_t / \sqrt{\sum_t a_t^2 \sum_t b_t^2}.

    1 where both rise together, -1 where one falls as the other rises, about 0 for strangers.
    The sums are exact.

    Returns:
        rho in [-1, 1], float64, dimensionless. NaN for T < 8 and where a side is constant.

    Raises:
        ValueError: The two do not count the same tokens.

    Source:
        Spearman (1904), American Journal of Psychology 15:72-101.
    """
    return np.where(_defined(one, other), _correlation(one.ranks, other.ranks), np.nan)


def rank_agreement_null(one: Ranked, other: Ranked) -> Float[np.ndarray, " completion"]:
    r"""Mean of `rank_agreement` over the T - 1 rotations of one side that move it.

    Over all T rotations every a_t meets every b_u once, and both sum to 0. So without the
    unrotated one the mean is, exactly,

        -rho / (T - 1).

    It says where chance lies (near 0), and nothing of how far a single completion strays from
    there by chance: for that see `rotation_share`.

    Returns:
        A mean in [-1/(T - 1), 1/(T - 1)]. Undefined and errors as `rank_agreement`.
    """
    return -rank_agreement(one, other) / np.maximum(one.n_tokens - 1, 1)


def rotation_share(one: Ranked, other: Ranked) -> Float[np.ndarray, " completion"]:
    """Share of all T rotations of one side whose `rank_agreement` is at least the observed.

    The unrotated one is among them: 1/T where nothing else comes near, 1 where the observed is
    the worst. If the two are unrelated and alike all along the completion, every rotation is as
    likely to be the observed one: the share is at most q with a chance of at most q, however
    autocorrelated they are, and is (T + 1) / (2T) on average (more with ties). A trend that both
    share is a relation here; `rank_agreement_partial` takes it away. A slow drift leaves a jump
    where the end meets the start, and low shares a little likelier: q = 1/16 comes with .07 for
    independent autoregressions of .9 at T = 40, with .09 at T = 16 (by shuffling .27 and .21).

    Exact below some 10,000 tokens: all T sums of rank products come by a Fourier transform and
    are then rounded to the quarters that they are multiples of.

    Returns:
        A share in [1/T, 1], dimensionless. Undefined and errors as `rank_agreement`.
    """
    defined = _defined(one, other)
    width = one.ranks.shape[1]
    if not defined.any():
        return np.full(len(defined), np.nan)
    # Twice the width, so that a lag of k and one of k - T do not meet; a rotation by k is both.
    size = fft.next_fast_len(2 * width, real=True)
    spectrum = fft.rfft(one.ranks, size, axis=1).conj() * fft.rfft(other.ranks, size, axis=1)
    lagged = fft.irfft(spectrum, size, axis=1)
    lag = np.arange(width)[None, :]
    n = one.n_tokens[:, None]
    wrapped = np.take_along_axis(lagged, (lag - n) % size, axis=1)
    quarters = np.rint(4 * (lagged[:, :width] + wrapped))
    as_good = (quarters >= quarters[:, :1]) & (lag < n)
    return np.where(defined, as_good.sum(axis=1) / np.maximum(one.n_tokens, 1), np.nan)


def rank_agreement_partial(one: Ranked, other: Ranked) -> Float[np.ndarray, " completion"]:
    r"""`rank_agreement` with position in the completion partialled out.

    With r the rank correlations and p the place among the counted tokens,

        (r_ab - r_ap r_bp) / \sqrt{(1 - r_ap^2)(1 - r_bp^2)}:

    the correlation of what is left of both sides' ranks after a straight line in position. It
    removes what is monotone in position, not what rises and falls again.

    Returns:
        A correlation in [-1, 1]. NaN also where a side's ranks are a straight line in position:
        nothing is left of them. Else undefined and errors as `rank_agreement`.

    Source:
        Kendall & Stuart, The Advanced Theory of Statistics, vol. 2, on partial correlation.
    """
    n = one.n_tokens[:, None]
    place = np.arange(1.0, one.ranks.shape[1] + 1)[None, :]
    position = np.where(place <= n, place - (n + 1) / 2, 0.0)
    agreement = rank_agreement(one, other)
    along_one, along_other = (_correlation(side.ranks, position) for side in (one, other))
    left = (1 - along_one**2) * (1 - along_other**2)
    some = (1 - np.maximum(along_one**2, along_other**2)) > _ROUNDING
    value = (agreement - along_one * along_other) / np.sqrt(np.where(some, left, np.nan))
    return np.clip(value, -1.0, 1.0)  # where little is left, rounding is much of it


def top20_overlap(one: Ranked, other: Ranked) -> Float[np.ndarray, " completion"]:
    r"""Share of the top 20% of tokens by one signal that are in the top 20% by the other.

    With the memberships m_t of `rank_tokens` and K = ceil(T / 5),

        O = \sum_t m_t^one m_t^other / K,

    what ties broken at random give on average. 1 for the same K tokens, K/T (about .2) by
    chance. A tie across the edge keeps even equal signals below 1: which of its tokens are top
    is not known.

    Returns:
        O in [0, 1], float64, dimensionless. Undefined and errors as `rank_agreement`.
    """
    shared = (one.top * other.top).sum(axis=1)
    value = shared / np.maximum(_top_size(one.n_tokens), 1)
    return np.where(_defined(one, other), value, np.nan)


def top20_overlap_null(one: Ranked, other: Ranked) -> Float[np.ndarray, " completion"]:
    r"""Mean of `top20_overlap` over the T - 1 rotations of one side that move it.

    Over all T rotations every token meets every other once and the overlaps sum to K. So without
    the unrotated one the mean is, exactly,

        (K - O) / (T - 1).

    Returns:
        A mean in [0, 1], about .2. Undefined and errors as `rank_agreement`.
    """
    rest = _top_size(one.n_tokens) - top20_overlap(one, other)
    return rest / np.maximum(one.n_tokens - 1, 1)


#: Every figure of a pair, by the name of its measurements.
AGREEMENTS: dict[str, Callable[[Ranked, Ranked], np.ndarray]] = {
    figure.__name__: figure
    for figure in (
        rank_agreement,
        rank_agreement_null,
        rotation_share,
        rank_agreement_partial,
        top20_overlap,
        top20_overlap_null,
    )
}


def _top_size(n_tokens: Int[np.ndarray, " completion"]) -> Int[np.ndarray, " completion"]:
    """ceil(T / 5), in whole numbers: .2 T rounds."""
    return -(-n_tokens // 5)


def _defined(one: Ranked, other: Ranked) -> Bool[np.ndarray, " completion"]:
    """Where both sides vary; checks that they count the same tokens."""
    if not np.array_equal(one.mask, other.mask):
        raise ValueError("two signals agree or not on the same tokens: their masks differ")
    return one.varies & other.varies


def _correlation(
    one: Float[np.ndarray, "completion token"], other: Float[np.ndarray, "completion token"]
) -> Float[np.ndarray, " completion"]:
    """Pearson's r of centred rows; NaN where a row is zero."""
    spread = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return (one * other).sum(axis=1) / np.where(spread > 0, spread, np.nan)
