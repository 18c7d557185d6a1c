"""Causes: each rule on planted figures, and each guard against what can look like it."""

import itertools
import math
from typing import Any

import pytest
from scipy import stats

from arca_diag.attribution import Judged, judge_causes
from arca_diag.causes import ALPHA, ALPHA_SKEWED, CAUSES
from arca_diag.results import Measurement, Share, Verdict, View
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.thresholds import CAUSE_THRESHOLDS, DEFAULT

N = 16


def figure(
    name: str,
    value: float | None,
    half: float = 0.01,
    *,
    signal: str | None = "surprisal",
    against: str | None = None,
    sharpening: float | None = None,
    checkpoint: int = 60,
    view: View = "on-policy",
    n: int = N,
    **limits: float,
) -> Measurement:
    """A measurement with Student's limits `value - half` and `value + half`."""
    known = value is not None
    return Measurement(
        checkpoint=checkpoint,
        view=view,
        signal=signal,
        sharpening=sharpening,
        against=against,
        name=name,
        value=value,
        low=limits.get("low", value - half) if known else None,
        high=limits.get("high", value + half) if known else None,
        n_clusters=n if known else 0,
        n_groups=n if known else 0,
        n_completions=4 * n if known else 0,
        n_tokens=100 if known else 0,
        reason=None if known else "why not",
    )


def verdict(
    signal: str = "surprisal",
    regime: str = "sparse",
    *,
    checkpoint: int = 60,
    view: View = "on-policy",
    sharpening: float = 1.0,
    n: int = N,
) -> Verdict:
    return Verdict(
        checkpoint=checkpoint,
        view=view,
        signal=signal,
        sharpening=sharpening,
        regime=regime,
        without_ends=regime,
        shares={},
        left_out={},
        disagree=0.0,
        n_clusters=n,
        n_groups=n,
        n_completions=4 * n,
        n_distinct=4 * n,
        n_tokens=100,
        causes=[],
        settled_by=None,
    )


def judged(*items: Verdict | Measurement, cuts: Any = DEFAULT) -> Judged:
    verdicts = [i for i in items if isinstance(i, Verdict)]
    figures = [i for i in items if isinstance(i, Measurement)]
    return judge_causes(verdicts, figures, cuts)


def causes(*items: Verdict | Measurement, cuts: Any = DEFAULT) -> list[str]:
    """Of the first verdict."""
    return judged(*items, cuts=cuts).verdicts[0].causes


def quiet(signal: str = "surprisal", **where: Any) -> Measurement:
    """A signal that rounding hardly touches."""
    return figure("noise_share", 1e-4, 1e-5, signal=signal, against="other-batch", **where)


MOVED = quiet("kl_exact")


