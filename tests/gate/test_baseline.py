"""A baseline carries intervals and what it is of; unlike things are never compared in silence."""

import json

import pytest

from arca_diag.errors import ResultError
from arca_diag.gate.baseline import Baseline, read_baseline
from arca_diag.gating import make_baseline, run_gate
from arca_diag.results import Report
from tests.gate import figure, finding, policy, report, rule_of

RULE = {"signals": ["surprisal"], "max_increase": "20%"}
TABLE = {"rules": {"gini_corrected": RULE}}


def baseline_of(made: Report, table: dict[str, object] = TABLE, **settings: object) -> Baseline:
    asked = policy(table, **settings)
    return make_baseline(made, asked, run_gate(made, asked))


def narrow(value: float, **of: object) -> Report:
    return report(figures=(figure(value=value, low=value - 0.01, high=value + 0.01, **of),))


class TestRelative:
    @pytest.mark.parametrize(
        ("now", "status"),
        [
            (0.5, "passed"),
            (0.57, "passed"),
            (0.6, "inconclusive"),
            (0.63, "failed"),
            (0.3, "passed"),
        ],
    )
    def test_not_worse_by_more_than_a_fifth(self, now: float, status: str) -> None:
        result = run_gate(narrow(now), policy(TABLE), baseline_of(narrow(0.5)))
        assert rule_of(result, "gini_corrected").status == status

    @pytest.mark.parametrize(
        ("now", "status"),
        [(0.5, "passed"), (0.43, "passed"), (0.4, "inconclusive"), (0.3, "failed")],
    )
    def test_not_lower_by_more_than_a_tenth_absolute(self, now: float, status: str) -> None:
        table = {"rules": {"gini_corrected": {"signals": ["surprisal"], "max_decrease": 0.1}}}
        result = run_gate(narrow(now), policy(table), baseline_of(narrow(0.5), table))
        assert rule_of(result, "gini_corrected").status == status

    def test_both_intervals_count(self) -> None:
        unsure = report(figures=(figure(value=0.5, low=0.3, high=0.7),))
        result = run_gate(narrow(0.63), policy(TABLE), baseline_of(unsure))
        assert rule_of(result, "gini_corrected").status == "inconclusive"

    def test_without_a_baseline_a_relative_rule_is_open(self) -> None:
        result = run_gate(narrow(0.5), policy(TABLE))
        assert result.exit_code == 3
        assert "no baseline" in rule_of(result, "gini_corrected").message

    def test_a_bound_that_is_surely_past_fails_without_one(self) -> None:
        rules = {"gini_corrected": {**RULE, "max": 0.4}}
        assert run_gate(narrow(0.5), policy({"rules": rules})).exit_code == 1
        rules = {"gini_corrected": {**RULE, "max": 0.6}}
        assert run_gate(narrow(0.5), policy({"rules": rules})).exit_code == 3

    def test_a_figure_that_the_baseline_lacks_is_open(self) -> None:
        result = run_gate(narrow(0.5), policy(TABLE), baseline_of(report()))
        assert rule_of(result, "gini_corrected").status == "inconclusive"

    def test_the_last_checkpoint_is_compared_with_the_baselines_last_and_that_is_said(self) -> None:
        later = report(
            steps=(10, 20, 40), figures=(figure(value=0.9, low=0.89, high=0.91, checkpoint=40),)
        )
        result = run_gate(later, policy(TABLE), baseline_of(narrow(0.5)))
        assert rule_of(result, "gini_corrected").status == "failed"
        assert any("checkpoint 20, this is 40" in note for note in result.notes)

    def test_a_named_checkpoint_is_compared_at_its_own_step(self) -> None:
        before = baseline_of(narrow(0.5, checkpoint=10), checkpoint="all")
        result = run_gate(narrow(0.9), policy(TABLE, checkpoint=20), before)
        assert rule_of(result, "gini_corrected").status == "inconclusive"


