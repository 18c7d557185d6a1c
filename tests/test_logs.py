import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from arca_diag import logs
from arca_diag.logs import RULES, Log, log_findings, no_spread_in_rollouts
from arca_diag.thresholds import DEFAULT, LOG_THRESHOLDS, Cuts
from tests.conftest import ROOT
from tests.test_causes import figure


def rows(**series: list[Any]) -> list[dict[str, Any]]:
    """Log entries from columns; `a__b` stands for the key `a/b`."""
    length = max(len(values) for values in series.values())
    return [
        {"step": n + 1} | {k.replace("__", "/"): v[n] for k, v in series.items() if n < len(v)}
        for n in range(length)
    ]


def found(
    same_groups: float | None = None, cuts: Cuts = DEFAULT, **series: list[Any]
) -> dict[str, str]:
    """Id -> level of every finding."""
    told = log_findings(Log(rows=rows(**series), same_groups=same_groups, cuts=cuts))
    return {f.id: f.level for f in told}


def around(mean: float, spread: float, count: int = 40) -> list[float]:
    return list(mean + spread * np.random.default_rng(0).standard_normal(count))


@pytest.mark.parametrize("name", ["tiny-addition", "smollm2-addition"])
def test_a_run_that_learns_has_no_fault(name):
    state = json.loads((ROOT / "sample_runs" / name / "trainer_state.json").read_text("utf-8"))
    told = log_findings(Log(rows=state["log_history"], same_groups=0.9))
    assert {f.level for f in told} <= {"note"}


def test_an_empty_log_says_nothing():
    assert log_findings(Log(rows=())) == []


@pytest.mark.parametrize("odd", ["x", None, [], {}, True, math.nan, 10**400])
def test_entries_of_odd_types_are_no_crash(odd):
    keys = ("frac_reward_zero_std", "entropy", "reward", "kl", "grad_norm", "learning_rate")
    more = ("sampling/sampling_logp_difference/mean", "completions/clipped_ratio", "step")
    mixed = [dict.fromkeys(keys + more, odd) for _ in range(3)]
    for finding in log_findings(Log(rows=mixed)):
        assert finding.id == "gradients-broken"


class TestNoAdvantage:
    def test_most_groups_without_spread_warn_and_nearly_all_are_an_error(self):
        assert found(frac_reward_zero_std=around(0.7, 0.05)) == {"no-advantage": "warn"}
        assert found(frac_reward_zero_std=around(0.96, 0.01)) == {"no-advantage": "error"}

    def test_it_is_the_lower_limit_that_decides(self):
        noisy = around(0.55, 0.4, 12)
        low = np.mean(noisy) - stats.t.ppf(0.975, 11) * stats.sem(noisy)
        assert low < 0.5 < np.mean(noisy)
        assert found(frac_reward_zero_std=noisy).get("no-advantage") != "warn"
        assert found(frac_reward_zero_std=around(0.55, 0.01, 12)) == {"no-advantage": "warn"}

    def test_a_task_that_is_solved_at_the_end_is_a_note(self):
        solved = [0.0] * 30 + [1.0] * 10
        assert found(frac_reward_zero_std=solved, reward=[0.0] * 20 + [1.0] * 20) == {
            "no-advantage": "note"
        }

    def test_spread_everywhere_is_nothing(self):
        assert found(frac_reward_zero_std=around(0.2, 0.1)) == {}

    def test_where_all_groups_agree_their_number_decides(self):
        def level(entries: int, groups: float | None) -> str:
            told = log_findings(Log(rows=rows(frac_reward_zero_std=[1.0] * entries), groups=groups))
            assert told[0].evidence["low"] == pytest.approx(
                stats.binomtest(int(groups or entries), int(groups or entries))
                .proportion_ci(0.95, "exact").low
            )  # fmt: skip
            return told[0].level

        assert [level(n, None) for n in (1, 5, 6, 35, 36)] == [
            "note", "note", "warn", "warn", "error",
        ]  # fmt: skip
        assert level(4, 40.0) == "error"

    def test_a_few_entries_near_one_are_held_to_the_groups_that_they_are_of(self):
        values = [1.0] * 15 + [0.5]  # 31 of 32 groups
        (told,) = log_findings(Log(rows=rows(frac_reward_zero_std=values), groups=32.0))
        exact = stats.binomtest(31, 32).proportion_ci(0.95, "exact").low
        assert exact < 0.9 < np.mean(values) - stats.t.ppf(0.975, 15) * stats.sem(values)
        assert told.evidence["low"] == pytest.approx(exact)
        assert told.level == "warn"

    def test_one_entry_is_no_evidence_of_the_others(self):
        (told,) = log_findings(Log(rows=rows(frac_reward_zero_std=[0.9])))
        assert (told.level, told.evidence["low"]) == ("note", 0)

    def test_the_limits_are_in_the_evidence(self):
        values = around(0.7, 0.05)
        (told,) = log_findings(Log(rows=rows(frac_reward_zero_std=values)))
        low = np.mean(values) - stats.t.ppf(0.975, 39) * stats.sem(values)
        assert told.evidence["low"] == pytest.approx(low, rel=1e-12)
        assert told.evidence["mean"] == pytest.approx(np.mean(values), rel=1e-12)


