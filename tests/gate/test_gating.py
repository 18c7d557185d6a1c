"""What the gate says of a report: level, scope, credit, evidence, suppressions, exit code."""

import datetime
import operator
from pathlib import Path
from typing import ClassVar

import pytest

import arca_diag
from arca_diag.errors import ConfigError, ResultError
from arca_diag.gate.checks import OnDisk
from arca_diag.gating import run_gate
from tests.gate import CLASSES, figure, finding, gated, policy, report, rule_of, verdict, write

TODAY = datetime.date(2026, 6, 1)


def exits(result) -> tuple[str, int]:
    return result.status, result.exit_code


class TestExitCodes:
    def test_a_healthy_run_passes_every_profile(self) -> None:
        for profile in ("recommended", "strict", "lenient"):
            found = gated(report(evidence={"n_tokens": 2400}), profile=profile)
            assert exits(found) == ("PASSED", 0), profile
            assert (found.errors, found.warnings, found.inconclusive) == (0, 0, 0)

    def test_an_error_fails_and_names_itself_first(self) -> None:
        found = gated(report(findings=(finding("layers-dead", "warn"), finding("adapter-inert"))))
        assert exits(found) == ("FAILED", 1)
        assert [r.id for r in found.failed()] == ["adapter-inert", "layers-dead"]
        assert (found.errors, found.warnings) == (1, 1)

    @pytest.mark.parametrize(
        ("level", "fail_on", "code"),
        [
            ("error", "error", 1),
            ("warn", "error", 0),
            ("note", "error", 0),
            ("error", "warn", 1),
            ("warn", "warn", 1),
            ("note", "warn", 0),
            ("error", "never", 0),
            ("warn", "never", 0),
        ],
    )
    def test_fail_on_is_the_least_level_that_fails(
        self, level: str, fail_on: str, code: int
    ) -> None:
        found = gated(report(findings=(finding("layers-dead", level),)), fail_on=fail_on)
        assert found.exit_code == code

    def test_a_failure_comes_before_what_is_not_known(self) -> None:
        made = report(findings=(finding("adapter-inert"),), evidence={"n_clusters": 2})
        assert exits(gated(made)) == ("FAILED", 1)
        assert rule_of(gated(made), "evidence-too-little").status == "inconclusive"

    def test_inconclusive_is_three_or_zero_as_the_policy_says(self) -> None:
        made = report(evidence={"n_clusters": 2})
        assert exits(gated(made)) == ("INCONCLUSIVE", 3)
        assert exits(gated(made, inconclusive="pass")) == ("INCONCLUSIVE", 0)

    def test_only_rules_at_the_level_can_be_inconclusive(self) -> None:
        made = report(fidelity="cannot-tell")
        assert gated(made).exit_code == 3
        assert gated(made, {"rules": {"replay-unchecked": "warn"}}).exit_code == 0
        assert gated(made, {"rules": {"replay-unchecked": "warn"}}, fail_on="warn").exit_code == 3
        assert gated(made, {"rules": {"replay-unchecked": "note"}}, fail_on="warn").exit_code == 0
        assert gated(made, fail_on="never").exit_code == 0

    def test_a_note_neither_fails_nor_is_open(self) -> None:
        found = gated(report(findings=(finding("peft-newer", "note"),)))
        rule = rule_of(found, "peft-newer")
        assert (rule.status, rule.fails, rule.holds) == ("passed", False, False)
        assert "what peft-newer says" in rule.message


