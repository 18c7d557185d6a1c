"""Whether signals are large where rewards part, on tables built by hand."""

import dataclasses
import statistics
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from arca_diag.diagnostics.prefixes import MIN_BRANCHES
from arca_diag.measurements.evidence import Evidence
from arca_diag.measurements.prefixes import measure_prefixes
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES

STEP = 7
#: The completions of a group that parts twice: at once, and on one side once more.
TREE = ([1, 5], [1, 5], [1, 6], [1, 6], [2, 5], [2, 6])


def evidence(
    rewards: Sequence[Sequence[float | None]],
    *,
    tree: Sequence[Sequence[int]] = TREE,
    seed: int = 0,
    **signals: Any,
) -> Evidence:
    """Groups of one tree, each of a prompt of its own, with the rewards of their completions.

    A signal is a function of group, completion and position; one that is not given is a constant.
    """
    tokens, rows = [], []
    for group, of_group in enumerate(rewards):
        for member, (ids, reward) in enumerate(zip(tree, of_group, strict=True)):
            key = {"checkpoint": "c", "rollout_id": f"g{group}/{member}", "group_id": f"g{group}"}
            for position, token in enumerate(ids):
                scores = {
                    name: float(signals[name](group, member, position)) if name in signals else 1.0
                    for name in SIGNAL_NAMES
                }
                at = {"position": position, "token_id": token, "counted": True}
                tokens.append(key | at | scores)
            rows.append(key | {"cluster": f"p{group}", "reward": reward, "n_tokens": len(ids)})
    found = pd.DataFrame(rows)
    of = {"own_set": True, "fixed_set": False, "sharpening": 1.0, "class": "middle"}
    return Evidence(
        tokens=pd.DataFrame(tokens),
        trajectories=found.drop(columns=["cluster", "reward"]).assign(**of, signal=SIGNAL_NAMES[0]),
        rollouts=found[["rollout_id", "group_id", "cluster", "reward"]].astype({"reward": float}),
        steps={"c": STEP},
        seed=seed,
    )


def found_in(of: Evidence, view: str = "on-policy") -> dict[tuple[str | None, str], Measurement]:
    found = [m for m in measure_prefixes(of) if m.view == view]
    keyed = {(m.signal, m.name): m for m in found}
    assert len(keyed) == len(found) == 1 + 2 * len(SIGNAL_NAMES)
    return keyed


def changes_by_hand(rewards: Sequence[float]) -> dict[tuple[int, ...], float]:
    """Of the four branching tokens of `TREE`, without rounding."""
    value = {
        prefix: statistics.mean(
            (
                Fraction(reward)
                for reward, ids in zip(rewards, TREE, strict=True)
                if tuple(ids[: len(prefix)]) == prefix
            )
        )
        for prefix in ((), (1,), (2,), (1, 5), (1, 6))
    }
    return {p: float(abs(value[p] - value[p[:-1]])) for p in value if p}


def random_rewards(n: int, seed: int = 0) -> list[list[float]]:
    return np.random.default_rng(seed).random((n, len(TREE))).tolist()


def random_triples(n: int) -> list[list[float]]:
    return np.random.default_rng(4).random((n, 3)).tolist()


def knowing(rewards: Sequence[Sequence[float]]) -> Any:
    """A signal that is the change of value itself."""
    changes = [changes_by_hand(of_group) for of_group in rewards]
    return lambda group, member, position: changes[group].get(
        tuple(TREE[member][: position + 1]), 0.0
    )