class TestEachRule:
    """Held where the interval is past the cut, not where only the point is."""

    @pytest.mark.parametrize(
        ("cause", "signal", "name", "held", "near", "clear", "extra"),
        [
            ("credit-floor", "residual", "floor_share", 0.8, 0.505, 0.3, ()),
            ("credit-structural", "entropy_reduction", "structural_excess", 0.0, 0.045, 0.2, ()),
            ("credit-inherited", "surprisal", "inherited_tv", 0.03, 0.095, 0.4, (MOVED,)),
            ("credit-inherited", "entropy", "inherited_tv", 0.03, 0.095, 0.4, (MOVED,)),
        ],
    )
    def test_the_interval_has_to_be_past_the_cut(
        self, cause, signal, name, held, near, clear, extra
    ):
        at = {} if name == "floor_share" else {"sharpening": 1.0}

        def found(value: float) -> list[str]:
            return causes(verdict(signal), figure(name, value, signal=signal, **at), *extra)

        assert found(held) == [cause]
        assert found(near) == []
        assert found(clear) == []

    def test_rounding_of_a_tenth_is_noise_and_the_regime_is_withheld(self):
        for value, called, regime in ((0.3, True, "inconclusive"), (1e-3, False, "sparse")):
            noise = figure("noise_share", value, value / 10, against="other-batch")
            found = judged(verdict(), noise).verdicts[0]
            assert (found.causes == ["numeric-noise"]) == called
            assert found.regime == regime
            assert (found.settled_by is not None) == called

    def test_noise_that_may_be_below_its_cut_withholds_the_regime_without_naming_a_cause(self):
        noise = figure("noise_share", 0.095, 0.02, against="other-batch")
        found = judged(verdict(), noise).verdicts[0]
        assert (found.regime, found.causes) == ("inconclusive", [])
        assert "--dtype" in (found.settled_by.reason if found.settled_by else "")

    def test_the_worse_of_the_two_replicas_counts(self):
        low = figure("noise_share", 0.8, 0.05, against="float32")
        assert causes(verdict(), quiet(), low) == ["numeric-noise"]
        assert causes(verdict(), low, quiet()) == ["numeric-noise"]

    def test_short_completions_are_asked_of_the_place_not_of_the_signal(self):
        share = figure("short_share", 0.9, 0.05, signal=None)
        assert causes(verdict(regime="inconclusive"), share) == ["completions-short"]
        few = figure("short_share", 0.4, 0.05, signal=None)
        assert causes(verdict(regime="inconclusive"), few) == []

    def test_a_power_that_made_the_regime_is_named_where_both_regimes_are_settled(self):
        def found(at_2: str, at_1: str) -> list[str]:
            both = (verdict(regime=at_2, sharpening=2.0), verdict(regime=at_1))
            return judged(*both).verdicts[0].causes

        assert found("sparse", "middle") == ["sharpening-only"]
        assert found("leaning-sparse", "mixed") == ["sharpening-only"]
        assert found("uniform", "middle") == ["sharpening-only"]
        # `leaning-sparse` may be `sparse` that is not settled; `middle` is no fault to explain.
        assert found("sparse", "leaning-sparse") == []
        assert found("leaning-uniform", "uniform") == []
        assert found("middle", "leaning-uniform") == []
        assert found("sparse", "sparse") == []
        assert found("sparse", "inconclusive") == []
        assert found("inconclusive", "middle") == []
        assert found("sparse", "undefined") == []

    @pytest.mark.parametrize(
        ("at_2", "at_1", "high", "called"),
        [
            ("sparse", "leaning-sparse", 0.49, ["sharpening-only"]),
            ("sparse", "leaning-sparse", 0.51, []),  # it may have been sparse already
            ("uniform", "leaning-uniform", 0.49, ["sharpening-only"]),
            ("leaning-sparse", "sparse", 0.49, []),
        ],
    )
    def test_on_one_side_the_share_at_one_says_whether_the_power_made_the_regime(
        self, at_2: str, at_1: str, high: float, called: list[str]
    ):
        share = Share(value=high - 0.1, low=high - 0.2, high=high)
        plain = verdict(regime=at_1).model_copy(update={"shares": {at_2: share}})
        assert judged(verdict(regime=at_2, sharpening=2.0), plain).verdicts[0].causes == called


class TestTaskAgnostic:
    def asked(
        self, by: str, value: float, null_high: float, half: float = 0.02, n: int = N
    ) -> list[str]:
        null = figure(f"{by}_explained_null", 0.0, sharpening=1.0, low=-0.1, high=null_high)
        return causes(verdict(), figure(f"{by}_explained", value, half, sharpening=1.0, n=n), null)

    @pytest.mark.parametrize("by", ["type", "class", "position"])
    def test_any_of_type_class_and_place_can_give_the_credit(self, by):
        assert self.asked(by, 0.9, 0.1) == ["credit-task-agnostic"]
        assert self.asked(by, 0.3, 0.1) == []

    def test_a_null_that_reaches_as_far_takes_the_call_back(self):
        assert self.asked("type", 0.9, 0.95) == []

    def test_it_needs_more_prompts_than_other_causes(self):
        """Fewer share one table, whose error is the same for all of them."""
        found = [self.asked("type", 0.9, 0.1, n=n) for n in (8, 15, 16)]
        assert found == [[], [], ["credit-task-agnostic"]]

    def test_three_looks_cost_a_factor_of_three(self):
        # The one-sided p-value of the figure alone is between ALPHA / 3 and ALPHA.
        t = stats.t(N - 1)
        half = 0.1
        error = half / t.ppf(0.975)
        for p, called in ((ALPHA * 0.9, []), (ALPHA * 0.3, ["credit-task-agnostic"])):
            value = 0.5 + t.isf(p) * error
            assert self.asked("type", value, 0.1, half) == called


