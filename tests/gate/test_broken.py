"""Ways in which somebody tried to break the gate: none passes what is bad, or fails what is not."""

import json

import pytest

from arca_diag.errors import ConfigError, ResultError
from arca_diag.gating import make_baseline, run_gate
from arca_diag.results import Report
from tests.gate import finding, gated, policy, report, verdict

SPARSE = verdict("surprisal", "sparse", causes=["credit-structural"])


def saved(**options: object) -> Report:
    """A healthy report whose recorded options are others."""
    document = json.loads(report(credit="surprisal").to_json())
    document["provenance"]["options"] |= options
    return Report.from_json(json.dumps(document))


class TestReports:
    def test_a_credit_that_there_is_not_holds_the_run_to_nothing_and_is_refused(self) -> None:
        made = report(verdicts=(SPARSE,), credit="surprisal")
        assert run_gate(made).exit_code == 1
        with pytest.raises(ConfigError, match="did you mean surprisal"):
            run_gate(made, credit="surprisl")
        with pytest.raises(ConfigError, match="found ''"):
            run_gate(made, credit="")
        with pytest.raises(ResultError, match="which credit"):
            run_gate(report(verdicts=(SPARSE,), credit="surprisl"))

    def test_a_credit_of_trl_is_known_however_its_share_is_written(self) -> None:
        assert run_gate(report(), credit="top_entropy:.2").judged.credit == "top_entropy:0.2"

    @pytest.mark.parametrize(
        "made",
        [
            report(findings=(finding("adapter-exploded"),)),
            report(credit="surprisal", verdicts=(verdict("surprisal", "sparce"),)),
            report(verdicts=(verdict("surprisal", "sparse", causes=["credit-new"]),)),
        ],
        ids=["finding", "regime", "cause"],
    )
    def test_a_fault_that_no_rule_knows_is_refused_and_does_not_pass(self, made: Report) -> None:
        with pytest.raises(ResultError, match="unknown here"):
            run_gate(made)

    def test_a_fault_of_the_run_counts_whatever_signal_it_names(self) -> None:
        assert gated(report(findings=(finding("layers-dead", signal="residual"),))).exit_code == 1

    def test_two_verdicts_of_one_place_are_refused(self) -> None:
        made = report(credit="surprisal")
        twice = made.model_copy(update={"verdicts": [*made.verdicts, SPARSE]})
        with pytest.raises(ResultError, match="two verdicts"):
            run_gate(twice)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, 0, -1.0, True, "1"])
    def test_a_sharpening_that_is_no_power_is_refused(self, value: object) -> None:
        with pytest.raises(ResultError, match="sharpening"):
            run_gate(saved(sharpening=value))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "1", None])
    def test_a_floor_that_is_no_number_is_none_in_a_baseline(self, value: object) -> None:
        made = saved(epsilon=value)
        assert make_baseline(made, policy(), run_gate(made)).alike["epsilon"] is None
