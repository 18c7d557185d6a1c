"""Ways in which somebody tried to break the gate: none passes what is bad, or fails what is not."""

import datetime
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from arca_diag.cli import app
from arca_diag.errors import ConfigError, ResultError
from arca_diag.gate.baseline import Baseline
from arca_diag.gate.checks import OnDisk
from arca_diag.gate.freshness import look_beside
from arca_diag.gate.loading import resolve_policy
from arca_diag.gating import load_report, make_baseline, run_gate
from arca_diag.report.gate.anchor import Anchor
from arca_diag.report.gate.github import render_github
from arca_diag.report.gate.sarif import render_sarif
from arca_diag.report.gate.words import told
from arca_diag.report.words import harmless
from arca_diag.results import Report
from tests.gate import figure, finding, gated, policy, report, rule_of, verdict, write

DEAD = report(findings=(finding("layers-dead", checkpoint=20),))
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

    def test_a_figure_with_one_limit_of_two_is_refused(self, tmp_path: Path) -> None:
        made = report(figures=(figure(value=0.5, low=None),))
        with pytest.raises(ResultError, match="one limit"):
            load_report(write(tmp_path / "result", made))

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


def bounded(**rule: object) -> dict[str, Any]:
    return {"rules": {"gini_corrected": rule}}


class TestFigures:
    def test_a_signal_that_a_rule_names_and_the_result_lacks_is_no_pass(self) -> None:
        made = report(figures=(figure(value=0.5),))
        asked = bounded(max=0.9, signals=["surprisal", "residual"])
        found = gated(made, asked)
        assert found.exit_code == 3
        assert "no gini_corrected of residual" in rule_of(found, "gini_corrected").message
        both = report(figures=(figure(value=0.5), figure(value=0.5, signal="residual")))
        assert gated(both, asked).exit_code == 0

    def test_a_side_of_a_pair_counts_as_there(self) -> None:
        made = report(figures=(figure("rank_agreement", 0.3, against="residual"),))
        rule = {"max": 0.9, "signals": ["residual"], "against": "surprisal"}
        assert gated(made, {"rules": {"rank_agreement": rule}}).exit_code == 0

    def test_a_figure_of_no_signal_has_none_to_miss(self) -> None:
        rule = {"max": 0.9, "signals": ["residual"]}
        assert gated(report(), {"rules": {"groups_without_spread": rule}}).exit_code == 0

    def test_uniform_credit_is_no_signal_to_hold_to_a_bound(self) -> None:
        made = report(figures=(figure(value=0.95),))
        assert gated(made, bounded(max=0.5, signals="declared")).exit_code == 0
        found = run_gate(made, policy(bounded(max=0.5, signals="declared")), credit="surprisal")
        assert found.exit_code == 1
        found = run_gate(made, policy(bounded(max=0.5, signals="declared")), credit="residual")
        assert found.exit_code == 3

    def test_as_many_prompts_as_are_asked_for_are_enough(self) -> None:
        made = report(figures=(figure(value=0.5, n_clusters=12),))
        assert gated(made, bounded(max=0.9), min_clusters=12).exit_code == 0
        assert gated(made, bounded(max=0.9), min_clusters=13).exit_code == 3

    def test_a_figure_of_no_signal_is_judged_whatever_signals_are_asked_for(self) -> None:
        rule = {"max": 0.01, "signals": ["residual"]}
        found = gated(report(), {"rules": {"groups_without_spread": rule}})
        assert rule_of(found, "groups_without_spread").cases[0].observed is not None


