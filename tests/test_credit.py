import importlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arca_diag.credit import credit_weights, floor_share, top_entropy_weights
from tests import reference
from tests.conftest import Ragged, batch, laid_out, ragged

POWERS = st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0])
FLOORS = st.sampled_from([0.0, 1e-8, 1e-3, 1.0])


def weights_of(*scores: float, epsilon: float = 1e-8, sharpening: float = 1.0) -> list[float]:
    """Weights of one completion that counts every token."""
    return credit_weights(*batch(scores), epsilon=epsilon, sharpening=sharpening)[0].tolist()


def assert_same(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-300)


class TestClosedForms:
    def test_equal_scores_share_equally(self):
        assert weights_of(3.0, 3.0, 3.0, 3.0) == [0.25] * 4

    def test_without_a_floor_one_score_takes_all(self):
        assert weights_of(0.0, 7.0, 0.0, epsilon=0.0) == [0.0, 1.0, 0.0]

    def test_sharpening_one_is_the_papers_equation_8(self):
        alpha, epsilon = [0.5, 1.25, 4.0], 0.25
        expected = [(a + epsilon) / (5.75 + 3 * epsilon) for a in alpha]
        assert weights_of(*alpha, epsilon=epsilon) == pytest.approx(expected, rel=1e-15)

    def test_the_defaults_are_equation_8_with_a_floor_of_1e_8(self):
        found = credit_weights(*batch([0.0, 1e-8, 0.0]))[0]
        assert found == pytest.approx([0.25, 0.5, 0.25], rel=1e-12)

    def test_sharpening_two_squares(self):
        assert weights_of(1.0, 2.0, 3.0, epsilon=0.0, sharpening=2.0) == pytest.approx(
            [1 / 14, 4 / 14, 9 / 14], rel=1e-15
        )

    def test_the_floor_is_added_before_the_power(self):
        assert weights_of(0.0, 1.0, epsilon=1.0, sharpening=2.0) == pytest.approx([0.2, 0.8])

    def test_a_single_token_gets_all_of_it(self):
        assert weights_of(0.3) == [1.0]

    def test_a_score_far_below_the_floor_is_drowned_by_it(self):
        nearly_even = weights_of(0.0, 0.0, 1e-12, 0.0)
        assert nearly_even == pytest.approx([0.25] * 4, rel=1e-3)
        assert nearly_even[2] == pytest.approx((1e-12 + 1e-8) / (4e-8 + 1e-12), rel=1e-12)

    def test_a_token_without_salience_keeps_the_floors_share(self):
        floor = weights_of(1.0, *[0.0] * 9)[1]
        assert floor == pytest.approx(1e-8 / (1 + 1e-7), rel=1e-12)


class TestReference:
    @given(ragged(), FLOORS, POWERS)
    def test_weights_agree_with_the_reference(self, it: Ragged, epsilon, sharpening):
        out = credit_weights(it.values, it.mask, epsilon=epsilon, sharpening=sharpening)
        for row, weights, counts in zip(it.rows, out, it.mask, strict=True):
            expected = reference.credit_weights(row, epsilon=epsilon, sharpening=sharpening)
            np.testing.assert_allclose(weights[counts], expected, rtol=1e-9, atol=1e-300)