class TestNoAdvantageWithoutALog:
    def spread(self, low: float, *, n: int = 12, view: Any = "fixed-set", **log: Any) -> Any:
        shares = [
            figure(name, value, signal=None, view=view, n=n, low=low, high=1.0)
            for name, value in (
                ("groups_without_spread", 0.97),
                ("groups_all_best", 0.25),
                ("groups_all_worst", 0.72),
            )
        ]
        return no_spread_in_rollouts(Log(rows=rows(**log) if log else []), shares)

    @pytest.mark.parametrize(("low", "level"), [(0.95, "error"), (0.6, "warn")])
    def test_the_lower_limit_over_prompts_decides(self, low, level):
        (finding,) = self.spread(low)
        assert (finding.id, finding.level) == ("no-advantage", level)
        assert "25% all best, 72% all worst" in finding.message
        assert finding.evidence["prompts"] == 12

    def test_a_limit_below_the_cut_is_no_finding(self):
        assert self.spread(0.45) == []

    def test_too_few_prompts_and_own_sets_say_nothing_of_the_run(self):
        assert self.spread(0.95, n=7) == []
        assert self.spread(0.95, view="on-policy") == []

    def test_it_is_said_once_and_by_the_log_where_the_log_says_it(self):
        assert self.spread(0.95, frac_reward_zero_std=[0.97] * 30) == []

    def test_a_log_that_sees_spread_where_there_is_none_hides_nothing(self):
        """As TRL's does: the deviation of eight equal rewards of 1.2 rounds to 1e-7, not to 0."""
        rewards = torch.full((8,), 1.2)
        deviation = (rewards - rewards.mean()).square().mean().sqrt()
        assert not torch.isclose(deviation, torch.zeros(()))
        (finding,) = self.spread(0.95, frac_reward_zero_std=[0.0] * 30)
        assert (finding.id, finding.level) == ("no-advantage", "error")

    def test_unknown_rewards_are_no_finding(self):
        unknown = figure("groups_without_spread", None, signal=None, view="fixed-set")
        assert no_spread_in_rollouts(Log(rows=[]), [unknown]) == []


class TestEntropy:
    FALLING = tuple(np.geomspace(2.0, 0.01, 40))
    FLAT = tuple(around(0.4, 0.02))

    def test_lost_for_nothing_is_a_collapse(self):
        assert found(0.8, entropy=list(self.FALLING), reward=list(self.FLAT)) == {
            "entropy-collapsed": "error"
        }

    def test_without_the_completions_it_is_no_collapse_but_a_warning(self):
        series = {"entropy": list(self.FALLING), "reward": list(self.FLAT)}
        assert found(None, **series) == {"entropy-low": "warn"}
        (told,) = log_findings(Log(rows=rows(**series)))
        assert "answers are unknown" in told.message

    @pytest.mark.parametrize(
        ("reward", "same"),
        [
            (tuple(np.linspace(0.1, 0.9, 40)), 0.9),
            (FLAT, 0.3),
            (tuple(np.linspace(0.1, 0.9, 40)), None),
        ],
        ids=["the reward rose", "the answers still differ", "the reward rose, answers unknown"],
    )
    def test_one_of_the_three_missing_is_a_note(self, reward, same):
        told = found(same, entropy=list(self.FALLING), reward=list(reward))
        assert told == {"entropy-low": "note"}

    def test_the_message_says_that_the_policy_learned_and_what_groups_hold(self):
        rising = list(np.linspace(0.1, 0.9, 40))
        series = {"entropy": list(self.FALLING), "reward": rising}
        series["frac_reward_zero_std"] = [0.0] * 36 + [0.25] * 4
        (told,) = log_findings(Log(rows=rows(**series), same_groups=0.3))
        ends = Log(rows=rows(**series)).ends("reward")
        assert told.message.endswith(
            f"while the policy still learned: the reward rose from {ends[0]:.3g} to {ends[1]:.3g}; "
            "70% of the late groups that were kept hold several answers, by the log 75% of the "
            "late groups earn different rewards, which is more than can: TRL misses groups of "
            "equal rewards where the deviation is rounded, or is that of the batch"
        )

    def test_as_many_that_earn_differently_as_hold_several_answers_are_no_contradiction(self):
        series = {"entropy": list(self.FALLING), "reward": list(self.FLAT)}
        series["frac_reward_zero_std"] = [0.3] * 40
        (told,) = log_findings(Log(rows=rows(**series), same_groups=0.3))
        assert "70%" in told.message
        assert "more than can" not in told.message

    def test_the_message_says_no_more_than_is_known(self):
        rising = list(np.linspace(0.1, 0.9, 40))
        (told,) = log_findings(Log(rows=rows(entropy=list(self.FALLING), reward=rising)))
        assert re.search(r"the reward rose from \S+ to \S+$", told.message)
        flat = rows(entropy=list(self.FALLING), reward=list(self.FLAT))
        (told,) = log_findings(Log(rows=flat, same_groups=0.3))
        assert told.message.endswith(
            "while the reward did not rise; 70% of the late groups that were kept hold several "
            "answers"
        )

    def test_a_third_of_the_entropy_left_is_nothing(self):
        assert found(0.9, entropy=list(np.linspace(1, 0.33, 40)), reward=list(self.FLAT)) == {}