class TestAnInertAdapter:
    def test_a_residual_that_is_zero_makes_every_signal_of_the_adapter_inert(self):
        found = judged(
            *(verdict(s, "no-signal") for s in ("residual", "divergence", "kl_exact")),
            verdict("surprisal"),
        )
        assert [v.causes for v in found.verdicts] == [["adapter-inert"]] * 3 + [[]]
        assert found.verdicts[0].regime == "no-signal"

    def test_exact_zeros_need_no_minimum_of_prompts(self):
        assert causes(verdict("residual", "no-signal", n=1)) == ["adapter-inert"]

    def test_a_zero_that_float32_does_not_have_is_noise(self):
        seen = figure("noise_share", 1.0, 0.0, signal="residual", against="float32")
        found = judged(verdict("residual", "no-signal"), seen).verdicts[0]
        assert (found.causes, found.regime) == (["numeric-noise"], "inconclusive")

    def test_a_residual_that_is_all_rounding_is_inert_in_the_precision_taken_for_the_truth(self):
        noise = figure("noise_share", 0.9, 0.1, signal="residual", against="other-batch")
        found = judged(verdict("residual", "uniform"), noise).verdicts[0]
        assert (found.causes, found.regime) == (["adapter-inert"], "inconclusive")
        some = figure("noise_share", 0.3, 0.05, signal="residual", against="other-batch")
        assert causes(verdict("residual", "uniform"), some) == ["numeric-noise"]

    def test_below_float32_noise_against_another_batch_never_makes_an_adapter_inert(self):
        noise = figure("noise_share", 0.9, 0.1, signal="residual", against="other-batch")
        truth = figure("noise_share", 0.9, 0.1, signal="residual", against="float32")
        assert causes(verdict("residual", "uniform"), noise, truth) == ["numeric-noise"]

    def test_an_adapter_that_moves_nothing_is_not_said_to_inherit_everything(self):
        tv = figure("inherited_tv", 0.0, 0.0, sharpening=1.0)
        loud = figure("noise_share", 0.9, 0.1, signal="kl_exact", against="other-batch")
        assert causes(verdict(), tv, loud) == []
        assert causes(verdict(), tv) == []
        assert causes(verdict(), tv, MOVED) == ["credit-inherited"]
        reasons = [s.reason for s in judged(verdict(), tv, loud).skipped]
        assert any("may not have moved" in reason for reason in reasons)

    def test_that_the_policy_moved_is_not_known_from_a_few_prompts(self):
        tv = figure("inherited_tv", 0.0, 0.0, sharpening=1.0)
        for n, held in ((7, []), (8, ["credit-inherited"])):
            assert causes(verdict(), tv, quiet("kl_exact", n=n)) == held


class TestRootCauseFirst:
    def test_several_hold_in_the_order_of_the_list(self):
        found = causes(
            verdict("entropy_reduction"),
            quiet("entropy_reduction"),
            figure("inherited_tv", 0.02, signal="entropy_reduction", sharpening=1.0),
            figure("structural_excess", 0.0, signal="entropy_reduction", sharpening=1.0),
            figure("floor_share", 0.9, signal="entropy_reduction"),
            MOVED,
        )
        assert found == ["credit-floor", "credit-structural", "credit-inherited"]
        order = [identity for identity, _ in CAUSES]
        assert found == sorted(found, key=order.index)

    def test_what_may_be_noise_has_no_other_cause(self):
        noise = figure("noise_share", 0.3, 0.05, against="float64", n=7)
        found = judged(verdict(), noise, figure("floor_share", 0.9)).verdicts[0]
        assert (found.regime, found.causes) == ("inconclusive", [])

    def test_the_noise_that_may_be_largest_counts(self):
        wide = figure("noise_share", 0.05, 0.15, against="other-batch")
        sure = figure("noise_share", 0.06, 0.005, against="float64")
        for figures in ((wide, sure), (sure, wide)):
            assert judged(verdict(), *figures).verdicts[0].regime == "inconclusive"

    @pytest.mark.parametrize("regime", ["uniform", "leaning-uniform", "middle", "mixed"])
    def test_spread_out_credit_is_not_explained_by_a_sparse_construction(self, regime):
        excess = figure("structural_excess", -0.2, signal="entropy_reduction", sharpening=1.0)
        assert causes(verdict("entropy_reduction", regime), excess) == []

    @pytest.mark.parametrize("regime", ["sparse", "leaning-sparse", "inconclusive"])
    @pytest.mark.parametrize("level", [-0.2, 0.0])
    def test_concentration_that_random_order_reaches_or_exceeds_is_structural(self, regime, level):
        excess = figure("structural_excess", level, signal="entropy_reduction", sharpening=1.0)
        assert causes(verdict("entropy_reduction", regime), excess) == ["credit-structural"]

    def test_what_is_noise_has_no_other_cause(self):
        noise = figure("noise_share", 0.5, 0.05, signal="residual", against="float32")
        floor = figure("floor_share", 0.9, signal="residual")
        assert causes(verdict("residual", "uniform"), noise, floor) == ["numeric-noise"]


