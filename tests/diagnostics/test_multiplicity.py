import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from arca_diag.diagnostics.multiplicity import holm, one_sided_p
from arca_diag.diagnostics.uncertainty import cluster_mean, cluster_share

P_VALUES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.02, 0.05, 1.0]))


def adjusted(*p_values: float) -> list[float]:
    return holm(np.array(p_values, dtype=float)).tolist()


def holm_by_closing(p_values: list[float]) -> list[float]:
    """Another definition: a test stands if every set of tests that holds it does, by Bonferroni."""
    tests = range(len(p_values))
    sets = [s for n in range(1, len(p_values) + 1) for s in itertools.combinations(tests, n)]
    return [
        max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in sets if test in s)
        for test in tests
    ]


class TestHolm:
    def test_by_hand(self):
        assert adjusted(0.01, 0.04, 0.03) == pytest.approx([0.03, 0.06, 0.06], rel=1e-15)
        assert adjusted(0.2) == [0.2]
        assert adjusted(0.9, 0.8) == [1.0, 1.0]
        assert adjusted() == []

    @given(st.lists(P_VALUES, max_size=6))
    def test_it_is_what_closing_bonferronis_tests_gives(self, p_values):
        assert adjusted(*p_values) == pytest.approx(holm_by_closing(p_values), rel=1e-12)

    @given(st.lists(P_VALUES, max_size=6), st.integers(0, 6))
    def test_a_test_that_was_not_made_stays_undefined_and_costs_nothing(self, p_values, place):
        found = adjusted(*p_values[:place], math.nan, *p_values[place:])
        where = min(place, len(p_values))
        assert math.isnan(found.pop(where))
        assert found == adjusted(*p_values)

    def test_a_call_anywhere_in_a_family_is_wrong_as_rarely_as_one_alone(self):
        rng = np.random.default_rng(0)
        wrong = np.mean([(holm(rng.random(7)) <= 0.05).any() for _ in range(4000)])
        assert wrong == pytest.approx(0.05, abs=0.0115)  # 1 - .95^7 = .30 without


class TestFromAnInterval:
    @given(
        st.lists(st.floats(-5, 5), min_size=2, max_size=12),
        st.floats(-3, 3),
        st.sampled_from([("above", "greater"), ("below", "less")]),
    )
    def test_it_is_scipys_t_test_of_the_prompts_means(self, means, cut, sides):
        if np.ptp(means) < 1e-3:
            return
        found = cluster_mean(np.array(means), np.arange(len(means)))
        p = one_sided_p(found.value, found.low, found.high, found.n_clusters, cut, sides[0])
        wanted = stats.ttest_1samp(means, cut, alternative=sides[1]).pvalue
        assert p == pytest.approx(wanted, rel=1e-6, abs=1e-12)

    def test_a_limit_on_the_cut_is_a_fortieth(self):
        assert one_sided_p(0.8, 0.5, 1.1, 10, 0.5, "above") == pytest.approx(0.025, rel=1e-12)
        assert one_sided_p(0.8, 0.5, 1.1, 10, 1.1, "below") == pytest.approx(0.025, rel=1e-12)
        assert one_sided_p(0.8, 0.5, 1.1, 10, 0.8, "below") == 0.5

    @given(st.lists(st.booleans(), min_size=2, max_size=30), st.floats(0.05, 0.95))
    def test_a_share_is_past_a_cut_exactly_where_its_limit_is(self, inside, cut):
        # Three completions a prompt: clipped limits, and Clopper-Pearson's where all agree.
        found = cluster_share(np.array(inside), np.arange(len(inside)) // 3)
        if math.isnan(found.low):
            return
        above, below = (
            one_sided_p(found.value, found.low, found.high, found.n_clusters, cut, side)
            for side in ("above", "below")
        )
        if min(abs(found.low - cut), abs(found.high - cut)) > 1e-9:
            assert (above <= 0.025) == (found.low > cut)
            assert (below <= 0.025) == (found.high < cut)

    def test_of_two_limits_the_one_towards_the_cut_tells(self):
        for value, low, high in ((0.8, 0.5, 0.9), (0.8, 0.7, 1.1)):
            assert one_sided_p(value, low, high, 10, low, "above") == pytest.approx(0.025)
            assert one_sided_p(value, low, high, 10, high, "below") == pytest.approx(0.025)

    def test_without_spread_it_is_certain(self):
        assert one_sided_p(0.2, 0.2, 0.2, 5, 0.1, "above") == 0
        assert one_sided_p(0.2, 0.2, 0.2, 5, 0.1, "below") == 1
        assert one_sided_p(0.2, 0.2, 0.2, 5, 0.2, "above") == 1
        assert one_sided_p(0.2, 0.2, 0.2, 5, 0.2, "below") == 1

    def test_without_limits_it_is_undefined(self):
        assert math.isnan(one_sided_p(0.2, math.nan, math.nan, 1, 0.1, "above"))
        assert math.isnan(one_sided_p(math.nan, math.nan, math.nan, 0, 0.1, "below"))
