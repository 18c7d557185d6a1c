import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special

from arca_diag.credit import credit_weights
from arca_diag.diagnostics.concentration import effn_corrected, gini_corrected
from arca_diag.results import Threshold
from arca_diag.signals import entropy_drop
from arca_diag.verdict import CLASSES, THRESHOLDS, classify
from tests import reference

CUT = {threshold.id: threshold for threshold in THRESHOLDS}

#: A figure that names each class, one well inside every row of METHOD's table.
GINI = dict(zip(CLASSES, (0.10, 0.20, 0.40, 0.70, 0.90), strict=True))
EFFN = dict(zip(CLASSES, (0.97, 0.88, 0.60, 0.25, 0.05), strict=True))


def class_of(
    gini: float,
    effn: float,
    n_tokens: int = 10,
    *,
    no_signal: bool = False,
    thresholds: tuple[Threshold, ...] = THRESHOLDS,
) -> str | None:
    """The class of one completion."""
    found = classify(
        np.array([gini]),
        np.array([effn]),
        np.array([n_tokens]),
        np.array([no_signal]),
        thresholds,
    )
    assert found.shape == (1,)
    return found[0]


def by_gini(gini: float) -> str | None:
    """What G^ alone says: e^ then only has to be on the same side, at least as far out."""
    return class_of(gini, EFFN["uniform"] if gini < 0.4 else EFFN["sparse"])


def by_effn(effn: float) -> str | None:
    return class_of(GINI["uniform"] if effn > 0.6 else GINI["sparse"], effn)


def with_cut(name: str, value: float) -> tuple[Threshold, ...]:
    return tuple(t.model_copy(update={"value": value}) if t.id == name else t for t in THRESHOLDS)


def above(x: float) -> float:
    return math.nextafter(x, math.inf)


def below(x: float) -> float:
    return math.nextafter(x, -math.inf)


class TestCuts:
    @pytest.mark.parametrize(
        ("gini", "expected"),
        [
            (0.0, "uniform"),
            (below(0.15), "uniform"),
            (0.15, "uniform"),
            (above(0.15), "leaning-uniform"),
            (below(0.25), "leaning-uniform"),
            (0.25, "middle"),
            (above(0.25), "middle"),
            (below(0.60), "middle"),
            (0.60, "middle"),
            (above(0.60), "leaning-sparse"),
            (below(0.85), "leaning-sparse"),
            (0.85, "sparse"),
            (above(0.85), "sparse"),
            (1.0, "sparse"),
        ],
    )
    def test_each_cut_on_the_gini_is_where_the_method_says(self, gini, expected):
        assert by_gini(gini) == expected

    @pytest.mark.parametrize(
        ("effn", "expected"),
        [
            (1.0, "uniform"),
            (above(0.93), "uniform"),
            (0.93, "uniform"),
            (below(0.93), "leaning-uniform"),
            (above(0.83), "leaning-uniform"),
            (0.83, "middle"),
            (below(0.83), "middle"),
            (above(0.38), "middle"),
            (0.38, "middle"),
            (below(0.38), "leaning-sparse"),
            (above(0.12), "leaning-sparse"),
            (0.12, "sparse"),
            (below(0.12), "sparse"),
            (0.0, "sparse"),
        ],
    )
    def test_each_cut_on_the_effective_tokens_is_where_the_method_says(self, effn, expected):
        assert by_effn(effn) == expected

    @pytest.mark.parametrize(
        ("n_tokens", "expected"),
        [(0, None), (1, None), (2, "short"), (4, "short"), (5, "sparse"), (6, "sparse")],
    )
    def test_each_length_is_judged_as_the_method_says(self, n_tokens, expected):
        assert class_of(GINI["sparse"], EFFN["sparse"], n_tokens) == expected


class TestMilder:
    @pytest.mark.parametrize("named_by_effn", CLASSES)
    @pytest.mark.parametrize("named_by_gini", CLASSES)
    def test_the_milder_of_the_two_holds(self, named_by_gini, named_by_effn):
        found = class_of(GINI[named_by_gini], EFFN[named_by_effn])
        uniform, leaning_uniform, middle, leaning_sparse, sparse = CLASSES
        if {named_by_gini, named_by_effn} == {uniform, leaning_uniform}:
            assert found == leaning_uniform
        elif {named_by_gini, named_by_effn} == {sparse, leaning_sparse}:
            assert found == leaning_sparse
        elif named_by_gini == named_by_effn:
            assert found == named_by_gini
        else:  # one of them says middle, or they lie on opposite sides
            assert found == middle


class TestReference:
    @given(
        st.lists(
            st.tuples(
                st.one_of(st.floats(0, 1), st.sampled_from([0.15, 0.25, 0.60, 0.85])),
                st.one_of(st.floats(0, 1), st.sampled_from([0.93, 0.83, 0.38, 0.12])),
                st.integers(0, 9),
                st.sampled_from([False, False, False, True]),
            ),
            max_size=30,
        )
    )
    def test_it_agrees_with_the_table_written_out(self, rows):
        gini, effn, n_tokens, no_signal = (
            np.array([row[i] for row in rows], dtype=kind)
            for i, kind in enumerate((float, float, int, bool))
        )
        found = classify(gini, effn, n_tokens, no_signal)
        assert found.tolist() == [reference.classify(*row) for row in rows]


