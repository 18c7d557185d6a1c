import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from arca_diag.diagnostics import rewards
from arca_diag.diagnostics.rewards import (
    PERMUTATIONS,
    RewardGap,
    advantage_sides,
    length_strata,
    reward_gap,
)

#: (value, side, length, group, prompt) of a completion.
Row = tuple[float, int, int, int, int]


def gap_of(rows: list[Row], seed: int = 0) -> RewardGap:
    values, sides, lengths, groups, clusters = (np.array(c) for c in zip(*rows, strict=True))
    return reward_gap(
        values.astype(float), sides, lengths, groups, clusters, rng=np.random.default_rng(seed)
    )


# A plain reference: lists and dictionaries, and every step as the docstrings word it.


def strata_by_hand(rows: list[Row]) -> dict[int, list[tuple[float, int]]]:
    """Stratum -> (value, side) of its completions; the group of stratum i is i // 1000."""
    out: dict[int, list[tuple[float, int]]] = defaultdict(list)
    usable = [r for r in rows if r[1] and not math.isnan(r[0])]
    for group in {r[3] for r in usable}:
        number, first = group * 1000, None
        for value, side, length, _, _ in sorted(
            (r for r in usable if r[3] == group), key=lambda r: r[2]
        ):
            if first is None or 4 * length > 5 * first:
                number, first = number + 1, length
            out[number].append((value, side))
    return {k: v for k, v in out.items() if {side for _, side in v} == {1, -1}}


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def gap_by_hand(strata: dict[int, list[tuple[float, int]]], prompts: dict[int, int]) -> float:
    in_group = defaultdict(list)
    for number, members in strata.items():
        good = mean(value for value, side in members if side == 1)
        bad = mean(value for value, side in members if side == -1)
        in_group[number // 1000].append(good - bad)
    in_prompt = defaultdict(list)
    for group, gaps in in_group.items():
        in_prompt[prompts[group]].append(mean(gaps))
    return mean(mean(groups) for groups in in_prompt.values())


def exact_p(rows: list[Row]) -> float:
    """Every way to hand the sides of a stratum out again, all equally likely."""
    strata, prompts = strata_by_hand(rows), {r[3]: r[4] for r in rows}
    observed = abs(gap_by_hand(strata, prompts))
    ways = [list(itertools.permutations([side for _, side in m])) for m in strata.values()]
    hits = total = 0
    for sides in itertools.product(*ways):
        drawn = {
            number: [(value, side) for (value, _), side in zip(members, handed, strict=True)]
            for (number, members), handed in zip(strata.items(), sides, strict=True)
        }
        hits += abs(gap_by_hand(drawn, prompts)) >= observed - 1e-12
        total += 1
    return hits / total


@st.composite
def groups_of_completions(draw: st.DrawFn) -> list[Row]:
    """A few groups of two prompts, with ties, undefined values and completions on the mean."""
    one = st.tuples(
        st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, math.nan])),
        st.sampled_from([1, -1, 1, -1, 0]),
        st.sampled_from([8, 10, 11, 13, 20]),
        st.integers(0, 3),
    )
    rows = draw(st.lists(one, min_size=1, max_size=14))
    return [(*row, row[3] // 2) for row in rows]


def null_rows(rng: np.random.Generator, *, n_groups: int = 10, n: int = 8) -> list[Row]:
    """Credit that differs by prompt and by length; reward that goes with length, not with credit.

    Both go with length, so good completions have another figure than bad ones, for no other reason.
    """
    rows = []
    for group in range(n_groups):
        level = rng.normal(scale=3)
        for _ in range(n):
            length = int(rng.choice([10, 30]))
            good = rng.random() < (0.8 if length == 10 else 0.3)
            value = level + rng.exponential() + (2.0 if length == 10 else 0.0)
            rows.append((value, 1 if good else -1, length, group, group))
    return rows


class TestSides:
    def test_above_and_below_the_mean(self):
        rewards = np.array([0.2, 0.7, 1.2])
        sides = advantage_sides(rewards - rewards.mean(), np.zeros(3, dtype=int))
        assert sides.tolist() == [-1, 0, 1]  # .7 less the mean is 1e-16

    def test_a_group_without_spread_is_never_on_both_sides(self):
        for reward in (0.1, 0.7, 1.2):
            rewards = np.full(6, reward)
            assert len(set(advantage_sides(rewards - rewards.mean(), np.zeros(6, dtype=int)))) == 1

    def test_an_unknown_advantage_leaves_its_own_group_out_and_no_other(self):
        sides = advantage_sides(np.array([1.0, math.nan, 2.0, -2.0]), np.array([5, 5, 2, 2]))
        assert sides.tolist() == [0, 0, 1, -1]


class TestStrata:
    def test_a_stratum_reaches_a_quarter_past_its_first(self):
        lengths = np.array([8, 10, 11, 13, 14])
        assert length_strata(lengths, np.zeros(5, dtype=int)).tolist() == [0, 0, 1, 1, 2]

    @given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3)), min_size=1, max_size=20))
    def test_strata_part_groups_and_hold_like_lengths_only(self, rows):
        lengths, groups = (np.array(c) for c in zip(*rows, strict=True))
        strata = length_strata(lengths, groups)
        for stratum in set(strata.tolist()):
            inside = strata == stratum
            assert len(set(groups[inside].tolist())) == 1
            assert 4 * lengths[inside].max() <= 5 * lengths[inside].min()