class TestScope:
    def test_a_checkpoint_that_the_replay_check_leaves_out_is_unchecked(self) -> None:
        found = gated(report(replay_fidelity=[]))
        assert [r.id for r in found.of_status("inconclusive")] == ["replay-unchecked"]

    def test_a_failed_replay_elsewhere_leaves_this_one(self) -> None:
        checks = [
            {"checkpoint": str(step), "status": status, "figures": {}, "reason": "a test"}
            for step, status in ((10, "fail"), (20, "pass"))
        ]
        assert gated(report(credit="surprisal", replay_fidelity=checks)).exit_code == 0

    def test_a_verdict_at_another_power_is_not_asked(self) -> None:
        made = report(credit="surprisal")
        other = SPARSE.model_copy(update={"sharpening": 2.0})
        more = made.model_copy(
            update={
                "verdicts": [other, *made.verdicts, other.model_copy(update={"sharpening": 3.0})]
            }
        )
        assert gated(more).exit_code == 0

    def test_shares_that_are_not_known_exclude_nothing(self) -> None:
        blank = verdict("surprisal", "inconclusive", shares={})
        found = gated(report(credit="surprisal", verdicts=(blank,)))
        assert {r.id for r in found.of_status("inconclusive")} == {
            *("credit-sparse", "credit-uniform", "credit-absent")
        }

    def test_the_words_are_those_of_the_judged_view(self) -> None:
        words = [
            finding(
                "credit-structural", checkpoint=20, signal="surprisal", evidence={"view": view}
            ).model_copy(update={"message": view})
            for view in ("fixed-set", "on-policy")
        ]
        made = report(credit="surprisal", verdicts=(SPARSE,), findings=tuple(words))
        assert rule_of(gated(made), "credit-structural").message == "on-policy"

    def test_the_fewest_prompts_and_all_tokens_are_told_and_notes_elsewhere_are_not(self) -> None:
        made = report(findings=(finding("peft-newer", "note", checkpoint=10),))
        few = [
            m.model_copy(update={"n_clusters": 9}) if (m.checkpoint, m.name) == (10, "gini") else m
            for m in made.measurements
        ]
        found = gated(made.model_copy(update={"measurements": few}), checkpoint="all")
        assert (found.judged.prompts, found.judged.tokens) == (9, 4800)
        assert not gated(made).notes


class TestBaselines:
    RISE = bounded(**{"max-increase": "20%"})

    def base(self, made: Report) -> Baseline:
        return make_baseline(made, policy(self.RISE), gated(made, self.RISE))

    def test_a_figure_without_an_interval_is_no_exact_one(self) -> None:
        few = self.base(report(figures=(figure(value=0.5, low=None, high=None),)))
        now = report(figures=(figure(value=0.52, low=0.51, high=0.53),))
        found = run_gate(now, policy(self.RISE), few)
        assert found.exit_code == 3
        assert "no interval" in rule_of(found, "gini_corrected").message

    def test_figures_at_the_end_of_floats_are_compared_and_not_crashed_on(self) -> None:
        wide = report(figures=(figure(value=1e300, low=-1.7e308, high=1.7e308),))
        assert run_gate(wide, policy(self.RISE), self.base(wide)).exit_code == 3

    def test_unlike_things_are_open_even_where_the_check_that_says_so_is_off(self) -> None:
        other = self.base(report()).model_copy(update={"alike": {"dtype": "float16"}})
        off = policy({"rules": {"baseline-unlike": "off", "layers-dead": "off"}})
        found = run_gate(report(), off, other)
        assert found.exit_code == 3
        assert rule_of(found, "baseline-new-findings").status == "inconclusive"

    def test_a_suppressed_fault_is_not_new_besides(self) -> None:
        known = {"id": "layers-dead", "reason": "frozen", "expires": datetime.date(2999, 1, 1)}
        asked = policy({"suppressions": [known]})
        assert run_gate(DEAD, asked, self.base(report())).exit_code == 0
        found = run_gate(DEAD, policy(), self.base(report()))
        assert [r.id for r in found.failed()] == ["layers-dead", "baseline-new-findings"]

    def test_the_one_that_the_policy_names_is_read_from_python_too(self, tmp_path: Path) -> None:
        file = tmp_path / "b.json"
        asked = policy(baseline=str(file))
        with pytest.raises(ResultError, match="cannot be read"):
            run_gate(report(), asked)
        file.write_text(self.base(report()).to_json(), "utf-8")
        assert run_gate(report(), asked).judged.baseline == "hand-made"

    def test_none_is_made_of_a_result_without_figures(self) -> None:
        empty = report(steps=(), status="nothing-measured")
        with pytest.raises(ResultError, match="nothing was measured"):
            make_baseline(empty, policy(), gated(empty, fail_on="never"))

    def test_what_the_baseline_never_recorded_is_unlike(self) -> None:
        base = self.base(report())
        bare = base.model_copy(
            update={"alike": {k: v for k, v in base.alike.items() if k != "dtype"}}
        )
        assert run_gate(report(), policy(), bare).exit_code == 3

    def test_a_fault_that_was_accepted_under_a_suppression_is_old(self) -> None:
        known = {"id": "layers-dead", "reason": "frozen", "expires": datetime.date(2999, 1, 1)}
        accepted = gated(DEAD, {"suppressions": [known]})
        base = make_baseline(DEAD, policy({"suppressions": [known]}), accepted)
        assert [r.id for r in run_gate(DEAD, policy(), base).failed()] == ["layers-dead"]

    def test_figures_at_another_power_are_not_the_baselines(self) -> None:
        both = (figure(value=0.9, sharpening=2.0), figure(value=0.5))
        values = {f.value for f in self.base(report(figures=both)).figures if f.signal}
        assert values == {0.5}

    def test_a_step_of_its_own_is_compared_with_that_step_alone(self) -> None:
        early = report(steps=(10,), figures=(figure(value=0.5, checkpoint=10),))
        late = report(steps=(10, 20), figures=(figure(value=0.5, checkpoint=20),))
        base = self.base(early)
        assert run_gate(late, policy(self.RISE), base).exit_code == 0  # last with last
        found = run_gate(late, policy(self.RISE, checkpoint=20), base)
        assert "does not have this figure" in rule_of(found, "gini_corrected").message

    def test_a_finding_of_another_signal_is_new(self) -> None:
        strict = {"rules": {"credit-sparse": {"level": "error"}}}
        before = report(verdicts=(verdict("residual", "sparse"),))
        base = make_baseline(before, policy(strict), gated(before, strict))
        both = report(verdicts=(verdict("residual", "sparse"), verdict("divergence", "sparse")))
        found = run_gate(both, policy(strict), base)
        cases = rule_of(found, "baseline-new-findings").cases
        assert [case.signal for case in cases] == ["divergence"]

    @pytest.mark.parametrize(
        ("change", "before", "now", "code"),
        [
            # Each limit of the difference takes the far limit of one side and of the other: with
            # the near ones, 0.01 wide, all four would be sure.
            ("max-increase", (0.5, 0.49, 0.8), (0.7, 0.69, 0.71), 3),
            ("max-increase", (0.5, 0.2, 0.51), (0.7, 0.69, 0.71), 1),
            ("max-decrease", (0.5, 0.2, 0.51), (0.3, 0.29, 0.31), 3),
            ("max-decrease", (0.5, 0.49, 0.8), (0.3, 0.29, 0.31), 1),
            ("max-decrease", (0.5, 0.49, 0.51), (0.3, 0.29, 0.6), 3),
            ("max-decrease", (0.5, 0.49, 0.51), (0.3, 0.0, 0.31), 1),
            ("max-increase", (0.5, 0.2, 0.51), (0.45, 0.44, 0.46), 3),
            ("max-increase", (0.5, 0.49, 0.8), (0.45, 0.44, 0.46), 0),
            ("max-increase", (0.5, 0.49, 0.51), (0.45, 0.44, 0.8), 3),
            ("max-decrease", (0.5, 0.49, 0.8), (0.55, 0.54, 0.56), 3),
            ("max-decrease", (0.5, 0.49, 0.51), (0.55, 0.2, 0.56), 3),
            ("max-decrease", (0.5, 0.49, 0.51), (0.55, 0.54, 0.9), 0),
        ],
    )
    def test_the_side_of_each_interval_that_counts_is_the_one_towards_the_other(
        self, change: str, before: tuple[float, ...], now: tuple[float, ...], code: int
    ) -> None:
        def made(of: tuple[float, ...]) -> Report:
            return report(figures=(figure(value=of[0], low=of[1], high=of[2]),))

        asked = policy(bounded(**{change: 0.05}))
        base = make_baseline(made(before), asked, run_gate(made(before), asked))
        assert run_gate(made(now), asked, base).exit_code == code


