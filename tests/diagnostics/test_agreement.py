import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from arca_diag.diagnostics.agreement import (
    AGREEMENTS,
    MIN_TOKENS,
    rank_agreement,
    rank_agreement_null,
    rank_agreement_partial,
    rank_tokens,
    rotation_share,
    top20_overlap,
    top20_overlap_null,
)
from tests import reference
from tests.conftest import SCORES, batch, laid_out

each_figure = pytest.mark.parametrize("figure", AGREEMENTS.values(), ids=AGREEMENTS.keys())
LENGTHS = [8, 9, 10, 11, 40]


def of(figure, one, other) -> float:
    """One figure of one completion that counts every token."""
    mask = np.ones((1, len(one)), dtype=bool)
    sides = (rank_tokens(np.array([side], dtype=float), mask) for side in (one, other))
    return figure(*sides).item()


def of_many(figure, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One figure of each of many completions of one length."""
    mask = np.ones(one.shape, dtype=bool)
    return figure(rank_tokens(one, mask), rank_tokens(other, mask))


@st.composite
def pairs(draw: st.DrawFn, *, few: int = 0, most: int = 16) -> list[list[tuple[float, float]]]:
    """One to four completions of both signals' scores, with many ties."""
    both = st.tuples(SCORES, st.one_of(SCORES, st.sampled_from([0.0, 1.0, 2.0])))
    return draw(st.lists(st.lists(both, min_size=few, max_size=most), min_size=1, max_size=4))


def side(rows: list[list[tuple[float, float]]], which: int) -> list[list[float]]:
    return [[scores[which] for scores in row] for row in rows]


def smooth(rng: np.random.Generator, n: int, n_tokens: int, keep: float = 0.9) -> np.ndarray:
    """First-order autoregressions, each in its own stationary state from the start."""
    out = rng.normal(size=(n, n_tokens))
    for t in range(1, n_tokens):
        out[:, t] = keep * out[:, t - 1] + math.sqrt(1 - keep**2) * out[:, t]
    return out


class TestClosedForms:
    @pytest.mark.parametrize("n", LENGTHS)
    def test_a_signal_agrees_fully_with_itself(self, n):
        scores = np.random.default_rng(n).permutation(n)
        assert of(rank_agreement, scores, scores) == 1
        assert of(rank_agreement_partial, scores, scores) == pytest.approx(1, rel=1e-12)
        assert of(top20_overlap, scores, scores) == 1
        assert of(rank_agreement_null, scores, scores) == -1 / (n - 1)
        assert of(rotation_share, scores, scores) == 1 / n

    @pytest.mark.parametrize("n", LENGTHS)
    def test_the_opposite_order_is_full_disagreement(self, n):
        scores = np.random.default_rng(n).permutation(n)
        assert of(rank_agreement, scores, -scores) == -1
        assert of(rank_agreement_partial, scores, -scores) == pytest.approx(-1, rel=1e-12)
        assert of(top20_overlap, scores, -scores) == 0
        assert of(rotation_share, scores, -scores) == 1

    @pytest.mark.parametrize(("n", "k"), [(8, 2), (10, 2), (11, 3), (15, 3), (35, 7), (40, 8)])
    def test_the_top_is_a_fifth_of_the_tokens_rounded_up(self, n, k):
        ranked = rank_tokens(np.arange(float(n))[None], np.ones((1, n), dtype=bool))
        assert ranked.top.tolist() == [[0.0] * (n - k) + [1.0] * k]

    def test_a_tie_across_the_edge_shares_the_places_that_are_left(self):
        # Ten tokens have two places: one is taken, four tokens share the other.
        scores = [9.0, 5.0, 5.0, 5.0, 5.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        ranked = rank_tokens(np.array([scores]), np.ones((1, 10), dtype=bool))
        assert ranked.top.tolist() == [[1.0] + [0.25] * 4 + [0.0] * 5]
        assert of(top20_overlap, scores, scores) == (1 + 4 / 16) / 2

    def test_mid_ranks_are_less_their_mean(self):
        ranked = rank_tokens(np.array([[2.0, 7.0, 2.0, 2.0]]), np.ones((1, 4), dtype=bool))
        assert ranked.ranks.tolist() == [[-0.5, 1.5, -0.5, -0.5]]

    def test_by_hand(self):
        # Swapping two neighbours of n costs 12 / (n^3 - n).
        scores = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
        swapped = [1.0, 2.0, 3.0, 5.0, 4.0, 6.0, 7.0, 8.0]
        rho = 1 - 12 / (512 - 8)
        assert of(rank_agreement, scores, swapped) == pytest.approx(rho, rel=1e-14)
        assert of(rank_agreement_null, scores, swapped) == pytest.approx(-rho / 7, rel=1e-14)
        # The last two are the top of both. Over eight rotations the overlaps sum to two.
        assert of(top20_overlap, scores, swapped) == 1
        assert of(top20_overlap_null, scores, swapped) == pytest.approx((2 - 1) / 7, rel=1e-14)


class TestReference:
    def test_there_is_a_reference_for_every_figure(self):
        assert list(reference.AGREEMENTS) == list(AGREEMENTS)

    @pytest.mark.parametrize("name", AGREEMENTS)
    @given(
        rows=pairs(),
        spare=st.integers(0, 3),
        seed=st.integers(0, 2**32 - 2),
    )
    def test_it_agrees_with_the_reference_however_the_tokens_lie(self, name, rows, spare, seed):
        # One seed lays both signals out at the same places.
        one, other = (laid_out(side(rows, i), spare=spare, seed=seed) for i in (0, 1))
        found = AGREEMENTS[name](
            rank_tokens(one.values, one.mask), rank_tokens(other.values, other.mask)
        )
        wanted = [
            reference.AGREEMENTS[name](a, b)
            for a, b in zip(side(rows, 0), side(rows, 1), strict=True)
        ]
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)

    @given(rows=pairs(few=MIN_TOKENS))
    def test_it_agrees_with_scipy(self, rows):
        ranked = [rank_tokens(*batch(*side(rows, i))) for i in (0, 1)]
        found = rank_agreement(*ranked)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            wanted = [stats.spearmanr(*zip(*row, strict=True)).statistic for row in rows]
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)

    def test_the_overlap_is_what_ties_broken_at_random_give(self):
        rng = np.random.default_rng(3)
        one, other = rng.integers(4, size=(2, 20)).astype(float)
        shared = []
        for _ in range(20_000):
            tops = [set(np.lexsort((rng.random(20), scores))[-4:]) for scores in (one, other)]
            shared.append(len(tops[0] & tops[1]) / 4)
        limit = 4 * np.std(shared) / math.sqrt(len(shared))
        assert of(top20_overlap, one, other) == pytest.approx(np.mean(shared), abs=limit)

    @pytest.mark.parametrize("n_tokens", [8, 300, 5000])
    def test_every_rotation_is_gone_through_to_the_last_digit(self, n_tokens):
        rng = np.random.default_rng(n_tokens)
        one, other = rng.integers(6, size=(2, n_tokens)).astype(float)
        # Whole numbers: twice the ranks less their mean.
        a, b = (2 * stats.rankdata(x).astype(object) for x in (one, other))
        a, b = (np.array([int(r) - n_tokens - 1 for r in x]) for x in (a, b))
        sums = np.array([int(a @ np.roll(b, k)) for k in range(n_tokens)])
        assert of(rotation_share, one, other) == (sums >= sums[0]).mean()


