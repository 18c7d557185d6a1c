import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from arca_diag.diagnostics.uncertainty import (
    Estimate,
    cluster_mean,
    cluster_mean_skewed,
    cluster_share,
    cluster_share_exact,
    clusters_more,
)
from tests import reference

VALUES = st.one_of(st.just(math.nan), st.floats(-1e3, 1e3))
PAIRS = st.lists(st.tuples(VALUES, st.sampled_from("abcd")), max_size=20)


def mean_of(pairs) -> tuple[float, int]:
    """Values with the name of their cluster."""
    found = estimate_of(pairs)
    return found.value, found.n_clusters


def estimate_of(pairs) -> Estimate:
    values = np.array([value for value, _ in pairs], dtype=float)
    return cluster_mean(values, np.array([cluster for _, cluster in pairs], dtype="U1"))


def assert_same(one, other):
    assert one == (pytest.approx(other[0], rel=1e-9, abs=1e-9, nan_ok=True), other[1])


class TestClosedForms:
    def test_every_cluster_weighs_the_same_whatever_its_size(self):
        assert mean_of([(0.0, "a"), (0.0, "a"), (0.0, "a"), (1.0, "b")]) == (0.5, 2)

    def test_one_cluster_is_a_plain_mean(self):
        assert mean_of([(1.0, "a"), (2.0, "a"), (6.0, "a")]) == (3.0, 1)

    def test_a_completion_that_occurs_twice_counts_twice_in_its_cluster(self):
        assert mean_of([(1.0, "a"), (1.0, "a"), (4.0, "a"), (4.0, "b")]) == (3.0, 2)


class TestReference:
    @given(PAIRS)
    def test_it_agrees_with_the_reference(self, pairs):
        values, clusters = [v for v, _ in pairs], [c for _, c in pairs]
        assert_same(mean_of(pairs), reference.cluster_mean(values, clusters))


class TestInvariances:
    @given(PAIRS, st.randoms())
    def test_the_order_of_completions_never_matters(self, pairs, random):
        shuffled = random.sample(pairs, len(pairs))
        assert_same(mean_of(shuffled), mean_of(pairs))

    @given(PAIRS)
    def test_only_equality_of_cluster_names_matters(self, pairs):
        renamed = [(value, "dcba"["abcd".index(cluster)]) for value, cluster in pairs]
        assert_same(mean_of(renamed), mean_of(pairs))

    @given(PAIRS)
    def test_doubling_every_completion_changes_nothing(self, pairs):
        assert_same(mean_of(pairs * 2), mean_of(pairs))

    @given(PAIRS)
    def test_undefined_values_might_as_well_not_be_there(self, pairs):
        assert_same(mean_of([p for p in pairs if not math.isnan(p[0])]), mean_of(pairs))

    def test_clusters_may_be_of_any_type_that_sorts(self):
        values = np.array([1.0, 1.0, 4.0])
        for clusters in (np.array([9, 9, 2]), np.array(["x", "x", "y"], dtype=object)):
            found = cluster_mean(values, clusters)
            assert (found.value, found.n_clusters) == (2.5, 2)


class TestUndefined:
    def test_nothing_is_nan_of_no_clusters(self):
        value, n_clusters = mean_of([])
        assert math.isnan(value)
        assert n_clusters == 0

    def test_all_undefined_is_nan_of_no_clusters(self):
        value, n_clusters = mean_of([(math.nan, "a"), (math.nan, "b")])
        assert math.isnan(value)
        assert n_clusters == 0

    def test_a_cluster_without_a_defined_value_is_not_counted(self):
        assert mean_of([(math.nan, "a"), (2.0, "b"), (math.nan, "b")]) == (2.0, 1)


class TestInterval:
    @given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12))
    def test_it_is_students_on_the_clusters_means(self, means):
        # Twice each, so that a token's or a completion's count would be another.
        values, clusters = np.repeat(means, 2), np.repeat(np.arange(len(means)), 2)
        found = cluster_mean(values, clusters)
        if np.ptp(means) == 0:
            assert found.low == found.high == pytest.approx(means[0])
            return
        truth = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
        scale = max(map(abs, means))
        assert found.low == pytest.approx(truth.low, rel=1e-9, abs=1e-9 * scale)
        assert found.high == pytest.approx(truth.high, rel=1e-9, abs=1e-9 * scale)

    def test_one_cluster_has_a_mean_and_no_interval(self):
        found = estimate_of([(1.0, "a"), (3.0, "a")])
        assert found.value == 2.0
        assert math.isnan(found.low)
        assert math.isnan(found.high)

    def test_it_covers_the_truth_as_often_as_it_says(self):
        rng = np.random.default_rng(0)
        clusters = np.repeat(np.arange(10), 4)
        covered = 0
        for _ in range(2000):
            values = rng.normal(size=10)[clusters] + rng.normal(size=40)
            found = cluster_mean(values, clusters)
            covered += found.low <= 0 <= found.high
        assert 0.935 < covered / 2000 < 0.965