class TestMissingIsNoPass:
    @pytest.mark.parametrize("profile", ["recommended", "strict", "lenient"])
    def test_nothing_measured_is_inconclusive_in_every_profile(self, profile: str) -> None:
        assert gated(report(status="nothing-measured"), profile=profile).exit_code == 3

    def test_a_last_checkpoint_without_figures_does_not_hide_behind_the_one_before(self) -> None:
        found = gated(report(unmeasured=(20,)))
        assert exits(found) == ("INCONCLUSIVE", 3)
        assert rule_of(found, "result-incomplete").cases[0].checkpoint == 20

    def test_too_few_prompts_or_tokens_are_too_little(self) -> None:
        for evidence in ({"n_clusters": 7}, {"n_tokens": 999}):
            found = gated(report(evidence=evidence))
            assert [r.id for r in found.of_status("inconclusive")] == ["evidence-too-little"]
        assert gated(report(evidence={"n_clusters": 8, "n_tokens": 1000})).exit_code == 0
        assert gated(report(evidence={"n_clusters": 7}), min_clusters=7).exit_code == 0

    def test_a_view_without_completions_is_too_little_and_names_the_other(self) -> None:
        made = report()
        only_fixed = made.model_copy(
            update={"measurements": [m for m in made.measurements if m.view == "fixed-set"]}
        )
        found = gated(only_fixed)
        case = rule_of(found, "evidence-too-little").cases[0]
        assert case.action is not None
        assert "--view fixed-set" in case.action
        assert gated(only_fixed, view="fixed-set").exit_code == 0

    @pytest.mark.parametrize(("fidelity", "code"), [("pass", 0), ("warn", 0), ("cannot-tell", 3)])
    def test_a_replay_that_nothing_checked_is_open(self, fidelity: str, code: int) -> None:
        assert gated(report(fidelity=fidelity)).exit_code == code
        assert gated(report(fidelity=fidelity), profile="lenient").exit_code == 0

    def test_a_run_without_rewards_is_not_one_with_advantage(self) -> None:
        made = report()
        blind = [
            m.model_copy(update={"value": None, "low": None, "high": None, "reason": "no reward"})
            if m.name == "groups_without_spread"
            else m
            for m in made.measurements
        ]
        found = gated(made.model_copy(update={"measurements": blind}))
        assert found.exit_code == 3
        assert "no reward" in rule_of(found, "no-advantage").message

    def test_stale_and_foreign_results_are_inconclusive(self) -> None:
        for disk in (OnDisk(compared=True, stale=("x changed",)), OnDisk(foreign=("y",))):
            assert run_gate(report(), disk=disk).exit_code == 3
        failing = report(findings=(finding("adapter-inert"),))
        assert run_gate(failing, disk=OnDisk(stale=("x",))).exit_code == 1


class TestScope:
    def test_faults_of_other_checkpoints_are_told_and_not_judged(self) -> None:
        made = report(findings=(finding("replay-mismatch", checkpoint=10),))
        found = gated(made)
        assert found.exit_code == 0
        assert "replay-mismatch" in found.notes[0]
        assert gated(made, checkpoint="all").exit_code == 1
        assert gated(made, checkpoint=10).exit_code == 1
        assert gated(made, checkpoint="checkpoint-10").exit_code == 1

    def test_a_newer_state_that_cannot_be_used_is_judged_with_the_last(self) -> None:
        made = report(findings=(finding("checkpoint-sharded", "error", checkpoint=30),))
        assert gated(made).exit_code == 1
        assert gated(made, checkpoint=20).exit_code == 0

    def test_a_checkpoint_that_is_not_there_is_an_error_that_names_those_that_are(self) -> None:
        with pytest.raises(ResultError, match="10, 20"):
            gated(report(), checkpoint=15)


