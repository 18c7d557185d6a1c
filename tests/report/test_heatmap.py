"""The tokens that a heat-map shows: their text, which completions, and every figure."""

import math
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders

from arca_diag import tables
from arca_diag.redaction import redact
from arca_diag.report.heatmap import (
    MOST_CHECKPOINTS,
    MOST_TOKENS,
    HeatMap,
    heat_map,
)
from arca_diag.report.pieces import is_byte_level, joined, plain, visible
from arca_diag.signals import SIGNAL_NAMES
from tests.conftest import ROOT
from tests.report.planted import planted

SMOLLM2 = ROOT / "sample_runs" / "smollm2-addition" / "tokenizer.json"
SENTENCES = (
    "The answer is 12, naïvely.",
    "日本語のテキスト と 😀👩‍👧 ᚠᛇᚻ",
    "a\n\n\tb  c\r\nd   ",
    "العربية עברית हिन्दी",
    "",
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(SMOLLM2))


def lossy(text: str) -> str:
    """With a replacement character for bytes that are no text, as the library has it."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def texts(tokens: list[str], byte_level: bool) -> list[str]:
    return [text for text, _ in joined(tokens, [None] * len(tokens), byte_level=byte_level)]


class TestJoining:
    @pytest.mark.parametrize("sentence", SENTENCES)
    def test_as_the_tokenizer_decodes(self, tokenizer: Tokenizer, sentence: str) -> None:
        encoded = tokenizer.encode(sentence)
        ours = "".join(texts(encoded.tokens, byte_level=True))
        assert ours == tokenizer.decode(encoded.ids, skip_special_tokens=False) == sentence

    @given(st.text(st.characters(codec="utf-8"), max_size=30))
    def test_any_text_as_the_tokenizer_decodes(self, tokenizer: Tokenizer, text: str) -> None:
        encoded = tokenizer.encode(text)
        ours = "".join(texts(encoded.tokens, byte_level=True))
        assert lossy(ours) == tokenizer.decode(encoded.ids, skip_special_tokens=False)

    @given(st.lists(st.integers(0, 48_000), min_size=1, max_size=12))
    def test_any_tokens_as_the_tokenizer_decodes(self, tokenizer, ids) -> None:
        """Bytes that are no text: wherever ours marks one, the library has its replacement."""
        special = {i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
        ids = [i for i in ids if i not in special]
        pieces = [tokenizer.id_to_token(i) for i in ids]
        ours = "".join(texts(pieces, byte_level=True))
        theirs = tokenizer.decode(ids, skip_special_tokens=False)
        assert lossy(ours) == theirs

    @pytest.mark.parametrize("sentence", SENTENCES)
    def test_each_character_stands_at_the_token_of_its_first_byte(self, tokenizer, sentence):
        encoded = tokenizer.encode(sentence)
        alone = decoders.ByteLevel()
        spans = joined(encoded.tokens, [None] * len(encoded.tokens), byte_level=True)
        seen = ""
        for n, (text, _) in enumerate(spans):
            seen += text
            # What the library makes of the tokens so far, less a character that is not whole yet.
            so_far = alone.decode(encoded.tokens[: n + 1]).rstrip("\N{REPLACEMENT CHARACTER}")
            assert seen.startswith(so_far)
            assert len(seen) <= len(so_far) + 1

    def test_a_split_character_is_shown_once_and_the_rest_goes_on(self):
        assert joined(["Ġæ", "Ĺ", "¥", "æľ¬"], [None] * 4, byte_level=True) == [
            (" 日", False),
            ("", True),
            ("", True),
            ("本", False),
        ]

    def test_sentence_piece_bytes_and_bars(self):
        pieces = ["▁the", "▁", "<0xE6>", "<0x97>", "<0xA5>", "x", "<0xFF>", "</s>"]
        theirs = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        ).decode(pieces)
        ours = texts(pieces, byte_level=False)
        assert ours == [" the", " ", "日", "", "", "x", "\udcff", "</s>"]
        assert "".join(ours).replace("\udcff", "\N{REPLACEMENT CHARACTER}") == theirs

    def test_a_special_token_is_read_as_written(self):
        pieces = ["Ġa", "<|é▁|>", "<0x0A>"]
        classes = [None, "special", "template"]
        assert [t for t, _ in joined(pieces, classes, byte_level=True)] == [" a", *pieces[1:]]
        assert [t for t, _ in joined(pieces, classes, byte_level=False)][1:] == pieces[1:]

    @pytest.mark.parametrize("sentence", SENTENCES[:4])
    def test_byte_level_is_recognised(self, tokenizer, sentence):
        tokens = tokenizer.encode(sentence).tokens
        assert is_byte_level(tokens, [None] * len(tokens))

    @pytest.mark.parametrize(
        "pieces",
        [
            ["▁the", "▁naïve", "x"],
            ["1", "+", " ", "c"],
            ["naïve", "é", "à"],
            ["▁日", "<0xE6>"],
            [],
        ],
    )
    def test_and_nothing_else_is(self, pieces):
        assert not is_byte_level(pieces, [None] * len(pieces))


class TestVisible:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("\n", "↵"),
            ("\t", "→"),
            (" the", "·the"),
            ("a b ", "a b·"),
            ("   ", "···"),
            ("a\u202eb", "aU+202Eb"),
            ("\x00\x1b[31m", "U+0000U+001B[31m"),
            ("\u200b\ufeff\u00a0\u2028", "U+200BU+FEFFU+00A0U+2028"),
            ("\ud800", "U+D800"),
            ("\udce4", "<0xE4>"),
            ("\u0301", "◌\u0301"),
            ("e" + "\u0301" * 5, "e" + "\u0301" * 3 + "U+0301U+0301"),
            ("\u115f\ufe0f\u034f", "U+115FU+FE0FU+034F"),
            ("日本", "日本"),
            ("", ""),
        ],
    )
    def test_nothing_stays_invisible(self, text, shown):
        assert plain(text) == shown

    @given(st.text(max_size=40))
    def test_whatever_it_is(self, text: str) -> None:
        out = plain(text)
        assert all(unicodedata.category(c)[0] not in "C" for c in out)
        assert all(unicodedata.category(c) not in ("Zl", "Zp") for c in out)
        assert all(c == " " for c in out if unicodedata.category(c) == "Zs")
        assert unicodedata.bidirectional(out[0]) != "RLO" if out else True
        out.encode()  # no lone surrogate

    def test_what_stands_for_another_is_marked(self):
        parts = visible(" a·\n")
        assert [(p.text, p.mark) for p in parts] == [("·", True), ("a·", False), ("↵", True)]

    def test_a_long_one_is_cut_and_its_length_said(self):
        assert plain("x" * 100_000, most=4) == "xxxx… (100,000 characters)"
        assert plain("xxxx", most=4) == "xxxx"

    def test_lines_may_stay(self):
        assert plain(" a\n b\r", line_breaks=True) == " a\n bU+000D"


def shown(heat: HeatMap | None) -> HeatMap:
    assert heat is not None
    return heat


class TestFigures:
    def test_every_figure_is_the_table_s(self):
        completions = [[f"w{n}-{k}" for k in range(5 + n)] for n in range(6)]
        report, frames = planted(completions, masked=[(1, 2)], sharpening=2.0)
        heat = shown(heat_map(report, frames))
        assert heat.checkpoints == ("checkpoint-2", "checkpoint-4")
        assert heat.sharpening == 2.0
        seen = 0
        by_place = frames.tokens.set_index(["checkpoint", "rollout_id", "position"])
        for case in heat.cases:
            for name in heat.checkpoints:
                for signal in SIGNAL_NAMES:
                    values, weights = case.values[name][signal], case.weights[name][signal]
                    for token, value, weight in zip(case.tokens, values, weights, strict=True):
                        row = by_place.loc[(name, case.rollout_id, token.position)]
                        assert value == row[signal]
                        assert token.text == row["token"]
                        assert token.token_id == row["token_id"]
                        assert token.counted == row["counted"]
                        expected = row[f"w_{signal}"]
                        assert weight == (None if math.isnan(expected) else expected)
                        seen += 1
        assert seen == 2 * 7 * sum(map(len, completions))

    def test_a_masked_token_has_no_credit_but_its_value(self):
        report, frames = planted([["a", "b", "c"]], masked=[(0, 1)])
        case = shown(heat_map(report, frames)).cases[0]
        weights = case.weights["checkpoint-4"]["surprisal"]
        assert not case.tokens[1].counted
        assert case.n_counted == 2
        assert weights[1] is None or weights[1] == 0
        assert case.values["checkpoint-4"]["surprisal"][1] is not None

    def test_times_even_is_one_on_the_mean(self):
        report, frames = planted([list("abcdefgh"), list("ijklmnop")], masked=[(0, 1)])
        for case in shown(heat_map(report, frames)).cases:
            row = case.times_even("checkpoint-2", "entropy")
            counted = [v for v, t in zip(row, case.tokens, strict=True) if t.counted]
            assert np.mean([v for v in counted if v is not None]) == pytest.approx(1)

    def test_scales_reach_the_99th_percentile_of_counted_tokens(self):
        report, frames = planted(
            [[f"{n}{k}" for k in range(30)] for n in range(4)], masked=[(0, 0)]
        )
        huge = (frames.tokens["rollout_id"] == "r0") & (frames.tokens["position"] == 0)
        frames.tokens.loc[huge, "surprisal"] = 1e9
        heat = shown(heat_map(report, frames))
        assert len(heat.cases) == 4
        counted = frames.tokens.loc[frames.tokens["counted"], "surprisal"].sort_values()
        low, high = heat.scales["surprisal"]
        assert low == 0
        assert high < 1e9
        assert (counted <= high).mean() == pytest.approx(0.99, abs=1 / len(counted))

    def test_a_signal_that_is_nowhere_has_a_scale_all_the_same(self):
        report, frames = planted([["a", "b"]])
        frames.tokens["residual"] = 0.0
        frames.tokens["kl_exact"] = math.nan
        heat = shown(heat_map(report, frames))
        assert heat.scales["residual"] == heat.scales["kl_exact"] == (0, 1)
        assert heat.cases[0].values["checkpoint-2"]["kl_exact"] == (None, None)


class TestChoice:
    def test_the_ends_of_every_signal_come_first(self):
        completions = [[f"{n}-{k}" for k in range(12)] for n in range(40)]
        report, frames = planted(completions)
        heat = shown(heat_map(report, frames))
        last = frames.trajectories[frames.trajectories["checkpoint"] == "checkpoint-4"]
        by_why = {}
        for case in heat.cases:
            by_why |= dict.fromkeys(case.why.split("; "), case.rollout_id)
        for signal in SIGNAL_NAMES[:4]:
            rows = last[last["signal"] == signal].set_index("rollout_id")["gini_corrected"]
            assert by_why[f"most concentrated {signal}"] == rows.idxmax()
            assert by_why[f"least concentrated {signal}"] == rows.idxmin()
        assert len(heat.cases) == 12
        assert len({c.rollout_id for c in heat.cases}) == 12
        assert heat.cases[0].why.startswith("most concentrated surprisal")

    def test_the_fixed_set_comes_first_and_on_policy_ones_fill_up(self):
        completions = [[f"{n}-{k}" for k in range(6)] for n in range(7)]
        report, frames = planted(completions, on_policy=[0, 1, 2, 3])
        heat = shown(heat_map(report, frames, cases=6))
        fixed = [c.fixed for c in heat.cases]
        assert fixed == [True] * 3 + [False] * 3
        assert all(set(c.values) == set(heat.checkpoints) for c in heat.cases[:3])
        assert all(set(c.values) == {"checkpoint-4"} for c in heat.cases[3:])
        assert all("on-policy" in c.why for c in heat.cases[3:])

    def test_none_that_says_the_same_as_another(self):
        report, frames = planted([["a", "b", "c"]] * 3 + [["d", "e", "f"]])
        frames.rollouts["completion"] = ["x", "x", "x", "y"]
        assert len(shown(heat_map(report, frames)).cases) == 2

    def test_a_completion_of_one_token_is_shown_too(self):
        report, frames = planted([["a"]])
        assert [c.why for c in shown(heat_map(report, frames)).cases] == ["too short for a figure"]

    def test_nothing_replayed_is_no_heat_map(self):
        report, frames = planted([["a", "b"]])
        empty = tables.Tables(
            tokens=frames.tokens.iloc[:0],
            trajectories=frames.trajectories.iloc[:0],
            rollouts=frames.rollouts.iloc[:0],
        )
        assert heat_map(report, empty) is None

    def test_the_same_result_gives_the_same_map(self):
        completions = [[f"{n}-{k}" for k in range(9)] for n in range(30)]
        report, frames = planted(completions)
        mixed = tables.Tables(
            tokens=frames.tokens.sample(frac=1, random_state=1),
            trajectories=frames.trajectories.sample(frac=1, random_state=2),
            rollouts=frames.rollouts.sample(frac=1, random_state=3),
        )
        assert heat_map(report, frames) == heat_map(report, mixed)


class TestLimits:
    def test_a_long_completion_is_cut_and_that_is_said(self):
        report, frames = planted([[f"t{k}" for k in range(MOST_TOKENS + 7)]])
        case = shown(heat_map(report, frames)).cases[0]
        assert len(case.tokens) == MOST_TOKENS
        assert case.n_left_out == 7
        assert case.n_counted == MOST_TOKENS + 7
        assert len(case.values["checkpoint-2"]["entropy"]) == MOST_TOKENS

    def test_of_many_checkpoints_the_first_and_the_last_are_shown(self):
        report, frames = planted([["a", "b"]], steps=range(1, 41))
        heat = shown(heat_map(report, frames))
        assert len(heat.checkpoints) == MOST_CHECKPOINTS == len(set(heat.checkpoints))
        assert heat.steps[0] == 1
        assert heat.steps[-1] == 40
        assert list(heat.steps) == sorted(heat.steps)
        assert heat.n_checkpoints_left_out == 40 - MOST_CHECKPOINTS

    def test_a_long_token_keeps_its_length_alone(self):
        report, frames = planted([["a", "x" * 100_000, "b"]])
        token = shown(heat_map(report, frames)).cases[0].tokens[1]
        assert token.text.endswith("… (100,000 characters)")
        assert len(token.text) < 200


def test_redacted_tokens_are_their_classes(tmp_path: Path) -> None:
    secret = ["hunter2", "9", "\n"]
    report, frames = planted([secret], classes={"9": "digit", "\n": "whitespace"}, prompt="pass?")
    heat = shown(heat_map(*redact(report, frames, b"salt")))
    assert heat.redacted
    case = heat.cases[0]
    assert [t.text for t in case.tokens] == ["word", "digit", "whitespace"]
    assert [t.token_id for t in case.tokens] == [None] * 3
    assert case.prompt is None
    assert not any(word in repr(heat) for word in ("hunter2", "pass?", "r0", "g0"))


def test_without_a_tokenizer_ids_are_shown() -> None:
    report, frames = planted([["a", "b"]])
    bare = tables.Tables(
        tokens=frames.tokens.assign(token=None).drop(columns="token_class"),
        trajectories=frames.trajectories,
        rollouts=frames.rollouts,
    )
    heat = shown(heat_map(report, bare))
    assert not heat.redacted
    assert [t.text for t in heat.cases[0].tokens] == ["1097", "1098"]
