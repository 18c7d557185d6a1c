import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special, stats

from arca_diag.credit import credit_weights
from arca_diag.diagnostics.concentration import effn_corrected, gini_corrected
from arca_diag.results import Verdict
from arca_diag.signals import entropy_drop
from arca_diag.thresholds import DEFAULT, REGIME_THRESHOLDS, Cuts
from arca_diag.verdict import CLASSES, classify, judge_regimes
from tests import reference

CUT = {threshold.id: threshold for threshold in REGIME_THRESHOLDS}

#: A figure that names each class, one well inside every row of METHOD's table.
GINI = dict(zip(CLASSES, (0.10, 0.20, 0.40, 0.70, 0.90), strict=True))
EFFN = dict(zip(CLASSES, (0.97, 0.88, 0.60, 0.25, 0.05), strict=True))


def class_of(
    gini: float,
    effn: float,
    n_tokens: int = 10,
    *,
    no_signal: bool = False,
    cuts: Cuts = DEFAULT,
) -> str | None:
    """The class of one completion."""
    found = classify(
        np.array([gini]),
        np.array([effn]),
        np.array([n_tokens]),
        np.array([no_signal]),
        cuts,
    )
    assert found.shape == (1,)
    return found[0]


def by_gini(gini: float) -> str | None:
    """What G^ alone says: e^ then only has to be on the same side, at least as far out."""
    return class_of(gini, EFFN["uniform"] if gini < 0.4 else EFFN["sparse"])


def by_effn(effn: float) -> str | None:
    return class_of(GINI["uniform"] if effn > 0.6 else GINI["sparse"], effn)


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
        assert class_of(gini, effn, cuts=DEFAULT.replaced({name: value})) == after

    def test_another_comparator_changes_the_class(self):
        strict = Cuts(
            t.model_copy(update={"comparator": ">"}) if t.id == "gini-sparse" else t
            for t in DEFAULT
        )
        assert class_of(0.85, 0.05) == "sparse"
        assert class_of(0.85, 0.05, cuts=strict) == "leaning-sparse"

    def test_every_cut_is_used(self):
        def judged(cuts: Cuts) -> tuple[str | None, Verdict]:
            return class_of(0.4, 0.6, cuts=cuts), verdict_of("m", cuts=cuts)

        judged(Cuts(REGIME_THRESHOLDS))
        for name in CUT:
            without = Cuts(t for t in REGIME_THRESHOLDS if t.id != name)
            with pytest.raises(KeyError):
                judged(without)


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


#: A letter a completion, for rows of them: its G^ and e^, its tokens, its class.
LETTERS = {
    "u": ("uniform", 10),
    "v": ("leaning-uniform", 10),
    "m": ("middle", 10),
    "l": ("leaning-sparse", 10),
    "s": ("sparse", 10),
    "n": ("no-signal", 10),
    "-": ("short", 4),
    "0": (None, 1),
}


def verdict_of(*clusters: str, inner: Sequence[str] | None = None, cuts: Cuts = DEFAULT) -> Verdict:
    """The verdict on completions given as letters, a text a prompt.

    `inner` has the letters of the same completions without their ends; else they are the same.
    """
    rows, ids = [], []
    for prompt, letters in enumerate(clusters):
        for place, letter in enumerate(letters):
            name, n_tokens = LETTERS[letter]
            without_ends = LETTERS[inner[prompt][place] if inner else letter][0]
            rows.append(
                {
                    "checkpoint": "checkpoint-3",
                    "checkpoint_step": 3,
                    "rollout_id": f"{prompt}/{place}",
                    "group_id": f"g{prompt}",
                    "own_set": True,
                    "fixed_set": False,
                    "n_tokens": n_tokens,
                    "signal": "surprisal",
                    "sharpening": 1.0,
                    "gini_corrected": GINI.get(name, math.nan),
                    "effn_corrected": EFFN.get(name, math.nan),
                    "class": name,
                    "class_inner": without_ends,
                }
            )
            ids.append({"rollout_id": f"{prompt}/{place}", "cluster": prompt, "completion": letter})
    (found,) = judge_regimes(pd.DataFrame(rows), pd.DataFrame(ids), cuts)
    return found