class TestPolicies:
    def test_a_suppression_of_yesterday_is_not_applied_by_default(self) -> None:
        day = datetime.date.today() - datetime.timedelta(days=2)
        known = {"id": "layers-dead", "reason": "frozen", "expires": day}
        assert gated(DEAD, {"suppressions": [known]}).exit_code == 1

    def test_a_suppressions_checkpoint_may_be_written_as_text(self) -> None:
        known = {"id": "layers-dead", "reason": "frozen", "expires": datetime.date(2999, 1, 1)}
        assert gated(DEAD, {"suppressions": [known | {"checkpoint": "20"}]}).exit_code == 0
        with pytest.raises(ConfigError, match="checkpoint"):
            policy({"suppressions": [known | {"checkpoint": True}]})

    @pytest.mark.parametrize(
        "table",
        [
            {"select": ["layers-dead"], "ignore": ["layers-dead"]},
            {"select": ["layers-dead"], "rules": {"layers-dead": "off"}},
        ],
    )
    def test_a_selection_of_nothing_would_always_pass_and_is_refused(
        self, table: dict[str, Any]
    ) -> None:
        with pytest.raises(ConfigError, match="no rule is left"):
            policy(table)

    def test_one_key_in_two_spellings_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="twice"):
            policy({"fail-on": "error", "fail_on": "never"})

    @pytest.mark.parametrize(
        ("name", "key", "value"),
        [
            ("evidence-too-little", "view", "fixed-set"),
            ("result-stale", "aggregate", "last"),
            ("layers-dead", "signals", ["surprisal"]),
            ("layers-dead", "view", "fixed-set"),
        ],
    )
    def test_a_key_that_a_rule_would_not_read_is_refused(
        self, name: str, key: str, value: object
    ) -> None:
        with pytest.raises(ConfigError, match=f"{key} says nothing here"):
            policy({"rules": {name: {"level": "error", key: value}}})

    @pytest.mark.parametrize("name", ["", "a\0b"])
    def test_a_baseline_that_no_file_can_be_called_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match="no file's name"):
            policy(baseline=name)

    def test_a_step_of_many_digits_is_named_whole(self) -> None:
        with pytest.raises(ResultError, match="2" + "0" * 24):
            gated(report(), checkpoint="2" + "0" * 24)

    def test_a_note_is_not_suppressed(self) -> None:
        known = {"id": "peft-newer", "reason": "x", "expires": datetime.date(2999, 1, 1)}
        found = gated(report(findings=(finding("peft-newer", "note"),)), {"suppressions": [known]})
        assert found.suppressions[0].state == "unused"

    def test_what_is_ignored_is_ignored_though_it_is_selected(self) -> None:
        asked = policy({"select": ["layers-dead", "adapter-inert"], "ignore": ["layers-dead"]})
        assert "layers-dead" not in asked.active()

    def test_a_checkpoint_in_other_digits_is_a_name(self) -> None:
        assert policy(checkpoint="\u00b2").checkpoint == "\u00b2"

    def test_each_part_names_the_file_that_wrote_it(self) -> None:
        known = {"id": "layers-dead", "reason": "x", "expires": datetime.date(2999, 1, 1)}
        low = {"rules": {"layers-dead": "error"}, "suppressions": [known]}
        high = {"rules": {"adapter-inert": "warn"}, "suppressions": [known]}
        found = resolve_policy([("pyproject.toml", low), ("arca.toml", high)])
        assert found.origins["suppressions.0"] == "pyproject.toml"
        assert found.origins["suppressions.1"] == "arca.toml"
        made = report(findings=(finding("layers-dead"), finding("adapter-inert")))
        bare = found.policy.model_copy(update={"suppressions": ()})
        result = run_gate(made, bare, resolved=found)
        assert rule_of(result, "layers-dead").origin == "pyproject.toml"
        assert rule_of(result, "peft-newer").origin is None
        # An annotation's line is of the policy's file, and only of that.
        lines = render_github(result, Anchor(lines={"adapter-inert": 4})).splitlines()
        assert [("file=arca.toml,line=4" in line, "file=" in line) for line in lines] == [
            (False, False),
            (True, True),
        ]

    def test_other_cuts_are_said(self) -> None:
        lax = [{"id": "gini-sparse", "value": 0.999, "comparator": ">", "source": "a test"}]
        made = Report.model_validate(report().model_dump() | {"thresholds": lax})
        assert any("gini-sparse" in note for note in run_gate(made).notes)
        base = make_baseline(report(), policy(), run_gate(report()))
        notes = run_gate(made, policy(), base).notes
        assert any(note.startswith("the baseline is of other cuts") for note in notes)