class TestAgreement:
    def test_it_is_spearmans_over_the_branching_tokens_of_all_groups(self):
        rewards = random_rewards(5)
        rng = np.random.default_rng(1)
        noise = rng.random((5, len(TREE), 2))
        found = found_in(evidence(rewards, entropy=lambda *at: noise[at]))
        one = found["entropy", "prefix_agreement"]
        signal, change = [], []
        for group in range(5):
            for prefix, moved in changes_by_hand(rewards[group]).items():
                takers = [i for i, ids in enumerate(TREE) if tuple(ids[: len(prefix)]) == prefix]
                signal.append(noise[group, takers, len(prefix) - 1].mean())
                change.append(moved)
        assert len(signal) == 20
        assert one.value == pytest.approx(stats.spearmanr(signal, change).statistic, rel=1e-9)
        assert (one.n_clusters, one.n_groups, one.n_completions) == (5, 5, 30)
        assert one.n_tokens == 60
        assert one.sharpening is None
        assert one.low < one.value < one.high

    def test_a_signal_that_is_large_where_value_changes_is_beyond_the_shuffles(self):
        rewards = random_rewards(6)
        rng = np.random.default_rng(2)
        noise = rng.random((6, len(TREE), 2))
        found = found_in(
            evidence(rewards, residual=knowing(rewards), entropy=lambda *at: noise[at])
        )
        knows, null = (
            found["residual", name] for name in ("prefix_agreement", "prefix_agreement_null")
        )
        assert knows.value == pytest.approx(1)
        assert null.low < null.value < null.high < 0.9
        stranger, null = (
            found["entropy", name] for name in ("prefix_agreement", "prefix_agreement_null")
        )
        assert null.low < stranger.value < null.high

    def test_completions_that_are_the_same_are_all_evidence_of_a_value(self):
        # Two of the three that begin with 1 are the same, and so are two that begin with 2.
        tree = ([1, 5], [1, 5], [1, 6], [2, 5], [2, 5], [3, 5])
        rewards = [[float(r) for r in (a, a, b, c, c, 0)] for a, b, c in random_triples(5)]
        # V(1) - V is that of the mean of all three, so a signal that is it agrees fully.
        signal = [
            [abs(np.mean(r[:3]) - np.mean(r)), abs(np.mean(r[3:5]) - np.mean(r))] for r in rewards
        ]
        found = found_in(evidence(rewards, tree=tree, residual=lambda g, m, t: signal[g][m >= 3]))
        assert found[None, "prefix_nodes"].value == 2
        assert found["residual", "prefix_agreement"].value == pytest.approx(1)


class TestNodes:
    def test_it_is_the_mean_over_prompts_of_branching_tokens_a_group(self):
        found = found_in(evidence(random_rewards(3)))[None, "prefix_nodes"]
        assert found.value == 4
        assert (found.low, found.high) == (4, 4)
        assert (found.n_groups, found.n_completions) == (3, 18)
        assert found.signal is None

    def test_it_needs_no_rewards(self):
        found = found_in(evidence([[None] * 6] * 2))
        assert found[None, "prefix_nodes"].value == 4
        assert found["residual", "prefix_agreement"].reason == "rewards are unknown"


class TestUndefined:
    def test_redacted_token_ids_leave_nothing_to_tell_and_say_so(self):
        of = evidence(random_rewards(3))
        for nothing in (None, np.nan):
            hidden = dataclasses.replace(of, tokens=of.tokens.assign(token_id=nothing))
            for found in found_in(hidden).values():
                assert found.value is None
                assert found.reason == "token ids are redacted"

    def test_an_empty_view_says_so(self):
        for found in found_in(evidence(random_rewards(3)), "fixed-set").values():
            assert found.reason == "no completion in the fixed set"

    def test_groups_without_spread_are_left_out(self):
        rewards = [*random_rewards(3), [0.7] * 6, [None, 1.0, 0.0, 1.0, 0.0, 1.0]]
        signal = np.random.default_rng(0).random((5, 6, 2))
        found = found_in(evidence(rewards, entropy=lambda *at: signal[at]))
        assert found["entropy", "prefix_agreement"].n_groups == 3
        assert found[None, "prefix_nodes"].n_groups == 5
        found = found_in(evidence([[0.7] * 6] * 3))["entropy", "prefix_agreement"]
        assert found.reason == "no group has spread in reward"
        assert found.n_groups == 0

    def test_few_branching_tokens_and_a_constant_signal_say_so(self):
        found = found_in(evidence(random_rewards(1)))["entropy", "prefix_agreement"]
        assert found.reason.startswith("4 branching tokens")
        assert str(MIN_BRANCHES) in found.reason
        found = found_in(evidence(random_rewards(3)))
        for name in ("prefix_agreement", "prefix_agreement_null"):
            assert found["entropy", name].reason.endswith("the same at every branching token")
            assert found["entropy", name].n_clusters == 0


class TestDeterminism:
    def test_the_seed_moves_the_shuffles_and_nothing_else(self):
        rewards = random_rewards(4)
        first, again, other = (
            found_in(evidence(rewards, seed=seed, residual=knowing(rewards))) for seed in (0, 0, 1)
        )
        assert first == again
        moved = {key for key, found in first.items() if other[key] != found}
        assert moved == {("residual", "prefix_agreement_null")}
