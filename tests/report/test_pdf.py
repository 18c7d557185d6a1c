"""The PDF: it holds what the document says, looks the same everywhere, and survives any text."""

import io
import re
import time
from pathlib import Path
from typing import Any, cast

import pypdf
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from arca_diag.errors import ArcaError
from arca_diag.report.document import Block, Paragraph, Section, Table
from arca_diag.report.heatmap import HeatMap, heat_map
from arca_diag.report.pdf import render_pdf
from tests.report.documents import (
    HOSTILE,
    LONG,
    document,
    figures,
    found,
    hostile_document,
    picture,
    poppler,
    words_of,
)
from tests.report.planted import planted

ONE = [["The", "Ġanswer", "Ġis", "Ċ", "7"], ["Ġno", "Ġidea", "!"], ["x", "=", "1", "."]]


def heat(completions: list[list[str]] | None = None, **given: Any) -> HeatMap:
    found_ = heat_map(*planted(completions or ONE, **given))
    assert found_ is not None
    return found_


def of(*blocks: Block) -> bytes:
    """A PDF of these blocks."""
    return render_pdf(document(Section(id="a", title="A", blocks=tuple(blocks))), None)


def squeezed(text: str) -> str:
    return "".join(text.split())


def one_glyph(character: str, family: str = "Tiny Test") -> bytes:
    """A font that has one character, drawn as a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 700), (900, 700), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square"})
    builder.setupGlyf({".notdef": square, "square": square})
    builder.setupHorizontalMetrics({".notdef": (1000, 100), "square": (1000, 100)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    names = {"familyName": family, "styleName": "Regular", "psName": family.replace(" ", "")}
    builder.setupNameTable(names | {"fullName": family})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    sink = io.BytesIO()
    builder.save(sink)
    return sink.getvalue()


class TestContent:
    def test_every_text_of_every_kind_of_block_is_there(self, tmp_path: Path) -> None:
        words = words_of(render_pdf(document(), None))
        for text in (
            "run-17", "1 warning", "At step 30 surprisal would rest on few tokens.",
            "3 checkpoints", "400 completions", "arca-diag 9.8.7", "2026-03-04T05:06:07+00:00",
            "What was found", "WARNING", "credit-sparse", "surprisal, step 30",
            "one token in 7 has the credit", "credit-inherited", "weight tokens evenly",
            "effn_ratio 0.151", "n_prompts 12", "a paper",
            "Base", "a small one", "in bfloat16",
            "How it went", "Means over 12 prompts.", "drawn words",
            "What they are.", "How concentrated", "signal", "G^", "With 95% limits.",
            "arca-diag scan run-17 --seed 4",
        ):  # fmt: skip
            assert squeezed(text) in words, text

    def test_every_cell_of_every_table_is_there(self, tmp_path: Path) -> None:
        table = figures(90)
        words = words_of(of(table))
        missing = [c for row in table.rows for c in row if squeezed(c) not in words]
        assert missing == []

    def test_a_table_repeats_its_head_on_every_page(self, tmp_path: Path) -> None:
        data = of(figures(150))
        pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages]
        assert len(pages) >= 3
        assert all("prompts" in page for page in pages)

    def test_what_is_folded_on_the_page_is_open_here(self, tmp_path: Path) -> None:
        folded = Section(id="a", title="A", blocks=(Paragraph(text="hidden"),), folded=True)
        assert "hidden" in words_of(render_pdf(document(folded), None))

    def test_pictures_are_vectors_with_their_words_for_who_cannot_see(self) -> None:
        data = of(picture())
        reader = pypdf.PdfReader(io.BytesIO(data))
        assert [image for page in reader.pages for image in page.images] == []
        assert b"0.829" in b"".join(
            str(o.get_object()).encode() for o in _objects(reader) if "/Alt" in str(o.get_object())
        )

    def test_the_level_is_a_word_and_not_a_colour_alone(self, tmp_path: Path) -> None:
        words = [words_of(of(found(level=level))) for level in ("error", "warn", "note")]
        assert ["ERROR" in w for w in words] == [True, False, False]
        assert ["WARNING" in w for w in words] == [False, True, False]
        assert ["NOTE" in w for w in words] == [False, False, True]


def _objects(reader: pypdf.PdfReader) -> list[object]:
    size = cast(int, reader.trailer["/Size"])
    return [pypdf.generic.IndirectObject(i, 0, reader) for i in range(1, size)]


class TestPages:
    def test_there_are_as_many_as_there_were(self) -> None:
        data = render_pdf(document(), heat())
        assert len(pypdf.PdfReader(io.BytesIO(data)).pages) == 2

    def test_each_says_which_of_how_many_it_is(self) -> None:
        pages = pypdf.PdfReader(io.BytesIO(of(figures(150)))).pages
        for number, page in enumerate(pages, 1):
            assert f"{number} / {len(pages)}" in page.extract_text()

    def test_contents_and_bookmarks_name_every_section(self) -> None:
        reader = pypdf.PdfReader(io.BytesIO(render_pdf(document(), heat())))
        titles = [
            "What was found", "The run", "Over the run", "Tokens", "Figures", "Reproduce",
        ]  # fmt: skip
        assert [o.title for o in reader.outline if not isinstance(o, list)] == titles
        first = reader.pages[0].extract_text()
        for title, entry in zip(
            titles, (o for o in reader.outline if not isinstance(o, list)), strict=True
        ):
            page = reader.get_destination_page_number(entry) + 1
            assert re.search(rf"{title}[ .]*\s*{page}\b", first), title

    def test_no_page_is_empty(self, tmp_path: Path) -> None:
        for data in (render_pdf(document(), heat()), render_pdf(hostile_document(), None)):
            for page in pypdf.PdfReader(io.BytesIO(data)).pages:
                assert len(page.extract_text().split()) > 12

    def test_a_short_table_stays_on_one_page(self) -> None:
        for filler in range(30, 60):
            data = of(Paragraph(text="\n".join(["line"] * filler)), figures(7))
            pages = [p.extract_text() for p in pypdf.PdfReader(io.BytesIO(data)).pages]
            assert [p for p in pages if "signal_0" in p] == [p for p in pages if "signal_6" in p]

    def test_a_heading_is_never_the_last_of_its_page(self) -> None:
        for filler in range(30, 60):
            blocks = (Paragraph(text="\n".join(["line"] * filler)),)
            follows = Section(
                id="b", title="Heading", blocks=(Paragraph(text="Intro.", small=True), figures(4))
            )
            data = render_pdf(document(Section(id="a", title="A", blocks=blocks), follows), None)
            pages = [p.extract_text() for p in pypdf.PdfReader(io.BytesIO(data)).pages]
            holds = [p for p in pages if "Intro." in p]
            assert "signal_0" in holds[0], filler


class TestFile:
    def test_the_same_document_gives_the_same_bytes(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        first = render_pdf(document(), heat())
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "12345")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("TYPST_FONT_PATHS", "/usr/share/fonts")
        time.tzset()
        monkeypatch.chdir(tmp_path)
        try:
            assert render_pdf(document(), heat()) == first
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_another_document_has_another_id(self) -> None:
        ids = [
            pypdf.PdfReader(io.BytesIO(render_pdf(document(headline=h), None))).trailer["/ID"]
            for h in ("one", "two")
        ]
        assert ids[0] != ids[1]

    def test_metadata_is_of_the_result(self, tmp_path: Path) -> None:
        data = render_pdf(document(), None)
        about = pypdf.PdfReader(io.BytesIO(data)).metadata
        assert about is not None
        assert about.title == "run-17"
        assert about.author is None
        assert about.creation_date is not None
        assert about.creation_date.isoformat() == "2026-03-04T05:06:07+00:00"

    @pytest.mark.parametrize("made", ["long ago", "", "0001-01-01T00:00:00+00:00", "9999-12-31"])
    def test_of_a_result_without_a_usable_date_there_is_none_and_no_clock(self, made: str) -> None:
        data = render_pdf(document(made=made), None)
        about = pypdf.PdfReader(io.BytesIO(data)).metadata
        assert about is not None
        assert about.creation_date is None or about.creation_date.year == 9999
        time.sleep(1.1)
        assert render_pdf(document(made=made), None) == data

    @pytest.mark.slow
    def test_every_font_is_embedded_and_is_dejavu(self, tmp_path: Path) -> None:
        told = poppler("pdffonts", render_pdf(document(), heat()), tmp_path)
        rows = [line.split() for line in told.splitlines()[2:]]
        assert rows
        assert {name.partition("+")[2][:10] for name, *_ in rows} == {"DejaVuSans"}
        assert all(row[-5:-2] == ["yes", "yes", "yes"] for row in rows)  # embedded, subset, unicode

    def test_it_links_to_nothing_outside(self) -> None:
        text = "http://x.example https://y.example mailto:a@b.example"
        reader = pypdf.PdfReader(io.BytesIO(of(Paragraph(text=text), found(text))))
        assert not [o for o in _objects(reader) if "/URI" in str(o.get_object())]


@pytest.mark.slow
def test_pdftotext_reads_every_word_too(tmp_path: Path) -> None:
    data = render_pdf(document(), heat())
    told = "".join(poppler("pdftotext", data, tmp_path).split()).replace("\u2060", "")
    assert sorted(told) == sorted(words_of(data))  # the order of columns is each reader's own


@pytest.mark.slow
def test_every_page_can_be_drawn(tmp_path: Path) -> None:
    data = render_pdf(document(), heat())
    poppler("pdftoppm", data, tmp_path, "-r", "40", "-png", out=tmp_path / "page")
    pages = sorted(tmp_path.glob("page*.png"))
    assert len(pages) == len(pypdf.PdfReader(io.BytesIO(data)).pages)
    assert min(len(set(page.read_bytes())) for page in pages) > 100  # no blank one


class TestHostileText:
    def test_each_is_shown_as_it_is_wherever_it_stands(self, tmp_path: Path) -> None:
        words = words_of(render_pdf(hostile_document(), None))
        for shown in HOSTILE.values():
            # Paragraph, fact, two cells, title, caption, message, action, evidence and source.
            assert words.count(squeezed(shown)) >= 10, shown

    def test_a_long_token_is_cut_and_its_length_is_said(self, tmp_path: Path) -> None:
        words = words_of(of(Paragraph(text=LONG)))
        assert "…(100,000characters)" in words
        assert words.count("q") == 4000

    @pytest.mark.slow
    def test_a_long_token_stays_within_the_margins(self, tmp_path: Path) -> None:
        data = of(
            Paragraph(text=LONG),
            Table(title="t", head=("a", "b"), rows=((LONG, LONG),)),
            found(LONG, where=LONG),
        )
        boxes = poppler("pdftotext", data, tmp_path, "-bbox")
        widths = [float(x) for x in re.findall(r'xMax="([\d.]+)"', boxes)]
        assert max(widths) <= 595.3 - 40

    @pytest.mark.slow
    def test_nothing_of_a_long_finding_is_off_the_page(self, tmp_path: Path) -> None:
        lines = "\n".join(f"line{i}" for i in range(200))
        words = poppler("pdftotext", of(found(lines), found(lines)), tmp_path).split()
        assert all(words.count(f"line{i}") == 2 for i in range(200))

    def test_a_file_is_not_read(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret.txt"
        secret.write_text("planted-secret")
        text = f'#read("{secret}") #include "{secret}" \\u{{23}}read'
        assert "planted-secret" not in words_of(of(Paragraph(text=text)))


class TestCharactersThatNoFontHas:
    def test_they_are_shown_by_their_code_points(self, tmp_path: Path) -> None:
        words = words_of(of(Paragraph(text="a中文b 가")))
        assert "aU+4E2DU+6587bU+AC00" in words

    @pytest.mark.slow
    def test_a_font_draws_what_it_has_and_the_rest_stays(self, tmp_path: Path) -> None:
        page = document(Section(id="a", title="A中", blocks=(Paragraph(text="a中文b"),)))
        data = render_pdf(page, None, font=one_glyph("中"))
        assert "a中U+6587b" in words_of(data)
        assert "TinyTest" in poppler("pdffonts", data, tmp_path).replace(" ", "")

    def test_a_font_may_be_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "tiny.ttf"
        path.write_bytes(one_glyph("文"))
        page = document(Section(id="a", title="A", blocks=(Paragraph(text="中文"),)))
        assert "U+4E2D文" in words_of(render_pdf(page, None, font=path))

    @pytest.mark.slow
    def test_dejavu_draws_what_it_can_even_so(self, tmp_path: Path) -> None:
        page = document(Section(id="a", title="A", blocks=(Paragraph(text="plain"),)))
        data = render_pdf(page, None, font=one_glyph("p"))
        assert "Tiny" not in poppler("pdffonts", data, tmp_path)

    def test_tokens_too(self, tmp_path: Path) -> None:
        shown = heat([["中", "x"], ["文", "y"]])
        words = words_of(render_pdf(document(), shown, font=one_glyph("中")))
        assert "中" in words
        assert "U+6587" in words

    @pytest.mark.parametrize(
        "data", [b"", b"no font at all", b"ttcf" + b"\xff" * 90, b"\0\1\0\0" + b"\xff" * 300]
    )
    def test_what_is_no_font_is_said(self, data: bytes) -> None:
        with pytest.raises(ArcaError, match="no font that can be used"):
            render_pdf(document(), None, font=data)

    def test_a_truncated_font_is_said(self) -> None:
        whole = one_glyph("中")
        with pytest.raises(ArcaError, match="no font that can be used"):
            render_pdf(document(), None, font=whole[: len(whole) // 2])

    def test_a_file_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(ArcaError, match=r"none\.ttf cannot be read"):
            render_pdf(document(), None, font=tmp_path / "none.ttf")