class TestViews:
    """What several places say of one rule is told of the worst of them."""

    MADE = report(
        credit="surprisal",
        verdicts=(
            verdict("surprisal", "leaning-sparse", checkpoint=10, causes=["credit-structural"]),
            SPARSE,
        ),
    )
    OPEN = report(
        credit="surprisal",
        figures=(figure(value=0.9, low=0.5, high=0.95, checkpoint=10), figure(value=0.9)),
    )

    def test_the_place_is_that_of_the_words(self) -> None:
        rule = rule_of(gated(self.MADE, checkpoint="all"), "credit-structural")
        assert rule.level == "error"
        assert told(rule).startswith("step 20, ")

    def test_what_failed_is_not_shown_as_open(self) -> None:
        found = gated(self.OPEN, bounded(max=0.6, signals=["surprisal"]), checkpoint="all")
        assert [c.status for c in rule_of(found, "gini_corrected").cases] == [
            "inconclusive",
            "failed",
        ]
        (shown,) = json.loads(render_sarif(found, Anchor()))["runs"][0]["results"]
        assert (shown["kind"], shown["level"]) == ("fail", "error")
        assert "step 20" in shown["message"]["text"]
        assert "step 10" not in shown["message"]["text"]

    def test_colons_in_a_row_are_all_parted(self) -> None:
        assert "::" not in harmless(":::error::::x:::")


