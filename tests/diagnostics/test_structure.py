import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arca_diag.credit import credit_weights
from arca_diag.diagnostics import structure
from arca_diag.diagnostics.concentration import gini_corrected
from arca_diag.diagnostics.structure import PERMUTATIONS, gini_permuted, without_ends
from arca_diag.signals import entropy_drop
from tests import reference
from tests.conftest import GARBAGE, Ragged, batch, ragged

#: Entropies of a few counted tokens, in turns.
TURNS = [
    [[0.3, 1.2]],
    [[0.3, 1.2, 0.7]],
    [[2.0, 0.0, 0.0, 0.1, 0.5]],
    [[1.0, 1.0, 1.0, 2.0, 2.0]],
    [[0.9, 0.4, 1.4, 0.2, 3.1, 0.6]],
    [[0.9, 0.4, 1.4], [0.2, 3.1, 0.6]],
    [[0.9], [0.4, 1.4], [0.2, 3.1, 0.6]],
    [[5.0], [1.0, 0.2]],
]


def in_turns(turns: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """One completion whose turns have an uncounted token between them."""
    values, mask = [], []
    for place, turn in enumerate(turns):
        values += [GARBAGE[place]] * bool(place) + turn
        mask += [False] * bool(place) + [True] * len(turn)
    return np.array([values]), np.array([mask])


class TestPermuted:
    @pytest.mark.parametrize("turns", TURNS, ids=str)
    @pytest.mark.parametrize(("epsilon", "sharpening"), [(1e-8, 1.0), (1e-8, 2.0), (0.3, 1.0)])
    def test_its_expectation_is_the_mean_over_every_order(self, turns, epsilon, sharpening):
        orders = reference.gini_of_orders(turns, epsilon=epsilon, sharpening=sharpening)
        defined = np.array(orders)[~np.isnan(orders)]
        seeds = 60
        found = [
            gini_permuted(*in_turns(turns), epsilon=epsilon, sharpening=sharpening, seed=seed)
            for seed in range(seeds)
        ]
        drawn = seeds * PERMUTATIONS * len(defined) / len(orders)
        expected = reference.gini_permuted(turns, epsilon=epsilon, sharpening=sharpening)
        assert np.mean(found) == pytest.approx(
            expected, abs=4 * defined.std() / math.sqrt(drawn) + 1e-12
        )

    @pytest.mark.parametrize(
        ("n_tokens", "level"), [(5, 0.875), (7, 0.835), (16, 0.784), (40, 0.763)]
    )
    def test_structureless_entropies_have_the_known_level_and_no_excess(self, n_tokens, level):
        entropies = np.random.default_rng(n_tokens).exponential(size=(4000, n_tokens))
        mask = np.ones(entropies.shape, dtype=bool)
        null = gini_permuted(entropies, mask)
        assert null.mean() == pytest.approx(level, abs=0.002)
        excess = gini_corrected(credit_weights(entropy_drop(entropies, mask), mask), mask) - null
        error = np.nanstd(excess) / math.sqrt(len(excess))
        assert abs(np.nanmean(excess)) < 4 * error < 0.01

    def test_an_order_that_matters_is_an_excess(self):
        # One fall at the end of a long rise holds all the credit; in random order many share it.
        entropies, mask = batch([*np.linspace(1, 2, 20), 0.0])
        found = gini_corrected(credit_weights(entropy_drop(entropies, mask), mask), mask)
        assert found - gini_permuted(entropies, mask) > 0.1

    def test_a_turns_end_stays_where_it_is(self):
        # Nothing falls within a turn of one token, in whatever order.
        entropies, mask = in_turns([[3.0], [1.0], [2.0]])
        assert np.isnan(gini_permuted(entropies, mask)).all()
        whole = gini_permuted(*in_turns([[3.0, 1.0, 2.0, 0.5]]))
        split = gini_permuted(*in_turns([[3.0, 1.0], [2.0, 0.5]]))
        assert split > whole + 0.02

    @given(it=ragged(st.floats(0, 20, allow_subnormal=False)), seed=st.integers(0, 2**32))
    def test_which_completions_are_measured_together_moves_nothing(self, it: Ragged, seed):
        together = gini_permuted(it.values, it.mask, seed=seed)
        for index, (values, mask) in enumerate(zip(it.values, it.mask, strict=True)):
            kept = np.flatnonzero(np.cumsum(mask) > 0)  # without the padding before it
            cut = slice(kept[0] if len(kept) else 0, None)
            alone = gini_permuted(values[None, cut], mask[None, cut], seed=seed).item()
            assert alone == pytest.approx(together[index], rel=1e-12, nan_ok=True)
            assert math.isnan(alone) or 0 <= alone <= 1

    def test_how_many_are_worked_on_at_once_moves_nothing(self, monkeypatch):
        rng = np.random.default_rng(0)
        entropies, mask = rng.exponential(size=(30, 9)), rng.random((30, 9)) < 0.8
        expected = gini_permuted(entropies, mask)
        for cells in (1, 1000, 10**9):
            monkeypatch.setattr(structure, "_CELLS", cells)
            np.testing.assert_array_equal(gini_permuted(entropies, mask), expected)

    def test_the_seed_is_what_another_draw_needs(self):
        entropies = np.random.default_rng(0).exponential(size=(1, 12))
        mask = np.ones(entropies.shape, dtype=bool)
        first, again, other = (gini_permuted(entropies, mask, seed=s).item() for s in (0, 0, 1))
        assert first == again != other

    def test_completions_that_are_alike_draw_orders_of_their_own(self):
        # Else their errors would not cancel in the mean of a run.
        turn = [2.0, 1.4, 0.9, 0.6, 0.4, 0.3]
        entropies = np.array(turn) + np.linspace(0, 1e-6, 300)[:, None]
        found = gini_permuted(entropies, np.ones(entropies.shape, dtype=bool))
        orders = reference.gini_of_orders([turn])
        error = np.nanstd(orders) / math.sqrt(PERMUTATIONS)
        assert found.std() == pytest.approx(error, rel=0.2)
        assert found.mean() == pytest.approx(np.nanmean(orders), abs=4 * error / math.sqrt(300))

    @pytest.mark.parametrize(
        "row", [[], [1.0], [0.0, 0.0, 0.0], [2.0] * 4], ids=["none", "one", "zeros", "equal"]
    )
    def test_undefined_is_nan_and_leaves_the_others_alone(self, row):
        found = gini_permuted(*batch([1.0, 3.0, 0.5], row, [2.0, 0.0]))
        assert math.isnan(found[1])
        assert found[0] == gini_permuted(*batch([1.0, 3.0, 0.5])).item()
        assert found[2] == pytest.approx(1.0)

    @pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (2, 3)])
    def test_a_batch_that_counts_nothing_is_undefined(self, shape):
        found = gini_permuted(np.ones(shape), np.zeros(shape, dtype=bool))
        assert found.shape == shape[:1]
        assert np.isnan(found).all()

    @pytest.mark.parametrize("bad", [-1e-9, math.inf, math.nan])
    def test_an_impossible_entropy_is_refused(self, bad):
        with pytest.raises(ValueError, match=r"must be >= 0|NaN or infinite"):
            gini_permuted(*batch([1.0, bad]))

    @pytest.mark.usefixtures("without_shape_checks")
    @pytest.mark.parametrize("shape", [(1, 3), (2, 1), (2, 4), (3, 2)])
    def test_shapes_that_differ_are_refused(self, shape):
        with pytest.raises(ValueError, match="must share one"):
            gini_permuted(np.ones((2, 3)), np.ones(shape, dtype=bool))


class TestWithoutEnds:
    @given(it=ragged(), closed=st.lists(st.booleans(), min_size=5, max_size=5))
    def test_it_agrees_with_the_reference(self, it: Ragged, closed):
        closed = closed[: len(it.rows)]
        inside = without_ends(it.mask, np.array(closed))
        for row, values, kept, end in zip(it.rows, it.values, inside, closed, strict=True):
            assert values[kept].tolist() == reference.without_ends(row, closed=end)

    def test_an_uncounted_end_is_no_end(self):
        mask = np.array([[False, True, True, False, True, True, False]] * 2)
        found = without_ends(mask, np.array([True, False]))
        assert np.flatnonzero(found[0]).tolist() == [2, 4]
        assert np.flatnonzero(found[1]).tolist() == [2, 4, 5]

    @pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (2, 3)])
    def test_where_nothing_counts_nothing_is_left(self, shape):
        found = without_ends(np.zeros(shape, dtype=bool), np.ones(shape[0], dtype=bool))
        assert found.shape == shape
        assert not found.any()
