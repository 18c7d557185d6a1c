import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arca_diag.diagnostics.uncertainty import cluster_mean
from tests import reference

VALUES = st.one_of(st.just(math.nan), st.floats(-1e3, 1e3))
PAIRS = st.lists(st.tuples(VALUES, st.sampled_from("abcd")), max_size=20)


def mean_of(pairs) -> tuple[float, int]:
    """Values with the name of their cluster."""
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
            assert cluster_mean(values, clusters) == (2.5, 2)


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