class TestOnDisk:
    """What lies in the run is a stranger's; looking at it neither crashes nor waits."""

    @pytest.fixture
    def beside(self, tmp_path: Path) -> Path:
        (tmp_path / "data.jsonl").write_bytes(b"{}")
        write(tmp_path / "arca-diag", report())
        return tmp_path / "arca-diag"

    def look(self, folder: Path, inputs: dict[str, str], **parts: Any) -> OnDisk:
        made = report(**parts)
        provenance = made.provenance.model_copy(update={"inputs": inputs})
        return look_beside(folder, made.model_copy(update={"provenance": provenance}))

    KNOWN = hashlib.sha256(b"{}").hexdigest()

    def test_the_folder_may_be_the_working_directory(
        self, beside: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(beside)
        found = self.look(Path("."), {"data.jsonl": self.KNOWN})
        assert found == OnDisk(compared=True)

    @pytest.mark.parametrize("name", ["a" * 300, "a\0b", "../data.jsonl", "/etc/passwd"])
    def test_names_that_no_input_can_have_are_not_there(self, beside: Path, name: str) -> None:
        found = self.look(beside, {"data.jsonl": self.KNOWN, name: "x"})
        assert (found.compared, found.stale, found.foreign) == (True, (), ())
        table = self.look(beside, {"data.jsonl": self.KNOWN}, files={f"{name}.parquet": "x"})
        assert table == OnDisk(compared=True)

    def test_a_pipe_is_not_waited_for(self, beside: Path) -> None:
        os.mkfifo(beside.parent / "pipe")
        found = self.look(beside, {"data.jsonl": self.KNOWN, "pipe": "x"})
        assert found == OnDisk(compared=True)

    def test_what_cannot_be_read_is_not_as_it_was(
        self, beside: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        (beside.parent / "more.jsonl").write_bytes(b"{}")
        monkeypatch.setattr(Path, "open", refuse)
        assert self.look(beside, {"data.jsonl": self.KNOWN, "more.jsonl": self.KNOWN}).foreign

    def test_a_file_called_tokenizer_is_not_the_tokenizer_that_was_hashed(
        self, beside: Path
    ) -> None:
        (beside.parent / "tokenizer").write_bytes(b"x")
        found = self.look(beside, {"data.jsonl": self.KNOWN, "tokenizer": "y"})
        assert found == OnDisk(compared=True)

    def test_a_table_that_leads_out_of_the_folder_is_not_the_results(self, beside: Path) -> None:
        (beside / "t.parquet").symlink_to(beside.parent / "data.jsonl")
        found = self.look(beside, {}, files={"t.parquet": self.KNOWN})
        assert found.foreign

    def test_one_input_of_two_that_changed_is_stale_and_both_are_foreign(
        self, beside: Path
    ) -> None:
        (beside.parent / "more.jsonl").write_bytes(b"{}")
        found = self.look(beside, {"data.jsonl": "old", "more.jsonl": self.KNOWN})
        assert (found.stale, found.foreign) == (("data.jsonl has changed",), ())
        found = self.look(beside, {"data.jsonl": "old", "more.jsonl": "old"})
        assert (found.stale, bool(found.foreign)) == ((), True)

    def test_newer_checkpoints_are_stale_but_where_a_scan_will_add_them(
        self, own_run: Path
    ) -> None:
        folder = write(own_run / "arca-diag", report(steps=(2, 20)))
        made = report(steps=(2, 20))
        assert look_beside(folder, made).stale == ("checkpoint-100 came after the scan",)
        assert look_beside(folder, made, own_run, growing=True).stale == ()
        assert look_beside(folder, report(steps=(20, 100))).stale == ()


class TestRejudging:
    @pytest.mark.parametrize(
        "options", [{"epsilon": None}, {"epsilon": "x"}, {"seed": []}, {"thresholds": [1]}]
    )
    def test_options_that_say_nothing_are_something_to_mend(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        folder = write(tmp_path / "result", saved(**options))
        done = CliRunner().invoke(app, ["gate", str(folder), "--sharpening", "2"])
        assert done.exit_code == 2
        assert "by which options it was judged" in done.output


def test_a_run_of_many_checkpoints_is_gated_in_a_second_or_two() -> None:
    made = report(steps=tuple(range(10, 2010, 10)))
    begun = time.perf_counter()
    gated(made, profile="strict")
    assert time.perf_counter() - begun < 3  # 7 s on the same machine where each looks for its own