class TestCredit:
    SPARSE = (verdict("surprisal", "sparse", causes=["credit-task-agnostic"]),)

    def test_a_collapsed_signal_fails_the_run_that_trains_on_it_alone(self) -> None:
        assert gated(report(verdicts=self.SPARSE)).exit_code == 0
        found = gated(report(verdicts=self.SPARSE, credit="surprisal"))
        assert found.exit_code == 1
        assert found.failed()[0].id == "credit-task-agnostic"
        assert rule_of(found, "credit-sparse").level == "note"  # its consequence

    def test_a_credit_can_be_declared_at_the_gate(self) -> None:
        assert run_gate(report(verdicts=self.SPARSE), credit="surprisal").exit_code == 1
        assert (
            run_gate(report(verdicts=self.SPARSE, credit="surprisal"), credit="residual").exit_code
            == 0
        )

    def test_a_written_rule_judges_a_signal_whatever_was_declared(self) -> None:
        table = {"rules": {"credit-sparse": {"level": "error", "signals": ["surprisal"]}}}
        assert gated(report(verdicts=self.SPARSE), table).exit_code == 1
        table = {"rules": {"credit-sparse": {"level": "error", "signals": ["residual"]}}}
        assert gated(report(verdicts=self.SPARSE), table).exit_code == 0
        table = {"rules": {"credit-sparse": {"level": "error", "signals": "declared"}}}
        assert gated(report(verdicts=self.SPARSE), table).exit_code == 0

    def test_a_credit_declared_at_the_gate_is_not_told_as_what_if(self) -> None:
        said = finding(
            "credit-sparse",
            "note",
            checkpoint=20,
            signal="surprisal",
            message="if you weighted by surprisal",
            evidence={"view": "on-policy"},
        )
        made = report(verdicts=(verdict("surprisal", "sparse"),), findings=(said,))
        strict = gated(made, profile="strict")
        assert rule_of(strict, "credit-sparse").message == "if you weighted by surprisal"
        declared = rule_of(run_gate(made, credit="surprisal"), "credit-sparse")
        assert "if you" not in declared.message
        assert declared.message.startswith("surprisal: ")

    @pytest.mark.parametrize(("regime", "code"), [("sparse", 1), ("leaning-sparse", 0)])
    def test_a_rule_can_be_of_sparse_alone(self, regime: str, code: int) -> None:
        made = report(verdicts=(verdict("surprisal", regime),), credit="surprisal")
        rule = {"level": "error", "signals": "declared", "regimes": ["sparse"]}
        assert gated(made, {"rules": {"credit-sparse": rule}}).exit_code == code
        assert gated(made, {"rules": {"credit-sparse": "error"}}).exit_code == 1

    def test_what_may_lean_and_is_surely_not_sparse_is_not_open(self) -> None:
        shares = {name: {"value": 0.0, "low": 0.0, "high": 0.1} for name in CLASSES}
        shares |= {"leaning-sparse": {"value": 0.5, "low": 0.2, "high": 0.8}}
        leaning = verdict("surprisal", "inconclusive", shares=shares)
        made = report(verdicts=(leaning,), credit="surprisal")
        rule = {"level": "error", "signals": "declared"}
        assert gated(made, {"rules": {"credit-sparse": rule}}).exit_code == 3
        rule |= {"regimes": ["sparse"]}
        assert gated(made, {"rules": {"credit-sparse": rule}}).exit_code == 0

    def test_strict_judges_every_signal_at_every_checkpoint(self) -> None:
        made = report(verdicts=(verdict("divergence", "uniform", checkpoint=10),))
        assert gated(made).exit_code == 0
        found = gated(made, profile="strict")
        assert found.exit_code == 1
        assert found.failed()[0].id == "credit-uniform"

    def test_lenient_only_warns_of_credit_and_fails_on_the_adapter(self) -> None:
        found = gated(report(verdicts=self.SPARSE, credit="surprisal"), profile="lenient")
        assert exits(found) == ("PASSED", 0)
        assert found.warnings == 1
        inert = report(findings=(finding("adapter-inert"),))
        assert gated(inert, profile="lenient").exit_code == 1

    @pytest.mark.parametrize(
        ("regime", "causes", "level"),
        [
            ("sparse", ["credit-structural"], "error"),
            ("sparse", [], "warn"),
            ("leaning-sparse", ["credit-structural"], "warn"),
            ("leaning-sparse", [], "note"),
            ("middle", ["credit-inherited"], "warn"),
            ("middle", ["credit-structural"], "note"),
        ],
    )
    def test_the_level_is_the_one_that_a_scan_gives_the_declared_credit(
        self, regime: str, causes: list[str], level: str
    ) -> None:
        made = report(credit="surprisal", verdicts=(verdict("surprisal", regime, causes=causes),))
        found = gated(made)
        assert max((r.level for r in found.failed()), default="note") == level
        assert found.exit_code == (1 if level == "error" else 0)

    def test_a_credit_that_is_not_settled_is_open_only_if_it_is_the_runs(self) -> None:
        open_ = report(
            verdicts=(
                verdict(
                    "surprisal",
                    "inconclusive",
                    shares={
                        name: {"value": 0.2, "low": 0.0, "high": 0.6}
                        for name in ("uniform", "leaning-uniform", "sparse", "leaning-sparse")
                    }
                    | {"no-signal": {"value": 0.0, "low": 0.0, "high": 0.2}},
                ),
            )
        )
        assert gated(open_).exit_code == 0
        found = run_gate(open_, credit="surprisal")
        assert found.exit_code == 3
        ids = {r.id for r in found.of_status("inconclusive")}
        assert ids == {"credit-sparse", "credit-uniform"}  # and surely not absent
        lower = [{"id": "share-majority", "value": 0.1, "comparator": ">", "source": "a test"}]
        stricter = type(open_).model_validate(open_.model_dump() | {"thresholds": lower})
        found = run_gate(stricter, credit="surprisal")
        assert "credit-absent" in {r.id for r in found.of_status("inconclusive")}

    def test_shares_that_rounding_may_have_made_exclude_nothing(self) -> None:
        drowned = verdict(
            "surprisal",
            "inconclusive",
            settled_by={"clusters_more": None, "reason": "rounding is 40% of the signal"},
        )
        found = gated(report(verdicts=(drowned,), credit="surprisal"))
        ids = {r.id for r in found.of_status("inconclusive")}
        assert ids == {"credit-sparse", "credit-uniform", "credit-absent"}

    def test_a_cause_that_could_not_be_asked_is_open(self) -> None:
        skipped = {
            "id": "numeric-noise",
            "checkpoint": 20,
            "view": "on-policy",
            "signal": "surprisal",
            "reason": "no noise was measured",
        }
        made = report(credit="surprisal", skipped=[skipped])
        found = gated(made)
        assert found.exit_code == 3
        assert "no noise was measured" in rule_of(found, "numeric-noise").message
        assert gated(report(skipped=[skipped])).exit_code == 0

    def test_no_figure_of_a_failed_replay_passes(self) -> None:
        made = report(credit="surprisal", fidelity="fail")
        assert rule_of(gated(made), "credit-sparse").status == "inconclusive"

    def test_nor_does_a_bound_of_it(self) -> None:
        made = report(figures=(figure(value=0.5),), fidelity="fail")
        rules = {"gini_corrected": {"max": 0.85}, "groups_without_spread": {"max": 0.9}}
        found = gated(made, {"rules": rules}, select=[*rules])
        assert found.exit_code == 3
        assert "replay-mismatch" in rule_of(found, "gini_corrected").message
        assert rule_of(found, "groups_without_spread").status == "passed"  # of rewards alone

    def test_what_no_rule_in_force_looks_at_is_told(self) -> None:
        made = report(findings=(finding("replay-mismatch", checkpoint=20),))
        found = gated(made, select=["layers-dead"])
        assert found.exit_code == 0
        assert found.notes == ["no rule in force looks at replay-mismatch, which the report has"]
        assert "replay-mismatch" in gated(made, ignore=["replay-mismatch"]).notes[0]

    def test_the_view_decides(self) -> None:
        made = report(
            credit="residual",
            verdicts=(verdict("residual", "uniform", view="fixed-set", causes=["credit-floor"]),),
        )
        assert gated(made).exit_code == 0
        assert gated(made, view="fixed-set").exit_code == 1

    def test_an_inert_adapters_silent_signals_are_its_consequences(self) -> None:
        silent = verdict("residual", "no-signal", causes=["adapter-inert"])
        made = report(
            credit="residual",
            verdicts=(silent,),
            findings=(finding("adapter-inert", checkpoint=20),),
        )
        found = gated(made)
        assert [r.id for r in found.failed()] == ["adapter-inert"]
        written = {"rules": {"credit-absent": "error"}}
        assert {r.id for r in gated(made, written).failed()} == {"adapter-inert", "credit-absent"}


