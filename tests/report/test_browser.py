"""The page in a real browser: what it shows, how it is used, and that it does nothing else."""

import json
import subprocess
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

from arca_diag import store
from arca_diag.cli import app
from arca_diag.report.charts import draw_pictures
from arca_diag.report.document import Section, Table
from arca_diag.report.heatmap import HeatMap, heat_map
from arca_diag.report.html import render_html
from arca_diag.report.pieces import plain
from arca_diag.report.summary import report_document
from arca_diag.saved import read_tables
from arca_diag.signals import SIGNAL_NAMES
from tests.report.browser import artefacts, browser, opened, program
from tests.report.documents import document
from tests.report.hostile import FLAG, HOSTILE
from tests.report.planted import planted
from tests.test_results import finding

pytestmark = pytest.mark.slow

#: Contrast of every element that has text of its own, and what it is; colours as the screen has
#: them, whatever way the style sheet writes them.
CONTRASTS = """() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const pixel = (colours) => {
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const under = (element) => {
    const out = [];
    for (let e = element; e; e = e.parentElement) out.unshift(getComputedStyle(e).backgroundColor);
    return out;
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (element.closest("svg, script, noscript, option") || !element.checkVisibility()) continue;
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || element.matches(":disabled")) continue;
    const back = under(element);
    // Opacity of a mark within a token mixes its ink with what is under it.
    const ink = getComputedStyle(element);
    pen.globalAlpha = 1;
    const paper = pixel(back);
    pen.clearRect(0, 0, 1, 1);
    for (const colour of back) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    pen.globalAlpha = Number(ink.opacity);
    pen.fillStyle = ink.color;
    pen.fillRect(0, 0, 1, 1);
    pen.globalAlpha = 1;
    const text = [...pen.getImageData(0, 0, 1, 1).data];
    const [a, b] = [luminance(text), luminance(paper)].sort((x, y) => y - x);
    const name = `${element.tagName}.${element.className}: ${element.textContent.slice(0, 40)}`;
    found.push([(a + 0.05) / (b + 0.05), name]);
  }
  return found;
}"""
#: What the eye gets of every token: its colour, and how light that is.
TOKENS = """() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  return [...document.querySelectorAll("#heat-tokens .tok")].map((token) => {
    pen.fillStyle = getComputedStyle(token).backgroundColor;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b] = pen.getImageData(0, 0, 1, 1).data;
    return [0.2126 * r + 0.7152 * g + 0.0722 * b, r, g, b];
  });
}"""
OUTLINE = """() => {
  const style = getComputedStyle(document.activeElement);
  return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def scanned(folder: Path, tiny_run: Path) -> tuple[Path, pd.DataFrame, HeatMap]:
    """The page of a real scan, its tokens.parquet, and what it shows of it."""
    out = folder / "result"
    options = ["--groups", "2", "--fixed-groups", "3", "--out", str(out)]
    done = CliRunner().invoke(app, ["scan", str(tiny_run), *options])
    assert done.exit_code == 0, done.output
    earlier = store.look(out)
    assert earlier is not None
    assert earlier.report is not None
    frames = read_tables(out, earlier.report)
    heat = heat_map(earlier.report, frames)
    assert heat is not None
    document = report_document(earlier.report, draw_pictures(earlier.report, frames))
    path = folder / "report.html"
    path.write_text(render_html(document, heat), encoding="utf-8")
    tokens = pd.read_parquet(out / "tokens.parquet")
    return path, tokens.set_index(["checkpoint", "rollout_id", "position"]).sort_index(), heat


@pytest.fixture(scope="module")
def hostile(folder: Path) -> Path:
    completion = [h for h in HOSTILE if "\ud800" not in h]
    report, frames = planted(
        [completion, ["a", "b"], ["c"]],
        prompt="".join(h[:300] for h in completion),
        masked=[(0, 3), (0, 5)],
        on_policy=[1],
    )
    frames.tokens.loc[frames.tokens["position"] == 7, ["entropy", "w_entropy"]] = float("nan")
    frames.rollouts["finish_reason"] = HOSTILE[0]
    info = report.run.model_copy(update={"name": HOSTILE[0], "temperature_source": "x" * 300})
    report = report.model_copy(update={"run": info})
    path = folder / "hostile.html"
    path.write_text(render_html(report_document(report, []), heat_map(report, frames)), "utf-8")
    return path


@pytest.fixture(scope="module")
def crowded(folder: Path) -> Path:
    """Many checkpoints with long names and no step, and evidence with a name of one long word."""
    steps = range(10**9, 10**9 + 12)
    evidence = {"a_" + 60 * "long_": 0.5, "short": "x" * 300}
    report, frames = planted(
        [["a", "b", "c"], ["d", "e"]], steps=steps, findings=[finding(evidence=evidence)]
    )
    infos = [c.model_copy(update={"step": None}) for c in report.run.checkpoints]
    run = report.run.model_copy(update={"checkpoints": infos})
    report = report.model_copy(update={"run": run})
    path = folder / "crowded.html"
    path.write_text(render_html(report_document(report, []), heat_map(report, frames)), "utf-8")
    return path


def figures(page: Page) -> dict[str, tuple[str, str, str]]:
    """Signal -> raw, credit and times even, as the panel has them."""
    rows = page.locator("#heat-figures tr").all()
    out = {}
    for name, row in zip(SIGNAL_NAMES, rows, strict=True):
        assert row.locator("th").inner_text().startswith(name.replace("_", " "))
        raw, credit, even = row.locator("td").all_inner_texts()
        out[name] = (raw, credit, even)
    return out


def short(value: float) -> float:
    """The three digits that a figure is told with."""
    exact = float(f"{value:.2e}")
    return float(round(exact)) if exact >= 1000 else exact


def read(text: str) -> float:
    return float(text.replace(",", ""))


def agrees(told: dict[str, tuple[str, str, str]], row: pd.Series, counted: int) -> None:
    """The panel says what tokens.parquet says."""
    for signal in SIGNAL_NAMES:
        raw, credit, even = told[signal]
        weight = row[f"w_{signal}"]
        assert read(raw) == short(row[signal])
        assert read(credit.removesuffix("%")) == pytest.approx(100 * short(weight), rel=1e-9)
        assert read(even) == pytest.approx(weight * counted, rel=0.01)


class TestShown:
    def test_it_opens_quietly(self, chromium, scanned) -> None:
        with opened(chromium, scanned[0]) as it:
            assert it.page.locator("#heat").is_visible()
            for section in it.page.locator("details > summary").all():
                section.click()
            it.is_quiet()

    def test_a_signal_s_button_changes_the_colours(self, chromium, scanned) -> None:
        path, tokens, heat = scanned
        case, last = heat.cases[0], heat.checkpoints[-1]
        with opened(chromium, path) as it:
            seen = []
            for mode, prefix in (("as credit", "w_"), ("raw", "")):
                it.page.get_by_role("button", name=mode, exact=True).click()
                for signal in SIGNAL_NAMES:
                    name = signal.replace("_", " ")
                    button = it.page.get_by_role("button", name=name, exact=True)
                    button.click()
                    assert button.get_attribute("aria-pressed") == "true"
                    assert it.page.locator("#heat-signals [aria-pressed=true]").count() == 1
                    light = [of[0] for of in it.page.evaluate(TOKENS)]
                    values = tokens.loc[(last, case.rollout_id), f"{prefix}{signal}"].tolist()
                    # More of the signal is darker, on paper; equal where both are over the top.
                    order = sorted(range(len(values)), key=values.__getitem__)
                    shades = [light[n] for n in order]
                    assert all(a >= b - 1.5 for a, b in pairwise(shades))
                    assert shades[0] - shades[-1] > 20
                    seen.append(tuple(light))
            assert len(set(seen)) == len(seen)
            it.is_quiet()

    def test_in_the_dark_more_is_lighter(self, chromium, scanned) -> None:
        path, tokens, heat = scanned
        with opened(chromium, path, dark=True) as it:
            light = [of[0] for of in it.page.evaluate(TOKENS)]
            place = (heat.checkpoints[-1], heat.cases[0].rollout_id)
            values = tokens.loc[place, "w_surprisal"].tolist()
            shades = [light[n] for n in sorted(range(len(values)), key=values.__getitem__)]
            assert all(a <= b + 1.5 for a, b in pairwise(shades))
            assert shades[-1] - shades[0] > 100

    def test_the_slider_goes_through_the_checkpoints(self, chromium, scanned) -> None:
        path, tokens, heat = scanned
        case = heat.cases[0]
        with opened(chromium, path) as it:
            it.page.get_by_role("button", name="residual", exact=True).click()
            slider = it.page.locator("#heat-checkpoint")
            seen = set()
            for n, (name, step) in enumerate(zip(heat.checkpoints, heat.steps, strict=True)):
                slider.fill(str(n))
                assert it.page.locator("#heat-checkpoint-told").inner_text() == f"step {step}"
                assert slider.get_attribute("aria-valuetext") == f"step {step}"
                seen.add(json.dumps(it.page.evaluate(TOKENS)))
                it.page.locator("#heat-tokens .tok").first.hover()
                agrees(figures(it.page), tokens.loc[(name, case.rollout_id, 0)], case.n_counted)
            assert len(seen) == len(heat.checkpoints) == 3
            it.is_quiet()

    def test_hover_and_focus_say_what_tokens_parquet_says(self, chromium, scanned) -> None:
        path, tokens, heat = scanned
        with opened(chromium, path) as it:
            for number, case in enumerate(heat.cases[:4]):
                it.page.locator("#heat-case").select_option(str(number))
                spans = it.page.locator("#heat-tokens .tok")
                assert spans.count() == len(case.tokens)
                rows = tokens.loc[(heat.checkpoints[-1], case.rollout_id)]
                assert [plain(t) for t in rows["token"]] == spans.all_inner_texts()
                for n in (0, len(case.tokens) // 2, len(case.tokens) - 1):
                    spans.nth(n).hover()
                    agrees(figures(it.page), rows.loc[n], case.n_counted)
                    about = it.page.locator("#heat-about").inner_text()
                    assert f"token {n} · {rows.loc[n, 'token_class']}" in about
                    assert f"id {rows.loc[n, 'token_id']}" in about
                it.page.mouse.move(0, 0)
                spans.nth(1).focus()
                agrees(figures(it.page), rows.loc[1], case.n_counted)
            it.is_quiet()

    def test_the_table_is_for_who_cannot_see_colour(self, chromium, scanned) -> None:
        path, tokens, heat = scanned
        case = heat.cases[0]
        with opened(chromium, path) as it:
            it.page.get_by_role("button", name="raw", exact=True).click()
            it.page.get_by_role("button", name="table", exact=True).click()
            assert not it.page.locator("#heat-tokens").is_visible()
            rows = it.page.locator("#heat-table tbody tr").all()
            assert len(rows) == len(case.tokens)
            for n, row in enumerate(rows):
                expected = tokens.loc[(heat.checkpoints[-1], case.rollout_id, n)]
                told = [row.locator("th").inner_text(), *row.locator("td").all_inner_texts()]
                assert told[:4] == [
                    *(str(n), plain(expected["token"])),
                    *(expected["token_class"], str(expected["token_id"])),
                ]
                for signal, cell in zip(SIGNAL_NAMES, told[5:], strict=True):
                    assert read(cell) == short(expected[signal])
            it.is_quiet()

    def test_every_completion_can_be_picked(self, chromium, hostile) -> None:
        with opened(chromium, hostile) as it:
            names = set()
            for n in range(it.page.locator("#heat-case option").count()):
                it.page.locator("#heat-case").select_option(str(n))
                names.add(it.page.locator("#heat-facts").inner_text().split(" · ")[0])
            assert names == {"r0", "r1", "r2"}
            assert it.page.locator("#heat-after").is_disabled()
            it.page.locator("#heat-before").click()
            assert it.page.locator("#heat-case").input_value() == "1"
            it.is_quiet()

    def test_what_a_checkpoint_did_not_replay_is_not_zero(self, chromium, hostile) -> None:
        with opened(chromium, hostile) as it:
            page = it.page
            for n in range(3):
                page.locator("#heat-case").select_option(str(n))
                if page.locator("#heat-facts").inner_text().startswith("r1"):
                    break
            assert "on-policy" in page.locator("#heat-facts").inner_text()
            page.locator("#heat-checkpoint").fill("0")
            assert "did not replay" in page.locator("#heat-note").inner_text()
            assert figures(page)["surprisal"] == ("n/a", "n/a", "n/a")
            assert page.locator("#heat-tokens .tok.undefined").count() == 2


class TestUse:
    def test_all_of_it_by_keyboard_alone(self, chromium, scanned) -> None:
        path, _, heat = scanned
        with opened(chromium, path) as it:
            page = it.page
            visited: list[str] = []
            name = "() => document.activeElement.id || document.activeElement.textContent.trim()"
            for _ in range(200):
                page.keyboard.press("Tab")
                if page.evaluate("() => document.activeElement === document.body"):
                    break
                assert page.evaluate(OUTLINE), page.evaluate(name)
                visited.append(page.evaluate(name))
                element = page.evaluate("() => document.activeElement.className")
                if "tok" in element.split():
                    before = visited.count("a token")
                    visited.append("a token")
                    assert before == 0  # one stop for all of them
            assert visited[0] == "Skip to the content"
            for control in (
                *("theme", "relative residual", "raw", "table", "heat-checkpoint", "heat-case"),
                *("heat-after", "a token", "What was found", "Figures", "Not judged"),
            ):
                assert control in visited, control

            def tab_to(wanted: str) -> None:
                page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
                page.locator(".skip").focus()
                for _ in range(200):
                    if page.evaluate(name) == wanted:
                        return
                    page.keyboard.press("Tab")
                pytest.fail(f"no way to {wanted}")

            before = page.evaluate(TOKENS)
            tab_to("residual")
            page.keyboard.press("Enter")
            assert page.evaluate(TOKENS) != before
            tab_to("raw")
            page.keyboard.press("Space")
            assert "raw" in page.locator("#heat-note").inner_text()
            tab_to("heat-checkpoint")
            page.keyboard.press("ArrowLeft")
            told = f"step {heat.steps[-2]}"
            assert page.locator("#heat-checkpoint-told").inner_text() == told
            tab_to("heat-after")
            page.keyboard.press("Enter")
            assert page.locator("#heat-case").input_value() == "1"
            tab_to("heat-case")
            page.keyboard.press("ArrowDown")
            assert page.locator("#heat-case").input_value() == "2"
            tab_to("table")
            page.keyboard.press("Enter")
            assert page.locator("#heat-table table").is_visible()
            tab_to("Figures")
            while page.evaluate("() => document.activeElement.tagName") != "SUMMARY":
                page.keyboard.press("Tab")
            folded = page.evaluate("() => document.activeElement.parentElement.open")
            page.keyboard.press("Enter")
            assert page.evaluate("() => document.activeElement.parentElement.open") != folded
            it.is_quiet()

    def test_arrow_keys_move_among_the_tokens(self, chromium, scanned) -> None:
        path, tokens, heat = scanned
        case = heat.cases[0]
        rows = tokens.loc[(heat.checkpoints[-1], case.rollout_id)]
        with opened(chromium, path, width=400) as it:
            page = it.page
            at = "() => Number(document.activeElement.dataset.n)"
            top = "() => Math.round(document.activeElement.getBoundingClientRect().top + scrollY)"
            page.locator("#heat-tokens .tok").nth(2).focus()
            for key, place in (("ArrowRight", 3), ("ArrowLeft", 2), ("Home", 0), ("ArrowLeft", 0)):
                page.keyboard.press(key)
                assert page.evaluate(at) == place
                agrees(figures(page), rows.loc[place], case.n_counted)
            page.keyboard.press("End")
            assert page.evaluate(at) == len(case.tokens) - 1
            page.keyboard.press("ArrowRight")
            assert page.evaluate(at) == len(case.tokens) - 1
            longest = max(range(len(heat.cases)), key=lambda n: len(heat.cases[n].tokens))
            page.locator("#heat-case").select_option(str(longest))
            page.locator("#heat-tokens").evaluate("e => { e.style.width = '8rem'; }")
            page.locator("#heat-tokens .tok").nth(1).focus()
            first = page.evaluate(top)
            page.keyboard.press("ArrowDown")
            assert page.evaluate(top) > first
            below = page.evaluate(at)
            assert below > 2
            page.keyboard.press("ArrowUp")
            assert page.evaluate(top) == first
            # One of them alone is in the order of Tab, and it is the one that has the focus.
            stops = page.locator("#heat-tokens .tok[tabindex='0']")
            assert stops.count() == 1
            assert stops.get_attribute("aria-selected") == "true"

    def test_the_theme_is_the_system_s_until_another_is_chosen(self, chromium, scanned) -> None:
        back = "() => getComputedStyle(document.body).backgroundColor"
        with opened(chromium, scanned[0]) as it:
            light = it.page.evaluate(back)
            tokens = it.page.evaluate(TOKENS)
            button = it.page.locator("#theme")
            assert button.inner_text() == "Theme: as the system"
            button.click()
            assert it.page.evaluate(back) == light
            button.click()
            assert button.inner_text() == "Theme: dark"
            dark = it.page.evaluate(back)
            assert dark != light
            assert it.page.evaluate(TOKENS) != tokens
            button.click()
            assert it.page.evaluate(back) == light
        with opened(chromium, scanned[0], dark=True) as it:
            assert it.page.evaluate(back) == dark
            it.page.locator("#theme").click()
            assert it.page.evaluate(back) == light
            assert it.page.evaluate(TOKENS) == tokens

    def test_a_table_of_a_comparison_needs_no_scrolling(self, chromium, tmp_path) -> None:
        cells = ("0.000534", "0.000204", "-0.000528", "-0.00841 to -0.00984")
        row = ("relative_residual reward gap", *cells, "changed, uncorrected", ".097", "<.0001")
        head = ("figure", "A", "B", "B - A", "95%", "called", "p", "raw p", "prompts")
        right = frozenset({1, 2, 3, 6, 7, 8})
        table = Table(title="What changed", head=head, rows=((*row, "9"),), right=right)
        path = tmp_path / "wide.html"
        page = document(Section(id="a", title="A", blocks=(table,)))
        path.write_text(render_html(page, None), "utf-8")
        with opened(chromium, path, width=1200) as it:
            box = it.page.locator(".scroll")
            assert box.evaluate("e => e.scrollWidth <= e.clientWidth")

    def test_a_link_to_a_folded_section_opens_it(self, chromium, scanned) -> None:
        with opened(chromium, scanned[0]) as it:
            assert not it.page.locator("#method table").first.is_visible()
            it.page.locator("nav a[href='#method']").click()
            assert it.page.locator("#method table").first.is_visible()
            it.is_quiet()

    def test_without_its_script_the_rest_is_there(self, chromium, scanned) -> None:
        with opened(chromium, scanned[0], script=False) as it:
            assert it.page.locator("noscript").is_visible()
            assert not it.page.locator("#heat").is_visible()
            assert it.page.locator("#findings").is_visible()


class TestLooks:
    @pytest.mark.parametrize("which", ["scanned", "hostile", "crowded"])
    @pytest.mark.parametrize("width", [400, 320])
    def test_a_narrow_window_does_not_scroll_sideways(self, chromium, request, which, width):
        found = request.getfixturevalue(which)
        path = found if isinstance(found, Path) else found[0]
        with opened(chromium, path, width=width) as it:
            page = it.page
            page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
            wide = "() => document.documentElement.scrollWidth"
            for form in ("colours", "table"):
                page.get_by_role("button", name=form, exact=True).click()
                for n in range(page.locator("#heat-case option").count()):
                    page.locator("#heat-case").select_option(str(n))
                    assert page.evaluate(wide) <= width
            # What is wide scrolls in a box of its own, and nothing sticks out of one that doesn't.
            out = page.evaluate(
                """() => [...document.body.querySelectorAll("*")].filter((e) =>
                  e.checkVisibility() && !e.closest(".scroll, .figures-of, svg, .skip")
                  && e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.outerHTML)"""
            )
            assert out == []
            # A name beside its figure is read along lines, not down a column of letters.
            narrow = page.eval_on_selector_all(
                ".figures dt", "all => all.map(e => [e.textContent, e.offsetWidth])"
            )
            assert [name for name, across in narrow if across < 5 * min(len(name), 20)] == []

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_what_scrolls_sideways_says_so(self, chromium, scanned, dark: bool) -> None:
        """A shadow at the right edge until the end is reached, and words below a picture."""
        with opened(chromium, scanned[0], width=400, dark=dark) as it:
            box = it.page.locator("#regime-map .picture")
            box.scroll_into_view_if_needed()
            assert box.evaluate("e => e.scrollWidth > e.clientWidth")
            words = "e => getComputedStyle(e, '::before').content"
            caption = it.page.locator("#regime-map figcaption")
            assert "Scroll the picture sideways" in caption.evaluate(words)

            def edge(end: str) -> tuple[int, ...]:
                """The colour at a lower corner of the box, where nothing is drawn."""
                of = box.bounding_box()
                assert of is not None
                left = of["x"] + (1 if end == "left" else of["width"] - 3)
                clip = {"x": left, "y": of["y"] + of["height"] - 3, "width": 2, "height": 2}
                shot = imread(BytesIO(it.page.screenshot(clip=clip)))
                return tuple(round(255 * float(c)) for c in shot[0, 0, :3])

            def apart(one: tuple[int, ...], other: tuple[int, ...]) -> int:
                return max(abs(a - b) for a, b in zip(one, other, strict=True))

            left, right = edge("left"), edge("right")
            assert apart(left, right) > 40
            box.evaluate("e => e.scrollTo(1e4, 0)")
            assert apart(edge("right"), left) < 4  # nothing more is hidden there
            assert apart(edge("left"), left) > 40
        with opened(chromium, scanned[0], dark=dark) as it:
            assert it.page.locator("#regime-map figcaption").evaluate(words) == "none"

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("which", ["scanned", "hostile"])
    def test_all_text_stands_out(self, chromium, request, which, dark: bool) -> None:
        found = request.getfixturevalue(which)
        path = found if isinstance(found, Path) else found[0]
        with opened(chromium, path, dark=dark) as it:
            page = it.page
            page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
            seen = []
            for form in ("colours", "table"):
                page.get_by_role("button", name=form, exact=True).click()
                seen += page.evaluate(CONTRASTS)
            # Every strength that a token can have.
            page.get_by_role("button", name="colours", exact=True).click()
            for step in range(0, 101, 2):
                page.evaluate(
                    """(v) => document.querySelector("#heat-tokens .tok:not(.masked)")
                      .style.setProperty("--v", v)""",
                    str(step / 100),
                )
                seen += (
                    page.evaluate(CONTRASTS)
                    if step % 10 == 0
                    else page.evaluate(
                        CONTRASTS.replace("document.body", "document.querySelector('#heat-tokens')")
                    )
                )
            assert len(seen) > 400
            assert [pair for pair in seen if pair[0] < 4.5] == []

    def test_masked_undefined_and_prompt_differ_without_colour(self, chromium, hostile) -> None:
        with opened(chromium, hostile) as it:
            page = it.page
            for n in range(3):
                page.locator("#heat-case").select_option(str(n))
                if page.locator("#heat-facts").inner_text().startswith("r0"):
                    break
            page.get_by_role("button", name="entropy", exact=True).click()
            style = "e => [getComputedStyle(e).{0}, getComputedStyle(e).{1}]"
            line = style.format("textDecorationLine", "backgroundImage")
            masked = page.locator("#heat-tokens .tok.masked")
            undefined = page.locator("#heat-tokens .tok.undefined")
            assert masked.count() == 2
            assert undefined.count() == 1
            assert masked.first.evaluate(line)[0] == "line-through"
            assert "gradient" in masked.first.evaluate(line)[1]
            assert "dashed" in undefined.evaluate("e => getComputedStyle(e).borderBottomStyle")
            assert "underline" in page.locator("#heat-prompt pre").evaluate(line)[0]

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("width", [1280, 400])
    def test_pictures_of_both_themes(self, chromium, scanned, tmp_path, dark, width) -> None:
        with opened(chromium, scanned[0], dark=dark, width=width) as it:
            name = f"report-{'dark' if dark else 'light'}-{width}.png"
            path = artefacts(tmp_path) / name
            it.page.screenshot(path=path, full_page=True)
            assert path.stat().st_size > 50_000

    def test_printed_it_has_everything_and_no_control(self, chromium, scanned, tmp_path) -> None:
        path = scanned[0]
        reader = program("pdftotext", "poppler-utils")
        with opened(chromium, path, dark=True) as it:
            it.page.emulate_media(media="print")
            for hidden in (".controls", "nav", "#theme", ".panel"):
                assert not it.page.locator(hidden).is_visible()
            ink = it.page.evaluate("() => getComputedStyle(document.body).color")
            assert ink == "rgb(27, 30, 34)"  # on paper, whatever the screen had
            findings = it.page.locator(".finding").count()
            printed = artefacts(tmp_path) / "report-printed.pdf"
            it.page.pdf(path=printed, print_background=True, format="A4")
        done = subprocess.run(
            [reader, "-layout", printed, "-"], capture_output=True, text=True, check=True
        )
        text = " ".join(done.stdout.split())
        for word in ("Thresholds", "gini-uniform", "What could not be asked"):
            assert word in text
        assert text.count("Source:") == findings
        assert "entropy reduction" not in text.split("Tokens")[-1].split("Figures")[0]


class TestHostile:
    def test_nothing_runs(self, chromium, hostile) -> None:
        with opened(chromium, hostile) as it:
            page = it.page
            for n in range(page.locator("#heat-case option").count()):
                page.locator("#heat-case").select_option(str(n))
                for form in ("table", "colours"):
                    page.get_by_role("button", name=form, exact=True).click()
                for token in page.locator("#heat-tokens .tok").all():
                    token.hover()
                    token.click()
            page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
            page.wait_for_timeout(300)
            assert page.evaluate(f"() => window.{FLAG} === undefined")
            assert page.locator("img, iframe, object, embed, form, base").count() == 0
            assert page.locator("script").count() == 2
            it.is_quiet()

    def test_the_policy_would_stop_what_got_through(self, chromium, folder) -> None:
        """The second wall alone: a page without any escaping runs no script, fetches nothing."""
        report, frames = planted([["a", "b"]])
        page_text = render_html(report_document(report, []), heat_map(report, frames))
        broken = page_text.replace(
            "</main>",
            f"<script>window.{FLAG}=1</script><img src=x onerror='window.{FLAG}=1'>"
            "<img src='http://x.invalid/x.png'><iframe src='http://x.invalid'></iframe></main>",
        )
        path = folder / "broken.html"
        path.write_text(broken, "utf-8")
        with opened(chromium, path) as it:
            it.page.wait_for_timeout(300)
            assert it.page.evaluate(f"() => window.{FLAG} === undefined")
            assert len(it.complaints) >= 3
            assert all("Content Security Policy" in c for c in it.complaints)
            assert it.page.locator("#heat").is_visible()  # our own script ran all the same

    def test_nothing_is_lost(self, chromium, hostile) -> None:
        completion = [h for h in HOSTILE if "\ud800" not in h]
        with opened(chromium, hostile) as it:
            for n in range(3):
                it.page.locator("#heat-case").select_option(str(n))
                spans = it.page.locator("#heat-tokens .tok")
                if spans.count() == len(completion):
                    break
            assert spans.evaluate_all("all => all.map(e => e.textContent)") == [
                plain(piece) or "∅" for piece in completion
            ]
            # Text that runs from right to left moves no neighbour.
            places = spans.evaluate_all(
                "all => all.map(e => e.getBoundingClientRect()).map(r => [r.top, r.left])"
            )
            for (top, left), (below, right) in pairwise(places):
                assert below > top - 1
                assert right > left or below > top
