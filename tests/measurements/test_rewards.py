"""Whether credit knows the reward, on tables built by hand."""

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from arca_diag.measurements.evidence import Evidence
from arca_diag.measurements.rewards import measure_rewards
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES

STEP = 7
GAPS = ("reward_gap", "reward_gap_p", "reward_gap_p_holm")
SHARES = ("groups_without_spread", "groups_all_best", "groups_all_worst")

#: (group, reward, value of the figure) of a completion, and any of its other columns.
Given = tuple[str, float | None, float] | tuple[str, float | None, float, dict[str, Any]]


def evidence(*given: Given, sharpening: float = 1.0, seed: int = 0) -> Evidence:
    """Completions of ten counted tokens each; a group's prompt is its first letter.

    The figure is `gini_inner` at `sharpening`; at 1, if that is another, it is nonsense.
    """
    rollouts, trajectories = [], []
    for i, (group, reward, value, *other) in enumerate(given):
        of = {"completion": f"c{i}", "advantage": None, "n_tokens": 10, "fixed_set": False}
        of |= other[0] if other else {}
        rollouts.append(
            {
                "rollout_id": f"r{i}",
                "group_id": group,
                "cluster": group[0],
                "completion": of["completion"],
                "reward": reward,
                "advantage": of["advantage"],
            }
        )
        trajectories += [
            {
                "checkpoint": "c",
                "rollout_id": f"r{i}",
                "group_id": group,
                "own_set": True,
                "fixed_set": of["fixed_set"],
                "n_tokens": of["n_tokens"],
                "signal": name,
                "sharpening": power,
                "class": "middle",
                "gini_inner": of.get(name, value) if power == sharpening else 99.0,
            }
            for name in SIGNAL_NAMES
            for power in sorted({1.0, sharpening})
        ]
    frame = pd.DataFrame(rollouts).astype({"reward": float, "advantage": float})
    return Evidence(
        tokens=pd.DataFrame(),
        trajectories=pd.DataFrame(trajectories),
        rollouts=frame,
        steps={"c": STEP},
        sharpening=sharpening,
        seed=seed,
    )


def found_in(of: Evidence, view: str = "on-policy") -> dict[tuple[str | None, str], Measurement]:
    found = [m for m in measure_rewards(of) if m.view == view]
    keyed = {(m.signal, m.name): m for m in found}
    assert len(keyed) == len(found)
    return keyed


def gap(*given: Given, signal: str = "residual", **options: Any) -> Measurement:
    return found_in(evidence(*given, **options))[signal, "reward_gap"]


def share(name: str, *given: Given) -> Measurement:
    return found_in(evidence(*given))[None, name]


def planted(effect: float, n_groups: int = 12) -> list[Given]:
    """Groups of eight in which the residual knows the reward, and no other signal does."""
    rng = np.random.default_rng(3)
    return [
        (
            f"{chr(97 + group)}0",
            float(member % 2),
            0.1 * group + rng.random(),
            {"residual": 0.1 * group + rng.random() + effect * (member % 2)},
        )
        for group in range(n_groups)
        for member in range(8)
    ]


