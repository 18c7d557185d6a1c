"""The cuts as data: their comparators, and what other values do to them."""

import math

import numpy as np
import pytest

from arca_diag.results import Threshold
from arca_diag.thresholds import DEFAULT, Cuts


def cut(comparator: str, value: float = 0.5) -> Cuts:
    return Cuts([Threshold(id="a-cut", value=value, comparator=comparator, source="a test")])


class TestPassed:
    @pytest.mark.parametrize(
        ("comparator", "below", "at", "above"),
        [
            ("<", True, False, False),
            ("<=", True, True, False),
            (">", False, False, True),
            (">=", False, True, True),
        ],
    )
    def test_a_comparator_means_what_it_says_of_a_number_and_of_an_array(
        self, comparator, below, at, above
    ):
        values = [math.nextafter(0.5, 0), 0.5, math.nextafter(0.5, 1)]
        cuts = cut(comparator)
        assert [cuts.passed("a-cut", v) for v in values] == [below, at, above]
        assert cuts.passed("a-cut", np.array(values)).tolist() == [below, at, above]

    @pytest.mark.parametrize("comparator", ["<", "<=", ">", ">="])
    def test_nan_is_past_none(self, comparator):
        assert not cut(comparator).passed("a-cut", math.nan)
        assert not cut(comparator).passed("a-cut", np.array([math.nan])).any()

    def test_a_cut_that_there_is_not_is_an_error(self):
        with pytest.raises(KeyError, match="no-cut"):
            cut("<").passed("no-cut", 1.0)
        with pytest.raises(KeyError, match="no-cut"):
            cut("<")["no-cut"]


class TestReplaced:
    def test_another_value_keeps_place_and_comparator_and_says_where_it_is_from(self):
        others = DEFAULT.replaced({"gini-sparse": 0.9})
        assert [c.id for c in others] == [c.id for c in DEFAULT]
        before, after = (
            next(c for c in cuts if c.id == "gini-sparse") for cuts in (DEFAULT, others)
        )
        assert (before.value, after.value) == (0.85, 0.9)
        assert after.comparator == before.comparator
        assert "set in the configuration" in after.source
        assert "0.85" in after.source
        assert not others.passed("gini-sparse", 0.87)
        assert others.passed("gini-sparse", 0.9)

    def test_the_others_and_the_default_stay_as_they_are(self):
        before = list(DEFAULT)
        others = DEFAULT.replaced({"gini-sparse": 0.9})
        assert list(DEFAULT) == before
        assert [c for c in others if c.id != "gini-sparse"] == [
            c for c in before if c.id != "gini-sparse"
        ]

    def test_an_id_that_there_is_not_is_an_error(self):
        with pytest.raises(KeyError, match="gini-spares"):
            DEFAULT.replaced({"gini-spares": 0.9})


class TestDefault:
    def test_no_two_cuts_have_one_id(self):
        ids = [c.id for c in DEFAULT]
        assert len(ids) == len(set(ids))
        assert all(i in DEFAULT for i in ids)
        assert "no-cut" not in DEFAULT

    @pytest.mark.parametrize("found", list(DEFAULT), ids=lambda c: c.id)
    def test_each_is_a_finite_number_and_says_where_it_comes_from(self, found):
        assert math.isfinite(found.value)
        assert found.source.strip()
