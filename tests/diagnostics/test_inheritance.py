import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arca_diag.credit import credit_weights
from arca_diag.diagnostics.inheritance import total_variation
from tests import reference
from tests.conftest import GARBAGE, SCORES, batch, laid_out


def of(weights: list[float], other: list[float]) -> float:
    """Of one completion that counts every token."""
    one, mask = batch(weights)
    return total_variation(one, batch(other)[0], mask).item()


class TestClosedForms:
    def test_the_same_credit_has_moved_nowhere(self):
        assert of([0.2, 0.5, 0.3], [0.2, 0.5, 0.3]) == 0.0

    def test_credit_on_other_tokens_has_moved_whole(self):
        assert of([0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.3, 0.7]) == 1.0

    def test_from_even_to_one_token_all_but_its_own_share_moves(self):
        assert of([0.25] * 4, [0.0, 0.0, 1.0, 0.0]) == pytest.approx(0.75, rel=1e-15)

    def test_the_share_that_moved_is_the_figure(self):
        assert of([0.6, 0.4, 0.0], [0.5, 0.4, 0.1]) == pytest.approx(0.1, rel=1e-12)

    def test_exponential_scores_that_have_nothing_in_common_are_half_apart(self):
        # At large T it is E|X - Y| / 2 of two exponentials of mean 1, and |X - Y| is one too.
        rng = np.random.default_rng(0)
        mask = np.ones((1, 200_000), dtype=bool)
        one, other = (credit_weights(rng.exponential(size=mask.shape), mask) for _ in range(2))
        assert total_variation(one, other, mask).item() == pytest.approx(0.5, abs=3e-3)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[list[float]]]:
    """Two scores of the same tokens, with uncounted ones between them; and the counted ones."""
    lengths = draw(st.lists(st.integers(0, 8), min_size=1, max_size=4))
    rows = [draw(st.lists(SCORES, min_size=2 * n, max_size=2 * n)) for n in lengths]
    spare, seed = draw(st.integers(0, 3)), draw(st.integers(0, 2**32 - 1))
    one = laid_out([row[: len(row) // 2] for row in rows], spare=spare, seed=seed)
    other = np.random.default_rng(seed).choice(GARBAGE, size=one.mask.shape)
    other[one.mask] = [x for row in rows for x in row[len(row) // 2 :]]
    return one.values, other, one.mask, rows


class TestReference:
    @given(it=pairs(), power=st.sampled_from([1.0, 2.0]))
    def test_it_agrees_with_the_reference(self, it, power):
        one, other, mask, rows = it
        weights, others = (credit_weights(side, mask, sharpening=power) for side in (one, other))
        expected = []
        for row in rows:
            half = len(row) // 2
            mine = reference.credit_weights(row[:half], sharpening=power)
            theirs = reference.credit_weights(row[half:], sharpening=power)
            expected.append(reference.total_variation(mine, theirs))
        found = total_variation(weights, others, mask)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(found, total_variation(others, weights, mask))
        assert (np.isnan(found) | ((found >= 0) & (found <= 1))).all()


class TestUndefinedAndInvalid:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ([], []),
            ([1.0], [1.0]),
            ([math.nan] * 3, [0.2, 0.3, 0.5]),
            ([0.2, 0.3, 0.5], [math.nan] * 3),
            ([math.nan] * 3, [math.nan] * 3),
        ],
        ids=["no token", "one token", "no credit", "none by the reference", "none at all"],
    )
    def test_undefined_is_nan_and_leaves_the_others_alone(self, one, other):
        weights, mask = batch([0.5, 0.5, 0.0], one)
        found = total_variation(weights, batch([0.0, 0.5, 0.5], other)[0], mask)
        assert found[0] == 0.5
        assert math.isnan(found[1])

    def test_rounding_never_leaves_the_range(self):
        rng = np.random.default_rng(0)
        for n in range(2, 60):
            scores = rng.exponential(size=(50, 2 * n))
            mask = np.ones(scores.shape, dtype=bool)
            left = np.arange(2 * n) < n
            one, other = (
                credit_weights(np.where(side, scores, 0.0), mask, epsilon=0.0)
                for side in (left, ~left)
            )
            assert (total_variation(one, other, mask) <= 1).all()

    @pytest.mark.parametrize("bad", [-1e-9, math.inf])
    def test_an_impossible_weight_is_refused_on_either_side(self, bad):
        for pair in (([bad, 1.0], [0.5, 0.5]), ([0.5, 0.5], [bad, 1.0])):
            with pytest.raises(ValueError, match=r"must be >= 0|infinite"):
                of(*pair)

    @pytest.mark.usefixtures("without_shape_checks")
    def test_shapes_that_differ_are_refused(self):
        one, mask = np.ones((2, 3)), np.ones((2, 3), dtype=bool)
        for other in (np.ones((1, 3)), np.ones((2, 1)), np.ones((2, 4)), np.ones((3, 2))):
            with pytest.raises(ValueError, match="must share one"):
                total_variation(one, other, mask)
            with pytest.raises(ValueError, match="must share one"):
                total_variation(other, one, mask)