class TestSide:
    """The share that decided, whose limits no sum of the classes' shares has."""

    @pytest.mark.parametrize(
        ("clusters", "regime", "side", "value"),
        [
            (["ss"] * 8, "sparse", "sparse", 1.0),
            (["ssll"] * 8, "leaning-sparse", "leaning-sparse", 1.0),
            (["uuvv", "uuvm"] * 4, "leaning-uniform", "leaning-uniform", 0.875),
            (["ssss", "lllm"] * 4, "leaning-sparse", "leaning-sparse", 0.875),
            (["ss", "mm", "sm", "mu"] * 3, "inconclusive", "middle", 0.5),
            (["ss"] * 3, "inconclusive", "leaning-sparse", 1.0),
            (["smun"] * 24, "mixed", "no-signal", 0.25),
        ],
    )
    def test_it_is_of_the_regime_or_of_the_largest_side(self, clusters, regime, side, value):
        found = verdict_of(*clusters)
        assert found.regime == regime
        assert found.side is not None
        assert (found.side.regime, found.side.value) == (side, pytest.approx(value))

    def test_its_limits_are_over_prompts(self):
        found = verdict_of(*["ssss", "lllm"] * 4)
        half = stats.t.ppf(0.975, 7) * np.std([1.0, 0.75] * 4, ddof=1) / math.sqrt(8)
        assert (found.side.low, found.side.high) == pytest.approx((0.875 - half, 0.875 + half))
        assert found.side.low > 0.5

    def test_where_nothing_is_classed_there_is_none(self):
        assert verdict_of(*["00"] * 8).side is None
        assert verdict_of(*["--"] * 8).side is None


