"""What `compare` says, to a reader and to a program."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from arca_diag.cli import app
from arca_diag.compared import Comparison
from arca_diag.comparing import compare_results
from arca_diag.report.charts.changes import draw_changes
from arca_diag.report.comparison import print_comparison
from arca_diag.report.comparison_document import comparison_document
from arca_diag.report.comparison_words import name as name_of
from arca_diag.report.document import Facts, Table
from arca_diag.report.numbers import p_value
from arca_diag.report.pdf import _columns
from arca_diag.results import Fidelity
from arca_diag.signals import SIGNAL_NAMES
from tests.comparing.planted import noise, result
from tests.test_results import finding

PLAIN = noise(0) + 0.5
HOSTILE = "[bold]\x1b[31m##[group]evil\n::error::[/bold]"


def shown(found: Comparison, width: int = 80, **console: object) -> str:
    printed = io.StringIO()
    print_comparison(Console(file=printed, width=width, **console), found)
    return printed.getvalue()


def words(found: Comparison) -> str:
    return " ".join(shown(found).split())


def compared(
    tmp_path: Path, a: dict | None = None, b: dict | None = None, *asked: str
) -> Comparison:
    before = result(tmp_path / "a", **(a or {}))
    return compare_results(before, result(tmp_path / "b", **(b or {})), asked)


def tables_of(found: Comparison) -> list[Table]:
    return [
        b for s in comparison_document(found).sections for b in s.blocks if isinstance(b, Table)
    ]


class TestConsole:
    def test_of_an_identical_result_it_says_so_and_no_more(self, tmp_path: Path) -> None:
        told = words(compared(tmp_path))
        assert told.startswith("Nothing changed: all 70 figures are exactly equal.")
        assert "Holm" not in told

    def test_what_changed_comes_before_what_did_not(self, tmp_path: Path) -> None:
        gini = {"surprisal": PLAIN + 0.1, "residual": PLAIN + noise(4), "entropy": PLAIN - 0.1}
        found = compared(tmp_path, b={"gini": gini})
        told = shown(found)
        order = ["changed, corrected", "surprisal G^", "within noise", "residual G^"]
        places = [told.index(word) for word in order]
        assert places == sorted(places)
        assert "surprisal would rest on fewer tokens in B; entropy would be spread" in words(found)

    def test_slight_changes_are_counted_and_not_listed(self, tmp_path: Path) -> None:
        found = compared(tmp_path, b={"gini": {"surprisal": PLAIN + 0.001}})
        told = words(found)
        assert "10 of 70 figures changed outside noise (8 by less than .005)" in told
        assert "No signal's concentration (G^, fixed-set) surely moved by more than .005" in told
        assert "changed by less than .005: 4 figures, in --json" in told
        assert "surprisal G^ " not in told

    def test_what_is_not_alike_comes_first(self, tmp_path: Path) -> None:
        failed = Fidelity(checkpoint="60", status="fail", figures={}, reason="another base")
        found = compared(tmp_path, b={"sharpening": 2.0, "replay_fidelity": [failed]})
        told = words(found)
        assert told.startswith("These results were not measured alike (replay, sharpening): what")
        assert told.index("warn sharpening: 1 in A, 2 in B") < told.index("on-policy")

    def test_nothing_that_can_be_called_is_not_called_unchanged(self, tmp_path: Path) -> None:
        few = noise(0, prompts=5) + 0.5
        found = compared(tmp_path, a={"gini": few}, b={"gini": few + noise(1, prompts=5)})
        told = words(found)
        assert "nothing can be called changed or unchanged: see why below" in told
        assert "not called: 35 figures: 5 prompts, and a call needs 8" in told
        document = comparison_document(found)
        assert (document.level, document.verdict) == ("warn", "nothing can be called")

    def test_nothing_measured_is_said(self, tmp_path: Path) -> None:
        found = compared(tmp_path, b={"steps": (), "verdicts": []})
        assert words(found).startswith("Nothing can be compared: nothing was measured in B.")
        assert comparison_document(found).level == "error"

    def test_a_regime_that_moved_within_noise_is_called_that(self, tmp_path: Path) -> None:
        found = compared(tmp_path, b={"regimes": {"surprisal": "sparse"}})
        assert "surprisal middle -> sparse (neither G^ nor e^ is outside noise)" in words(found)

    def test_findings_of_several_signals_are_one_line(self, tmp_path: Path) -> None:
        given = [finding(signal=s, checkpoint=60) for s in ("surprisal", "entropy")]
        found = compared(tmp_path, b={"findings": given})
        assert "new in B: warn [adapter-inert] of entropy, surprisal" in words(found)

    @pytest.mark.parametrize("width", [40, 60, 80, 200])
    def test_it_fits_80_columns_and_a_narrower_terminal(self, tmp_path: Path, width: int) -> None:
        gini = {s: PLAIN + noise(n, scale=0.04) for n, s in enumerate(SIGNAL_NAMES)}
        steps = (20, 60)
        found = compared(
            tmp_path,
            {"steps": steps},
            {"steps": steps, "gini": gini, "of": "other", "sharpening": 2.0},
            "all",
        )
        lines = [line.rstrip() for line in shown(found, width).splitlines()]
        assert max(map(len, lines)) <= min(width, 80)
        assert "fixed-set at step 20: 12 and 12 prompts, not paired"[: width - 20] in "\n".join(
            lines
        )

    def test_names_are_hostile(self, tmp_path: Path) -> None:
        found = compared(tmp_path, b={"name": HOSTILE, "options": {"credit": HOSTILE}})
        told = shown(found)
        assert "[bold]" in told
        assert "\x1b" not in told
        assert "##[group]" not in told
        assert "::error::" not in [line.strip()[:9] for line in told.splitlines()]
        assert "##" not in found.to_json()
        assert json.loads(found.to_json())["b"]["run"] == HOSTILE


class TestDocument:
    def test_every_figure_has_its_row_and_changes_come_first(self, tmp_path: Path) -> None:
        gini = {"surprisal": PLAIN + 0.1, "residual": PLAIN + noise(4), "entropy": PLAIN * np.nan}
        found = compared(tmp_path, b={"gini": gini, "findings": [finding(checkpoint=60)]})
        document = comparison_document(found)
        assert (document.level, document.verdict) == ("note", "10 figures changed")
        tables = [b for s in document.sections for b in s.blocks if isinstance(b, Table)]
        tables = [t for t in tables if t.head[0] == "figure"]
        assert sum(len(table.rows) for table in tables) == len(found.figures)
        called = [{row[5].partition(":")[0] for row in t.rows} for t in tables]
        two_views = [{"changed"}, {"changed"}]
        assert called == two_views + [{"within noise", "equal"}, {"undefined"}] * 2
        assert {row[5] for row in tables[3].rows} == {
            "undefined: B: every raw score is exactly zero"
        }
        assert [s.id for s in document.sections if s.folded] == ["unchanged"]
        changes = next(s for s in document.sections if s.id == "changes")
        assert Facts(rows=(("", "new in B: warn [adapter-inert]"),)) in changes.blocks

    def test_slight_changes_come_after_others_and_pictures_call_them_so(self, tmp_path) -> None:
        gini = {"surprisal": PLAIN + 0.001, "entropy": PLAIN + 0.1}
        found = compared(tmp_path, b={"gini": gini})
        section = next(s for s in comparison_document(found).sections if "changed-" in s.id)
        (table,) = section.blocks
        assert isinstance(table, Table)
        names = [row[0] for row in table.rows]
        assert next(r[5] for r in table.rows if r[0] == "surprisal G^") == "slightly"
        assert "Slightly: changed by less than .005." in table.caption
        assert names.index("entropy inherited") < names.index("surprisal G^")
        alt = draw_changes(found)[0].alt
        assert "surprisal .50 to .50, changed by less than .005;" in alt
        assert "entropy .50 to .60, changed;" in alt

    def test_titles_name_steps_and_views(self, tmp_path: Path) -> None:
        steps = (20, 60)
        b = {"steps": steps, "gini": PLAIN + 0.1, "name": "other"}
        found = compared(tmp_path, {"steps": steps}, b, "20:60")
        document = comparison_document(found, draw_changes(found))
        assert document.title == "run and other, from step 20 of A to step 60 of B"
        where = "fixed-set at step 20 of A and step 60 of B"
        named = [p.title for p in document.pictures()]
        assert named[0] == f"Concentration of every credit, {where}"
        titles = [b.title for s in document.sections for b in s.blocks if isinstance(b, Table)]
        assert [t.partition(":")[0] for t in titles] == [
            f"What changed, {w}" for w in (where, where.replace("fixed-set", "on-policy"))
        ]
        same = comparison_document(compare_results(tmp_path / "a", tmp_path / "a"))
        assert same.title == "two results of run, at step 60 of both"

    def test_what_is_at_like_length_has_a_star_and_the_fixed_set_comes_first(
        self, tmp_path: Path
    ) -> None:
        found = compared(tmp_path, b={"gini": PLAIN + 0.1, "of": "other"})
        assert [s.view for s in found.sets] == ["fixed-set", "on-policy"]
        assert found.regimes[0].view == found.figures[0].view == "fixed-set"
        told = shown(found)
        assert told.index("fixed-set at step 60:") < told.index("on-policy at step 60:")
        assert "surprisal G^ * " in told
        assert "surprisal mean * " not in told
        table = next(t for t in tables_of(found) if t.head[0] == "figure")
        starred = {row[0] for row in table.rows if row[0].endswith(" *")}
        assert {"surprisal G^ *", "entropy e^ *", "residual 90% share *"} <= starred
        assert not any("mean" in n or "inherited" in n for n in starred)
        assert "*: at like length" in table.caption

    def test_a_table_is_no_wider_than_a_page_and_the_corrected_p_leads(
        self, tmp_path: Path
    ) -> None:
        gini = {s: PLAIN + noise(n, scale=0.02 * n) for n, s in enumerate(SIGNAL_NAMES)}
        gini |= {"surprisal": PLAIN + 0.02 + noise(2, scale=0.025), "entropy": PLAIN * np.nan}
        for name, of in (("b", "completion"), ("c", "other")):
            found = compare_results(
                *(result(tmp_path / f"{name}{n}", g, of=o) for n, g, o in
                  ((0, PLAIN, "completion"), (1, gini, of)))
            )  # fmt: skip
            for table in tables_of(found):
                if table.head[0] != "figure":
                    continue
                assert _columns(table)["size"] >= 7.5, table.title
                if "p" in table.head:
                    assert table.head[5:8] == ("called", "p", "raw p")
        one = next(f for f in found.figures if f.p is not None and f.p_holm != f.p)
        row = next(r for t in tables_of(found) for r in t.rows if r[0] == name_of(one))
        assert row[6:8] == (p_value(one.p_holm), p_value(one.p))

    def test_an_equal_pair_is_good_and_an_unlike_one_is_not(self, tmp_path: Path) -> None:
        a = result(tmp_path / "a")
        alike = comparison_document(compare_results(a, result(tmp_path / "b")))
        assert (alike.level, alike.verdict) == ("good", "nothing changed outside noise")
        other = comparison_document(compare_results(a, result(tmp_path / "c", sharpening=2.0)))
        assert (other.level, other.verdict) == ("warn", "not measured alike")
        assert other.sections[0].id == "unlike"

    def test_its_date_is_the_later_results(self, tmp_path: Path) -> None:
        found = compared(tmp_path)
        later = found.b.model_copy(update={"made": "2027-01-01T00:00:00Z"})
        assert comparison_document(found.model_copy(update={"b": later})).made == later.made
        assert comparison_document(found.model_copy(update={"a": later})).made == later.made


class TestCommand:
    def call(self, *given: object) -> object:
        return CliRunner().invoke(app, ["compare", *map(str, given)])

    def test_it_exits_0_whatever_it_found(self, tmp_path: Path) -> None:
        a, b = result(tmp_path / "a"), result(tmp_path / "b", PLAIN + 0.3)
        done = self.call(a, b)
        assert done.exit_code == 0
        assert "70 of 70 figures changed outside noise" in " ".join(done.stdout.split())

    def test_json_is_the_whole_of_stdout(self, tmp_path: Path) -> None:
        a, b = result(tmp_path / "a", steps=(20, 60)), result(tmp_path / "b", steps=(20, 60))
        done = self.call(a, b, "--json", "--checkpoint", "20", "--checkpoint", "20:60")
        found = Comparison.model_validate_json(done.stdout)
        assert found.checkpoints == [(20, 20), (20, 60)]
        assert found == compare_results(a, b, ["20", "20:60"])

    def test_what_is_to_be_mended_exits_2(self, tmp_path: Path) -> None:
        a = result(tmp_path / "a")
        for given in ((a, tmp_path), (a, tmp_path / "gone"), (a, a, "--checkpoint", "7")):
            done = self.call(*given)
            assert done.exit_code == 2
            assert done.stdout == ""
            assert "do: " in done.stderr

    def test_redacted_it_leaves_out_what_files_are_called(self, tmp_path: Path) -> None:
        a, b = result(tmp_path / "a"), result(tmp_path / "b")
        text = (b / "report.json").read_text("utf-8")
        source = json.loads(text)["rollouts"]["source"]
        (b / "report.json").write_text(text.replace(json.dumps(source), '"a secret"'), "utf-8")
        assert "a secret" in self.call(a, b).stdout
        for view in ((), ("--json",)):
            assert "a secret" not in self.call(a, b, "--redact-text", *view).stdout

    def test_torch_is_not_imported(self, tmp_path: Path) -> None:
        a = result(tmp_path / "a")
        code = (
            f"import sys; sys.argv = ['arca-diag', 'compare', {str(a)!r}, {str(a)!r}]\n"
            "from arca_diag.cli import main\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'transformers', 'peft', 'matplotlib'}\n"
            "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
        )
        assert done.stderr.strip().splitlines()[-1] == "[]"
        assert "Nothing changed" in done.stdout
