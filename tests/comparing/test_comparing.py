"""What a comparison calls changed, on planted pairs whose difference is known."""

import hashlib
import json
import math
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from arca_diag.compared import Comparison, FigureChange, comparison_schema
from arca_diag.comparing import compare_results, without_text
from arca_diag.diagnostics.change import paired_change
from arca_diag.errors import ResultError
from arca_diag.results import Fidelity
from arca_diag.signals import SIGNAL_NAMES
from tests.comparing.planted import noise, over_prompts, result
from tests.test_results import finding

PLAIN = noise(0) + 0.5


def one(found: Comparison, name: str = "gini_corrected", **of: object) -> FigureChange:
    asked = {"signal": "surprisal", "view": "fixed-set", "name": name} | of
    (figure,) = [f for f in found.figures if all(getattr(f, k) == v for k, v in asked.items())]
    return figure


def compared(tmp_path: Path, a: dict | None = None, b: dict | None = None, **asked) -> Comparison:
    before = result(tmp_path / "a", **(a or {}))
    after = result(tmp_path / "b", **(b or {}))
    return compare_results(before, after, **asked)


class TestPaired:
    def test_of_an_identical_result_nothing_changed(self, tmp_path: Path) -> None:
        found = compared(tmp_path)
        assert {f.status for f in found.figures} == {"equal"}
        assert {f.how for f in found.figures} == {"paired"}
        assert len(found.figures) == 2 * 7 * 5
        assert (found.unlike, found.findings) == ([], [])
        assert not any(r.moved for r in found.regimes)

    def test_a_shift_has_the_interval_and_p_of_scipys_paired_test(self, tmp_path: Path) -> None:
        after = PLAIN + 0.01 + noise(1, scale=0.004)
        found = compared(tmp_path, b={"gini": {"surprisal": after}})
        figure = one(found)
        test = stats.ttest_rel(after.mean(axis=1), PLAIN.mean(axis=1))
        interval = test.confidence_interval(0.95)
        assert figure.difference.value == pytest.approx((after - PLAIN).mean())
        assert figure.difference.low == pytest.approx(interval.low)
        assert figure.difference.high == pytest.approx(interval.high)
        assert figure.p == pytest.approx(test.pvalue)
        assert (figure.status, figure.how, figure.n_clusters) == ("changed", "paired", 12)
        # Unpaired, the spread between prompts would hide it.
        assert over_prompts(PLAIN)[2] > over_prompts(after)[1]

    def test_the_mean_of_a_signal_is_paired_over_its_tokens(self, tmp_path: Path) -> None:
        after = PLAIN + 0.01 + noise(1, scale=0.004)
        figure = one(compared(tmp_path, b={"gini": {"surprisal": after}}), "mean")
        low, high = over_prompts(2 * (after - PLAIN))[1:]
        assert (figure.difference.low, figure.difference.high) == pytest.approx((low, high))
        assert figure.a.value == pytest.approx(2 * PLAIN.mean())

    def test_prompts_weigh_the_same_however_many_completions_are_defined(self, tmp_path) -> None:
        before, after = PLAIN.copy(), PLAIN + noise(2)
        before[0, 1:] = math.nan
        figure = one(
            compared(tmp_path, a={"gini": {"surprisal": before}}, b={"gini": {"surprisal": after}})
        )
        expected = over_prompts(after - before)
        assert figure.difference.value == pytest.approx(expected[0])
        assert figure.difference.low == pytest.approx(expected[1])

    def test_what_goes_both_ways_is_within_noise(self, tmp_path: Path) -> None:
        after = PLAIN + noise(3) - noise(3).mean()
        found = compared(tmp_path, b={"gini": {"surprisal": after}})
        assert one(found).status == "within-noise"
        assert one(found, signal="residual").status == "equal"

    def test_a_change_that_no_table_would_show_is_slight(self, tmp_path: Path) -> None:
        found = compared(tmp_path, b={"gini": {"surprisal": PLAIN + 0.001}})
        figure = one(found)
        assert (figure.status, figure.slight) == ("changed", True)
        assert not one(found, "mean").slight

    def test_seven_prompts_are_too_few_whatever_they_show(self, tmp_path: Path) -> None:
        few = noise(0, prompts=7) + 0.5
        found = compared(tmp_path, a={"gini": few}, b={"gini": few + 0.3 + noise(1, prompts=7)})
        figure = one(found)
        assert figure.status == "inconclusive"
        assert figure.reason == "7 prompts, and a call needs 8"
        assert figure.difference.low is not None
        assert figure.p is None

    def test_one_prompt_has_no_interval_and_may_be_equal(self, tmp_path: Path) -> None:
        few = noise(0, prompts=1) + 0.5
        gini = {"surprisal": few + 0.1}
        found = compared(
            tmp_path, a={"gini": few}, b={"gini": dict.fromkeys(SIGNAL_NAMES, few) | gini}
        )
        assert one(found).status == "inconclusive"
        assert one(found).difference.low is None
        assert one(found, signal="residual").status == "equal"

    def test_undefined_in_one_is_null_with_that_ones_reason(self, tmp_path: Path) -> None:
        nothing = np.full_like(PLAIN, math.nan)
        found = compared(tmp_path, b={"gini": {"surprisal": nothing}})
        figure = one(found)
        assert figure.status == "undefined"
        assert figure.difference.value is None
        assert figure.reason == "B: every raw score is exactly zero"
        document = json.loads(found.to_json())
        assert document["figures"][0]["difference"] == {"value": None, "low": None, "high": None}

    def test_common_groups_are_paired_where_they_hold_half_of_the_prompts(self, tmp_path) -> None:
        more = np.vstack([PLAIN, noise(5) + 0.7])
        found = compared(tmp_path, a={"gini": PLAIN}, b={"gini": more + 0.02})
        sets = found.sets[0]
        assert (sets.paired, sets.prompts_common, sets.prompts_b) == (True, 12, 24)
        figure = one(found)
        # Both columns are of the common ones, so that they fit their difference.
        assert figure.a.value == pytest.approx(PLAIN.mean())
        assert figure.b.value == pytest.approx(PLAIN.mean() + 0.02)
        assert figure.difference.value == pytest.approx(0.02)

    def test_fewer_common_groups_than_half_are_not_paired(self, tmp_path: Path) -> None:
        more = np.vstack([PLAIN, noise(5, prompts=13) + 0.7])
        found = compared(tmp_path, a={"gini": PLAIN}, b={"gini": more})
        assert not found.sets[0].paired
        assert found.sets[0].reason == "other completions: 12 of 25 prompts have the same ones"

    def test_completions_of_another_length_are_not_the_same(self, tmp_path: Path) -> None:
        assert not compared(tmp_path, b={"n_tokens": 21}).sets[0].paired

    @pytest.mark.parametrize("gap", [0.0, 0.05])
    def test_the_paired_interval_covers_the_truth_in_about_95_of_100(self, gap: float) -> None:
        rng = np.random.default_rng(7)
        clusters = np.repeat(np.arange(12), 4)
        hit = 0
        for _ in range(1500):
            # Prompts differ, and they differ in how much they change.
            before = np.repeat(rng.normal(0.5, 0.1, 12), 4) + rng.normal(0, 0.05, 48)
            change = gap + np.repeat(rng.normal(0, 0.03, 12), 4) + rng.normal(0, 0.05, 48)
            found = paired_change(before, before + change, clusters)
            hit += found.low <= gap <= found.high
        assert 0.935 <= hit / 1500 <= 0.965  # 2.7 binomial standard errors