class TestGap:
    def test_good_less_bad_within_groups_then_over_groups_then_over_prompts(self):
        found = gap(
            *[("a1", 1.0, 0.9), ("a1", 0.0, 0.5), ("a1", 0.0, 0.3)],  # .5
            *[("a2", 1.0, 0.2), ("a2", 0.5, 0.4)],  # -.2: .15 for prompt a
            *[("b1", 7.0, 0.6), ("b1", 3.0, 0.3)],  # .3
        )
        assert found.value == pytest.approx((0.15 + 0.3) / 2, rel=1e-12)
        assert (found.n_clusters, found.n_groups, found.n_completions) == (2, 3, 7)
        assert found.n_tokens == 70
        assert found.low < found.value < found.high
        assert found.reason is None

    def test_it_is_of_the_configured_sharpening(self):
        rows = [("a1", 1.0, 0.9), ("a1", 0.0, 0.5)]
        found = gap(*rows, sharpening=2.0)
        assert found.sharpening == 2.0
        assert found.value == pytest.approx(0.4)

    def test_a_completion_that_occurs_twice_counts_once(self):
        again = {"completion": "same"}
        once = [("a1", 1.0, 0.9), ("a1", 0.0, 0.5), ("a1", 0.0, 0.1, again)]
        found = gap(*once, ("a1", 0.0, 0.1, again), ("a1", 0.0, 0.1, again))
        assert found.value == pytest.approx(0.9 - 0.3)
        assert found.n_completions == 3
        # In another group it is another completion.
        assert gap(*once, ("b1", 1.0, 0.5), ("b1", 0.0, 0.5, again)).n_completions == 5

    def test_the_mean_that_parts_good_from_bad_is_of_all_completions(self):
        # Three times 1 and once .5: the mean is .6875 or, counted once each, .575.
        again = {"completion": "same"}
        rows = [("a1", 1.0, 0.9, again)] * 3 + [("a1", 0.6, 0.4), ("a1", 0.0, 0.2)]
        assert gap(*rows).value == pytest.approx(0.9 - 0.3)

    def test_groups_without_spread_are_left_out(self):
        rows = [("a1", 1.0, 0.9), ("a1", 0.0, 0.5)]
        flat = [("b1", 0.7, 0.1), ("b1", 0.7, 0.9), ("b1", 0.7, 0.2)]
        assert gap(*rows, *flat).n_groups == 1
        only = gap(*flat)
        assert only.value is None
        assert only.reason == "no group has spread in reward"

    def test_unlike_lengths_are_not_compared(self):
        found = gap(("a1", 1.0, 0.9), ("a1", 0.0, 0.5, {"n_tokens": 20}))
        assert found.value is None
        assert found.reason.startswith("no common length")
        assert (found.n_clusters, found.n_completions) == (0, 0)

    def test_advantages_stand_in_for_rewards_that_are_unknown(self):
        good, bad = {"advantage": 1.0}, {"advantage": -0.5}
        found = gap(("a1", None, 0.9, good), ("a1", None, 0.4, bad), ("a1", None, 0.4, bad))
        assert found.value == pytest.approx(0.5)
        # Where rewards are known they decide.
        assert gap(("a1", 0.0, 0.9, good), ("a1", 1.0, 0.4, bad)).value == pytest.approx(-0.5)

    def test_a_group_with_one_unknown_reward_has_no_mean_to_be_above(self):
        rows = [("a1", 1.0, 0.9), ("a1", 0.0, 0.5)]
        assert gap(*rows, ("b1", 1.0, 0.1), ("b1", None, 0.2), ("b1", 0.0, 0.9)).n_groups == 1
        # Its advantages decide where all are known.
        good, bad = {"advantage": 1.0}, {"advantage": -0.5}
        some = [("b1", 0.5, 0.1, bad), ("b1", None, 0.5, good), ("b1", 0.6, 0.3, bad)]
        assert gap(*rows, *some).value == pytest.approx((0.4 + 0.3) / 2)

    def test_without_rewards_and_advantages_it_says_so(self):
        found = gap(("a1", None, 0.9), ("a1", None, 0.5))
        assert found.reason == "neither rewards nor advantages are known"

    def test_credit_without_a_figure_is_undefined_for_that_signal_alone(self):
        none = {"residual": math.nan}
        rows = [("a1", 1.0, 0.9, none), ("a1", 0.0, 0.5, none)]
        assert gap(*rows).reason.startswith("credit is undefined")
        assert gap(*rows, signal="entropy").value == pytest.approx(0.4)

    def test_a_view_without_completions_says_so(self):
        found = found_in(evidence(("a1", 1.0, 0.9), ("a1", 0.0, 0.5)), "fixed-set")
        for name in (*GAPS, *SHARES):
            signal = None if name in SHARES else "residual"
            assert found[signal, name].reason == "no completion in the fixed set"