class TestRising:
    @pytest.mark.parametrize("seed", range(6))
    def test_it_is_welchs_test(self, seed):
        rng = np.random.default_rng(seed)
        values = rng.normal(0, [1] * 60 + [2] * 60) + np.linspace(0, seed / 2, 120)
        first, last = values[:12], values[-12:]
        expected = stats.ttest_ind(last, first, equal_var=False, alternative="greater").pvalue
        assert logs._rises(Log(rows=rows(reward=list(values)))) == (expected < 0.025)

    def test_rewards_without_scatter_compare_as_they_are(self):
        assert logs._rises(Log(rows=rows(reward=[0.0] * 20 + [1.0] * 20)))
        assert not logs._rises(Log(rows=rows(reward=[1.0] * 40)))


class TestOthers:
    def test_sampler_and_trainer_apart(self):
        key = "sampling__sampling_logp_difference__mean"
        assert found(**{key: [0.012] * 9}) == {}
        assert found(**{key: [0.05] * 9}) == {"sampler-mismatch": "warn"}
        assert found(**{key: [0.3] * 9}) == {"sampler-mismatch": "error"}

    def test_a_kl_before_the_first_step(self):
        assert found(kl=[8.7e-4, 1e-3]) == {"reference-apart": "warn"}
        assert found(kl=[1e-8, 1e-3]) == {}
        late = [{"step": 10, "kl": 0.3}]  # after nine steps it may be anything
        assert log_findings(Log(rows=late)) == []

    def test_gradients_that_are_zero_or_no_numbers(self):
        assert found(grad_norm=[0.0] * 5) == {"nothing-moves": "error"}
        assert found(learning_rate=[0.0] * 5, grad_norm=[1.0] * 5) == {"nothing-moves": "error"}
        assert found(grad_norm=[1.0, math.nan, 1.0]) == {"gradients-broken": "warn"}
        assert found(grad_norm=[math.inf] * 3) == {"gradients-broken": "error"}
        assert found(grad_norm=[0.0, 0.1], learning_rate=[0.0, 1e-4]) == {}

    def test_late_completions_cut_off(self):
        assert found(completions__clipped_ratio=[0.0] * 20 + [0.8] * 20) == {
            "completions-truncated": "warn"
        }
        assert found(completions__clipped_ratio=[0.8] * 20 + [0.0] * 20) == {}


_FLAT = {"reward": around(0.4, 0.02)}
_SAMPLER = "sampling__sampling_logp_difference__mean"
#: A cut, another value of it, and a log whose findings it changes, from and to.
MOVED: dict[str, tuple[float, dict[str, Any], dict[str, str], dict[str, str]]] = {
    "no-advantage-warn": (
        0.8,
        {"frac_reward_zero_std": around(0.7, 0.05)},
        {"no-advantage": "warn"},
        {},
    ),
    "no-advantage-error": (
        0.6,
        {"frac_reward_zero_std": around(0.7, 0.05)},
        {"no-advantage": "warn"},
        {"no-advantage": "error"},
    ),
    "entropy-collapse-ratio": (
        0.5,
        {"same_groups": 0.9, "entropy": list(np.linspace(1, 0.3, 40)), **_FLAT},
        {},
        {"entropy-collapsed": "error"},
    ),
    "entropy-collapse-distinct": (
        0.95,
        {"same_groups": 0.9, "entropy": list(np.geomspace(2, 0.01, 40)), **_FLAT},
        {"entropy-collapsed": "error"},
        {"entropy-low": "note"},
    ),
    "sampler-mismatch-warn": (0.01, {_SAMPLER: [0.012] * 9}, {}, {"sampler-mismatch": "warn"}),
    "sampler-mismatch-error": (
        0.04,
        {_SAMPLER: [0.05] * 9},
        {"sampler-mismatch": "warn"},
        {"sampler-mismatch": "error"},
    ),
    "kl-at-start": (1e-3, {"kl": [8.7e-4, 1e-3]}, {"reference-apart": "warn"}, {}),
    "completions-truncated": (
        0.9,
        {"completions__clipped_ratio": [0.8] * 20},
        {"completions-truncated": "warn"},
        {},
    ),
}


@pytest.mark.parametrize("cut", LOG_THRESHOLDS, ids=lambda cut: cut.id)
def test_another_value_of_a_cut_changes_what_is_found(cut):
    value, log, before, after = MOVED[cut.id]
    assert found(**log) == before
    assert found(cuts=DEFAULT.replaced({cut.id: value}), **log) == after


def test_every_rule_is_reached_above():
    assert len(RULES) == 6
