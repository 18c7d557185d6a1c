"""A bound is judged against the interval: surely past, surely not, or open."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arca_diag.gate.baseline import BaselineFigure, limit
from arca_diag.gate.figures import figure_cases
from arca_diag.gate.names import WITHOUT_INTERVAL
from arca_diag.gate.policy import Rule
from arca_diag.gate.scope import scope_of
from arca_diag.gating import make_baseline, run_gate
from tests.gate import figure, gated, policy, report, rule_of

ONE = {"level": "error", "signals": ["surprisal"]}


def status(rule: dict[str, object], **of: object) -> str:
    """What a rule on surprisal's corrected Gini says of a figure."""
    name = str(rule.get("measurement", "gini_corrected"))
    made = report(figures=(figure(name, **of),))
    return rule_of(gated(made, {"rules": {name: ONE | rule}}), name).status


class TestBounds:
    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            ({"max": 0.56}, "passed"),
            ({"max": 0.55}, "passed"),
            ({"max": 0.54}, "inconclusive"),
            ({"max": 0.46}, "inconclusive"),
            ({"max": 0.45}, "inconclusive"),
            ({"max": 0.44}, "failed"),
            ({"min": 0.44}, "passed"),
            ({"min": 0.45}, "passed"),
            ({"min": 0.54}, "inconclusive"),
            ({"min": 0.56}, "failed"),
            ({"min": 0.44, "max": 0.56}, "passed"),
            ({"min": 0.44, "max": 0.5}, "inconclusive"),
            ({"min": 0.6, "max": 0.5}, "failed"),
        ],
    )
    def test_the_interval_decides_and_never_the_point(
        self, rule: dict[str, object], expected: str
    ) -> None:
        assert status(rule, value=0.5, low=0.45, high=0.55) == expected

    def test_what_has_no_value_is_open_with_its_reason(self) -> None:
        made = report(figures=(figure(value=None),))
        rule = rule_of(
            gated(made, {"rules": {"gini_corrected": ONE | {"max": 1}}}), "gini_corrected"
        )
        assert rule.status == "inconclusive"
        assert "nothing was measured" in rule.message

    def test_what_is_not_in_the_result_is_open(self) -> None:
        rule = {"rules": {"token_share_90": {"min": 0.1}}}
        found = rule_of(gated(report(), rule), "token_share_90")
        assert (found.status, found.holds) == ("inconclusive", True)

    def test_a_value_without_interval_is_open_unless_it_has_none_by_nature(self) -> None:
        assert status({"max": 1}, low=None, high=None) == "inconclusive"
        for name in WITHOUT_INTERVAL:
            rule = {"measurement": name, "max": 1}
            assert status(rule, low=None, high=None) == "passed", name

    def test_few_prompts_are_open_whatever_the_interval(self) -> None:
        assert status({"max": 1}, n_clusters=7) == "inconclusive"

    def test_figures_at_other_powers_signals_and_views_are_not_meant(self) -> None:
        far = {"value": 0.99, "low": 0.98, "high": 1.0}
        made = report(
            figures=(
                figure(value=0.5),
                figure(sharpening=2.0, **far),
                figure(signal="residual", **far),
                figure(view="fixed-set", **far),
                figure(checkpoint=10, **far),
            )
        )
        table = {"rules": {"gini_corrected": ONE | {"max": 0.6}}}
        found = rule_of(gated(made, table), "gini_corrected")
        assert (found.status, len(found.cases)) == ("passed", 1)

    def test_a_rule_can_look_at_another_view(self) -> None:
        made = report(figures=(figure(value=0.5), figure(value=0.9, view="fixed-set")))
        table = {"rules": {"gini_corrected": ONE | {"max": 0.6, "view": "fixed-set"}}}
        assert rule_of(gated(made, table), "gini_corrected").status == "failed"

    def test_a_pair_is_found_whichever_comes_first(self) -> None:
        pair = figure("rank_agreement", signal="surprisal", against="residual", sharpening=None)
        made = report(figures=(pair,))
        for signal, against in (("surprisal", "residual"), ("residual", "surprisal")):
            rule = {"signals": [signal], "against": against, "min": 0.9}
            found = rule_of(gated(made, {"rules": {"rank_agreement": rule}}), "rank_agreement")
            assert found.status == "failed"

    def test_the_outcome_holds_observed_interval_and_bound(self) -> None:
        made = report(figures=(figure(value=0.9),))
        found = rule_of(
            gated(made, {"rules": {"gini_corrected": ONE | {"max": 0.5}}}), "gini_corrected"
        )
        case = found.cases[0]
        assert (case.observed, case.low, case.high) == (0.9, 0.9 - 0.05, 0.9 + 0.05)
        assert (case.bound, case.n_clusters) == ("at most 0.5", 12)


NUMBERS = st.floats(-10, 10, allow_nan=False)


class TestRelativeLimits:
    @given(
        value=NUMBERS, half=st.floats(0, 3), share=st.floats(0, 2), sign=st.sampled_from([1, -1])
    )
    def test_a_percentage_moves_the_limit_away_from_the_figure_by_that_share(
        self, value: float, half: float, share: float, sign: int
    ) -> None:
        before = baseline_figure(value, half)
        found = limit(before, f"{share * 100}%", sign)
        if value == 0:
            assert isinstance(found, str)
            return
        assert not isinstance(found, str)
        assert found[0] == pytest.approx(value + sign * share * abs(value))
        assert found[1] <= found[0] + 1e-9
        assert found[0] <= found[2] + 1e-9

    @given(
        value=NUMBERS, half=st.floats(0, 3), change=st.floats(0, 5), sign=st.sampled_from([1, -1])
    )
    def test_a_number_moves_it_by_that_number_with_its_interval(
        self, value: float, half: float, change: float, sign: int
    ) -> None:
        found = limit(baseline_figure(value, half), change, sign)
        assert not isinstance(found, str)
        moved = value + sign * change
        assert found == pytest.approx((moved, moved - half, moved + half))


def baseline_figure(value: float, half: float) -> BaselineFigure:
    return BaselineFigure(
        checkpoint=20,
        view="on-policy",
        signal="surprisal",
        against=None,
        name="gini_corrected",
        value=value,
        low=value - half,
        high=value + half,
        n_clusters=12,
    )


def test_a_change_that_is_exactly_allowed_fails_as_rarely_as_an_interval_misses() -> None:
    """1,000 pairs of normal means with 95% limits, the truth exactly on the bound: 2.5% or less."""
    rng = np.random.default_rng(7)
    rule = policy({"rules": {"mean": {"max_increase": "20%", "signals": ["surprisal"]}}}).rules[
        "mean"
    ]
    wrong = 0
    for _ in range(1000):
        before, now = rng.normal((1.0, 1.2), (0.05, 0.05))
        kept = BaselineFigure(
            **{**baseline_figure(before, 1.96 * 0.05).model_dump(), "name": "mean"}
        )
        wrong += case_of(rule, now, 1.96 * 0.05, kept) == "failed"
    assert 5 <= wrong <= 40


def case_of(rule: Rule, value: float, half: float, before: BaselineFigure) -> str:
    made = report(figures=(figure("mean", value, low=value - half, high=value + half),))
    scope = scope_of(made, POLICY)
    kept = BASELINE.model_copy(update={"figures": [before]})
    (case,) = figure_cases(rule, scope, kept)
    return case.status


POLICY = policy()
BASELINE = make_baseline(report(), POLICY, run_gate(report(), POLICY))