class TestUnlike:
    def change(self, made: Report, key: str) -> Report:
        if key == "temperature":
            return made.model_copy(update={"run": made.run.model_copy(update={"temperature": 0.7})})
        if key == "reference":
            kind = made.reference.model_copy(update={"kind": "base"})
            return made.model_copy(update={"reference": kind})
        p = made.provenance
        changed = {
            "base": {"base": {**p.base, "sha256": "c" * 64}},
            "dtype": {"dtype": "bfloat16"},
            "sharpening": {"options": {**p.options, "sharpening": 2.0}},
            "epsilon": {"options": {**p.options, "epsilon": 1e-3}},
        }[key]
        return made.model_copy(update={"provenance": p.model_copy(update=changed)})

    @pytest.mark.parametrize(
        "key", ["base", "dtype", "temperature", "reference", "sharpening", "epsilon"]
    )
    def test_another_base_dtype_temperature_reference_or_power_is_refused(self, key: str) -> None:
        before = baseline_of(narrow(0.5))
        result = run_gate(self.change(narrow(0.5), key), policy(TABLE), before)
        assert result.exit_code == 3
        assert rule_of(result, "baseline-unlike").status == "inconclusive"
        assert key in rule_of(result, "baseline-unlike").message
        assert rule_of(result, "gini_corrected").status == "inconclusive"

    def test_another_view_is_refused(self) -> None:
        result = run_gate(narrow(0.5), policy(TABLE, view="fixed-set"), baseline_of(narrow(0.5)))
        assert "view" in rule_of(result, "baseline-unlike").message

    def test_other_completions_are_said_and_compared(self) -> None:
        made = narrow(0.5)
        other = made.model_copy(
            update={"rollouts": made.rollouts.model_copy(update={"fixed_set": ["b"]})}
        )
        result = run_gate(other, policy(TABLE), baseline_of(made))
        assert rule_of(result, "gini_corrected").status == "passed"
        assert any("other fixed set" in note for note in result.notes)
        same = run_gate(made, policy(TABLE), baseline_of(made))
        assert same.notes == []


class TestNewFindings:
    def test_a_warning_that_the_baseline_has_not_fails(self) -> None:
        before = baseline_of(report(findings=(finding("layers-dead", "warn"),)))
        same = run_gate(report(findings=(finding("layers-dead", "warn"),)), policy(), before)
        assert same.exit_code == 0
        worse = report(findings=(finding("layers-dead", "warn"), finding("rslora-lost", "warn")))
        result = run_gate(worse, policy(), before)
        assert result.exit_code == 1
        assert "rslora-lost" in rule_of(result, "baseline-new-findings").message
        assert run_gate(worse, policy(profile="lenient"), before).exit_code == 0

    def test_a_new_note_is_none(self) -> None:
        made = report(findings=(finding("peft-newer", "note"),))
        assert run_gate(made, policy(), baseline_of(report())).exit_code == 0

    def test_a_new_finding_can_be_suppressed(self) -> None:
        table = {
            "suppressions": [
                {"id": "baseline-new-findings", "reason": "known", "expires": "2099-01-01"}
            ]
        }
        made = report(findings=(finding("layers-dead", "warn"),))
        assert run_gate(made, policy(table), baseline_of(report())).exit_code == 0


class TestFile:
    def test_it_is_read_as_it_was_written(self, tmp_path) -> None:
        made = baseline_of(narrow(0.5), TABLE)
        path = tmp_path / "baseline.json"
        path.write_text(made.to_json(), "utf-8")
        assert read_baseline(path) == made
        rows = [line for line in made.to_json().splitlines() if '"gini_corrected"' in line]
        assert len(rows) == 1  # a figure a line

    def test_it_keeps_intervals_and_what_it_is_of(self) -> None:
        document = json.loads(baseline_of(narrow(0.5)).to_json())
        (row,) = [f for f in document["figures"] if f["name"] == "gini_corrected"]
        assert (row["value"], row["low"], row["high"]) == (0.5, 0.49, 0.51)
        assert document["alike"]["base"] == "b" * 64

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{}", "nonsense", '{"schema_version": 2}', "[" * 100_000, "\x00"],
    )
    def test_what_is_no_baseline_is_an_error_that_can_be_mended(self, text: str, tmp_path) -> None:
        path = tmp_path / "baseline.json"
        path.write_text(text, "utf-8")
        with pytest.raises(ResultError, match="no baseline of this version") as caught:
            read_baseline(path)
        assert "--update-baseline" in caught.value.hint

    @pytest.mark.parametrize("version", [True, 2, "1", None])
    def test_a_version_is_the_number_of_this_one(self, tmp_path, version: object) -> None:
        document = json.loads(baseline_of(narrow(0.5)).to_json())
        path = tmp_path / "baseline.json"
        path.write_text(json.dumps(document), "utf-8")
        read_baseline(path)
        path.write_text(json.dumps(document | {"schema_version": version}), "utf-8")
        with pytest.raises(ResultError, match="no baseline of this version"):
            read_baseline(path)

    def test_a_value_outside_its_interval_is_refused(self, tmp_path) -> None:
        document = json.loads(baseline_of(narrow(0.5)).to_json())
        document["figures"][-1]["low"] = 9.0
        path = tmp_path / "baseline.json"
        path.write_text(json.dumps(document), "utf-8")
        with pytest.raises(ResultError):
            read_baseline(path)

    def test_an_absent_file_says_how_to_make_one(self, tmp_path) -> None:
        with pytest.raises(ResultError) as caught:
            read_baseline(tmp_path / "none.json")
        assert "--update-baseline" in caught.value.hint
