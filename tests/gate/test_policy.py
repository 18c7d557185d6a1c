"""A policy is read whole or not at all: what nothing reads is an error with the nearest name."""

import datetime
from pathlib import Path

import pytest

import arca_diag
from arca_diag.errors import ConfigError
from arca_diag.gate import names
from arca_diag.gate.loading import resolve_policy
from arca_diag.gate.policy import Policy, relative_part
from arca_diag.gate.profiles import PROFILES, rules_of
from tests.gate import policy


def refused(**table: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        policy(table)
    return caught.value


class TestLayers:
    def test_a_flag_beats_the_environment_beats_the_file_beats_the_profile(self) -> None:
        layers = [
            ("pyproject.toml", {"min-clusters": 9, "fail-on": "warn", "view": "fixed-set"}),
            ("arca.toml", {"min-clusters": 10, "fail-on": "never"}),
            ("environment", {"min_clusters": "11"}),
            ("flag", {"inconclusive": "pass"}),
        ]
        found = resolve_policy(layers)
        assert found.policy.min_clusters == 11
        assert found.policy.fail_on == "never"
        assert found.policy.view == "fixed-set"
        assert found.policy.inconclusive == "pass"
        assert found.origins["min_clusters"] == "environment"
        assert found.origins["fail_on"] == "arca.toml"
        assert found.origins["view"] == "pyproject.toml"
        assert found.origins["min_tokens"] == "default"
        assert found.origins["rules.adapter-inert"] == "profile recommended"

    def test_settings_that_are_written_beat_those_of_a_profile_named_later(self) -> None:
        found = resolve_policy(
            [("arca.toml", {"fail-on": "error"}), ("flag", {"profile": "strict"})]
        )
        assert found.policy.profile == "strict"
        assert found.policy.fail_on == "error"
        assert found.policy.checkpoint == "all"

    def test_rules_are_replaced_whole_by_a_higher_layer(self) -> None:
        low = ("pyproject.toml", {"rules": {"gini_corrected": {"max": 0.9, "level": "warn"}}})
        high = ("arca.toml", {"rules": {"gini_corrected": {"min": 0.1}}})
        rule = resolve_policy([low, high]).policy.rules["gini_corrected"]
        assert (rule.max, rule.min, rule.level) == (None, 0.1, "error")


class TestTypos:
    def test_unknown_keys_name_the_nearest(self) -> None:
        error = refused(profil="strict")
        assert "profil" in str(error)
        assert "did you mean profile?" in error.hint

    def test_unknown_ids_name_the_nearest(self) -> None:
        assert "credit-sparse" in refused(rules={"credit-spars": "error"}).hint
        assert "gini_corrected" in refused(rules={"gini_corected": {"max": 1}}).hint
        assert "credit-sparse" in refused(select=["credit-sparce"]).hint
        assert "credit-sparse" in refused(ignore="credit-sparce").hint

    @pytest.mark.parametrize(
        ("table", "says"),
        [
            ({"rules": {"credit-sparse": "eror"}}, "error"),
            ({"rules": {"credit-sparse": {"level": "error", "signal": []}}}, "signals"),
            ({"rules": {"credit-sparse": {"signals": ["suprisal"]}}}, "surprisal"),
            ({"rules": {"x": {"finding": "credit-sprse"}}}, "credit-sparse"),
            ({"rules": {"credit-sparse": {"signals": "surprisal"}}}, 'signals = ["surprisal"]'),
            ({"rules": {"credit-sparse": {"regimes": ["uniform"]}}}, "leaning-sparse"),
            ({"rules": {"credit-sparse": {"regimes": "sparse"}}}, '["sparse"]'),
            ({"rules": {"layers-dead": {"regimes": ["sparse"]}}}, "credit-sparse"),
            ({"rules": {"gini_corrected": {"level": "error"}}}, "max-increase"),
            ({"profile": "recomended"}, "recommended"),
        ],
    )
    def test_what_was_meant_is_said(self, table: dict[str, object], says: str) -> None:
        assert says in refused(**table).hint

    @pytest.mark.parametrize(
        "table",
        [
            {"rules": {"gini_corrected": "error"}},
            {"rules": {"gini_corrected": {"max": True}}},
            {"rules": {"gini_corrected": {"max": "0.5"}}},
            {"rules": {"gini_corrected": {"max": float("nan")}}},
            {"rules": {"gini_corrected": {"max_increase": "20"}}},
            {"rules": {"gini_corrected": {"max_increase": -1}}},
            {"rules": {"gini_corrected": {"max": 1, "level": "as-found"}}},
            {"rules": {"credit-sparse": {"max": 0.5}}},
            {"rules": {"credit-sparse": {"measurement": "gini", "max": 1}}},
            {"rules": {"x": {"measurement": "gini", "finding": "credit-sparse", "max": 1}}},
            {"rules": {"x": {"max": 1}}},
            {"rules": {"x,y": {"measurement": "gini", "max": 1}}},
            {"rules": {"::x": {"finding": "adapter-inert"}}},
            {"rules": []},
            {"rules": {"credit-sparse": 3}},
            {"fail_on": "warning"},
            {"min_clusters": "8"},
            {"min_clusters": True},
            {"min_clusters": 0},
            {"checkpoint": True},
            {"checkpoint": 1.5},
            {"select": 3},
            {"suppressions": {}},
            {"suppressions": [{"id": "credit-sparse", "reason": "x"}]},
            {"suppressions": [{"id": "credit-sparse", "expires": "2026-01-01"}]},
            {"suppressions": [{"id": "credit-sparse", "reason": " ", "expires": "2026-01-01"}]},
            {"suppressions": [{"id": "credit-sparse", "reason": "x", "expires": "soon"}]},
            {"suppressions": [{"id": "credit-sprse", "reason": "x", "expires": "2026-01-01"}]},
        ],
    )
    def test_what_means_nothing_is_refused(self, table: dict[str, object]) -> None:
        refused(**table)

    def test_a_policy_without_any_rule_is_refused(self) -> None:
        assert "no rule is left" in str(refused(ignore=list(rules_of("recommended"))))


class TestRules:
    def test_both_spellings_of_a_key_are_read(self) -> None:
        found = policy({"rules": {"mean": {"max-increase": "20%"}}}).rules["mean"]
        assert found.max_increase == "20%"
        assert found.relative

    def test_a_rule_can_have_a_name_of_its_own(self) -> None:
        table = {"rules": {"surprisal-gini": {"measurement": "gini_corrected", "max": 0.8}}}
        assert policy(table).rules["surprisal-gini"].of == "gini_corrected"

    def test_a_written_rule_judges_every_signal_and_a_profiles_the_declared(self) -> None:
        assert policy({"rules": {"credit-sparse": "error"}}).rules["credit-sparse"].signals == "all"
        assert policy().rules["credit-sparse"].signals == "declared"
        assert policy(profile="strict").rules["credit-sparse"].signals == "all"

    def test_selecting_keeps_our_own_checks(self) -> None:
        active = policy(select=["adapter-inert"]).active()
        assert set(active) == {"adapter-inert", *names.CHECK_IDS}

    def test_off_is_off(self) -> None:
        assert "adapter-inert" not in policy({"rules": {"adapter-inert": "off"}}).active()

    def test_dates_may_be_toml_or_text(self) -> None:
        for date in (datetime.date(2026, 5, 1), "2026-05-01"):
            table = {"suppressions": [{"id": "layers-dead", "reason": "known", "expires": date}]}
            assert policy(table).suppressions[0].expires == datetime.date(2026, 5, 1)


class TestNames:
    def test_every_finding_and_check_has_a_rule_in_every_profile(self) -> None:
        for profile in PROFILES:
            assert set(rules_of(profile)) == {*names.FINDING_IDS, *names.CHECK_IDS}

    def test_no_profile_turns_anything_off(self) -> None:
        for profile in PROFILES:
            assert {r.level for r in rules_of(profile).values()}.isdisjoint({"off", "note"})

    def test_the_ids_of_signals_are_those_that_a_signal_can_have(self) -> None:
        from arca_diag.faults import ACTIONS

        assert set(names.SIGNAL_IDS) == set(ACTIONS)

    def test_the_signals_are_the_packages(self) -> None:
        from arca_diag.signals import SIGNAL_NAMES

        assert set(names.SIGNALS) == set(SIGNAL_NAMES)

    def test_every_figure_is_named_in_the_code_that_measures(self) -> None:
        package = Path(arca_diag.__file__).parent
        folders = (package / "measurements", package / "diagnostics")
        code = "".join(p.read_text("utf-8") for f in folders for p in f.glob("*.py"))
        for name in names.FIGURES:
            stem = name.removesuffix("_null").removesuffix("_change")
            stem = stem.removesuffix("_explained").removesuffix("_lift").removesuffix("_share")
            assert stem in code, name


class TestUpgrading:
    def test_a_policy_written_before_a_rule_was_added_still_loads(self) -> None:
        table = {"rules": {"adapter-inert": "error"}, "select": ["adapter-inert"]}
        before = policy(table)
        assert isinstance(before, Policy)
        assert "baseline-new-findings" in before.rules  # a rule that came later is just there

    def test_a_removed_id_says_what_replaced_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(names.REPLACED, "credit-flat", "credit-uniform")
        for table in (
            {"rules": {"credit-flat": "error"}},
            {"select": ["credit-flat"]},
            {"suppressions": [{"id": "credit-flat", "reason": "known", "expires": "2026-01-01"}]},
        ):
            error = refused(**table)
            assert "credit-uniform replaced it" in str(error)
            assert error.hint == "write credit-uniform"

    def test_what_is_replaced_is_no_longer_an_id_and_its_replacement_is(self) -> None:
        known = {*names.FINDING_IDS, *names.CHECK_IDS, *names.FIGURES}
        for old, new in names.REPLACED.items():
            assert old not in known
            assert new in known


@pytest.mark.parametrize(("text", "share"), [("20%", 0.2), (" 7.5% ", 0.075), ("0%", 0.0)])
def test_a_percentage_is_relative(text: str, share: float) -> None:
    assert relative_part(text) == pytest.approx(share)
    assert relative_part(0.2) is None


@pytest.mark.parametrize("text", ["20", "%", "-5%", "nan%", "inf%", "5%%", "5% more", -0.1])
def test_what_is_no_change_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match=r"percentage|negative"):
        relative_part(text)