class TestGap:
    def test_by_hand(self):
        rows = [
            (0.9, 1, 10, 0, 0),
            (0.5, -1, 10, 0, 0),
            (0.3, -1, 12, 0, 0),  # like 10: bad is .4 there, the gap .5
            (0.8, 1, 32, 0, 0),
            (0.7, -1, 32, 0, 0),  # a gap of .1: .3 for the group
            (0.1, 1, 32, 1, 1),
            (0.2, -1, 40, 1, 1),  # -.1
            (9.0, 1, 60, 1, 1),  # no bad one is as long
        ]
        found = gap_of(rows)
        assert found.value == pytest.approx((0.3 - 0.1) / 2, rel=1e-12)
        assert found.used.tolist() == [True] * 7 + [False]
        assert found.n_clusters == 2
        half = stats.t.ppf(0.975, 1) * np.std([0.3, -0.1], ddof=1) / math.sqrt(2)
        assert (found.low, found.high) == pytest.approx((0.1 - half, 0.1 + half), rel=1e-9)

    @given(groups_of_completions())
    def test_it_agrees_with_the_reference(self, rows):
        strata = strata_by_hand(rows)
        found = gap_of(rows)
        assert found.used.sum() == sum(len(members) for members in strata.values())
        if not strata:
            assert math.isnan(found.value)
            assert math.isnan(found.p)
            return
        wanted = gap_by_hand(strata, {r[3]: r[4] for r in rows})
        assert found.value == pytest.approx(wanted, rel=1e-9, abs=1e-12)

    def test_good_and_bad_of_unlike_length_are_not_compared(self):
        found = gap_of([(0.9, 1, 10, 0, 0), (0.1, -1, 13, 0, 0)])
        assert math.isnan(found.value)
        assert math.isnan(found.p)
        assert found.n_clusters == 0

    def test_a_difference_between_prompts_is_none_within_them(self):
        rows = [(0.9, 1, 10, 0, 0), (0.9, -1, 10, 0, 0), (0.1, -1, 10, 1, 1), (0.1, 1, 10, 1, 1)]
        found = gap_of(rows + [(0.9, 1, 10, 0, 0)] * 5)
        assert found.value == pytest.approx(0, abs=1e-15)
        assert found.p == 1


class TestNull:
    @pytest.mark.parametrize("seed", range(8))
    def test_the_p_value_is_that_of_every_permutation_gone_through(self, seed):
        rng = np.random.default_rng(seed)
        rows = [
            (round(rng.random(), 1), side, length, group, group // 2)
            for group, length, sides in (
                (0, 10, (1, -1, -1, 1)),
                (0, 30, (1, -1)),
                (1, 10, (1, -1, -1)),
                (2, 20, (1, 1, -1)),
            )
            for side in sides
        ]
        exact = exact_p(rows)
        found = gap_of(rows, seed)
        error = math.sqrt(exact * (1 - exact) / PERMUTATIONS)
        assert found.p == pytest.approx(exact, abs=4 * error + 1 / PERMUTATIONS)

    def test_two_completions_can_show_nothing(self):
        assert gap_of([(0.9, 1, 10, 0, 0), (0.1, -1, 10, 0, 0)]).p == 1

    def test_p_is_uniform_where_credit_knows_nothing_but_length_and_prompt(self, monkeypatch):
        monkeypatch.setattr(rewards, "PERMUTATIONS", 199)
        rng = np.random.default_rng(1)
        found = np.array([gap_of(null_rows(rng), seed).p for seed in range(1000)])
        assert (found <= 0.05).mean() == pytest.approx(0.05, abs=0.021)  # three standard errors
        assert stats.kstest(found, "uniform").pvalue > 0.01

    def test_credit_that_knows_the_reward_is_found(self):
        rng = np.random.default_rng(2)
        rows = [
            (value + (1.0 if side == 1 else 0.0), *rest)
            for value, *rest in null_rows(rng, n_groups=16)
            for side in rest[:1]
        ]
        found = gap_of(rows)
        assert found.p <= 0.005
        assert found.low < 1.0 < found.high

    def test_the_direction_does_not_matter_to_p(self):
        rows = null_rows(np.random.default_rng(3))
        found, turned = gap_of(rows), gap_of([(-v, *rest) for v, *rest in rows])
        assert turned.value == pytest.approx(-found.value, rel=1e-12)
        assert turned.p == found.p

    def test_the_same_seed_gives_the_same_p(self):
        rows = null_rows(np.random.default_rng(4))
        assert gap_of(rows, 5).p == gap_of(rows, 5).p
        assert len({gap_of(rows, seed).p for seed in range(5)}) > 1