class TestPValues:
    def test_a_signal_that_knows_the_reward_is_told_from_those_that_do_not(self):
        found = found_in(evidence(*planted(0.5)))
        assert found["residual", "reward_gap_p_holm"].value <= 0.01
        assert found["residual", "reward_gap"].low > 0
        others = [s for s in SIGNAL_NAMES if s != "residual"]
        assert all(found[s, "reward_gap_p_holm"].value > 0.05 for s in others)

    def test_the_seven_signals_of_a_place_are_one_family(self):
        found = found_in(evidence(*planted(0.2)))
        p = {s: found[s, "reward_gap_p"].value for s in SIGNAL_NAMES}
        least = min(p, key=p.__getitem__)
        assert found[least, "reward_gap_p_holm"].value == pytest.approx(min(1, 7 * p[least]))
        # A signal that cannot be asked about costs the others nothing.
        rows = [
            (group, reward, value, other | {"entropy": math.nan})
            for group, reward, value, other in planted(0.2)
        ]
        found = found_in(evidence(*rows))
        assert found["entropy", "reward_gap_p_holm"].value is None
        assert found[least, "reward_gap_p_holm"].value == pytest.approx(min(1, 6 * p[least]))

    def test_the_seed_moves_the_p_values_and_nothing_else(self):
        first, again, other = (found_in(evidence(*planted(0.1), seed=seed)) for seed in (0, 0, 1))
        assert first == again
        moved = {name for (_, name), m in first.items() if other[_, name] != m}
        assert moved <= {"reward_gap_p", "reward_gap_p_holm"}
        assert moved

    def test_what_is_measured_elsewhere_moves_no_p_value(self):
        of = evidence(*planted(0.1))
        more = dataclasses.replace(
            of,
            trajectories=pd.concat(
                [of.trajectories.assign(checkpoint="b", fixed_set=True), of.trajectories]
            ),
            steps={"b": 3, "c": STEP},
        )
        wanted = measure_rewards(of)
        assert [m for m in measure_rewards(more) if m.checkpoint == STEP] == wanted

    def test_names_of_rollouts_and_prompts_move_nothing(self):
        # As redaction renames them: equal names stay equal, and sort otherwise.
        of = evidence(*planted(0.1))
        groups = of.rollouts["group_id"].unique()
        new = {name: f"{7 * place % len(groups):02}" for place, name in enumerate(groups)}
        assert sorted(new.values()) != list(new.values())
        renamed = dataclasses.replace(
            of,
            trajectories=of.trajectories.assign(group_id=of.trajectories["group_id"].map(new)),
            rollouts=of.rollouts.assign(
                cluster=of.rollouts["group_id"].map(new), group_id=of.rollouts["group_id"].map(new)
            ),
        )
        assert measure_rewards(renamed) == measure_rewards(of)


class TestSpread:
    ROWS = (
        *[("a1", 1.0, 0.5), ("a1", 1.0, 0.5)],
        *[("a2", 0.0, 0.5), ("a2", 1.0, 0.5)],
        *[("b1", 0.0, 0.5), ("b1", 0.0, 0.5)],
        *[("c1", 0.5, 0.5), ("c1", 0.5, 0.5)],
    )

    def test_shares_are_of_groups_then_of_prompts(self):
        found = share("groups_without_spread", *self.ROWS)
        assert found.value == pytest.approx((0.5 + 1 + 1) / 3)
        assert (found.n_clusters, found.n_groups, found.n_completions) == (3, 4, 8)
        assert found.signal is None
        assert found.sharpening is None
        assert share("groups_all_best", *self.ROWS).value == pytest.approx(0.5 / 3)
        assert share("groups_all_worst", *self.ROWS).value == pytest.approx(1 / 3)

    def test_best_and_worst_are_of_all_rollouts_of_the_report(self):
        # Those of c1 are the best here, and not of all.
        of = evidence(("c1", 0.5, 0.5), ("c1", 0.5, 0.5))
        more = pd.DataFrame([{"rollout_id": "x", "cluster": "x", "reward": 1.0}])
        of = dataclasses.replace(of, rollouts=pd.concat([of.rollouts, more]))
        found = found_in(of)
        assert found[None, "groups_all_best"].value == 0
        assert found[None, "groups_all_worst"].value == 1

    def test_groups_of_one_and_groups_with_an_unknown_reward_do_not_count(self):
        rows = [("a1", 1.0, 0.5), ("b1", None, 0.5), ("b1", 1.0, 0.5)]
        for name in SHARES:
            found = share(name, *rows)
            assert found.value is None
            assert found.reason == "no group of two completions or more has known rewards"
            assert found.n_groups == 0
        rows = [("d1", 1.0, 0.5), ("e1", None, 0.5), ("e1", 1.0, 0.5)]
        assert share("groups_without_spread", *rows, *self.ROWS).n_groups == 4

    def test_the_interval_is_that_of_a_share_over_prompts(self):
        rows = [(f"{letter}1", 1.0, 0.5) for letter in "abcdefgh" for _ in range(2)]
        found = share("groups_without_spread", *rows)
        assert (found.value, found.high) == (1, 1)
        assert found.low == pytest.approx(0.025 ** (1 / 8))  # Clopper-Pearson, 8 of 8
        found = share("groups_without_spread", *rows, ("h1", 0.0, 0.5))
        limits = stats.binomtest(7, 8).proportion_ci(0.95, method="exact")
        assert (found.low, found.high) == pytest.approx((limits.low, limits.high))