class TestHowSure:
    def test_below_eight_prompts_no_cause_is_called(self):
        for n, called in ((7, []), (8, ["credit-floor"])):
            assert causes(verdict(), figure("floor_share", 0.95, 0.001, n=n)) == called

    def test_one_prompt_has_no_interval_and_no_cause(self):
        alone = figure("floor_share", 0.95).model_copy(update={"low": None, "high": None})
        assert causes(verdict(), alone) == []

    def test_what_was_measured_at_another_power_is_skipped_and_says_what_it_needs(self):
        explained = figure("type_explained", 0.9, sharpening=2.0)
        null = figure("type_explained_null", 0.1, sharpening=2.0)
        found = judged(verdict(), verdict(sharpening=2.0), explained, null)
        assert [v.causes for v in found.verdicts] == [[], ["credit-task-agnostic"]]
        (missing,) = [s for s in found.skipped if s.id == "credit-task-agnostic"]
        assert missing.reason.startswith("needs --sharpening 1:")
        assert (missing.checkpoint, missing.view, missing.signal) == (60, "on-policy", "surprisal")

    def test_what_is_missing_at_a_power_alone_is_skipped_and_at_two_is_so_once(self):
        few = figure("type_explained", 0.9, sharpening=2.0, n=3)
        floor = figure("floor_share", None)
        found = judged(verdict(), verdict(sharpening=2.0), few, floor)
        reasons = [s.reason for s in found.skipped if s.id == "credit-task-agnostic"]
        assert len(reasons) == 2
        assert "3 prompts, and this is not judged below 16" in reasons
        assert [s.reason for s in found.skipped if s.id == "credit-floor"] == ["why not"]

    def test_a_figure_that_is_undefined_is_skipped_with_its_reason(self):
        found = judged(verdict(), figure("floor_share", None))
        assert found.verdicts[0].causes == []
        assert ("credit-floor", "why not") in {(s.id, s.reason) for s in found.skipped}

    def test_many_questions_make_each_call_harder(self):
        # Alone past its cut at one-sided .02; beside nine others that are not, no longer.
        t = stats.t(N - 1)
        half = 0.1
        value = 0.5 + t.isf(0.02) * half / t.ppf(0.975)
        one = (verdict(), figure("floor_share", value, half))
        assert causes(*one) == ["credit-floor"]
        others = [
            item
            for step in range(9)
            for item in (
                verdict(checkpoint=step),
                figure("floor_share", 0.2, half, checkpoint=step),
            )
        ]
        assert causes(*one, *others) == []
        # Those of the other view are another family.
        elsewhere = [i.model_copy(update={"view": "fixed-set"}) for i in others]
        assert causes(*one, *elsewhere) == ["credit-floor"]

    def test_one_figure_asked_of_many_signals_is_one_question(self):
        t = stats.t(N - 1)
        half = 0.1
        value = 0.5 + t.isf(0.02) * half / t.ppf(0.975)
        share = figure("short_share", value, half, signal=None)
        found = judged(*(verdict(s) for s in SIGNAL_NAMES), share)
        assert all(v.causes == ["completions-short"] for v in found.verdicts)
        both = judged(verdict(), verdict(sharpening=2.0), figure("floor_share", value, half))
        assert all(v.causes == ["credit-floor"] for v in both.verdicts)

    def test_a_skewed_figure_that_has_to_be_below_its_cut_is_held_to_a_smaller_p_value(self):
        """What is inherited, and what rounding does not touch, at p-values beside .015."""
        t = stats.t(N - 1)
        for p, sure in ((ALPHA_SKEWED * 0.99, True), (ALPHA_SKEWED * 1.01, False)):
            value = 0.1 - t.isf(p) * 0.02 / t.ppf(0.975)
            tv = figure("inherited_tv", value, 0.02, sharpening=1.0)
            assert (causes(verdict(), tv, MOVED) == ["credit-inherited"]) == sure
            noise = figure("noise_share", value, 0.02, against="other-batch")
            assert (judged(verdict(), noise).verdicts[0].regime == "sparse") == sure
            moved = figure("noise_share", value, 0.02, signal="kl_exact", against="other-batch")
            clear = figure("inherited_tv", 0.03, sharpening=1.0)
            assert (causes(verdict(), clear, moved) == ["credit-inherited"]) == sure

    def test_the_family_is_named_in_the_evidence(self):
        (held,) = judged(verdict(), figure("floor_share", 0.9)).held
        assert held.evidence["family"] == "credit-floor, on-policy: 1 tests"
        assert held.evidence["p_holm"] <= ALPHA

    def test_calls_at_the_cut_are_as_rare_as_they_should_be(self):
        """One-sided: the p-value of a figure whose interval just touches the cut is ALPHA."""
        assert causes(verdict(), figure("floor_share", 0.5 + 0.1 + 1e-9, 0.1)) == ["credit-floor"]
        assert causes(verdict(), figure("floor_share", 0.5 + 0.1 - 1e-9, 0.1)) == []