class TestInvariances:
    @each_figure
    @given(rows=pairs(few=6))
    def test_which_of_the_two_comes_first_never_matters(self, figure, rows):
        one, other = (rank_tokens(*batch(*side(rows, i))) for i in (0, 1))
        np.testing.assert_allclose(figure(one, other), figure(other, one), rtol=1e-12, atol=1e-14)

    @each_figure
    @given(rows=pairs(few=6))
    def test_only_the_order_of_the_scores_matters(self, figure, rows):
        (one, mask), (other, _) = (batch(*side(rows, i)) for i in (0, 1))
        level = np.unique(one, return_inverse=True)[1].astype(float)
        known, found = (
            figure(rank_tokens(scores, mask), rank_tokens(other, mask))
            for scores in (one, 7 - 1 / (1 + level))
        )
        np.testing.assert_array_equal(found, known)

    @pytest.mark.parametrize("figure", [rank_agreement, top20_overlap])
    @given(rows=pairs(few=MIN_TOKENS), seed=st.integers(0, 2**32 - 1))
    def test_the_order_of_tokens_never_matters_to_agreement_and_overlap(self, figure, rows, seed):
        row = rows[0]
        shuffled = [row[i] for i in np.random.default_rng(seed).permutation(len(row))]
        known = of(figure, *zip(*row, strict=True))
        assert of(figure, *zip(*shuffled, strict=True)) == pytest.approx(
            known, rel=1e-12, abs=1e-14, nan_ok=True
        )

    @pytest.mark.parametrize("name", sorted({*AGREEMENTS} - {"rank_agreement_partial"}))
    @given(rows=pairs(few=MIN_TOKENS), shift=st.integers(1, 30))
    def test_rotating_both_sides_alike_moves_nothing_but_the_partial(self, name, rows, shift):
        figure = AGREEMENTS[name]
        one, other = (np.array(x) for x in zip(*rows[0], strict=True))
        known = of(figure, one, other)
        rotated = of(figure, np.roll(one, shift), np.roll(other, shift))
        assert rotated == pytest.approx(known, rel=1e-12, abs=1e-14, nan_ok=True)

    @each_figure
    @given(rows=pairs(few=4))
    def test_completions_do_not_see_each_other(self, figure, rows):
        (one, mask), (other, _) = (batch(*side(rows, i)) for i in (0, 1))
        together = figure(rank_tokens(one, mask), rank_tokens(other, mask))
        alone = [
            figure(rank_tokens(one[i : i + 1], m), rank_tokens(other[i : i + 1], m)).item()
            for i, m in enumerate(mask[:, None])
        ]
        np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-14)

    @given(rows=pairs(few=MIN_TOKENS))
    def test_every_figure_is_in_its_documented_range(self, rows):
        one, other = (rank_tokens(*batch(*side(rows, i))) for i in (0, 1))
        found = {name: figure(one, other) for name, figure in AGREEMENTS.items()}
        for index, row in enumerate(rows):
            at = {name: values[index] for name, values in found.items()}
            if math.isnan(at["rank_agreement"]):
                continue
            n = len(row)
            assert -1 <= at["rank_agreement"] <= 1
            assert -1 / (n - 1) <= at["rank_agreement_null"] <= 1 / (n - 1)
            assert 1 / n <= at["rotation_share"] <= 1
            assert 0 <= at["top20_overlap"] <= 1
            assert 0 <= at["top20_overlap_null"] <= 1
            if not math.isnan(at["rank_agreement_partial"]):
                assert -1 <= at["rank_agreement_partial"] <= 1

    @pytest.mark.parametrize("n", [50, 200, 1000, 3000])
    def test_rounding_never_leaves_the_range_where_position_explains_nearly_all(self, n):
        line = np.arange(float(n))
        swapped, tied = line.copy(), line.copy()
        swapped[[n // 2, n // 2 + 1]] = line[[n // 2 + 1, n // 2]]
        tied[n // 2] = tied[n // 2 + 1]
        # What is left of the one is twice what is left of the other.
        assert 1 - 1e-6 < of(rank_agreement_partial, swapped, tied) <= 1


class TestWhatTheFiguresTell:
    def test_planted_agreement_is_found_at_its_size(self):
        rng = np.random.default_rng(0)
        one = rng.normal(size=(4000, 40))
        other = 0.6 * one + 0.8 * rng.normal(size=one.shape)
        # Pearson's .6 between normal scores is this rank correlation in the long run.
        rho = 6 / math.pi * math.asin(0.6 / 2)
        found = of_many(rank_agreement, np.exp(one), np.exp(other))
        assert found.mean() == pytest.approx(rho, abs=0.02)
        assert of_many(rank_agreement_partial, one, other).mean() == pytest.approx(rho, abs=0.02)
        assert of_many(rotation_share, one, other).mean() < 0.03
        gain = of_many(top20_overlap, one, other) - of_many(top20_overlap_null, one, other)
        assert gain.mean() > 0.2

    def test_strangers_are_at_the_level_of_chance(self):
        one, other = np.random.default_rng(1).exponential(size=(2, 6000, 40))
        assert of_many(rank_agreement, one, other).mean() == pytest.approx(0, abs=0.01)
        assert of_many(rank_agreement_null, one, other).mean() == pytest.approx(0, abs=1e-3)
        assert of_many(top20_overlap, one, other).mean() == pytest.approx(0.2, abs=0.01)
        assert of_many(top20_overlap_null, one, other).mean() == pytest.approx(0.2, abs=1e-3)
        assert of_many(rotation_share, one, other).mean() == pytest.approx(41 / 80, abs=0.015)

    def test_ties_do_not_raise_the_level_of_chance(self):
        # Six values only: K/T still, where counting every tied token would give far more.
        one, other = np.random.default_rng(2).integers(6, size=(2, 6000, 40)).astype(float)
        assert of_many(top20_overlap, one, other).mean() == pytest.approx(0.2, abs=0.01)

    def test_autocorrelated_strangers_fool_a_shuffle_and_not_a_rotation(self):
        rng = np.random.default_rng(4)
        one, other = smooth(rng, 2000, 60), smooth(rng, 2000, 60)
        found = of_many(rank_agreement, one, other)
        # Shuffled tokens: rho is about normal with variance 1 / (T - 1).
        by_shuffle = found * math.sqrt(59) > stats.norm.ppf(0.95)
        assert by_shuffle.mean() > 0.2
        by_rotation = of_many(rotation_share, one, other) <= 0.05
        assert by_rotation.mean() < 0.08
        # The mean over completions is at its null either way.
        null = of_many(rank_agreement_null, one, other)
        assert abs((found - null).mean()) < 4 * found.std() / math.sqrt(len(found))

    def test_autocorrelated_relatives_are_still_found(self):
        rng = np.random.default_rng(5)
        one = smooth(rng, 500, 60)
        other = one + 0.5 * smooth(rng, 500, 60)
        assert (of_many(rotation_share, one, other) <= 0.05).mean() > 0.9

    def test_the_share_of_rotations_keeps_its_promise_on_a_circle(self):
        rng = np.random.default_rng(6)
        slow = np.exp(-np.minimum(np.arange(40), 40 - np.arange(40)) / 6.0)
        one, other = (
            np.fft.irfft(np.fft.rfft(rng.normal(size=(8000, 40))) * np.fft.rfft(slow), 40)
            for _ in range(2)
        )
        share = of_many(rotation_share, one, other)
        for q in (0.05, 0.1, 0.25, 0.5):
            limit = 4 * math.sqrt(q * (1 - q) / len(share))
            assert (share <= q).mean() == pytest.approx(q, abs=limit)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_relation_by_position_alone_vanishes_when_that_is_partialled_out(self, sign):
        rng = np.random.default_rng(7)
        ramp = np.linspace(0, 3, 40)
        one, other = ramp + rng.normal(size=(4000, 40)), sign * ramp + rng.normal(size=(4000, 40))
        assert sign * of_many(rank_agreement, one, other).mean() > 0.3
        assert of_many(rank_agreement_partial, one, other).mean() == pytest.approx(0, abs=0.03)

    def test_a_relation_beside_position_stays_when_that_is_partialled_out(self):
        rng = np.random.default_rng(8)
        ramp, shared = np.linspace(0, 3, 40), rng.normal(size=(4000, 40))
        one, other = (s * ramp + shared + 0.3 * rng.normal(size=shared.shape) for s in (1, -1))
        assert of_many(rank_agreement, one, other).mean() < 0.4
        assert of_many(rank_agreement_partial, one, other).mean() > 0.6


class TestUndefinedAndInvalid:
    @each_figure
    @pytest.mark.parametrize(
        "row",
        [[], [1.0], [3.0, 1.0, 2.0, 5.0, 9.0, 8.0, 7.0], [2.0] * 8, [0.0] * 12],
        ids=["no token", "one token", "seven tokens", "constant", "all zero"],
    )
    def test_undefined_is_nan_and_leaves_the_others_alone(self, figure, row):
        good = [3.0, 1.0, 2.0, 5.0, 9.0, 8.0, 7.0, 4.0]
        rng = np.random.default_rng(0)
        others = [rng.permutation(len(r)).astype(float).tolist() for r in (good, row, good)]
        one, other = rank_tokens(*batch(good, row, good)), rank_tokens(*batch(*others))
        for found in (figure(one, other), figure(other, one)):
            assert math.isnan(found[1])
            assert not np.isnan(found[[0, 2]]).any()

    @each_figure
    @pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (2, 9)])
    def test_a_batch_that_counts_nothing_is_undefined(self, figure, shape):
        ranked = rank_tokens(np.ones(shape), np.zeros(shape, dtype=bool))
        found = figure(ranked, ranked)
        assert found.shape == shape[:1]
        assert np.isnan(found).all()

    @pytest.mark.parametrize("n", [*LENGTHS, 1000])
    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_beside_position_nothing_is_left_of_a_signal_that_follows_it(self, n, sign):
        line = sign * np.arange(n)
        noise = np.random.default_rng(n).permutation(n)
        assert math.isnan(of(rank_agreement_partial, line, noise))
        assert math.isnan(of(rank_agreement_partial, noise, line))
        assert not math.isnan(of(rank_agreement, line, noise))
        # Two neighbours swapped, and there is something left.
        line[[n // 2, n // 2 + 1]] = line[[n // 2 + 1, n // 2]]
        assert not math.isnan(of(rank_agreement_partial, line, noise))

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_counted_score_that_is_no_number_is_refused(self, bad):
        with pytest.raises(ValueError, match="NaN or infinite"):
            rank_tokens(*batch([1.0, bad]))

    @each_figure
    def test_signals_of_different_tokens_are_refused(self, figure):
        values, mask = batch(range(9), range(9))
        fewer = mask.copy()
        fewer[0, 3] = False
        elsewhere = mask.copy()
        elsewhere[0, 4] = False
        for a, b in itertools.permutations((mask, fewer, elsewhere), 2):
            with pytest.raises(ValueError, match="masks differ"):
                figure(rank_tokens(values, a), rank_tokens(values, b))

    @pytest.mark.usefixtures("without_shape_checks")
    def test_shapes_that_differ_are_refused(self):
        with pytest.raises(ValueError, match=r"must share one \(completion, token\) shape"):
            rank_tokens(np.ones((2, 3)), np.ones((2, 4), dtype=bool))
