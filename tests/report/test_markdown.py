"""The Markdown: whole where it fits, with what matters first, and nothing in it alive."""

import re

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from arca_diag.report.document import Block, Command, Document, Facts, Paragraph, Section, Table
from arca_diag.report.escaping import beginning, inline
from arca_diag.report.markdown import COMMENT_BYTES, SUMMARY_BYTES, render_markdown
from tests.golden_files import check_golden
from tests.report.documents import (
    HOSTILE,
    LONG,
    document,
    figures,
    found,
    hostile_document,
    picture,
)

#: As GitHub reads it: tables, strike-through, links without a sign.
GITHUB = MarkdownIt("commonmark", {"linkify": True, "html": True}).enable(
    ["table", "strikethrough", "linkify"]
)
#: HTML of ours, for what GitHub folds.
OURS = re.compile(r"</?(details|summary|sub)>")
GAP = "\u200b"


def parsed(text: str) -> list[Token]:
    """Every token, those in lines among them."""
    out = []
    for token in GITHUB.parse(text):
        out += [token, *(token.children or [])]
    return out


def seen(text: str) -> str:
    """What a reader sees, without white space and the gaps that keep it from being alive."""
    shown = (
        t.content for t in parsed(text) if t.type in ("text", "code_inline", "fence", "code_block")
    )
    return "".join("".join(shown).replace(GAP, "").split())


def fences(text: str) -> list[str]:
    return [t.content for t in GITHUB.parse(text) if t.type == "fence"]


def of(*blocks: Block) -> str:
    return render_markdown(document(Section(id="a", title="A", blocks=tuple(blocks))))


def rows_of(text: str) -> list[list[str]]:
    """The cells of every table, as they are seen."""
    rows: list[list[str]] = []
    for token in GITHUB.parse(text):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows and token.level > 3:
            rows[-1].append("".join(c.content for c in token.children or [] if c.type == "text"))
    return rows


class TestContent:
    def test_it_is_as_it_was(self) -> None:
        check_golden("report.md", render_markdown(document()))

    def test_what_was_found_comes_first_after_the_banner(self) -> None:
        text = render_markdown(document())
        places = [text.index(s) for s in ("run-17", "1 warning", "credit-sparse", "a small one")]
        assert places == sorted(places)

    def test_every_cell_is_in_its_place(self) -> None:
        table = figures(40)
        got = rows_of(of(table))
        assert got == [list(table.head), *map(list, table.rows)]

    def test_figures_are_aligned_right(self) -> None:
        assert "| --- | --: | --: |" in of(figures())

    def test_a_picture_is_named_and_told(self) -> None:
        text = of(picture())
        assert "plots/trend.svg" in seen(text)
        assert "0.829" in text
        assert "drawn words" not in text

    def test_what_is_folded_is_folded(self) -> None:
        text = render_markdown(document())
        assert "<details><summary>Figures</summary>" in text
        assert text.count("<details>") == text.count("</details>") == 2

    def test_a_command_can_be_copied(self) -> None:
        fences = [
            t
            for t in GITHUB.parse(of(Command(text="arca-diag scan 'a b' | x")))
            if t.type == "fence"
        ]
        assert [t.content for t in fences] == ["arca-diag scan 'a b' | x\n"]


class TestSize:
    def big(self, rows: int) -> Document:
        sections = [
            Section(id=f"s{i}", title=f"Part {i}", blocks=(figures(rows),), folded=i > 3)
            for i in range(12)
        ]
        return document(Section(id="findings", title="Found", blocks=(found(),)), *sections)

    def test_all_of_it_where_it_fits(self) -> None:
        text = render_markdown(self.big(10))
        assert "Part 11" in text
        assert "Left out" not in text

    def test_a_comment_holds_as_much_as_fits_and_says_the_rest(self) -> None:
        text = render_markdown(self.big(300))
        assert len(text.encode()) <= COMMENT_BYTES < 65_536
        kept = [i for i in range(12) if f"Part {i}</summary>" in text or f"### Part {i}\n" in text]
        assert kept == list(range(len(kept)))
        assert 0 < len(kept) < 12
        said = text[text.index("Left out here") :]
        assert [i for i in range(12) if re.search(rf"Part {i}\b", said)] == list(
            range(len(kept), 12)
        )
        # One more would not have fitted.
        one_more = len(render_markdown(self.big(300), most_bytes=10**9).encode()) / 12
        assert len(text.encode()) + one_more > COMMENT_BYTES

    def test_what_is_small_is_kept_after_what_does_not_fit_which_is_named_once(self) -> None:
        small = (Paragraph(text="a few words"),)
        sections = [
            Section(id="findings", title="Found", blocks=(found(),)),
            *(Section(id=f"b{n}", title="Big, of all", blocks=(figures(4000),)) for n in (1, 2)),
            Section(id="c", title="Parts", blocks=(figures(4000), figures(3), figures(4000))),
            Section(id="d", title="Small", blocks=small, folded=True),
        ]
        text = render_markdown(document(*sections))
        assert len(text.encode()) <= COMMENT_BYTES
        assert text.count("Big, of all") == 1
        assert "want of room: Big, of all.*" in text
        assert "signal_2" not in text.replace("\\", "").partition("### Parts")[0]
        assert "signal_2" in text.replace("\\", "").partition("### Parts")[2]
        assert "*2 more under “Parts” do not fit here.*" in text
        assert "<details><summary>Small</summary>\n\na few words" in text

    def test_a_long_note_is_folded_after_its_first_words(self) -> None:
        told = "a long note_of *many* words " * 20
        text = of(found(told, level="note"), found(told), found("short", level="note"))
        assert text.count("<details>") == text.count("</details>") == 1
        summary = re.search("<summary>(.*)</summary>", text)
        assert summary is not None
        # It is HTML, in which a backslash would be seen.
        assert summary[1].startswith(
            "● NOTE credit-sparse (surprisal, step 30): a long note_of *ma"
        )
        assert summary[1].endswith(" …")
        assert len(summary[1]) < 260
        assert seen(text).count("".join(told.split())) == 2
        brief = of(found("said whole", level="note", action="a long way to mend it " * 20))
        assert "(surprisal, step 30): said whole</summary>\n\n- from this follow" in brief
        assert "- **● NOTE credit-sparse** (surprisal, step 30): short" in text

    def test_a_summary_holds_more(self) -> None:
        text = render_markdown(self.big(300), most_bytes=SUMMARY_BYTES)
        assert "Part 11" in text
        assert COMMENT_BYTES < len(text.encode()) <= SUMMARY_BYTES < 2**20

    def test_of_too_many_findings_the_first_and_how_many_more(self) -> None:
        blocks = tuple(found(f"number {i} " + "words " * 40) for i in range(500))
        text = render_markdown(document(Section(id="f", title="Found", blocks=blocks)))
        assert len(text.encode()) <= COMMENT_BYTES
        shown = len(re.findall(r"number \d+", text))
        assert f"{500 - shown:,} more under “Found”" in text
        assert shown > 50

    @pytest.mark.parametrize("limit", [300, 700, 2000])
    def test_a_small_room_is_kept_to(self, limit: int) -> None:
        assert len(render_markdown(document(), most_bytes=limit).encode()) <= max(limit, 600)

    def test_a_long_token_does_not_push_the_rest_out(self) -> None:
        text = of(
            Paragraph(text=LONG), found(LONG), Table(title=LONG, head=("a",), rows=((LONG,),))
        )
        assert "(100,000 characters)" in text
        assert "do not fit" not in text


