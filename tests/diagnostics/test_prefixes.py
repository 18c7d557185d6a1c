import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from arca_diag.diagnostics.prefixes import (
    MIN_BRANCHES,
    Branches,
    branching_tokens,
    order_agreement,
    order_agreement_interval,
    value_changes,
)

GROUPS = st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=9)


def branches_of(*completions, uncounted=()) -> Branches:
    """Those of a group; `uncounted` are places that count for none."""
    ids = [np.array(c, dtype=np.int64) for c in completions]
    counted = [np.array([t not in uncounted for t in range(len(c))], dtype=bool) for c in ids]
    return branching_tokens(ids, counted)


def by_hand(completions) -> dict[tuple[int, ...], tuple[set[int], set[int]]]:
    """Prefix with token -> who has the prefix, and who goes on with the token. No tree."""
    found = {}
    for completion in completions:
        for end in range(1, len(completion) + 1):
            prefix, taken = tuple(completion[: end - 1]), tuple(completion[:end])
            sharers = {i for i, c in enumerate(completions) if tuple(c[: end - 1]) == prefix}
            takers = {i for i, c in enumerate(completions) if tuple(c[:end]) == taken}
            others = {i for i in sharers - takers if len(completions[i]) >= end}
            if len(takers) >= 2 and len(others) >= 2:
                found[taken] = (sharers, takers)
    return found


def named(branches: Branches, completions) -> dict[tuple[int, ...], tuple[set[int], set[int]]]:
    out = {}
    for position, sharers, takers in zip(
        branches.positions, branches.sharers, branches.takers, strict=True
    ):
        one = int(np.flatnonzero(takers)[0])
        name = tuple(completions[one][: position + 1])
        assert name not in out
        out[name] = (set(np.flatnonzero(sharers)), set(np.flatnonzero(takers)))
    return out


def spearman(one, other) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return float(stats.spearmanr(one, other).statistic)


def random_group(rng: np.random.Generator, n: int = 8) -> list[list[int]]:
    return rng.integers(0, 2, size=(n, 4)).tolist()


class TestBranches:
    def test_by_hand(self):
        # After 5: two take 1, two take 2. After 5, 1 the two go on alike, and so does nobody else.
        found = branches_of([5, 1, 7], [5, 1, 7], [5, 2, 8], [5, 2, 9])
        assert found.positions.tolist() == [1, 1]
        assert found.sharers.tolist() == [[True] * 4] * 2
        assert found.takers.tolist() == [[True, True, False, False], [False, False, True, True]]

    def test_one_on_a_side_is_too_few(self):
        assert not len(branches_of([1], [1], [1], [2]).positions)
        # Of three, the token of two has but one against it.
        assert not len(branches_of([1], [1], [2]).positions)
        # Three tokens of two, two and one: each of the first two has three against it.
        assert len(branches_of([1], [1], [2], [2], [3]).positions) == 2

    def test_a_completion_that_ends_takes_no_side_and_still_tells_the_prefix(self):
        assert not len(branches_of([4, 1], [4, 1], [4, 2], [4]).positions)
        found = branches_of([4, 1], [4, 1], [4, 2], [4, 2], [4])
        assert found.sharers.sum(axis=1).tolist() == [5, 5]

    def test_the_first_token_can_branch(self):
        assert branches_of([1], [1], [2], [2]).positions.tolist() == [0, 0]

    def test_completions_that_are_all_the_same_part_nowhere(self):
        assert branches_of(*[[1, 2, 3]] * 8).takers.shape == (0, 8)

    def test_a_token_that_does_not_count_is_part_of_prefixes_only(self):
        group = [[1, 3], [1, 3], [2, 3], [2, 4], [1, 4], [1, 4]]
        assert branches_of(*group).positions.tolist() == [0, 0, 1, 1]
        assert branches_of(*group, uncounted=[0]).positions.tolist() == [1, 1]

    def test_a_token_must_count_for_all_who_take_it(self):
        ids = [np.array([token]) for token in (1, 1, 2, 2)]
        counted = [np.array([counts]) for counts in (True, False, True, True)]
        found = branching_tokens(ids, counted)
        assert found.takers.tolist() == [[False, False, True, True]]

    @given(GROUPS)
    def test_it_agrees_with_the_reference(self, completions):
        assert named(branches_of(*completions), completions) == by_hand(completions)

    @given(GROUPS, st.randoms())
    def test_the_order_of_completions_never_matters(self, completions, random):
        order = random.sample(range(len(completions)), len(completions))
        shuffled = [completions[i] for i in order]
        back = {
            name: tuple({order[i] for i in side} for side in sides)
            for name, sides in named(branches_of(*shuffled), shuffled).items()
        }
        assert back == named(branches_of(*completions), completions)