class TestOtherCompletions:
    def test_concentration_is_compared_at_like_length(self, tmp_path: Path) -> None:
        # G^ follows length alone: .6 of short completions, .8 of long ones, in both results.
        lengths = [
            np.where(np.arange(12)[:, None] < n, 10, 40) + np.zeros((12, 4), int) for n in (9, 3)
        ]
        ginis = [np.where(n == 10, 0.6, 0.8) + noise(s, scale=0.005) for s, n in enumerate(lengths)]
        found = compared(
            tmp_path,
            a={"gini": ginis[0], "n_tokens": lengths[0]},
            b={"gini": ginis[1], "n_tokens": lengths[1], "of": "other"},
        )
        figure = one(found)
        assert (figure.how, figure.status) == ("like-length", "within-noise")
        assert figure.b.value - figure.a.value > 0.09
        assert abs(figure.difference.value) < 0.01

    def test_the_rest_is_compared_by_both_intervals(self, tmp_path: Path) -> None:
        after = noise(8) + 0.56
        figure = one(compared(tmp_path, b={"gini": after, "of": "other"}), "mean")
        a, b = over_prompts(2 * PLAIN), over_prompts(2 * after)
        gap = b[0] - a[0]
        assert figure.how == "independent"
        assert figure.difference.low == pytest.approx(
            gap - math.sqrt((b[0] - b[1]) ** 2 + (a[2] - a[0]) ** 2)
        )
        assert figure.difference.high == pytest.approx(
            gap + math.sqrt((b[2] - b[0]) ** 2 + (a[0] - a[1]) ** 2)
        )
        assert figure.status == "changed"

    def test_without_tables_every_figure_is_compared_by_both_intervals(self, tmp_path) -> None:
        found = compared(tmp_path, b={"gini": PLAIN + 0.05, "with_tables": False})
        assert {f.how for f in found.figures} == {"independent"}
        assert found.sets[0].reason.startswith("B: trajectories.parquet is missing or was changed")
        assert not found.b.tables
        assert one(found).difference.value == pytest.approx(0.05)

    def test_tables_that_are_not_the_reports_are_not_believed(self, tmp_path: Path) -> None:
        a, b = result(tmp_path / "a"), result(tmp_path / "b")
        (b / "rollouts.parquet").write_bytes((b / "tokens.parquet").read_bytes())
        assert not compare_results(a, b).b.tables

    def test_names_that_one_result_hides_cannot_be_matched(self, tmp_path: Path) -> None:
        found = compared(tmp_path, b={"salt": b"salt"})
        assert found.sets[0].reason == (
            "one result is redacted: that its completions are the same cannot be known"
        )

    def test_two_redacted_results_of_one_run_are_paired(self, tmp_path: Path) -> None:
        found = compared(tmp_path, a={"salt": b"salt"}, b={"salt": b"salt"})
        assert {f.status for f in found.figures} == {"equal"}

    @pytest.mark.parametrize(
        ("table", "change"),
        [
            ("trajectories", lambda t: pd.concat([t, t.iloc[:1]])),
            ("trajectories", lambda t: t.assign(own_set=None)),
            ("trajectories", lambda t: t.drop(columns="gini_corrected")),
            ("trajectories", lambda t: t.assign(gini_corrected="a lot")),
            ("rollouts", lambda t: pd.concat([t, t.iloc[:1]])),
            ("rollouts", lambda t: t.iloc[1:]),
            ("rollouts", None),
        ],
    )
    def test_tables_that_a_stranger_made_are_left_alone(self, tmp_path, table, change) -> None:
        a, b = result(tmp_path / "a"), result(tmp_path / "b")
        file = b / f"{table}.parquet"
        if change is None:
            file.write_bytes(b"no table")
        else:
            change(pd.read_parquet(file)).to_parquet(file)
        report = json.loads((b / "report.json").read_text("utf-8"))
        report["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        (b / "report.json").write_text(json.dumps(report), "utf-8")
        found = compare_results(a, b)
        assert not found.b.tables
        assert file.name in found.sets[0].reason
        assert {f.how for f in found.figures} == {"independent"}


class TestUnlike:
    def test_another_base_is_a_warning_and_figures_are_there(self, tmp_path: Path) -> None:
        a, b = result(tmp_path / "a"), result(tmp_path / "b")
        report = json.loads((b / "report.json").read_text("utf-8"))
        report["provenance"]["base"]["sha256"] = "cd" * 32
        report["provenance"]["dtype"] = "bfloat16"
        report["run"]["temperature"] = 0.5
        report["reference"]["kind"] = "ref-adapter"
        report["tool"]["version"] = "0.0.9"
        (b / "report.json").write_text(json.dumps(report), "utf-8")
        found = compare_results(a, b)
        told = {(u.what, u.level): u.message for u in found.unlike}
        assert [what for what, _ in told] == [
            "base",
            "dtype",
            "temperature",
            "reference",
            "tool version",
        ]
        assert told["base", "warn"].startswith("base (abababab) in A, base (cdcdcdcd) in B")
        assert told["temperature", "warn"].startswith("1 in A, 0.5 in B")
        assert told["tool version", "note"].startswith("0.1.0 in A, 0.0.9 in B")
        assert one(found).status == "equal"

    @pytest.mark.parametrize(
        ("given", "what", "level"),
        [
            ({"sharpening": 2.0}, "sharpening", "warn"),
            ({"options": {"epsilon": 1e-3}}, "epsilon", "warn"),
            ({"options": {"credit": "surprisal"}}, "credit", "note"),
            ({"of": "other"}, "fixed-set completions", "note"),
        ],
    )
    def test_other_judging_is_said(self, tmp_path: Path, given, what: str, level: str) -> None:
        found = compared(tmp_path, b=given)
        assert (found.unlike[0].what, found.unlike[0].level) == (what, level)

    def test_each_is_compared_at_its_own_sharpening(self, tmp_path: Path) -> None:
        found = compared(tmp_path, b={"sharpening": 2.0, "gini": PLAIN + 0.1})
        assert (found.a.sharpening, found.b.sharpening) == (1.0, 2.0)
        assert one(found).difference.value == pytest.approx(0.1)

    def test_a_replay_that_is_not_the_run_comes_first(self, tmp_path: Path) -> None:
        failed = Fidelity(checkpoint="60", status="fail", figures={}, reason="another base")
        found = compared(tmp_path, b={"replay_fidelity": [failed], "sharpening": 2.0})
        assert found.unlike[0].what == "replay"
        assert found.unlike[0].b == "not the run's"


class TestVerdicts:
    def test_a_regime_says_whether_a_figure_moved_with_it(self, tmp_path: Path) -> None:
        regimes = {"surprisal": "sparse", "residual": "sparse"}
        found = compared(tmp_path, b={"gini": {"surprisal": PLAIN + 0.1}, "regimes": regimes})
        moved = {r.signal: r for r in found.regimes if r.moved and r.view == "fixed-set"}
        assert {s: (r.a, r.b, r.figures_changed) for s, r in moved.items()} == {
            "surprisal": ("middle", "sparse", True),
            "residual": ("middle", "sparse", False),
        }

    def test_findings_are_new_gone_or_of_another_level(self, tmp_path: Path) -> None:
        kept = {"checkpoint": None, "level": "note"}
        a = [finding(id="rows-gone", **kept), finding(id="rows-same", **kept)]
        a += [finding(id="rows-worse", **kept), finding(id="elsewhere-found", checkpoint=20)]
        b = [
            finding(id="rows-new", checkpoint=60, signal="residual"),
            finding(id="rows-same", **kept),
        ]
        b += [
            finding(id="rows-worse", checkpoint=60, level="error"),
            finding(id="rows-worse", **kept),
        ]
        found = compared(tmp_path, a={"findings": a}, b={"findings": b})
        assert [(f.id, f.signal, f.level_a, f.level_b) for f in found.findings] == [
            ("rows-gone", None, "note", None),
            ("rows-new", "residual", None, "warn"),
            ("rows-worse", None, "note", "error"),
        ]


class TestCheckpoints:
    def test_without_any_it_is_the_last_that_both_have(self, tmp_path: Path) -> None:
        found = compared(tmp_path, a={"steps": (20, 60, 100)}, b={"steps": (20, 60)})
        assert found.checkpoints == [(60, 60)]
        assert found.chosen == "the last that both measured; A has later ones"

    def test_without_a_common_one_it_is_the_last_of_each(self, tmp_path: Path) -> None:
        found = compared(tmp_path, a={"steps": (20, 60)}, b={"steps": (30, 50)})
        assert found.checkpoints == [(60, 50)]
        assert "none in common" in found.chosen

    @pytest.mark.parametrize(
        ("asked", "pairs"),
        [
            (["20"], [(20, 20)]),
            (["checkpoint-20"], [(20, 20)]),
            (["20:60", "60"], [(20, 60), (60, 60)]),
            (["all"], [(20, 20), (60, 60)]),
        ],
    )
    def test_they_can_be_named(self, tmp_path: Path, asked, pairs) -> None:
        both = {"steps": (20, 60)}
        found = compared(tmp_path, a=both, b=both, checkpoints=asked)
        assert found.checkpoints == pairs
        assert len(found.sets) == 2 * len(pairs)

    @pytest.mark.parametrize("asked", ["30", "20:30", "30:20", ":", "", "20:"])
    def test_one_that_is_not_there_is_an_error_that_lists_those(self, tmp_path, asked: str) -> None:
        both = {"steps": (20, 60)}
        with pytest.raises(ResultError, match="it has 20, 60"):
            compared(tmp_path, a=both, b=both, checkpoints=[asked])

    def test_where_nothing_was_measured_that_is_said(self, tmp_path: Path) -> None:
        found = compared(tmp_path, b={"steps": (), "verdicts": []})
        assert (found.checkpoints, found.figures) == ([], [])
        assert found.chosen == "nothing was measured in B"


class TestReading:
    def test_a_report_and_a_run_stand_for_their_results(self, tmp_path: Path) -> None:
        a = result(tmp_path / "a")
        (tmp_path / "run").mkdir()
        result(tmp_path / "run" / "arca-diag")
        found = compare_results(a / "report.json", tmp_path / "run")
        assert {f.status for f in found.figures} == {"equal"}

    def test_its_name_tells_nobody_where_a_user_keeps_it(self, tmp_path, monkeypatch) -> None:
        (tmp_path / "run").mkdir()
        result(tmp_path / "run" / "arca-diag")
        result(tmp_path / "b")
        monkeypatch.chdir(tmp_path)
        found = compare_results(tmp_path / "run", tmp_path / "b" / "report.json")
        assert (found.a.label, found.b.label) == ("run/arca-diag", "b")
        assert str(tmp_path) not in found.to_json()
        assert compare_results(Path("run"), Path("b")).a.label == "run"

    def test_what_is_no_result_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(ResultError, match="is no result"):
            compare_results(result(tmp_path / "a"), tmp_path)

    def test_another_schema_says_what_to_do(self, tmp_path: Path) -> None:
        a, b = result(tmp_path / "a"), result(tmp_path / "b")
        report = json.loads((b / "report.json").read_text("utf-8")) | {"schema_version": 0}
        (b / "report.json").write_text(json.dumps(report), "utf-8")
        with pytest.raises(ResultError, match="schema version 0") as error:
            compare_results(a, b)
        assert "scan again" in str(error.value.hint)


class TestDocument:
    PUBLISHED = json.loads(files("arca_diag").joinpath("compare.schema.json").read_text("utf-8"))

    def test_the_published_schema_is_that_of_the_models(self) -> None:
        assert comparison_schema() == self.PUBLISHED

    def test_it_fits_its_schema_and_is_read_as_it_was(self, tmp_path: Path) -> None:
        nothing = {"surprisal": np.full_like(PLAIN, math.nan), "entropy": PLAIN + noise(4)}
        found = compared(tmp_path, b={"gini": nothing, "of": "other"})
        jsonschema.Draft202012Validator(self.PUBLISHED).validate(json.loads(found.to_json()))
        assert Comparison.model_validate_json(found.to_json()) == found

    def test_every_p_is_corrected_for_all_that_were_asked(self, tmp_path: Path) -> None:
        shifted = {s: PLAIN + noise(n, scale=0.01) for n, s in enumerate(SIGNAL_NAMES)}
        asked = [f for f in compared(tmp_path, b={"gini": shifted}).figures if f.p is not None]
        assert len(asked) >= 60
        worst = 0.0
        for place, figure in enumerate(sorted(asked, key=lambda f: f.p)):
            worst = max(worst, min(1.0, figure.p * (len(asked) - place)))
            assert figure.p_holm == pytest.approx(worst)

    def test_what_files_are_called_can_be_kept_out(self, tmp_path: Path) -> None:
        a, b = result(tmp_path / "a"), result(tmp_path / "b")
        report = json.loads((b / "report.json").read_text("utf-8"))
        report["rollouts"]["source"] = "a secret"
        (b / "report.json").write_text(json.dumps(report), "utf-8")
        found = compare_results(a, b)
        assert "a secret" in found.to_json()
        assert "a secret" not in without_text(found).to_json()
        assert [u.what for u in without_text(found).unlike] == ["rollouts"]