class TestRegimes:
    @pytest.mark.parametrize(
        ("letter", "regime"),
        [
            ("u", "uniform"),
            ("v", "leaning-uniform"),
            ("m", "middle"),
            ("l", "leaning-sparse"),
            ("s", "sparse"),
            ("n", "no-signal"),
        ],
    )
    def test_what_all_completions_have_is_the_regime(self, letter, regime):
        found = verdict_of(*[letter * 4] * 8)
        assert found.regime == regime
        assert found.settled_by is None
        share = found.shares[regime]
        assert (share.value, share.high) == (1.0, 1.0)
        assert share.low == pytest.approx(0.025 ** (1 / 8))  # Clopper and Pearson, 8 of 8
        assert sum(s.value for s in found.shares.values()) == pytest.approx(1.0)

    @pytest.mark.parametrize(
        ("clusters", "regime"),
        [
            (["ssssss.l".replace(".", "s")] * 9, "sparse"),
            (["ssll"] * 9, "leaning-sparse"),
            (["slll"] * 9, "leaning-sparse"),
            (["uvvv"] * 9, "leaning-uniform"),
            (["uuuv"] * 9, "uniform"),
            (["mmms"] * 9, "middle"),
            (["nnns"] * 9, "no-signal"),
        ],
        ids=lambda value: value if isinstance(value, str) else value[0],
    )
    def test_the_stronger_word_needs_its_own_majority(self, clusters, regime):
        # Not every cluster is the same: identical ones give the wide exact interval.
        clusters = [c[n % len(c) :] + c[: n % len(c)] for n, c in enumerate(clusters)]
        clusters = [c * 4 for c in clusters[:-1]] + [clusters[-1] * 4 + clusters[-1][0]]
        assert verdict_of(*clusters).regime == regime

    def test_opposite_sides_are_not_added_up(self):
        assert verdict_of(*["smu"] * 60).regime == "mixed"

    def test_a_majority_that_is_not_sure_is_inconclusive_and_says_what_would_settle_it(self):
        found = verdict_of("ssss", "ssss", "ssss", "ssss", "ssss", "mmmm", "mmmm", "mmmm")
        assert found.regime == "inconclusive"
        assert "leaning-sparse holds 62%" in found.settled_by.reason
        assert 50 < found.settled_by.clusters_more < 120

    def test_seven_prompts_are_too_few_whatever_they_say(self):
        found = verdict_of(*["ssss"] * 7)
        assert found.regime == "inconclusive"
        assert found.settled_by.clusters_more == 1
        assert "below 8" in found.settled_by.reason
        assert verdict_of(*["ssss"] * 8).regime == "sparse"

    def test_exact_zeros_need_no_minimum(self):
        found = verdict_of("n")
        assert (found.regime, found.n_clusters, found.settled_by) == ("no-signal", 1, None)

    def test_one_completion_with_a_signal_makes_it_no_longer_a_fact(self):
        assert verdict_of("nnnnm", "n").regime == "inconclusive"

    def test_short_completions_are_left_out_and_counted(self):
        found = verdict_of(*["ss--", "s0"] * 5)
        assert found.regime == "sparse"
        assert found.left_out == {"short": 10, "undefined": 5}
        assert (found.n_completions, found.n_clusters, found.n_groups) == (15, 10, 10)
        assert found.n_tokens == 150

    def test_nothing_but_short_ones_is_inconclusive(self):
        found = verdict_of(*["----"] * 9)
        assert found.regime == "inconclusive"
        assert found.n_completions == 0
        assert "short" in found.settled_by.reason
        assert all(s.value is None for s in found.shares.values())
        assert found.disagree is None

    def test_nothing_that_counts_two_tokens_is_undefined(self):
        found = verdict_of("00", "0")
        assert (found.regime, found.settled_by) == ("undefined", None)

    def test_every_prompt_weighs_the_same(self):
        # Eight prompts of one sparse completion, eight of twenty that are in the middle.
        found = verdict_of(*["s"] * 8, *["m" * 20] * 8)
        assert found.shares["sparse"].value == 0.5

    def test_equal_completions_count_as_often_as_they_occur_and_distinct_ones_are_counted(self):
        found = verdict_of(*["sssm"] * 8)
        assert found.shares["sparse"].value == 0.75
        assert (found.n_completions, found.n_distinct) == (32, 16)

    def test_how_often_the_two_figures_disagree_is_told(self):
        assert verdict_of(*["ssss"] * 8).disagree == 0.0
        rows = pd.DataFrame(
            {
                "checkpoint": "c",
                "checkpoint_step": 1,
                "rollout_id": ["a", "b"],
                "group_id": "g",
                "own_set": True,
                "fixed_set": False,
                "n_tokens": 10,
                "signal": "surprisal",
                "sharpening": 1.0,
                "gini_corrected": [GINI["sparse"]] * 2,
                "effn_corrected": [EFFN["sparse"], EFFN["middle"]],
                "class": ["sparse", "middle"],
                "class_inner": ["sparse", "middle"],
            }
        )
        ids = pd.DataFrame({"rollout_id": ["a", "b"], "cluster": ["a", "b"], "completion": "x"})
        (found,) = judge_regimes(rows, ids)
        assert found.disagree == 0.5

    @pytest.mark.parametrize(
        ("inner", "regime"),
        [
            ("ssss", "sparse"),
            ("mmmm", "middle"),
            ("lsls", "leaning-sparse"),
            ("mm--", "middle"),
            ("m000", "middle"),
            ("----", "inconclusive"),
            ("0000", "undefined"),
            ("00--", "inconclusive"),
            ("nnnn", "no-signal"),
        ],
    )
    def test_it_says_what_it_would_be_without_the_ends_by_the_same_rule(self, inner, regime):
        found = verdict_of(*["ssss"] * 9, inner=[inner] * 9)
        assert found.without_ends == regime
        assert found.model_copy(update={"without_ends": "sparse"}) == verdict_of(*["ssss"] * 9)

    def test_without_the_ends_too_few_prompts_are_too_few(self):
        assert verdict_of(*["ssss"] * 7, inner=["mmmm"] * 7).without_ends == "inconclusive"

    @pytest.mark.parametrize(
        ("name", "value", "regime"),
        [
            ("clusters-least", 8, "sparse"),
            ("clusters-least", 8.5, "inconclusive"),
            ("share-majority", 0.7, "inconclusive"),
        ],
    )
    def test_the_cuts_are_data(self, name, value, regime):
        clusters = ["ssss"] * 8
        assert verdict_of(*clusters).regime == "sparse"
        assert verdict_of(*clusters, cuts=DEFAULT.replaced({name: value})).regime == regime