class TestValueChanges:
    def test_by_hand(self):
        found = branches_of([1], [1], [2], [2], [2], [2])
        rewards = np.array([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
        # V is 5/6 before, 1/2 after 1 and 1 after 2.
        assert value_changes(found, rewards[:, None])[:, 0] == pytest.approx([1 / 3, 1 / 6])

    @given(GROUPS, st.data())
    def test_it_agrees_with_the_reference(self, completions, data):
        n = len(completions)
        rewards = data.draw(st.lists(st.floats(-2, 2), min_size=n, max_size=n))
        found = branches_of(*completions)
        changes = value_changes(found, np.array(rewards)[:, None])[:, 0]
        order = list(named(found, completions))
        wanted = by_hand(completions)
        for name, change in zip(order, changes, strict=True):
            sharers, takers = ([rewards[i] for i in side] for side in wanted[name])
            value = abs(math.fsum(takers) / len(takers) - math.fsum(sharers) / len(sharers))
            assert change == pytest.approx(value, rel=1e-9, abs=1e-11)

    def test_without_spread_in_reward_no_value_changes(self):
        found = branches_of(*random_group(np.random.default_rng(0), 16))
        assert len(found.positions)
        assert (value_changes(found, np.full((16, 1), 0.5)) == 0).all()


class TestOrderAgreement:
    def test_a_signal_that_is_the_change_agrees_fully(self):
        changes = np.random.default_rng(0).random(MIN_BRANCHES)
        found = order_agreement(np.stack([changes, -changes], axis=1), changes[:, None])
        assert found[:, 0] == pytest.approx([1, -1], rel=1e-12)

    @given(
        st.lists(
            st.tuples(*[st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0])] * 4),
            min_size=MIN_BRANCHES,
            max_size=20,
        )
    )
    def test_it_agrees_with_scipy(self, rows):
        table = np.array(rows)
        found = order_agreement(table[:, :2], table[:, 2:])
        for signal, draw in itertools.product((0, 1), (0, 1)):
            wanted = spearman(table[:, signal], table[:, 2 + draw])
            assert found[signal, draw] == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True)

    def test_changes_that_differ_by_rounding_tie(self):
        changes = np.array([0.3, 0.1 + 0.2, 0.1, 0.1, 0.2, 0.2, 0.5, 0.6])
        assert changes[0] != changes[1]
        signal = np.arange(8.0)
        wanted = spearman(signal, [0.3, 0.3, 0.1, 0.1, 0.2, 0.2, 0.5, 0.6])
        assert order_agreement(signal[:, None], changes[:, None]).item() == pytest.approx(wanted)

    def test_it_is_undefined_for_few_tokens_and_where_a_side_is_constant(self):
        few = np.arange(MIN_BRANCHES - 1.0)[:, None]
        enough = np.arange(float(MIN_BRANCHES))[:, None]
        assert np.isnan(order_agreement(few, few)).all()
        assert np.isnan(order_agreement(np.ones_like(enough), enough)).all()
        assert np.isnan(order_agreement(enough, np.zeros_like(enough))).all()


class TestInterval:
    @pytest.mark.parametrize("seed", range(5))
    def test_it_is_the_jackknife_over_prompts(self, seed):
        rng = np.random.default_rng(seed)
        clusters = np.repeat(np.arange(9), rng.integers(2, 5, size=9))
        signal = rng.normal(size=len(clusters))
        change = 0.3 * signal + rng.normal(size=len(clusters))
        found = order_agreement_interval(signal[:, None], change, clusters)[0]

        pseudo = [
            9 * spearman(signal, change)
            - 8 * spearman(signal[clusters != c], change[clusters != c])
            for c in range(9)
        ]
        half = stats.t.ppf(0.975, 8) * stats.sem(pseudo)
        value = spearman(signal, change)
        assert found.value == pytest.approx(value, rel=1e-9)
        assert found.low == pytest.approx(max(-1, value - half), rel=1e-9)
        assert found.high == pytest.approx(min(1, value + half), rel=1e-9)
        assert found.n_clusters == 9

    def test_without_one_prompt_there_must_be_enough_left(self):
        # Without any prompt, and without the one prompt of two tokens.
        for extra in ([], [0]):
            clusters = np.array([*range(MIN_BRANCHES), *extra])
            change = np.arange(float(len(clusters)))
            found = order_agreement_interval(change[:, None], change, clusters)[0]
            assert found.value == pytest.approx(1)
            assert math.isnan(found.low)
            assert math.isnan(found.high)

    def test_undefined_is_of_no_prompt(self):
        found = order_agreement_interval(np.empty((0, 1)), np.empty(0), np.empty(0, dtype=int))[0]
        assert math.isnan(found.value)
        assert found.n_clusters == 0

    def test_it_holds_the_figure_of_a_whole_population_about_as_often_as_it_says(self):
        rng = np.random.default_rng(1)

        def drawn(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            clusters = np.repeat(np.arange(n), 3)
            level = rng.normal(size=(2, n))[:, clusters]
            signal = level[0] + rng.normal(size=3 * n)
            return signal, signal + level[1] + rng.normal(size=3 * n), clusters

        truth = spearman(*drawn(20_000)[:2])
        found = []
        for _ in range(400):
            signal, change, clusters = drawn(12)
            found.append(order_agreement_interval(signal[:, None], change, clusters)[0])
        covered = np.mean([one.low <= truth <= one.high for one in found])
        assert 0.90 <= covered <= 0.98


class TestNull:
    def test_shuffled_rewards_say_how_far_a_signal_that_knows_nothing_gets(self):
        # The signal goes with how few take a token, as surprisal does, and so does the change.
        rng = np.random.default_rng(5)
        beyond, agreements = [], []
        for _ in range(150):
            signals, changes = [], []
            for _ in range(6):
                found = branches_of(*random_group(rng))
                rewards = rng.random(8)
                shuffled = rng.permuted(np.tile(rewards, (99, 1)), axis=1)
                signals.append(1 / found.takers.sum(axis=1) + 0.1 * rng.random(len(found.takers)))
                changes.append(value_changes(found, np.vstack([rewards, shuffled]).T))
            agreement = order_agreement(np.concatenate(signals)[:, None], np.concatenate(changes))[
                0
            ]
            agreements.append(agreement[0])
            beyond.append((agreement >= agreement[0]).mean())
        assert np.mean(agreements) > 0.15  # so 0 is not where chance lies
        assert stats.kstest(beyond, "uniform").pvalue > 0.01
