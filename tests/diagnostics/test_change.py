"""Changes between checkpoints, against plain loops and on planted truths."""

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from arca_diag.diagnostics.change import (
    Completions,
    at_common_length,
    length_stratum,
    matched_change,
    paired_change,
)
from arca_diag.diagnostics.concentration import effn_corrected

NAN = math.nan
#: (value, counted tokens, prompt) of a completion.
Row = tuple[float, int, int]


def side(rows: list[Row]) -> Completions:
    return Completions(
        values=np.array([r[0] for r in rows], dtype=float),
        n_tokens=np.array([r[1] for r in rows], dtype=np.int64),
        clusters=np.array([r[2] for r in rows], dtype=np.int64),
    )


def reference(before: list[Row], after: list[Row]) -> tuple[float, float]:
    """The change and half its interval: one completion at a time, strata by their edges."""
    edges = [5 * 2 ** (k / 2) for k in range(-5, 20)]

    def at_like_length(before: list[Row], after: list[Row]) -> float:
        parts = []
        for rows in (before, after):
            cells = defaultdict(list)
            for value, n, _ in rows:
                cells[sum(n >= edge for edge in edges)].append(value)
            parts.append({k: (math.fsum(v) / len(v), len(v) / len(rows)) for k, v in cells.items()})
        weigh = {k: min(parts[0][k][1], parts[1][k][1]) for k in parts[0] if k in parts[1]}
        if not weigh:
            return NAN
        gaps = math.fsum(w * (parts[1][k][0] - parts[0][k][0]) for k, w in weigh.items())
        return gaps / math.fsum(weigh.values())

    before, after = ([r for r in rows if not math.isnan(r[0])] for rows in (before, after))
    value = at_like_length(before, after)
    prompts = {c for *_, c in before + after}
    found = [
        [(sum(n >= edge for edge in edges), c) for _, n, c in rows] for rows in (before, after)
    ]
    common = {k for k, _ in found[0]} & {k for k, _ in found[1]}
    fewest = min(len({c for k, c in rows if k in common}) for rows in found)
    if fewest < 2:
        return value, NAN
    left = [
        at_like_length([r for r in before if r[2] != c], [r for r in after if r[2] != c])
        for c in sorted(prompts)
    ]
    n, mean = len(left), math.fsum(left) / len(left)
    # The jackknife's other form: no pseudo-values.
    error = math.sqrt((n - 1) / n * math.fsum((v - mean) ** 2 for v in left))
    return value, float(stats.t.ppf(0.975, fewest - 1)) * error


ROWS = st.lists(
    st.tuples(
        st.one_of(st.just(NAN), st.integers(-9, 9).map(float)),
        st.integers(1, 12),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=14,
)


def exponential(rng: np.random.Generator, prompts: range, share_long: float) -> Completions:
    """e^ of i.i.d. exponential scores: of 40 tokens in that share of completions, else of 7."""
    n_tokens = np.where(rng.random((len(prompts), 8)) < share_long, 40, 7).ravel()
    scores = rng.exponential(size=(len(n_tokens), 40))
    values = effn_corrected(scores, np.arange(40) < n_tokens[:, None])
    return Completions(values=values, n_tokens=n_tokens, clusters=np.repeat(prompts, 8))


def on_common_prompts(rng: np.random.Generator) -> tuple[Completions, Completions]:
    return exponential(rng, range(200), 0.9), exponential(rng, range(200), 0.1)


class TestPaired:
    def test_it_is_the_mean_over_prompts_of_the_differences(self):
        found = paired_change(
            np.array([0.1, 0.2, 0.5]), np.array([0.2, 0.4, 0.4]), np.array(["a", "a", "b"])
        )
        assert found.value == pytest.approx((0.15 - 0.1) / 2)
        assert found.n_clusters == 2

    def test_what_prompts_have_in_common_cancels(self):
        rng = np.random.default_rng(0)
        levels = 10 * rng.random(12)
        found = paired_change(levels, levels + 0.1 + 0.01 * rng.random(12), np.arange(12))
        assert 0.1 < found.low < found.high < 0.11

    def test_its_interval_is_that_of_a_paired_t_test(self):
        rng = np.random.default_rng(1)
        before, after = rng.random((2, 9))
        expected = stats.ttest_rel(after, before).confidence_interval(0.95)
        found = paired_change(before, after, np.arange(9))
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))

    def test_a_completion_undefined_on_one_side_is_left_out(self):
        found = paired_change(np.array([NAN, 1.0, 1.0]), np.array([5.0, NAN, 3.0]), np.arange(3))
        assert (found.value, found.n_clusters) == (2.0, 1)


class TestStrata:
    def test_edges_grow_by_the_root_of_two(self):
        lengths = np.arange(1, 400)
        found = length_stratum(lengths)
        for stratum in np.unique(found):
            inside = lengths[found == stratum]
            assert inside.max() <= math.sqrt(2) * inside.min() + 1e-12
            assert inside.min() >= 5 * 2 ** (stratum / 2)
        starts = [int(lengths[found == s].min()) for s in range(7)]
        assert starts == [5, 8, 10, 15, 20, 29, 40]

    def test_common_lengths_are_those_of_strata_that_both_have(self):
        found = at_common_length(np.array([5, 8, 40, 7]), np.array([6, 100, 50]))
        assert found.tolist() == [True, False, True, True]
        assert not at_common_length(np.array([5]), np.array([], dtype=np.int64)).any()