class TestUndefined:
    @pytest.mark.parametrize("n_tokens", [0, 1])
    def test_too_few_tokens_have_no_class_even_without_a_signal(self, n_tokens):
        assert class_of(math.nan, math.nan, n_tokens) is None
        assert class_of(math.nan, math.nan, n_tokens, no_signal=True) is None

    @pytest.mark.parametrize("n_tokens", [2, 4, 5, 100])
    def test_no_signal_is_its_own_class_even_when_short(self, n_tokens):
        assert class_of(math.nan, math.nan, n_tokens, no_signal=True) == "no-signal"

    @pytest.mark.parametrize(("gini", "effn"), [(math.nan, math.nan), (0.9, math.nan)])
    def test_an_undefined_figure_is_never_called_middle(self, gini, effn):
        assert class_of(gini, effn) is None

    def test_no_completions_have_no_classes(self):
        assert classify(*[np.empty(0, dtype=t) for t in (float, float, int, bool)]).shape == (0,)


class TestThresholdsAreData:
    def test_ids_are_unique(self):
        assert len(CUT) == len(THRESHOLDS)

    def test_each_says_where_it_comes_from(self):
        assert all(threshold.source.strip() for threshold in THRESHOLDS)

    @pytest.mark.parametrize(
        ("name", "value", "gini", "effn", "before", "after"),
        [
            ("gini-uniform", 0.12, 0.14, 0.97, "uniform", "leaning-uniform"),
            ("gini-leaning-uniform", 0.22, 0.24, 0.88, "leaning-uniform", "middle"),
            ("gini-leaning-sparse", 0.65, 0.62, 0.25, "leaning-sparse", "middle"),
            ("gini-sparse", 0.95, 0.90, 0.05, "sparse", "leaning-sparse"),
            ("effn-uniform", 0.95, 0.10, 0.94, "uniform", "leaning-uniform"),
            ("effn-leaning-uniform", 0.90, 0.20, 0.88, "leaning-uniform", "middle"),
            ("effn-leaning-sparse", 0.20, 0.70, 0.25, "leaning-sparse", "middle"),
            ("effn-sparse", 0.02, 0.90, 0.05, "sparse", "leaning-sparse"),
            ("tokens-short", 11, 0.90, 0.05, "sparse", "short"),
        ],
    )
    def test_another_value_changes_the_class(self, name, value, gini, effn, before, after):
        assert class_of(gini, effn) == before
        assert class_of(gini, effn, thresholds=with_cut(name, value)) == after

    def test_another_comparator_changes_the_class(self):
        strict = tuple(
            t.model_copy(update={"comparator": ">"}) if t.id == "gini-sparse" else t
            for t in THRESHOLDS
        )
        assert class_of(0.85, 0.05) == "sparse"
        assert class_of(0.85, 0.05, thresholds=strict) == "leaning-sparse"

    def test_every_cut_is_used(self):
        for name in CUT:
            without = tuple(t for t in THRESHOLDS if t.id != name)
            with pytest.raises(StopIteration):
                class_of(0.4, 0.6, thresholds=without)


class TestSources:
    """The cuts are what their sources say they are."""

    @pytest.mark.parametrize("row", ["uniform", "leaning-uniform", "leaning-sparse", "sparse"])
    def test_the_cut_on_e_is_that_of_a_gamma_distribution_with_the_cut_on_g(self, row):
        def gini_of_gamma(shape):
            return special.gamma(shape + 0.5) / (math.sqrt(math.pi) * special.gamma(shape + 1))

        target = CUT[f"gini-{row}"].value
        shape = optimize.brentq(lambda k: gini_of_gamma(k) - target, 1e-3, 100)
        assert CUT[f"effn-{row}"].value == pytest.approx(shape / (shape + 1), abs=0.01)

    def test_exponential_scores_of_four_tokens_look_sparse_too_often_and_of_five_do_not(self):
        # G^ >= .85 means that T - 1 uniforms sum to .15 (T - 1) or less: a corner of the cube.
        tail = {n: (0.15 * (n - 1)) ** (n - 1) / math.factorial(n - 1) for n in (4, 5, 7)}
        assert tail == pytest.approx({4: 0.015, 5: 0.0054, 7: 0.0007}, abs=5e-4)
        assert tail[4] > 0.01 > tail[5]
        assert CUT["tokens-short"].value == 5

    @pytest.mark.parametrize(
        ("n_tokens", "gini", "effn", "sparse", "leaning_or_sparse"),
        [
            (5, 0.875, 0.142, 0.47, 0.95),
            (7, 0.835, 0.184, 0.28, 0.96),
            (16, 0.784, 0.232, 0.05, 0.98),
            (40, 0.763, 0.246, 0.00, 1.00),
        ],
    )
    def test_entropy_reduction_of_structureless_entropies_reads_sparse(
        self, n_tokens, gini, effn, sparse, leaning_or_sparse
    ):
        """The whole chain, against the levels that METHOD section 8 prints."""
        n = 10_000
        entropies = np.random.default_rng(n_tokens).exponential(size=(n, n_tokens))
        mask = np.ones(entropies.shape, dtype=bool)
        drops = entropy_drop(entropies, mask)
        weights = credit_weights(drops, mask)
        g, e = gini_corrected(weights, mask), effn_corrected(weights, mask)
        found = classify(g, e, mask.sum(axis=1), ~(drops > 0).any(axis=1))
        judged = found[found != "no-signal"]
        assert np.nanmean(g) == pytest.approx(gini, abs=0.006)
        assert np.nanmean(e) == pytest.approx(effn, abs=0.006)
        assert (judged == "sparse").mean() == pytest.approx(sparse, abs=0.02)
        assert np.isin(judged, ["sparse", "leaning-sparse"]).mean() == pytest.approx(
            leaning_or_sparse, abs=0.02
        )


def test_the_reference_knows_the_same_classes():
    assert tuple(reference.FROM_MIDDLE) == CLASSES
