"""The tokens on paper: which completions, how strong each token is, and what is said beside."""

from pathlib import Path
from typing import Any

import pytest

from arca_diag.report.heatmap import HeatMap, heat_map
from arca_diag.report.pdf import render_pdf
from arca_diag.report.static_heat import MOST_TOKENS, STEPS, static_heat
from tests.report.documents import document, words_of
from tests.report.planted import planted

EVERYTHING = frozenset(range(0x20, 0xD800))


def heat(completions: list[list[str | None]], **given: Any) -> HeatMap:
    found = heat_map(*planted(completions, **given))
    assert found is not None
    return found


def shown(found: HeatMap) -> dict:
    return static_heat(found, str, EVERYTHING)["blocks"][0]


MANY = [[f"w{n}-{i}" for i in range(5 + n)] for n in range(12)]


class TestWhichCompletions:
    def test_both_ends_of_both_signals(self) -> None:
        whys = "; ".join(case["title"] for case in shown(heat(MANY))["cases"])
        for signal in ("surprisal", "residual"):
            for end in ("most", "least"):
                assert f"{end} concentrated {signal}" in whys

    def test_each_once(self) -> None:
        titles = [case["title"] for case in shown(heat(MANY))["cases"]]
        assert len(set(titles)) == len(titles) <= 4

    def test_how_many_more_there_are_is_said(self) -> None:
        found = heat(MANY)
        block = shown(found)
        assert f"({len(found.cases) - len(block['cases'])} more there)" in block["about"]["text"]

    def test_two_completions_are_two(self) -> None:
        assert len(shown(heat([["a", "b"], ["c", "d"]]))["cases"]) == 2


class TestTokens:
    def test_levels_are_the_value_over_the_scale(self) -> None:
        found = heat(MANY)
        cases = {c.rollout_id: c for c in found.cases}
        seen = set()
        for told in shown(found)["cases"]:
            case = cases[told["title"].rpartition(": ")[2]]
            for signal, row in zip(("surprisal", "residual"), told["rows"], strict=True):
                high = found.scales[signal][1]
                values = case.values[found.checkpoints[-1]][signal]
                for value, (_, level, _) in zip(values, row["tokens"], strict=True):
                    assert value is not None
                    # The level's own stretch of the scale holds the value.
                    assert level == STEPS - 1 or value < high * (level + 1) / STEPS + 1e-12
                    assert value >= high * level / STEPS - 1e-12
                    seen.add(level)
        assert {0, STEPS - 1} < seen

    def test_a_masked_token_has_no_level_and_is_not_among_the_strongest(self) -> None:
        found = heat([["aa", "bb", "cc"], ["dd", "ee"]], masked=[(0, 1)])
        rows = [r for c in shown(found)["cases"] for r in c["rows"] if r["tokens"][0][0] == "aa"]
        assert rows
        assert all(row["tokens"][1][1] is None for row in rows)
        assert all("bb (" not in row["strongest"] for row in rows)

    def test_the_strongest_are_named_with_their_figures(self) -> None:
        found = heat([["aa", "bb", "cc", "dd"], ["ee", "ff"]])
        told = next(c for c in shown(found)["cases"] if c["title"].endswith("r0"))
        case = next(c for c in found.cases if c.rollout_id == "r0")
        values = case.values[found.checkpoints[-1]]["surprisal"]
        best = max(range(4), key=lambda i: values[i] or 0)
        first = told["rows"][0]["strongest"].partition(": ")[2].partition(";")[0]
        assert first == f"{['aa', 'bb', 'cc', 'dd'][best]} (position {best}) {values[best]:.3g}"

    def test_what_is_cut_off_is_counted(self) -> None:
        found = heat([["t"] * 300, ["u", "v"]])
        row = next(c for c in shown(found)["cases"] if c["title"].endswith("r0"))["rows"][0]
        assert len(row["tokens"]) == MOST_TOKENS
        assert f"{300 - MOST_TOKENS} tokens more, not shown" in row["left_out"]

    def test_a_line_ends_where_the_completion_has_one(self) -> None:
        found = heat([["a", "Ċ", "Ġb"], ["c", "d"]])
        row = next(c for c in shown(found)["cases"] if c["title"].endswith("r0"))["rows"][0]
        assert [breaks for _, _, breaks in row["tokens"]] == [False, True, False]


class TestOnPaper:
    def test_tokens_limits_and_figures_are_there(self, tmp_path: Path) -> None:
        found = heat(MANY)
        words = words_of(render_pdf(document(), found))
        for case in shown(found)["cases"]:
            assert "".join(case["title"].split()) in words
            for row in case["rows"]:
                assert "".join("".join(map(_plain, row["tokens"])).split()) in words
                assert "".join(row["strongest"].split()) in words
        for legend in shown(found)["legends"]:
            assert "".join(legend["high"].split()) in words

    @pytest.mark.parametrize(
        "token", ["</script>", "#import", "$x$", "\u202e", "nul\0", "a" * 9000]
    )
    def test_hostile_tokens_are_shown(self, token: str, tmp_path: Path) -> None:
        found = heat([[token, "b", "c"], ["d", "e"]])
        words = words_of(render_pdf(document(), found))
        case = next(c for c in found.cases if c.rollout_id == "r0")
        assert "".join(case.tokens[0].text.split()) in words


def _plain(token: list) -> str:
    text = token[0]
    if isinstance(text, str):
        return text
    return "".join(p if isinstance(p, str) else p[0] if isinstance(p, list) else "" for p in text)
