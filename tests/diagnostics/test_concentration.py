import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from arca_diag.diagnostics import DIAGNOSTICS
from arca_diag.diagnostics.concentration import (
    effn_corrected,
    effn_ratio,
    gini,
    gini_corrected,
    token_share_90,
)
from tests import reference
from tests.conftest import Ragged, batch, completions, laid_out, ragged

MEASURES = {diagnostic.name: diagnostic.measure for diagnostic in DIAGNOSTICS}
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
LENGTHS = [2, 3, 5, 7, 32]

#: Scores that can be scaled without leaving the normal numbers.
SCALABLE = st.one_of(st.just(0.0), st.floats(1e-100, 1e6))


def of(measure, *weights: float) -> float:
    """One figure of one completion that counts every token."""
    return measure(*batch(weights)).item()


def of_many(measure, weights: np.ndarray) -> np.ndarray:
    """One figure of each of many completions of one length."""
    return measure(weights, np.ones(weights.shape, dtype=bool))


def bates_cdf(x: np.ndarray, n: int) -> np.ndarray:
    """Distribution of the mean of n uniforms on (0, 1), from the Irwin-Hall sum."""
    terms = [
        (-1) ** k * math.comb(n, k) * np.clip(n * np.asarray(x) - k, 0, None) ** n
        for k in range(n + 1)
    ]
    return np.sum(terms, axis=0) / math.factorial(n)