def skewed(means) -> Estimate:
    return cluster_mean_skewed(np.array(means, dtype=float), np.arange(len(means)))


class TestSkewed:
    @given(st.lists(st.floats(0, 10), min_size=3, max_size=20))
    def test_a_limit_is_students_or_where_halls_statistic_is_students_quantile(self, means):
        if np.ptp(means) < 1e-3:
            return
        n, found = len(means), skewed(means)
        student = cluster_mean(np.array(means), np.arange(n))
        s, g = np.std(means, ddof=1), stats.skew(means, bias=False)
        t = stats.t.ppf(0.975, n - 1)

        def hall(mu: float) -> float:
            u = (found.value - mu) / s
            return math.sqrt(n) * (u + g * u**2 / 3 + g**2 * u**3 / 27 + g / (6 * n))

        assert hall(found.low) >= t - 1e-5
        assert hall(found.high) <= -t + 1e-5
        assert found.low <= student.low
        assert found.high >= student.high
        assert found.low == student.low or hall(found.low) == pytest.approx(t, abs=1e-5)
        assert found.high == student.high or hall(found.high) == pytest.approx(-t, abs=1e-5)

    def test_skewed_to_the_right_the_upper_limit_is_farther_and_to_the_left_the_lower(self):
        right = skewed([1, 1, 1, 2, 2, 3, 5, 9])
        assert right.high - right.value > 1.2 * (right.value - right.low)
        left = skewed([-1, -1, -1, -2, -2, -3, -5, -9])
        assert (left.low, left.high) == pytest.approx((-right.high, -right.low))

    @pytest.mark.parametrize("means", [[], [1.0], [1.0, 3.0], [2.0] * 5, [1.0, 2.0, 3.0, 4.0]])
    def test_without_skewness_it_is_students(self, means):
        clusters = np.arange(len(means))
        plain = cluster_mean(np.array(means), clusters)
        found = skewed(means)
        assert found.n_clusters == plain.n_clusters
        assert (found.value, found.low, found.high) == pytest.approx(
            (plain.value, plain.low, plain.high), nan_ok=True
        )

    def test_a_mean_of_small_and_rarely_large_is_seldom_called_too_small(self):
        rng = np.random.default_rng(0)
        draws = rng.exponential(size=(4000, 8))
        clusters = np.arange(8)
        below = [cluster_mean_skewed(d, clusters).high < 1 for d in draws]
        students = [cluster_mean(d, clusters).high < 1 for d in draws]
        assert np.mean(students) > 0.07
        assert np.mean(below) < 0.06


