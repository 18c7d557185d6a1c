"""Text in pieces that fonts can draw and lines can hold: nothing of it is lost."""

from hypothesis import given
from hypothesis import strategies as st

from arca_diag.report.pieces import plain
from arca_diag.report.typeset import Typeset, typeset

ASCII = frozenset(range(0x20, 0x7F))


def joined(found: Typeset) -> str:
    """All of it, as it is read."""
    if isinstance(found, str):
        return found
    return "".join(p if isinstance(p, str) else p[0] if isinstance(p, list) else "" for p in found)


class TestTypeset:
    def test_plain_text_is_itself(self) -> None:
        assert typeset("a plain text", ASCII) == "a plain text"

    def test_what_no_font_has_is_a_mark_with_its_code_point(self) -> None:
        assert typeset("a中b", ASCII) == ["a", ["U+4E2D"], "b"]

    def test_what_a_font_has_is_drawn(self) -> None:
        assert typeset("a中b", ASCII | {0x4E2D}) == "a中b"

    def test_what_is_not_seen_is_a_mark_though_a_font_has_it(self) -> None:
        assert typeset("a\u200bb", ASCII | {0x200B}) == ["a", ["U+200B"], "b"]

    def test_a_newline_needs_no_font(self) -> None:
        assert joined(typeset("a\nb", ASCII)) == "a\nb"

    def test_a_long_run_may_break_and_a_short_one_may_not(self) -> None:
        assert 0 in typeset("x" * 25, ASCII)
        assert typeset("x" * 24, ASCII) == "x" * 24

    def test_words_of_a_long_text_stay_whole(self) -> None:
        assert typeset("word " * 40 + "end", ASCII) == "word " * 40 + "end"

    @given(st.text(max_size=200))
    def test_nothing_is_lost(self, text: str) -> None:
        everything = frozenset(range(0x110000))
        assert joined(typeset(text, everything)) == plain(text, most=4000, line_breaks=True)

    @given(st.text(alphabet=st.characters(max_codepoint=0x500), max_size=300))
    def test_only_what_can_be_drawn_is_set_as_text(self, text: str) -> None:
        found = typeset(text, ASCII)
        pieces = [found] if isinstance(found, str) else found
        set_ = "".join(p for p in pieces if isinstance(p, str))
        assert {ord(c) for c in set_} <= ASCII | {0x0A}