class TestMatched:
    @given(ROWS, ROWS)
    def test_it_agrees_with_plain_loops(self, before, after):
        assume(all(any(not math.isnan(r[0]) for r in rows) for rows in (before, after)))
        value, half = reference(before, after)
        found = matched_change(side(before), side(after))
        assert found.value == pytest.approx(value, abs=1e-9, nan_ok=True)
        assert found.high - found.value == pytest.approx(half, abs=1e-7, nan_ok=True)
        assert found.value - found.low == pytest.approx(half, abs=1e-7, nan_ok=True)

    def test_each_stratum_weighs_by_the_rarer_side(self):
        before = side([(0.0, 5, 0), (0.0, 5, 1), (0.0, 5, 2), (0.0, 20, 3)])
        after = side([(1.0, 5, 0), (5.0, 20, 1)])
        # Shares .75 and .25 before, .5 and .5 after.
        assert matched_change(before, after).value == pytest.approx((0.5 * 1 + 0.25 * 5) / 0.75)

    def test_a_stratum_that_one_side_lacks_weighs_nothing(self):
        before = side([(0.2, 5, 0), (9.0, 400, 1)])
        after = side([(0.3, 6, 0), (-9.0, 50, 2)])
        assert matched_change(before, after).value == pytest.approx(0.1)

    def test_without_a_common_stratum_it_is_undefined_and_of_no_prompt(self):
        found = matched_change(side([(1.0, 5, 0)]), side([(1.0, 50, 0)]))
        assert math.isnan(found.value)
        assert found.n_clusters == 0
        assert matched_change(side([]), side([(1.0, 5, 0)])).n_clusters == 0
        assert matched_change(side([]), side([])).n_clusters == 0

    def test_one_prompt_on_a_side_gives_no_limits(self):
        before = side([(0.0, 5, c) for c in range(9)])
        found = matched_change(before, side([(1.0, 5, 20), (1.0, 5, 20)]))
        assert (found.value, found.n_clusters) == (1.0, 1)
        assert math.isnan(found.low + found.high)

    def test_degrees_of_freedom_are_those_of_the_side_with_fewer_prompts(self):
        rng = np.random.default_rng(2)
        before = side([(float(v), 5, c) for c, v in enumerate(rng.random(16))])
        after = side([(float(v), 5, 100 + c) for c, v in enumerate(rng.random(3))])
        found = matched_change(before, after)
        # Apart, the jackknife's variances of two means add up but for (n - 1) / n of the union.
        error = math.sqrt(
            18 / 19 * (before.values.var(ddof=0) * 16 / 15**2 + after.values.var(ddof=0) * 3 / 2**2)
        )
        assert found.n_clusters == 3
        assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 2) * error, rel=0.02)

    def test_prompts_whose_completions_are_not_compared_give_no_degrees_of_freedom(self):
        rng = np.random.default_rng(7)
        after = side([(float(v), 5, c) for c, v in enumerate(rng.random(12))])
        before = side([(float(v), 5 if c < 3 else 400, c) for c, v in enumerate(rng.random(12))])
        assert matched_change(before, after).n_clusters == 3

    def test_a_prompt_that_both_have_leaves_both_so_that_what_it_is_cancels(self):
        rng = np.random.default_rng(3)
        levels = 5 * rng.random(10)
        before = side([(float(v), 5, c) for c, v in enumerate(levels)])
        after = side([(float(v) + 0.1, 5, c) for c, v in enumerate(levels)])
        same = matched_change(before, after)
        assert (same.low, same.high) == pytest.approx((0.1, 0.1))
        apart = matched_change(before, replace(after, clusters=after.clusters + 100))
        assert apart.low < 0 < apart.high

    def test_shorter_completions_look_like_a_change_that_matching_takes_away(self):
        # METHOD: i.i.d. exponential scores have e^ .54 at T = 7 and .51 at T = 40.
        before, after = on_common_prompts(np.random.default_rng(4))
        unmatched = paired_change(
            before.values.reshape(200, 8).mean(axis=1),
            after.values.reshape(200, 8).mean(axis=1),
            np.arange(200),
        )
        assert unmatched.low > 0
        assert unmatched.value == pytest.approx(0.8 * 0.03, abs=0.02)
        matched = matched_change(before, after)
        assert matched.low < 0 < matched.high

    def test_a_change_that_is_there_is_found_at_like_length(self):
        before, after = on_common_prompts(np.random.default_rng(5))
        found = matched_change(before, replace(after, values=after.values - 0.1))
        assert found.low < -0.1 < found.high < 0

    def test_its_interval_misses_about_one_time_in_twenty(self):
        rng = np.random.default_rng(6)
        missed = 0
        for _ in range(300):
            after = exponential(rng, range(6, 18), 0.3)  # half of the prompts are common
            found = matched_change(exponential(rng, range(12), 0.7), after)
            missed += not found.low <= 0 <= found.high
        assert 0.01 <= missed / 300 <= 0.08