@pytest.mark.parametrize("cut", CAUSE_THRESHOLDS, ids=lambda c: c.id)
def test_another_value_of_a_cut_changes_a_call(cut):
    """Each cut decides: with another value what was called is not, or the other way round."""
    planted = {
        "noise-share": (verdict(), figure("noise_share", 0.3, 0.05, against="other-batch")),
        "inert-noise": (
            verdict("residual", "uniform"),
            figure("noise_share", 0.9, 0.1, signal="residual", against="other-batch"),
        ),
        "short-share": (verdict(), figure("short_share", 0.9, 0.05, signal=None)),
        "floor-share": (verdict(), figure("floor_share", 0.9)),
        "structural-excess": (
            verdict("entropy_reduction"),
            figure("structural_excess", 0.0, signal="entropy_reduction", sharpening=1.0),
        ),
        "inherited-tv": (verdict(), figure("inherited_tv", 0.03, sharpening=1.0), MOVED),
        "agnostic-share": (
            verdict(),
            figure("type_explained", 0.9, sharpening=1.0),
            figure("type_explained_null", 0.0, sharpening=1.0),
        ),
    }
    planted["agnostic-prompts"] = planted["agnostic-share"]
    before = causes(*planted[cut.id])
    other = -1.0 if cut.comparator == "<" else 2.0 if cut.value < 1 else 100.0
    assert len(before) == 1
    assert causes(*planted[cut.id], cuts=DEFAULT.replaced({cut.id: other})) != before


def test_every_cause_can_be_called_by_some_figures_of_this_file():
    """The rules above name every cause there is."""
    named = {
        "adapter-inert",
        "completions-short",
        "numeric-noise",
        "credit-floor",
        "sharpening-only",
        "credit-structural",
        "credit-inherited",
        "credit-task-agnostic",
    }
    assert named == {identity for identity, _ in CAUSES}


def test_nothing_measured_holds_no_cause_and_says_so():
    found = judged(*(verdict(s, "inconclusive") for s in SIGNAL_NAMES))
    assert all(v.causes == [] for v in found.verdicts)
    inherited = [s for s in found.skipped if s.id == "credit-inherited"]
    assert {s.signal for s in inherited} == {"surprisal", "entropy", "entropy_reduction"}
    assert all(s.reason for s in found.skipped)


def test_views_and_checkpoints_do_not_mix():
    for checkpoint, view in itertools.product((30, 60), ("on-policy", "fixed-set")):
        there = figure("floor_share", 0.9, checkpoint=checkpoint, view=view)
        expected = ["credit-floor"] if (checkpoint, view) == (60, "on-policy") else []
        assert causes(verdict(), verdict(checkpoint=30), there) == expected
    assert math.isclose(ALPHA, 0.025)