class TestAggregates:
    def table(self, aggregate: str) -> dict[str, object]:
        rule = {"level": "error", "max": 0.6, "signals": ["surprisal"], "aggregate": aggregate}
        return {"rules": {"gini_corrected": rule}, "checkpoint": "all"}

    @pytest.mark.parametrize(
        ("first", "last", "any_", "all_", "latest"),
        [
            (0.9, 0.9, 1, 1, 1),
            (0.9, 0.4, 1, 0, 0),
            (0.4, 0.9, 1, 0, 1),
            (0.6, 0.4, 3, 0, 0),
            (0.6, 0.9, 1, 3, 1),
            (0.4, 0.4, 0, 0, 0),
        ],
    )
    def test_any_all_and_last_over_checkpoints(
        self, first: float, last: float, any_: int, all_: int, latest: int
    ) -> None:
        made = report(
            figures=(figure(value=first, checkpoint=10), figure(value=last, checkpoint=20))
        )
        codes = [gated(made, self.table(a)).exit_code for a in ("any", "all", "last")]
        assert codes == [any_, all_, latest]

    def test_all_of_a_finding_asks_for_every_place(self) -> None:
        both = tuple(verdict("surprisal", "sparse", checkpoint=c) for c in (10, 20))
        rule = {"level": "error", "signals": ["surprisal"], "aggregate": "all"}
        table = {"rules": {"credit-sparse": rule}, "checkpoint": "all"}
        assert gated(report(verdicts=both), table).exit_code == 1
        assert gated(report(verdicts=both[:1]), table).exit_code == 0

    def test_last_of_a_finding_looks_at_the_last_checkpoint_alone(self) -> None:
        made = report(findings=(finding("layers-dead", checkpoint=10),))
        rule = {"level": "error", "aggregate": "last"}
        assert gated(made, {"rules": {"layers-dead": rule}}, checkpoint="all").exit_code == 0
        rule = {"level": "error", "aggregate": "any"}
        assert gated(made, {"rules": {"layers-dead": rule}}, checkpoint="all").exit_code == 1