class TestInvariances:
    @given(ragged(), FLOORS, POWERS)
    def test_weights_sum_to_one_or_are_all_undefined(self, it: Ragged, epsilon, sharpening):
        out = credit_weights(it.values, it.mask, epsilon=epsilon, sharpening=sharpening)
        assert out.dtype == np.float64
        for row, weights, counts in zip(it.rows, out, it.mask, strict=True):
            if any(row):
                assert weights[counts].sum() == pytest.approx(1.0, rel=1e-12)
                assert ((weights[counts] >= 0) & (weights[counts] <= 1)).all()
            else:
                assert np.isnan(weights).all()
            assert np.isnan(weights[~counts]).all()

    @given(ragged(), POWERS, st.integers(0, 9), st.integers(0, 2**32 - 1))
    def test_padding_never_matters(self, it: Ragged, sharpening, spare, seed):
        wider = laid_out(it.rows, spare=spare, seed=seed)
        one = credit_weights(it.values, it.mask, sharpening=sharpening)[it.mask]
        other = credit_weights(wider.values, wider.mask, sharpening=sharpening)[wider.mask]
        assert_same(one, other)

    @given(ragged())
    def test_completions_do_not_see_each_other(self, it: Ragged):
        together = credit_weights(it.values, it.mask)
        assert_same(credit_weights(it.values[::-1], it.mask[::-1])[::-1], together)
        alone = [
            credit_weights(v[None], m[None])[0] for v, m in zip(it.values, it.mask, strict=True)
        ]
        assert_same(alone, together)

    @given(ragged(), st.integers(-20, 20))
    def test_scaling_scores_and_floor_together_changes_nothing(self, it: Ragged, power):
        assume(all(x == 0 or x > 1e-100 for row in it.rows for x in row))
        factor = 2.0**power
        scaled = np.where(it.mask, it.values, 0.0) * factor
        assert_same(
            credit_weights(scaled, it.mask, epsilon=1e-3 * factor, sharpening=2.0),
            credit_weights(it.values, it.mask, epsilon=1e-3, sharpening=2.0),
        )

    @given(ragged(min_tokens=2))
    def test_a_higher_score_never_gets_less(self, it: Ragged):
        out = credit_weights(it.values, it.mask, sharpening=2.0)
        for row, weights, counts in zip(it.rows, out, it.mask, strict=True):
            if any(row):
                assert (np.diff(weights[counts][np.argsort(row)]) >= 0).all()

    @pytest.mark.parametrize("sharpening", [2.0, 3.0])
    def test_sharpening_tiny_scores_does_not_underflow(self, sharpening):
        even = weights_of(1e-200, 1e-200, epsilon=0.0, sharpening=sharpening)
        assert even == [0.5, 0.5]
        uneven = weights_of(1e-200, 2e-200, epsilon=0.0, sharpening=sharpening)
        assert uneven[1] / uneven[0] == pytest.approx(2.0**sharpening, rel=1e-12)

    def test_a_loud_completion_never_drowns_a_quiet_one_of_the_same_batch(self):
        values, mask = batch([1e-200, 2e-200], [1e100, 3e100])
        weights = credit_weights(values, mask, epsilon=0.0, sharpening=2.0)
        assert weights.tolist() == [pytest.approx([0.2, 0.8]), pytest.approx([0.1, 0.9])]

    def test_sharpening_huge_scores_does_not_overflow(self):
        assert weights_of(1e200, 2e200, sharpening=2.0) == pytest.approx([0.2, 0.8], rel=1e-12)

    def test_small_scores_at_s_2_are_normalised_never_made_uniform(self):
        # Their squares sum to 3e-9, below the 1e-8 under which the reference code gives up.
        weights = weights_of(1e-5, 2e-5, 5e-5, epsilon=0.0, sharpening=2.0)
        assert weights == pytest.approx([1 / 30, 4 / 30, 25 / 30], rel=1e-12)