class TestClosedForms:
    @pytest.mark.parametrize("n", LENGTHS)
    def test_equal_weights_are_perfectly_even(self, n):
        even = [0.1] * n
        assert of(gini, *even) == pytest.approx(0, abs=1e-15)
        assert of(gini_corrected, *even) == pytest.approx(0, abs=1e-15)
        assert of(effn_ratio, *even) == pytest.approx(1, rel=1e-15)
        assert of(effn_corrected, *even) == pytest.approx(1, rel=1e-15)
        assert of(token_share_90, *even) == math.ceil(0.9 * n) / n

    @pytest.mark.parametrize("n", LENGTHS)
    def test_one_token_that_holds_it_all_is_the_other_extreme(self, n):
        alone = [0.0] * (n - 1) + [8.0]
        assert of(gini, *alone) == pytest.approx(1 - 1 / n, rel=1e-15)
        assert of(gini_corrected, *alone) == pytest.approx(1, rel=1e-15)
        assert of(effn_ratio, *alone) == pytest.approx(1 / n, rel=1e-15)
        assert of(effn_corrected, *alone) == pytest.approx(0, abs=1e-15)
        assert of(token_share_90, *alone) == 1 / n

    @pytest.mark.parametrize("n", LENGTHS)
    def test_a_ramp_from_one(self, n):
        ramp = np.arange(1.0, n + 1)
        assert of(gini, *ramp) == pytest.approx((n - 1) / (3 * n), rel=1e-12)
        assert of(gini_corrected, *ramp) == pytest.approx(1 / 3, rel=1e-12)
        # (sum i)^2 / (n sum i^2) = 3 (n + 1) / (2 (2n + 1)).
        assert of(effn_ratio, *ramp) == pytest.approx(3 * (n + 1) / (4 * n + 2), rel=1e-12)

    @pytest.mark.parametrize("n", LENGTHS)
    def test_a_ramp_from_zero(self, n):
        ramp = np.arange(0.0, n)
        assert of(gini, *ramp) == pytest.approx((n + 1) / (3 * n), rel=1e-12)
        # (n - 1) n^2 / ... = 3 (n - 1) / (2 (2n - 1)).
        assert of(effn_ratio, *ramp) == pytest.approx(3 * (n - 1) / (4 * n - 2), rel=1e-12)

    def test_by_hand(self):
        weights = [1.0, 1.0, 9.0, 9.0]
        assert of(gini, *weights) == pytest.approx(0.4, rel=1e-15)
        assert of(gini_corrected, *weights) == pytest.approx(0.4 * 4 / 3, rel=1e-15)
        assert of(effn_ratio, *weights) == pytest.approx(400 / (4 * 164), rel=1e-15)
        assert of(effn_corrected, *weights) == pytest.approx((400 / 164 - 1) / 3, rel=1e-14)
        assert of(token_share_90, *weights) == 0.5

    def test_at_seven_tokens_the_plain_gini_cannot_pass_0_857(self):
        assert of(gini, *[0.0] * 6, 1.0) == pytest.approx(0.857, abs=5e-4)
        assert of(effn_ratio, *[0.0] * 6, 1.0) == pytest.approx(0.143, abs=5e-4)

    def test_ninety_percent_reached_exactly_is_enough(self):
        for n in range(10, 200, 10):  # the running sums of many of these round to just under
            assert [of(token_share_90, *[w] * n) for w in (1 / n, 0.1, 1 / 3, 0.7)] == [0.9] * 4
        assert of(token_share_90, 9.0, 1.0) == 0.5
        assert of(token_share_90, 8.9, 1.1) == 1.0

    @pytest.mark.parametrize(
        ("draw", "expected_gini", "expected_effn"),
        [
            (lambda rng, n: rng.exponential(size=n), 1 / 2, 1 / 2),
            (lambda rng, n: rng.exponential(size=n) ** 2, 3 / 4, 1 / 6),
            (lambda rng, n: np.abs(rng.normal(size=n)), math.sqrt(2) - 1, 2 / math.pi),
            (lambda rng, n: rng.uniform(size=n), 1 / 3, 3 / 4),
        ],
        ids=["exponential", "exponential squared", "half-normal", "uniform"],
    )
    def test_large_samples_reach_the_known_limits(self, draw, expected_gini, expected_effn):
        weights = draw(np.random.default_rng(0), 400_000)[None]
        assert of_many(gini, weights).item() == pytest.approx(expected_gini, abs=3e-3)
        assert of_many(gini_corrected, weights).item() == pytest.approx(expected_gini, abs=3e-3)
        assert of_many(effn_ratio, weights).item() == pytest.approx(expected_effn, abs=5e-3)
        assert of_many(effn_corrected, weights).item() == pytest.approx(expected_effn, abs=5e-3)

    def test_large_samples_reach_the_known_lorenz_curve(self):
        # The heaviest share q of exponential scores holds q (1 - log q) of them.
        expected = optimize.brentq(lambda q: q * (1 - math.log(q)) - 0.9, 1e-6, 1)
        weights = np.random.default_rng(0).exponential(size=(1, 400_000))
        assert of_many(token_share_90, weights).item() == pytest.approx(expected, abs=3e-3)


class TestExponentialScores:
    """For i.i.d. exponential scores G^ is distributed as the mean of T - 1 uniforms."""

    @pytest.mark.parametrize("n_tokens", [2, 5, 7])
    def test_the_corrected_gini_has_exactly_the_bates_distribution(self, n_tokens):
        n = 20_000
        weights = np.random.default_rng(n_tokens).exponential(size=(n, n_tokens))
        found = of_many(gini_corrected, weights)
        assert stats.kstest(found, lambda x: bates_cdf(x, n_tokens - 1)).pvalue > 0.01
        variance = 1 / (12 * (n_tokens - 1))
        assert found.mean() == pytest.approx(0.5, abs=4 * math.sqrt(variance / n))
        assert found.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / n))

    @pytest.mark.parametrize(("n_tokens", "mean"), [(7, 0.54), (40, 0.51)])
    def test_the_corrected_effn_is_as_biased_as_documented(self, n_tokens, mean):
        weights = np.random.default_rng(0).exponential(size=(20_000, n_tokens))
        assert of_many(effn_corrected, weights).mean() == pytest.approx(mean, abs=0.006)


