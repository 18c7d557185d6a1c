import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arca_diag.shapes import check_masked, padded
from tests.conftest import Ragged, batch, ragged


class TestCheckMasked:
    @given(ragged(st.floats(0.0, 1e6)))
    def test_garbage_where_nothing_counts_is_no_fault(self, it: Ragged):
        check_masked(it.values, it.mask, minimum=0.0)

    @pytest.mark.parametrize(
        ("values", "mask"),
        [
            (np.ones((2, 3)), np.ones((2, 4), dtype=bool)),
            (np.ones((2, 3)), np.ones((1, 3), dtype=bool)),
            (np.ones((1, 3)), np.ones((2, 3), dtype=bool)),
            (np.ones(3), np.ones(3, dtype=bool)),
            (np.ones((1, 2, 3)), np.ones((1, 2, 3), dtype=bool)),
        ],
    )
    def test_shapes_that_would_broadcast_are_refused(self, values, mask):
        with pytest.raises(ValueError, match=r"must share one \(completion, token\) shape, got"):
            check_masked(values, mask)

    def test_the_message_gives_both_shapes(self):
        with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
            check_masked(np.ones((2, 3)), np.ones((2, 4), dtype=bool))

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_counted_value_must_be_finite(self, bad):
        values, mask = batch([1.0, 2.0], [3.0, bad])
        with pytest.raises(ValueError, match="a counted value is NaN or infinite"):
            check_masked(values, mask)

    def test_a_counted_value_below_the_minimum_is_named(self):
        values, mask = batch([1.0, -0.25])
        with pytest.raises(ValueError, match=r"must be >= 0.0, got -0.25"):
            check_masked(values, mask, minimum=0.0)

    def test_the_minimum_itself_is_allowed(self):
        check_masked(*batch([0.0, 1.0]), minimum=0.0)

    def test_without_a_minimum_negative_values_are_allowed(self):
        check_masked(*batch([-1.0, 1.0]))

    @pytest.mark.parametrize("shape", [(0, 0), (2, 0), (0, 3)])
    def test_an_empty_batch_is_valid(self, shape):
        check_masked(np.empty(shape), np.empty(shape, dtype=bool), minimum=0.0)


class TestPadded:
    @given(st.lists(st.lists(st.floats(-1e3, 1e3), max_size=6), max_size=6), st.floats(-1, 1))
    def test_each_row_is_its_completion_then_the_fill(self, rows, fill):
        flat = np.array([x for row in rows for x in row], dtype=float)
        lengths = np.array([len(row) for row in rows], dtype=int)
        width = max((len(row) for row in rows), default=0)
        expected = [row + [fill] * (width - len(row)) for row in rows]
        out = padded(flat, lengths, fill)
        assert out.shape == (len(rows), width)
        assert out.tolist() == expected

    def test_a_mask_stays_boolean(self):
        out = padded(np.array([True, False, True]), np.array([2, 1]), False)
        assert out.dtype == bool
        assert out.tolist() == [[True, False], [True, False]]

    def test_an_empty_completion_is_all_fill(self):
        out = padded(np.array([1.0, 2.0]), np.array([0, 2]), np.nan)
        np.testing.assert_array_equal(out, [[np.nan, np.nan], [1.0, 2.0]])

    def test_lengths_that_do_not_add_up_are_refused(self):
        with pytest.raises(ValueError, match="lengths add up to 4, and there are 3 rows"):
            padded(np.array([1.0, 2.0, 3.0]), np.array([2, 2]), 0.0)