class TestSuppressions:
    TABLE: ClassVar = {
        "suppressions": [{"id": "adapter-inert", "reason": "a dry run", "expires": "2026-06-01"}]
    }
    MADE = report(findings=(finding("adapter-inert"),))

    def test_a_suppressed_fault_passes_and_is_shown_with_reason_and_date(self) -> None:
        found = run_gate(self.MADE, policy(self.TABLE), today=TODAY)
        assert found.exit_code == 0
        case = rule_of(found, "adapter-inert").cases[0]
        assert (case.status, case.suppressed) == ("suppressed", "a dry run (until 2026-06-01)")
        assert found.suppressions[0].state == "used"

    def test_after_its_day_it_is_not_applied_and_that_is_said(self) -> None:
        late = TODAY + datetime.timedelta(days=1)
        found = run_gate(self.MADE, policy(self.TABLE), today=late)
        assert found.exit_code == 1
        assert found.suppressions[0].state == "expired"
        assert "expired on 2026-06-01" in found.notes[0]
        assert "a dry run" in found.notes[0]

    def test_one_that_suppresses_nothing_is_said(self) -> None:
        found = run_gate(report(), policy(self.TABLE), today=TODAY)
        assert found.suppressions[0].state == "unused"
        assert "nothing to suppress" in found.notes[0]

    def test_it_can_be_of_one_checkpoint_and_signal(self) -> None:
        both = tuple(verdict("surprisal", "sparse", checkpoint=c) for c in (10, 20))
        made = report(verdicts=both, credit="surprisal")
        one = {"id": "credit-sparse", "reason": "x", "expires": "2026-12-01"}
        settings = {"checkpoint": "all", "fail_on": "warn"}
        for extra, code in (
            ({}, 0),
            ({"signal": "surprisal"}, 0),
            ({"signal": "residual"}, 1),
            ({"checkpoint": 10}, 1),
        ):
            asked = policy({"suppressions": [one | extra]}, **settings)
            assert run_gate(made, asked, today=TODAY).exit_code == code, extra


class TestPython:
    def test_the_public_names_are_the_packages(self) -> None:
        assert arca_diag.run_gate(report()).exit_code == 0
        assert callable(arca_diag.load_policy)
        assert callable(arca_diag.load_report)
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            operator.attrgetter("nonsense")(arca_diag)

    def test_a_folder_is_gated_as_the_command_does(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        made = report(verdicts=TestCredit.SPARSE)
        folder = str(write(tmp_path / "result", made))
        assert arca_diag.load_report(folder) == made
        assert arca_diag.run_gate(folder, arca_diag.load_policy()).exit_code == 0
        Path("arca.toml").write_text('credit = "surprisal"\n', "utf-8")
        found = arca_diag.run_gate(folder, arca_diag.load_policy())
        assert (found.exit_code, found.judged.credit) == (1, "surprisal")
        monkeypatch.setenv("ARCA_DIAG_CREDIT", "residual")
        assert arca_diag.run_gate(folder, arca_diag.load_policy("arca.toml")).exit_code == 0
        monkeypatch.setenv("ARCA_DIAG_GATE_MIN_CLUSTERS", "99")
        assert arca_diag.run_gate(folder, arca_diag.load_policy()).exit_code == 3
        with pytest.raises(ConfigError, match=r"nope\.toml is not a file"):
            arca_diag.load_policy("nope.toml")

    def test_what_lies_beside_a_folder_is_compared(self, tmp_path: Path) -> None:
        made = report(files={"tokens.parquet": "0" * 64, "report.json": None})
        folder = write(tmp_path, made)
        (folder / "tokens.parquet").write_bytes(b"of another scan")
        assert run_gate(made).exit_code == 0
        assert rule_of(run_gate(folder), "result-foreign").status == "inconclusive"

    def test_the_outcome_is_the_same_twice(self) -> None:
        made = report(findings=(finding("adapter-inert"),))
        assert gated(made).to_json() == gated(made).to_json()