class TestReference:
    def test_there_is_a_reference_for_every_diagnostic(self):
        assert list(reference.DIAGNOSTICS) == list(MEASURES)

    @pytest.mark.parametrize("name", MEASURES)
    @given(it=ragged())
    def test_it_agrees_with_the_reference(self, name, it: Ragged):
        found = MEASURES[name](it.values, it.mask)
        expected = [reference.DIAGNOSTICS[name](row) for row in it.rows]
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)


class TestInvariances:
    @each_measure
    @given(it=ragged(), spare=st.integers(0, 9), seed=st.integers(0, 2**32 - 1))
    def test_padding_never_matters(self, measure, it: Ragged, spare, seed):
        other = laid_out(it.rows, spare=spare, seed=seed)
        np.testing.assert_allclose(
            measure(other.values, other.mask),
            measure(it.values, it.mask),
            rtol=1e-12,
            atol=1e-14,
        )

    @each_measure
    @given(it=ragged())
    def test_completions_do_not_see_each_other(self, measure, it: Ragged):
        together = measure(it.values, it.mask)
        reversed_ = measure(it.values[::-1], it.mask[::-1])[::-1]
        np.testing.assert_allclose(reversed_, together, rtol=1e-12, atol=1e-14)
        alone = [measure(v[None], m[None]).item() for v, m in zip(it.values, it.mask, strict=True)]
        np.testing.assert_allclose(alone, together, rtol=1e-12, atol=1e-14)

    @each_measure
    @given(row=st.lists(SCALABLE, min_size=2, max_size=12), seed=st.integers(0, 2**32 - 1))
    def test_the_order_of_tokens_never_matters(self, measure, row, seed):
        shuffled = np.random.default_rng(seed).permutation(row)
        assert of(measure, *shuffled) == pytest.approx(
            of(measure, *row), rel=1e-12, abs=1e-14, nan_ok=True
        )

    @each_measure
    @given(rows=completions(SCALABLE), power=st.integers(-300, 300))
    def test_the_unit_of_the_weights_never_matters(self, measure, rows, power):
        values, mask = batch(*rows)
        np.testing.assert_allclose(
            measure(values * 2.0**power, mask), measure(values, mask), rtol=1e-12, atol=1e-14
        )

    @pytest.mark.parametrize("measure", [gini, effn_ratio])
    @given(row=st.lists(SCALABLE, min_size=2, max_size=8), times=st.integers(2, 5))
    def test_every_token_repeated_changes_nothing(self, measure, row, times):
        assert of(measure, *row * times) == pytest.approx(
            of(measure, *row), rel=1e-12, abs=1e-14, nan_ok=True
        )

    @given(st.lists(st.integers(0, 50), min_size=2, max_size=10))
    def test_credit_moved_from_a_rich_to_a_poor_token_evens_out(self, counts):
        rich, poor = int(np.argmax(counts)), int(np.argmin(counts))
        if counts[rich] - counts[poor] < 2:
            return
        before = np.array(counts, dtype=float)
        after = before.copy()
        after[rich] -= 1
        after[poor] += 1
        for measure in (gini, gini_corrected):
            assert of(measure, *after) < of(measure, *before)
        for measure in (effn_ratio, effn_corrected):
            assert of(measure, *after) > of(measure, *before)
        assert of(token_share_90, *after) >= of(token_share_90, *before)

    @given(ragged(min_tokens=2))
    def test_every_figure_is_in_its_documented_range(self, it: Ragged):
        figures = {name: measure(it.values, it.mask) for name, measure in MEASURES.items()}
        for index, row in enumerate(it.rows):
            n = len(row)
            if not any(row):
                continue
            one = {name: values[index] for name, values in figures.items()}
            assert 0 <= one["gini"] <= (1 - 1 / n) * (1 + 1e-15)
            assert (1 / n) * (1 - 1e-15) <= one["effn_ratio"] <= 1
            assert 0 <= one["gini_corrected"] <= 1
            assert 0 <= one["effn_corrected"] <= 1
            assert 1 / n <= one["token_share_90"] <= 1

    @pytest.mark.parametrize("weight", [0.1, 1 / 3, 0.7, 1e-5, 1e-9 / 7])
    def test_rounding_never_leaves_the_range_at_equal_weights(self, weight):
        for n in range(2, 300):
            even = np.full((1, n), weight)
            assert of_many(gini, even) >= 0
            assert of_many(gini_corrected, even) >= 0
            assert of_many(effn_ratio, even) <= 1
            assert of_many(effn_corrected, even) <= 1

    @pytest.mark.parametrize("weight", [0.1, 1 / 3, 0.7, 1e-5, 1e-9 / 7])
    def test_rounding_never_leaves_the_range_at_one_token(self, weight):
        for n in range(2, 300):
            alone = np.zeros((1, n))
            alone[0, n // 2] = weight
            assert of_many(gini_corrected, alone) <= 1
            assert of_many(effn_corrected, alone) >= 0

    def test_rounding_never_leaves_the_range_at_nearly_equal_weights(self):
        rng = np.random.default_rng(0)
        for n in range(2, 120):
            weights = 0.3 + 1e-16 * rng.integers(0, 3, size=(20, n))
            assert (of_many(gini, weights) >= 0).all()
            assert (of_many(effn_ratio, weights) <= 1).all()
            assert (of_many(effn_corrected, weights) <= 1).all()


class TestUndefinedAndInvalid:
    @each_measure
    @pytest.mark.parametrize(
        "row",
        [[], [1.0], [0.0], [0.0, 0.0, 0.0], [math.nan] * 3, [math.nan]],
        ids=["no token", "one token", "one zero", "all zero", "no signal", "one without"],
    )
    def test_undefined_is_nan_and_leaves_the_others_alone(self, measure, row):
        found = measure(*batch([1.0, 3.0, 4.0], row, [2.0, 2.0]))
        assert math.isnan(found[1])
        assert found[0] == pytest.approx(of(measure, 1.0, 3.0, 4.0), rel=1e-12)
        assert found[2] == pytest.approx(of(measure, 2.0, 2.0), rel=1e-12)

    @each_measure
    @pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (2, 3)])
    def test_a_batch_that_counts_nothing_is_undefined(self, measure, shape):
        found = measure(np.ones(shape), np.zeros(shape, dtype=bool))
        assert found.shape == shape[:1]
        assert np.isnan(found).all()

    @each_measure
    def test_credit_that_does_not_count_is_no_credit(self, measure):
        found = measure(np.array([[0.0, 0.0, 5.0]]), np.array([[True, True, False]]))
        assert math.isnan(found.item())

    @each_measure
    @pytest.mark.parametrize(
        ("bad", "message"),
        [(-1e-9, r"must be >= 0.0, got -1e-09"), (math.inf, "NaN or infinite")],
    )
    def test_an_impossible_counted_weight_is_refused(self, measure, bad, message):
        with pytest.raises(ValueError, match=message):
            of(measure, 1.0, bad)

    @each_measure
    @pytest.mark.usefixtures("without_shape_checks")
    @pytest.mark.parametrize("shape", [(1, 3), (2, 1), (2, 4), (3, 2), (4, 3)])
    def test_shapes_that_differ_are_refused(self, measure, shape):
        with pytest.raises(ValueError, match=r"must share one \(completion, token\) shape"):
            measure(np.ones((2, 3)), np.ones(shape, dtype=bool))


class TestRegistry:
    def test_names_are_unique_and_titles_say_something(self):
        assert len(MEASURES) == len(DIAGNOSTICS)
        assert all(diagnostic.title for diagnostic in DIAGNOSTICS)

    def test_each_name_is_its_functions(self):
        assert all(diagnostic.measure.__name__ == diagnostic.name for diagnostic in DIAGNOSTICS)