def shares(*parts: float, each: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Completions of clusters with these shares, `each` a cluster."""
    inside = np.concatenate([np.arange(each) < part * each for part in parts])
    return inside, np.repeat(np.arange(len(parts)), each)


class TestShare:
    def test_where_clusters_differ_it_is_students_within_0_and_1(self):
        found = cluster_share(*shares(0.5, 0.75, 1.0, 0.75, 0.25))
        truth = stats.ttest_1samp([0.5, 0.75, 1.0, 0.75, 0.25], 0.0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((truth.low, min(truth.high, 1.0)))
        assert cluster_share(*shares(1.0, 0.75)).high == 1.0
        assert cluster_share(*shares(0.0, 0.25)).low == 0.0

    @pytest.mark.parametrize("n", [1, 2, 8, 20])
    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    def test_where_all_agree_it_is_clopper_and_pearsons_with_a_draw_a_cluster(self, n, share):
        found = cluster_share(*shares(*[share] * n))
        assert found.value == share
        if share * n == int(share * n):
            truth = stats.binomtest(int(share * n), n).proportion_ci(0.95, method="exact")
            assert (found.low, found.high) == pytest.approx((truth.low, truth.high))

    def test_of_nothing_is_undefined(self):
        found = cluster_share(np.empty(0, dtype=bool), np.empty(0, dtype=int))
        assert math.isnan(found.value)
        assert math.isnan(found.low)
        assert found.n_clusters == 0

    @pytest.mark.parametrize("n_clusters", [8, 16, 32])
    @pytest.mark.parametrize("alike", [0.0, 0.5, 0.95])
    def test_a_share_of_a_half_is_seldom_called_a_majority(self, n_clusters, alike):
        """Completions of a cluster agree with probability `alike`; the true share is .5."""
        rng = np.random.default_rng(n_clusters)
        clusters = np.repeat(np.arange(n_clusters), 8)
        calls = 0
        for _ in range(2000):
            common = rng.random(n_clusters)[clusters] < 0.5
            own = rng.random(len(clusters)) < 0.5
            inside = np.where(rng.random(len(clusters)) < alike, common, own)
            calls += cluster_share(inside, clusters).low > 0.5
        assert stats.binomtest(calls, 2000, 0.04, alternative="greater").pvalue > 0.01


class TestExactShare:
    @given(st.lists(st.booleans(), min_size=1, max_size=40))
    def test_of_clusters_in_or_out_it_is_clopper_and_pearsons(self, inside):
        found = cluster_share_exact(np.repeat(inside, 2), np.repeat(np.arange(len(inside)), 2))
        truth = stats.binomtest(sum(inside), len(inside)).proportion_ci(0.95, method="exact")
        assert found.value == pytest.approx(np.mean(inside))
        assert (found.low, found.high) == pytest.approx((truth.low, truth.high))
        assert found.n_clusters == len(inside)

    def test_far_from_a_half_it_is_seldom_past_the_truth_where_students_often_is(self):
        rng = np.random.default_rng(0)
        clusters = np.arange(32)
        draws = rng.random((2000, 32)) < 0.9
        assert np.mean([cluster_share_exact(d, clusters).low > 0.9 for d in draws]) < 0.025
        assert np.mean([cluster_share(d, clusters).low > 0.9 for d in draws]) > 0.08

    def test_of_nothing_is_undefined(self):
        found = cluster_share_exact(np.empty(0, dtype=bool), np.empty(0, dtype=int))
        assert math.isnan(found.value)
        assert math.isnan(found.high)


class TestHowManyMore:
    def test_enough_is_none_more(self):
        assert clusters_more(*shares(*[1.0, 0.75] * 8), 0.5, at_least=8) == 0

    def test_too_few_that_agree_need_the_least(self):
        assert clusters_more(*shares(1.0, 1.0, 1.0), 0.5, at_least=8) == 5

    def test_more_of_the_same_settle_it(self):
        inside, clusters = shares(0.75, 0.5, 1.0, 0.25, 0.5, 0.75, 0.75, 0.5)
        assert cluster_share(inside, clusters).low < 0.5
        more = clusters_more(inside, clusters, 0.5, at_least=8)
        copies = math.ceil((8 + more) / 8)
        many = np.tile(inside, copies)
        assert cluster_share(many, np.repeat(np.arange(8 * copies), 4)).low > 0.5
        # And half as many do not.
        fewer = (8 + more) // 16
        few = np.tile(inside, max(fewer, 1))
        assert cluster_share(few, np.repeat(np.arange(len(few) // 4), 4)).low < 0.5

    @pytest.mark.parametrize(("n", "share"), [(8, 0.75), (12, 0.625), (16, 0.75)])
    def test_clusters_that_agree_need_what_their_own_interval_needs(self, n, share):
        inside, clusters = shares(*[share] * n, each=8)
        assert cluster_share(inside, clusters).low < 0.5
        more = clusters_more(inside, clusters, 0.5, at_least=8)
        assert more > 0
        assert cluster_share(*shares(*[share] * (n + more), each=8)).low > 0.5
        assert cluster_share(*shares(*[share] * (n + more - 1), each=8)).low <= 0.5

    def test_exactly_on_the_cut_nothing_settles_it(self):
        assert clusters_more(*shares(0.0, 1.0, 0.5, 0.5), 0.5, at_least=8) is None

    def test_of_nothing_nothing_can_be_told(self):
        empty = np.empty(0, dtype=bool), np.empty(0, dtype=int)
        assert clusters_more(*empty, 0.5, at_least=8) is None