class TestUndefinedAndInvalid:
    @pytest.mark.parametrize("epsilon", [0.0, 1e-8, 1.0])
    def test_no_signal_is_undefined_never_uniform(self, epsilon):
        out = credit_weights(*batch([0.0, 0.0, 0.0], [1.0, 1.0]), epsilon=epsilon)
        assert np.isnan(out[0]).all()
        assert out[1, :2].tolist() == [0.5, 0.5]

    def test_a_score_that_does_not_count_is_no_signal(self):
        out = credit_weights(np.array([[0.0, 5.0]]), np.array([[True, False]]))
        assert np.isnan(out).all()

    @pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 0), (3, 4)])
    def test_a_completion_that_counts_no_token_is_undefined(self, shape):
        out = credit_weights(np.ones(shape), np.zeros(shape, dtype=bool))
        assert out.shape == shape
        assert np.isnan(out).all()

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -1e-300])
    def test_an_impossible_counted_score_is_refused(self, bad):
        with pytest.raises(ValueError, match="counted value"):
            weights_of(1.0, bad)

    @pytest.mark.parametrize("epsilon", [-1e-8, math.nan, math.inf])
    def test_an_impossible_floor_is_refused(self, epsilon):
        with pytest.raises(ValueError, match="epsilon must be a finite number >= 0, got"):
            weights_of(1.0, epsilon=epsilon)

    @pytest.mark.parametrize("sharpening", [0.0, -1.0, math.nan, math.inf])
    def test_an_impossible_power_is_refused(self, sharpening):
        with pytest.raises(ValueError, match="sharpening must be a finite number > 0, got"):
            weights_of(1.0, sharpening=sharpening)

    @pytest.mark.usefixtures("without_shape_checks")
    @pytest.mark.parametrize("shape", [(1, 3), (2, 1), (2, 4), (3, 2)])
    def test_shapes_that_differ_are_refused(self, shape):
        with pytest.raises(ValueError, match=r"must share one \(completion, token\) shape"):
            credit_weights(np.ones((2, 3)), np.ones(shape, dtype=bool))


def kept_by_counting(entropy: list[list[float]], share: float) -> list[list[bool]]:
    """Tokens at or above the share's threshold, between two order statistics, in plain floats."""
    ordered = sorted(value for row in entropy for value in row)
    place = (1 - share) * (len(ordered) - 1)
    low = math.floor(place + 1e-6)
    between = max(place - low, 0.0)
    above = ordered[min(low + 1, len(ordered) - 1)]
    threshold = ordered[low] + between * (above - ordered[low])
    return [[value >= threshold - 1e-5 for value in row] for row in entropy]


class TestFloorShare:
    def test_scores_as_large_as_the_floor_leave_it_half(self):
        assert floor_share(*batch([0.5, 0.5, 0.5]), epsilon=0.5).item() == 0.5

    def test_one_score_among_many_zeros_competes_with_all_their_floors(self):
        found = floor_share(*batch([9e-8] + [0.0] * 9), epsilon=1e-8).item()
        assert found == pytest.approx(10 / 19, rel=1e-12)

    def test_without_a_floor_it_has_no_share(self):
        assert floor_share(*batch([0.0, 1e-300]), epsilon=0.0).item() == 0.0

    @given(it=ragged(), epsilon=FLOORS)
    def test_it_agrees_with_the_reference(self, it: Ragged, epsilon):
        found = floor_share(it.values, it.mask, epsilon=epsilon)
        expected = [reference.floor_share(row, epsilon=epsilon) for row in it.rows]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-300)
        assert (np.isnan(found) | ((found >= 0) & (found <= 1))).all()

    @given(it=ragged(min_tokens=2), epsilon=st.sampled_from([1e-8, 1e-3, 1.0]))
    def test_it_is_the_token_without_salience_times_all_of_them(self, it: Ragged, epsilon):
        rows = [[0.0, *row] for row in it.rows]
        values, mask = batch(*rows)
        weights = credit_weights(values, mask, epsilon=epsilon)
        expected = weights[:, 0] * [len(row) for row in rows]
        assert_same(floor_share(values, mask, epsilon=epsilon), expected)

    @pytest.mark.parametrize("row", [[], [1.0], [0.0], [0.0, 0.0]])
    def test_undefined_is_nan_and_leaves_the_others_alone(self, row):
        found = floor_share(*batch([1.0, 1.0], row), epsilon=1.0)
        assert found[0] == 0.5
        assert math.isnan(found[1])

    @pytest.mark.parametrize("bad", [-1e-9, math.inf, math.nan])
    def test_impossible_scores_and_floors_are_refused(self, bad):
        with pytest.raises(ValueError, match=r"must be >= 0|NaN or infinite"):
            floor_share(*batch([1.0, bad]))
        with pytest.raises(ValueError, match="epsilon must be a finite number >= 0"):
            floor_share(*batch([1.0, 2.0]), epsilon=bad)


