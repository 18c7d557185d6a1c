"""What every picture must be: well-formed, the same every time, of a named view, fit for a page."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest

from arca_diag.report import charts
from arca_diag.report.charts import draw_pictures, plot_files
from arca_diag.report.charts import svg as documents
from arca_diag.report.charts.ink import (
    BAND,
    DIVERGING,
    INK,
    ON_DARK,
    ON_LIGHT,
    SEQUENTIAL,
    SIGNS,
    on,
    style,
)
from arca_diag.report.charts.inline import for_page
from arca_diag.report.charts.layers import draw_layers
from arca_diag.report.charts.scene import Scene
from arca_diag.report.charts.text import shown, signed, tick
from arca_diag.report.charts.token_types import blanks_seen
from arca_diag.report.picture import Picture
from arca_diag.results import Report
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import Tables, log_table, token_table
from tests.report.drawn import ALL, result

#: What a tokenizer of a stranger, or a folder's name, may hold.
HOSTILE = (
    "$x$ \\frac{1",
    "\x00\x1b[31m",
    "\u2066\u202eevil\u200f",
    "</svg><script>alert(1)</script>",
    "\u4e2d\u6587 \u05d0\u05d1 \ufffe\x0b\n&amp;",
    "a token that goes on and on " * 9,
)
NAMES = ("checkpoint $a_1$ <b>", "\u202efinal]]>\x07 with a very long name")
XLINK = "{http://www.w3.org/1999/xlink}href"


@pytest.fixture(scope="module")
def odd() -> tuple[Report, Tables]:
    """No steps, no rewards, no own completions, no log, no layers, and hostile text everywhere."""
    return result(
        [None, None],
        names=NAMES,
        pieces=HOSTILE,
        prompts=3,
        rewards=False,
        own=False,
        logged=False,
        layered=False,
    )


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


def test_a_whole_result_has_every_picture_in_reading_order(
    pictures: dict[str, Picture],
) -> None:
    assert tuple(pictures) == ALL
    sections = [picture.section for picture in pictures.values()]
    assert sections == sorted(sections, key=sections.index)  # none comes twice
    assert len(set(sections)) == 6
    files = plot_files(pictures.values())
    assert list(files) == [f"plots/{name}.svg" for name in pictures]
    assert files["plots/lorenz.svg"].decode() == pictures["lorenz"].svg


def test_every_picture_says_what_it_is_of(
    whole: tuple[Report, Tables], pictures: dict[str, Picture]
) -> None:
    rows = whole[1].trajectories
    for view, member in (("on-policy", "own_set"), ("fixed-set", "fixed_set")):
        inside = rows[rows[member] & (rows["checkpoint"] == "checkpoint-20")]
        inside = inside[inside["signal"] == "surprisal"]
        tokens = f"{inside['n_tokens'].sum():,} token"
        for name, picture in pictures.items():
            if view in picture.view:
                assert view in picture.caption
            if view in picture.view and name not in ("layers", "trend-on-policy"):
                assert "9 prompts" in picture.caption
                assert f"{len(inside)} completions" in picture.caption
                assert tokens in picture.caption
    for picture in pictures.values():
        assert "95%" in picture.caption
        assert picture.alt.endswith(".")
        assert re.search(r"\d", picture.alt)
        root = ElementTree.fromstring(picture.svg)
        assert [child.text for child in root[:2]] == [picture.title, picture.alt]


def test_the_same_result_gives_the_same_bytes_whatever_the_users_settings(
    whole: tuple[Report, Tables], pictures: dict[str, Picture]
) -> None:
    with matplotlib.rc_context({"font.size": 20, "lines.markeredgewidth": 9}):
        again = draw_pictures(*whole)
        assert matplotlib.rcParams["font.size"] == 20  # the user's are as they were
    assert plot_files(again) == plot_files(pictures.values())


def test_pictures_are_small_and_have_no_ground_of_their_own(
    pictures: dict[str, Picture],
) -> None:
    for picture in pictures.values():
        assert len(picture.svg) < 150_000
        assert "<image" not in picture.svg
        assert "<metadata" not in picture.svg
        assert "<style" not in picture.svg
        assert not re.search(r"fill: (#ffffff|white)[^>]*/>", picture.svg)
        root = ElementTree.fromstring(picture.svg)
        assert root.attrib["width"] == "648pt"
        assert float(root.attrib["height"].removesuffix("pt")) < 760


def test_nothing_stands_outside_of_a_picture(pictures: dict[str, Picture]) -> None:
    """Text has the width of its characters in the widest font that is asked for."""
    for picture in pictures.values():
        root = ElementTree.fromstring(picture.svg)
        height = float(root.attrib["height"].removesuffix("pt"))
        for element in root.iter("{http://www.w3.org/2000/svg}text"):
            x, y = float(element.attrib.get("x", 1)), float(element.attrib.get("y", 9))
            look = element.attrib.get("style", "")
            width = 5.6 * len(element.text or "")
            left = x - width * ("middle" in look) / 2 - width * ("end" in look)
            if "rotate(-90" not in element.attrib.get("transform", ""):
                assert left > -6
                assert left + width < 662, element.text
            assert 0 < y <= height + 1


def test_hostile_text_is_shown_and_does_no_harm(odd: tuple[Report, Tables]) -> None:
    report, frames = odd
    lone = frames.tokens.assign(token=frames.tokens["token"].astype(object))
    lone.loc[lone["token"] == HOSTILE[2], "token"] = "\ud800 lone"
    found = draw_pictures(report, dataclasses.replace(frames, tokens=lone))
    types = next(picture for picture in found if picture.id == "types")
    written = texts(types.svg)
    assert "$x$ \\frac{1" in written
    assert "\\x00\\x1b[31m" in written
    assert "\\ud800 lone" in written
    assert "</svg><script>alert…" in written
    assert "a token that goes o…" in written
    for picture in found:
        picture.svg.encode()
        ElementTree.fromstring(picture.svg)
        page = for_page(picture.svg, "x-")
        assert "<script" not in page
        assert not re.search(r"[\u202a-\u202e\u2066-\u2069\u200f\x00-\x09\x0b-\x1f]", page)


def test_what_cannot_be_drawn_is_left_out_or_says_why(odd: tuple[Report, Tables]) -> None:
    found = {picture.id: picture for picture in draw_pictures(*odd)}
    assert "trend-on-policy" not in found
    assert "layers" not in found
    assert "rewards" not in found
    assert {picture.view for picture in found.values()} == {"fixed-set"}
    assert "Logged by the run" not in texts(found["trend-fixed-set"].svg)
    assert "nothing that the run logged" in found["trend-fixed-set"].caption


def test_checkpoints_without_a_step_have_no_log_beside_them(odd: tuple[Report, Tables]) -> None:
    report, frames = odd
    logged = dataclasses.replace(frames, log=log_table([(1, "reward", 0.5)]))
    trend = draw_pictures(report, logged)[0]
    assert "Logged by the run" not in texts(trend.svg)
    assert "not every checkpoint has a step" in trend.caption


def test_a_result_of_nothing_has_no_pictures(whole: tuple[Report, Tables]) -> None:
    report, frames = whole
    empty = Tables(
        tokens=frames.tokens.iloc[:0],
        trajectories=frames.trajectories.iloc[:0],
        rollouts=frames.rollouts.iloc[:0],
    )
    bare = report.model_copy(update={"measurements": [], "onsets": []})
    assert draw_pictures(bare, empty) == ()
    unmeasured = [
        m.model_copy(update={"value": None, "low": None, "high": None, "reason": "none"})
        for m in report.measurements
    ]
    assert draw_pictures(report.model_copy(update={"measurements": unmeasured}), empty) == ()


def test_a_signal_without_figures_says_why(whole: tuple[Report, Tables]) -> None:
    report, frames = whole
    gone = [
        m.model_copy(update={"value": None, "low": None, "high": None, "reason": "it is broken"})
        if m.signal == "kl_exact" or m.against == "kl_exact"
        else m
        for m in report.measurements
    ]
    hidden = frames.tokens.assign(w_kl_exact=np.nan)
    found = draw_pictures(
        report.model_copy(update={"measurements": gone}),
        dataclasses.replace(frames, tokens=hidden),
    )
    drawn = {picture.id: texts(picture.svg) for picture in found}
    assert drawn["trend-fixed-set"].count("not measured: it is broken") == 2
    assert drawn["agreement"].count("n/a") == 12
    assert drawn["types"].count("n/a") == 6
    assert drawn["classes"].count("n/a") == 2 * 5


@pytest.mark.filterwarnings("error")
def test_infinities_are_left_out_and_counted(whole: tuple[Report, Tables]) -> None:
    """One a column and checkpoint or view, in every table that a picture is drawn from."""
    report, frames = whole

    def spoiled(table: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
        out = table.copy()
        for name in table.columns:
            if table[name].dtype == float and name != "sharpening":
                out.loc[rows, name] = np.inf
        return out

    def first_of(table: pd.DataFrame, *columns: str) -> np.ndarray:
        return (~table.duplicated(list(columns))).to_numpy()

    rows = frames.trajectories
    found = {
        picture.id: picture
        for picture in draw_pictures(
            report,
            dataclasses.replace(
                frames,
                tokens=spoiled(
                    frames.tokens, first_of(frames.tokens, "checkpoint", "rollout_step")
                ),
                trajectories=spoiled(rows, first_of(rows, "checkpoint", "sharpening", "signal")),
                layers=spoiled(frames.layers, first_of(frames.layers, "checkpoint")),
                log=spoiled(frames.log, first_of(frames.log, "name")),
            ),
        )
    }
    told = {
        name: int(count[1])
        for name, picture in found.items()
        if (
            count := re.search(
                r" (\d+) infinite values are left out as undefined\.$", picture.caption
            )
        )
    }
    signals = len(SIGNAL_NAMES)
    assert told == {
        "trend-on-policy": 3,
        "trend-fixed-set": 3,
        "regime-map": 2 * signals,
        "lorenz": 2 * signals,
        "residual": signals,
        "classes": 2 * signals,
        "types": signals,
        "layers": 2 * 5,
    }
    for picture in found.values():
        assert not re.search(r"\b(inf|nan)\b", picture.svg)
    alone = frames.layers.assign(update_norm=[np.inf, *frames.layers["update_norm"][1:]])
    with style():
        (layers,) = draw_layers(
            Scene(report=report, frames=dataclasses.replace(frames, layers=alone))
        )
    assert layers.caption.endswith(" 1 infinite value is left out as undefined.")


def test_without_text_no_token_is_shown(whole: tuple[Report, Tables]) -> None:
    report, frames = whole
    redacted = frames.tokens.assign(token=None, token_id=None)
    found = draw_pictures(report, dataclasses.replace(frames, tokens=redacted))
    assert "types" not in [picture.id for picture in found]
    assert "classes" in [picture.id for picture in found]


def _wrong(**change: str) -> Iterator[Picture]:
    fields = {
        "id": "new",
        "section": "New",
        "title": "New",
        "view": "on-policy and fixed-set",
        "caption": "Of the views on-policy and fixed-set.",
        "alt": "1.",
        "svg": "<svg/>",
    }
    yield Picture(**(fields | change))


def test_a_new_picture_must_name_its_view(
    whole: tuple[Report, Tables], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "PICTURES", (lambda _: _wrong(),))
    assert [picture.id for picture in draw_pictures(*whole)] == ["new"]
    monkeypatch.setattr(charts, "PICTURES", (lambda _: _wrong(caption="Of on-policy."),))
    with pytest.raises(ValueError, match="new: the caption does not name the view"):
        draw_pictures(*whole)
    monkeypatch.setattr(charts, "PICTURES", (lambda _: _wrong(), lambda _: _wrong()))
    with pytest.raises(ValueError, match="two pictures have one id"):
        draw_pictures(*whole)


def test_pictures_on_one_page_share_no_id_and_take_its_ink(
    pictures: dict[str, Picture],
) -> None:
    seen: set[str] = set()
    for name, picture in pictures.items():
        page = for_page(picture.svg, f"{name}-")
        assert page.startswith("<svg ")
        assert INK not in page
        assert page.count("currentColor") == picture.svg.count(INK) > 5
        root = ElementTree.fromstring(page)
        assert {"width", "height"}.isdisjoint(root.attrib)
        assert root.attrib["viewBox"].startswith("0 0 648 ")
        assert "max-width: 864px" in root.attrib["style"]
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"] == picture.alt
        assert not [e for e in root.iter() if e.tag.endswith(("}title", "}desc"))]
        ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
        assert len(ids) == len(set(ids))
        assert all(one.startswith(f"{name}-") for one in ids)
        assert seen.isdisjoint(ids)
        seen.update(ids)
        referred = {e.attrib[XLINK].removeprefix("#") for e in root.iter() if XLINK in e.attrib}
        referred.update(re.findall(r"url\(#([^)]+)\)", page))
        assert referred == set(ids)


def test_a_smaller_document_keeps_colours_and_what_is_written() -> None:
    found = documents.compact(
        '<svg xmlns="http://www.w3.org/2000/svg" width="1pt" height="1pt" viewBox="0 0 1 1">'
        "<metadata>who</metadata><defs><style>* {}</style></defs>"
        '<g id="of one two"><path d="M 1.23456 2 \nL 0.5 -0.001 " '
        'style="fill: #009e73; stroke: #56b4e9; stroke-width: 0.80001"/></g>'
        '<path d="M 0 0" style="fill: none"/>'
        '<g id="x"><text style="font: 700 9px \'A\', b; fill: #d55e00" '
        'transform="rotate(-0 1 2)">1.23456 &lt; $</text></g></svg>',
        "T",
        "<A>",
    )
    assert 'class="one two"' in found
    assert 'd="M1.23 2L0.5 0"' in found
    assert "fill: #009e73; stroke: #56b4e9; stroke-width: 0.8" in found
    assert "font-size: 9px; font-weight: 700; fill: #d55e00" in found
    assert ">1.23456 &lt; $</text>" in found
    assert "<title>T</title><desc>&lt;A&gt;</desc>" in found
    assert not re.search(r"metadata|<style|rotate|id=|fill: none", found)


def _lightness(colour: tuple[float, ...]) -> float:
    """Relative luminance, by the WCAG's own formula."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    bright, dark = sorted((_lightness(one), _lightness(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _lab(colour: tuple[float, ...]) -> np.ndarray:
    """CIELAB at D65."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = np.array(to_xyz) @ linear / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_colours_run_evenly_and_text_can_be_read_on_them() -> None:
    way = np.linspace(0, 1, 21)
    for colours in (SEQUENTIAL, DIVERGING):
        for part in np.linspace(0, 1, 257):
            shade = colours(part)
            ink = matplotlib.colors.to_rgb(on(shade))
            assert _contrast(shade, ink) >= 4.5
    rising = [_lab(SEQUENTIAL(part))[0] for part in way]
    assert np.all(np.diff(rising) > 0)
    for half in (way[:11], way[10:]):
        labs = [_lab(DIVERGING(part)) for part in half]
        steps = [float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(labs)]
        assert max(steps) < 1.7 * min(steps)
        lights = np.diff([lab[0] for lab in labs])
        assert np.all(lights > 0) or np.all(lights < 0)
    assert abs(_lab(DIVERGING(0.0))[0] - _lab(DIVERGING(1.0))[0]) < 8  # neither end is stronger


def test_words_stand_out_from_the_page_and_its_bands_in_both_themes(
    pictures: dict[str, Picture],
) -> None:
    """Faded ink on paper, under as many bands as can lie on each other, for light and dark."""
    style_of = [
        e.attrib.get("style", "")
        for picture in pictures.values()
        for e in ElementTree.fromstring(picture.svg).iter("{http://www.w3.org/2000/svg}text")
    ]
    opacity = [float(found[1]) for s in style_of if (found := re.search(r"opacity: ([\d.]+)", s))]
    assert opacity
    colours = {found[1] for s in style_of if (found := re.search(r"fill: (#\w+)", s))}
    assert colours <= {INK, ON_LIGHT, ON_DARK}  # no word has the colour of a signal
    for ink, paper in (("#1b1e22", "#fbfbf9"), ("#e7e7e3", "#15181c")):
        front, ground = (np.array(matplotlib.colors.to_rgb(c)) for c in (ink, paper))
        for _ in range(3):
            ground = ground + BAND * (front - ground)
        text = ground + min(opacity) * (front - ground)
        assert _contrast(tuple(text), tuple(ground)) >= 4.5


def test_signals_differ_in_colour_and_marker_and_stand_out_on_light_and_dark() -> None:
    assert list(SIGNS) == list(SIGNAL_NAMES)
    assert len({sign.colour for sign in SIGNS.values()}) == len(SIGNS)
    assert len({sign.marker for sign in SIGNS.values()}) == len(SIGNS)
    for sign in SIGNS.values():
        if sign.colour != INK:  # which is the page's own
            shade = matplotlib.colors.to_rgb(sign.colour)
            assert _contrast(shade, (1, 1, 1)) > 2
            assert _contrast(shade, matplotlib.colors.to_rgb("#16161a")) > 2.5


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (1e-5, "1e-5"),
        (2000, "2000"),
        (12_345, "12.3k"),
        (100_000, "100k"),
        (1_234_567, "1.23M"),
        (-3e9, "-3G"),
    ],
)
def test_ticks_are_short(value: float, told: str) -> None:
    assert tick(value) == told
    assert len(told) < 6


def test_a_token_of_spaces_alone_is_seen() -> None:
    assert blanks_seen("  ") == "\u2423\u2423"
    assert blanks_seen(" a ") == " a "


def test_words_of_strangers_are_one_short_line() -> None:
    assert shown("abc") == "abc"
    assert shown("x" * 20) == "x" * 20
    assert shown("x" * 21) == "x" * 19 + "…"
    assert shown("a\nb\ud800") == "a\\nb\\ud800"


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.5, ".50"), (-0.034, "-.03"), (-0.001, "-.001"), (0.0, ".00"), (1.0, "1.00"), (None, "n/a")],
)
def test_signed_shares(value: float | None, told: str) -> None:
    assert signed(value) == told


def test_text_with_dollars_is_no_formula_while_drawing() -> None:
    with style():
        assert matplotlib.rcParams["text.parse_math"] is False


def test_a_large_result_is_thinned(whole: tuple[Report, Tables]) -> None:
    """As many points as 200 completions make, and a log of 20,000 entries."""
    report, frames = whole
    rows = frames.trajectories
    last = rows[rows["checkpoint"] == "checkpoint-20"]
    copies = [last.assign(rollout_id=last["rollout_id"] + f"#{n}") for n in range(6)]
    rng = np.random.default_rng(1)
    many = pd.concat([rows, *copies], ignore_index=True)
    many["gini_corrected"] = rng.uniform(0, 1, len(many))
    named = [
        frames.rollouts.assign(rollout_id=frames.rollouts["rollout_id"] + f"#{n}") for n in range(6)
    ]
    log = log_table(
        (step, name, float(rng.normal()))
        for name in ("reward", "kl", "entropy", "length", "gradient norm", "truncation")
        for step in range(20_000)
    )
    large = dataclasses.replace(
        frames,
        trajectories=many,
        rollouts=pd.concat([frames.rollouts, *named], ignore_index=True),
        log=log,
    )
    found = {picture.id: picture for picture in draw_pictures(report, large)}
    assert len(found["regime-map"].svg) < 150_000
    assert "At most 100 completions" in found["regime-map"].caption
    assert len(found["trend-fixed-set"].svg) < 150_000
    assert "means of 100 entries each" in found["trend-fixed-set"].caption


def test_a_scene_without_completions_has_no_last_checkpoint(whole: tuple[Report, Tables]) -> None:
    report, frames = whole
    none = dataclasses.replace(frames, trajectories=frames.trajectories.assign(own_set=False))
    assert [last.view for last in Scene(report=report, frames=none).lasts] == ["fixed-set"]
    assert token_table([], {}, None).empty