class TestHostileText:
    def test_nothing_is_alive_wherever_it_stands(self) -> None:
        for token in parsed(render_markdown(hostile_document(), most_bytes=10**9)):
            assert token.type not in ("link_open", "image", "code_inline", "em_open", "s_open")
            assert token.type not in ("hr", "blockquote_open", "ordered_list_open")
            if token.type in ("html_inline", "html_block"):
                assert OURS.sub("", token.content).strip() == "" or "<summary>" in token.content
                assert not re.search(r"<(?!/?(details|summary|sub)>)", token.content)

    @pytest.mark.parametrize("text", HOSTILE)
    @pytest.mark.parametrize(
        "place",
        [
            lambda t: Paragraph(text=t),
            lambda t: Table(title="t", head=("a", "b"), rows=((t, "next"),)),
            lambda t: Facts(rows=(("name", t),)),
            lambda t: found(t),
            lambda t: found(f"{t} {'words ' * 60}", level="note", where=t),
        ],
    )
    def test_each_is_seen_as_it_is(self, text: str, place) -> None:
        shown = "".join(HOSTILE[text].split())
        got = seen(of(place(text)))
        assert shown.replace("::", ":") in got.replace("::", ":")

    def test_a_cell_never_makes_another(self) -> None:
        table = Table(title="t", head=("a", "b"), rows=tuple((t, "next") for t in HOSTILE))
        assert all(len(row) == 2 and row[1] in ("next", "b") for row in rows_of(of(table)))

    @pytest.mark.parametrize(
        "text", ["@octo-cat", "a@b.example", "#12", "o/r#12", "GH-7", ":tada:"]
    )
    def test_what_github_alone_makes_alive_is_broken(self, text: str) -> None:
        got = inline(text)
        assert GAP in got
        assert text not in got.replace("\\", "")
        assert got.replace(GAP, "").replace("\\", "") == text

    @pytest.mark.parametrize("text", HOSTILE)
    def test_nothing_is_alive_in_a_line_that_is_html(self, text: str) -> None:
        note = found(f"{text} {'words ' * 60}", level="note", where=text, id=text)
        for token in parsed(of(note)):
            assert token.type not in ("link_open", "image", "em_open", "code_inline")
            assert not re.search(r"<(?!/?(details|summary|sub)>)", token.content * token.block)
        (line,) = re.findall("<summary>(.*)</summary>", of(note))
        assert not re.search(r"[<>@]\w|://|##\w*\[|:smile:", line)

    @pytest.mark.parametrize("text", ["05:06:07", "2026-03-04T05:06:07+00:00", "T05:06:07-03:30"])
    def test_a_time_of_day_is_left_as_it_is(self, text: str) -> None:
        assert inline(text) == text

    @pytest.mark.parametrize(
        "text",
        ["- a", "+ a", "* a", "1. a", "1) a", "# a", "> a", "---", "===", "    a", "~~~", "```"],
    )
    def test_a_line_begins_nothing(self, text: str) -> None:
        kinds = {t.type for t in parsed(f"before\n\n{beginning(text)}\n\nafter")}
        assert kinds <= {
            "paragraph_open",
            "paragraph_close",
            "inline",
            "text",
            "text_special",
            "softbreak",
        }
        assert "".join(text.split()) in seen(beginning(text))

    def test_no_line_is_a_command_of_a_ci_system(self) -> None:
        text = of(
            Paragraph(text="::error::x\n::warning::y"),
            Command(text="::error::z"),
            found("##[group]a"),
        )
        assert not re.search(r"^\s*::|##\w*\[", text, re.MULTILINE)

    def test_a_command_does_not_end_its_fence(self) -> None:
        fences = [
            t for t in GITHUB.parse(of(Command(text="a\n```\n# b ````"))) if t.type == "fence"
        ]
        assert len(fences) == 1
        assert "# b" in fences[0].content