class TestTopEntropy:
    @given(st.data(), st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0]))
    def test_the_kept_tokens_of_a_completion_share_its_credit_evenly(self, data, share):
        """Entropies on a grid much coarser than float32, so that no rounding decides."""
        lengths = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=6))
        entropy = [[data.draw(st.integers(0, 40)) / 8 for _ in range(length)] for length in lengths]
        found = top_entropy_weights(*batch(*entropy), quantile=share)
        for row, kept in zip(found, kept_by_counting(entropy, share), strict=True):
            alike = 1 / sum(kept) if any(kept) else math.nan
            expected = [alike if k else alike * 0 for k in kept]
            assert row[: len(kept)].tolist() == pytest.approx(expected, rel=1e-12, nan_ok=True)
            assert np.isnan(row[len(kept) :]).all()

    def test_the_threshold_is_that_of_all_completions_together(self):
        found = top_entropy_weights(*batch([0.1, 0.2], [3.0, 4.0]), quantile=0.5)
        assert np.isnan(found[0]).all()
        assert found[1].tolist() == [0.5, 0.5]

    def test_all_are_kept_at_one_and_only_the_largest_at_none(self):
        entropy = batch([1.0, 2.0, 0.0], [4.0, 4.0, 3.0])
        assert_same(top_entropy_weights(*entropy, quantile=1.0), np.full((2, 3), 1 / 3))
        found = top_entropy_weights(*entropy, quantile=0.0)
        assert np.isnan(found[0]).all()
        assert found[1].tolist() == [0.5, 0.5, 0.0]

    def test_equal_entropies_are_all_kept(self):
        found = top_entropy_weights(*batch([0.7] * 5), quantile=0.2)
        assert found[0].tolist() == [0.2] * 5

    def test_a_token_at_the_threshold_is_kept_as_in_float32(self):
        # 1 - .7 is above .3 in float64, and the threshold would be above the fourth token.
        found = top_entropy_weights(*batch([float(n) for n in range(11)]), quantile=0.7)
        assert found[0].tolist() == [0.0] * 3 + [1 / 8] * 8

    def test_what_does_not_count_moves_no_threshold(self):
        entropy = np.array([[1.0, 99.0, 2.0, math.nan]])
        found = top_entropy_weights(entropy, np.array([[True, False, True, False]]), quantile=0.5)
        np.testing.assert_array_equal(found, [[0.0, np.nan, 1.0, np.nan]])

    @pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 0), (3, 4)])
    def test_without_a_counted_token_all_is_undefined(self, shape):
        found = top_entropy_weights(np.ones(shape), np.zeros(shape, dtype=bool), quantile=0.2)
        assert found.shape == shape
        assert np.isnan(found).all()

    @pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
    def test_an_impossible_share_is_refused(self, share):
        with pytest.raises(ValueError, match="quantile must be from 0 to 1, got"):
            top_entropy_weights(*batch([1.0]), quantile=share)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -1e-3])
    def test_an_impossible_entropy_is_refused(self, bad):
        with pytest.raises(ValueError, match="counted value"):
            top_entropy_weights(*batch([1.0, bad]), quantile=0.2)

    def test_the_same_tokens_are_kept_as_trl_keeps(self):
        torch = importlib.import_module("torch")
        trainer = importlib.import_module("trl").GRPOTrainer
        one_process = SimpleNamespace(
            pad_across_processes=lambda tensor, **_: tensor, gather=lambda tensor: tensor
        )
        rng = np.random.default_rng(0)
        for round_ in range(200):
            shape = (int(rng.integers(1, 9)), int(rng.integers(1, 30)))
            entropy = rng.exponential(size=shape)
            if round_ % 2:
                entropy = np.round(entropy, 1)  # ties, and thresholds that are a token's own
            mask = rng.random(shape) < 0.8
            share = float(rng.integers(0, 11)) / 10
            kept = trainer.get_high_entropy_mask(
                SimpleNamespace(accelerator=one_process),
                torch.tensor(entropy, dtype=torch.float32),
                torch.tensor(mask).long(),
                1 - share,
            ).numpy()
            found = top_entropy_weights(entropy, mask, quantile=share)
            np.testing.assert_array_equal(np.nan_to_num(found) > 0, kept)
