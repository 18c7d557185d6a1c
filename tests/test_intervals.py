"""The difference of two independent figures, each with limits of its own on either side."""

import pytest

from arca_diag.intervals import Interval, difference


def test_each_sides_own_distances_count() -> None:
    # 4 - hypot(3, 4) and 4 + hypot(5, 12): no two of the four distances are alike.
    found = difference(Interval(5.0, 2.0, 10.0), Interval(1.0, -11.0, 5.0))
    assert found == pytest.approx((4.0, -1.0, 17.0))


def test_exact_figures_have_an_exact_difference() -> None:
    assert difference(Interval(2.0, 2.0, 2.0), Interval(3.0, 3.0, 3.0)) == (-1.0, -1.0, -1.0)
