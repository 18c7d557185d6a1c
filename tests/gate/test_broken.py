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
from arca_diag.gating import make_baseline, run_gate
from arca_diag.report.gate.anchor import Anchor
from arca_diag.report.gate.github import render_github
from arca_diag.report.gate.sarif import render_sarif
from arca_diag.report.gate.words import harmless, told
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
        assert found == OnDisk(compared=True)
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
