"""Where pictures draw what the report says, and in which colour: read back from the SVG."""

import re
from collections.abc import Iterator
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_hex

from arca_diag.report.charts import trend
from arca_diag.report.charts.agreement import matrix
from arca_diag.report.charts.classes import token_shares
from arca_diag.report.charts.ink import DIVERGING, SEQUENTIAL
from arca_diag.report.charts.lorenz import SHARES, lorenz
from arca_diag.report.charts.positions import lifts, square_ticks
from arca_diag.report.charts.regime_map import means
from arca_diag.report.charts.residual import CELLS, OTHERS, density, levels, log_scale
from arca_diag.report.charts.rewards import group_parts
from arca_diag.report.charts.scene import Scene
from arca_diag.report.charts.text import signed
from arca_diag.report.charts.token_types import most_credited, type_credit
from arca_diag.report.picture import Picture
from arca_diag.results import Report
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import Tables
from tests.report.test_charts import texts
from tests.report.test_charts_numbers import corners, line, parts_of

Found = tuple[Report, Tables]


@pytest.fixture(scope="module")
def scene(whole: Found) -> Scene:
    return Scene(report=whole[0], frames=whole[1])


def written(svg: str) -> Iterator[tuple[str, float, float]]:
    """Every text that is not turned, and where it begins, ends or has its middle."""
    for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        if "x" in element.attrib:
            yield element.text or "", float(element.attrib["x"]), float(element.attrib["y"])


def colour(svg: str, name: str, kind: str = "fill") -> str:
    """Of the only part of that name."""
    (part,) = parts_of(svg, name)
    looks = " ".join(e.attrib.get("style", "") for e in part.iter())
    found = re.search(rf"{kind}: (#\w+)", looks)
    assert found, looks
    return found[1]


def across(svg: str, name: str) -> tuple[float, float]:
    """Left and right end of a part."""
    places = [x for x, _ in line(svg, name)]
    return min(places), max(places)


def marked(svg: str, name: str) -> list[tuple[float, float]]:
    """Where the marks of a part stand."""
    (part,) = parts_of(svg, name)
    uses = [e for e in part.iter() if e.tag.endswith("}use")]
    return [(float(e.attrib["x"]), float(e.attrib["y"])) for e in uses]


def test_each_row_of_the_trend_has_its_signal_and_its_ends(pictures: dict[str, Picture]) -> None:
    found = list(written(pictures["trend-fixed-set"].svg))
    for row, signal in enumerate(SIGNAL_NAMES):
        top = 72 * (trend._TOP + row * (trend._ROW + trend._GAP))
        ((_, _, height),) = [one for one in found if one[0] == signal]
        assert top < height < top + 72 * trend._ROW
        ends = [
            (x, y, text)
            for text, x, y in found
            if text in ("sparse", "uniform") and top - 1 < y < top + 72 * trend._ROW + 1
        ]
        # Sparse is a high Gini and few effective tokens.
        assert [text for _, _, text in sorted(ends)] == ["sparse", "uniform", "uniform", "sparse"]


def test_agreement_has_the_colour_and_the_limits_of_its_cell(
    scene: Scene, pictures: dict[str, Picture]
) -> None:
    svg = pictures["agreement"].svg
    told = list(pairwise(texts(svg)))
    for (row, column), m in matrix(scene, scene.lasts).items():
        assert m is not None
        assert m.value is not None
        assert colour(svg, f"cell {row} {column}") == to_hex(DIVERGING((m.value + 1) / 2))
        assert (signed(m.value), f"{signed(m.low)} to {signed(m.high)}") in told


def test_layers_have_their_column_and_colours_from_early_to_late(
    whole: Found, pictures: dict[str, Picture]
) -> None:
    svg, table = pictures["layers"].svg, whole[1].layers
    tops = {"residual_mean": 12, "relative_residual_mean": 1.2, "update_norm": 0.6}
    for row, (column, top) in enumerate(tops.items()):
        foot = 72 * (0.3 + 1.75 * row + 1.25)
        for place, name in enumerate(("checkpoint-10", "checkpoint-20")):
            values = table.loc[table["checkpoint"] == name, column]
            heights = [foot - 72 * 1.25 * v / top for v in values]
            drawn = [y for _, y in line(svg, f"{column} {place}")]
            assert drawn == pytest.approx(heights, abs=0.02)
    foot = 72 * (0.3 + 1.25)
    for place, name in enumerate(("checkpoint-10", "checkpoint-20")):
        rows = table[table["checkpoint"] == name]
        ends = [*rows["residual_low"], *rows["residual_high"][::-1]]
        heights = [foot - 72 * 1.25 * max(0, v) / 12 for v in ends]
        assert [y for _, y in line(svg, f"band {place}")] == pytest.approx(heights, abs=0.02)
    early, late = (colour(svg, f"residual_mean {place}", "stroke") for place in (0, 1))
    assert (early, late) == (to_hex(SEQUENTIAL(0.1)), to_hex(SEQUENTIAL(0.75)))


def test_bars_of_groups_are_as_long_as_their_shares(
    scene: Scene, pictures: dict[str, Picture]
) -> None:
    for view, row in (("on-policy", 1), ("fixed-set", 0)):
        parts = group_parts(scene, view, 20)
        assert parts is not None
        ends = 72 * (0.85 + 2.1 * np.concatenate([[0], np.cumsum(parts)]))
        kinds = ("spread", "all-best", "all-worst", "other")
        for kind, (low, high) in zip(kinds, pairwise(ends), strict=True):
            if high > low + 1e-6:
                found = across(pictures["rewards"].svg, f"{view} {row} {kind}")
                assert found == pytest.approx((low, high), abs=0.02)


def test_limits_of_reward_gaps_are_on_the_scale_of_their_marks(
    scene: Scene, pictures: dict[str, Picture]
) -> None:
    svg, middle = pictures["rewards"].svg, 72 * (5.75 + 1.75 / 2)
    found = [
        (m, last.view, signal)
        for last in scene.lasts
        for signal in SIGNAL_NAMES
        if (m := scene.figure("reward_gap", last.view, last.label, signal)) and m.value is not None
    ]
    assert found
    wide = max(found, key=lambda one: abs(one[0].value or 0))
    (mark,) = marked(svg, f"gap {wide[1]} {wide[2]}")
    scale = (mark[0] - middle) / (wide[0].value or 1)
    for m, view, signal in found:
        if m.low is not None and m.high is not None:
            ends = middle + scale * m.low, middle + scale * m.high
            assert across(svg, f"limits {view} {signal}") == pytest.approx(ends, abs=0.2)


def test_classes_stand_at_their_share_between_its_limits(
    scene: Scene, pictures: dict[str, Picture]
) -> None:
    svg = pictures["classes"].svg
    for place, last in enumerate(scene.lasts):
        for number, signal in enumerate(SIGNAL_NAMES):
            left = 72 * (1.0 + 2.05 * (number % 4))
            shares = token_shares(last, signal)
            for name in scene.against("class_share", last.view, last.label):
                m = scene.figure("class_share", last.view, last.label, signal, name)
                assert m is not None
                assert m.low is not None
                assert m.high is not None
                assert m.value is not None
                of = f"{last.view} {signal} {name}"
                ((x, _),) = marked(svg, of)
                assert x == pytest.approx(left + 72 * 1.05 * m.value, abs=0.02)
                ends = [left + 72 * 1.05 * min(1, max(0, end)) for end in (m.low, m.high)]
                assert across(svg, f"limits {of}") == pytest.approx(ends, abs=0.02)
                bar = left + 72 * 1.05 * shares[name]
                assert across(svg, f"tokens {place} {signal} {name}") == pytest.approx(
                    (bar, bar), abs=0.02
                )


def test_positions_run_from_first_to_last_with_their_limits(
    scene: Scene, pictures: dict[str, Picture]
) -> None:
    svg = pictures["positions"].svg
    places = {text: x for text, x, _ in written(svg) if text in ("first", "middle", "last")}
    assert places["first"] < places["middle"] < places["last"]
    found = {(one.view, s): lifts(scene, one, s) for one in scene.lasts for s in SIGNAL_NAMES}
    most = max(float(np.nanmax(value, initial=1)) for value, _, _ in found.values())
    top = square_ticks(most)[-1]
    for (view, signal), (_, low, high) in found.items():
        foot = 72 * (0.32 + 1.95 * (SIGNAL_NAMES.index(signal) // 4) + 1.25)
        known = ~np.isnan(low)
        assert known.any()
        ends = np.array([low[known], high[known]]).clip(0, top)
        heights = foot - 72 * 1.25 * np.sqrt(ends / top)
        drawn = np.array(line(svg, f"limits {view} {signal}")).reshape(-1, 4)[: known.sum()]
        assert drawn[:, 1] == pytest.approx(heights[0], abs=0.02)
        assert drawn[:, 3] == pytest.approx(heights[1], abs=0.02)


def test_means_of_the_regime_map_have_both_their_limits(
    scene: Scene, pictures: dict[str, Picture]
) -> None:
    svg = pictures["regime-map"].svg
    for column, last in enumerate(scene.lasts):
        left = 72 * (0.5 + 4.4 * column)
        for signal, (gini, effn) in means(scene, last).items():
            of = f"mean {last.view} {signal}"
            x, low, high = (
                left + 72 * 3.9 * min(1, max(0, v)) for v in (gini.value, gini.low, gini.high)
            )
            y, lower, upper = (
                72 * (0.3 + 3.3 * (1 - min(1, max(0, v))))
                for v in (effn.value, effn.low, effn.high)
            )
            assert marked(svg, f"{of} mark") == [pytest.approx((x, y), abs=0.02)]
            assert line(svg, f"{of} G")[0] == pytest.approx((low, y), abs=0.02)
            assert line(svg, f"{of} G")[1] == pytest.approx((high, y), abs=0.02)
            assert line(svg, f"{of} e")[0] == pytest.approx((x, lower), abs=0.02)
            assert line(svg, f"{of} e")[1] == pytest.approx((x, upper), abs=0.02)


def test_lorenz_curves_have_the_tokens_across_and_the_credit_upward(
    scene: Scene, pictures: dict[str, Picture]
) -> None:
    svg = pictures["lorenz"].svg
    for column, last in enumerate(scene.lasts):
        for signal in SIGNAL_NAMES:
            curve = lorenz(last.credit(signal))
            x, y = np.array(line(svg, f"{last.view} {signal}")).T
            left, foot = 72 * (0.48 + 2.45 * column), 72 * 2.8
            # A straight stretch of a line is drawn as one.
            drawn = np.interp(left + 72 * 2.05 * SHARES, x, y)
            assert drawn == pytest.approx(foot - 72 * 2.5 * curve, abs=0.1)


def test_densities_stand_in_their_cells_and_are_brighter_where_more_are(
    scene: Scene, pictures: dict[str, Picture]
) -> None:
    last, svg = scene.lasts[0], pictures["residual"].svg
    columns = {name: last.tokens[name].to_numpy(float) for name in SIGNAL_NAMES}
    nats = [s for s in OTHERS if s != "relative_residual"]
    scale = log_scale(columns["residual"], CELLS[0])
    upward = {s: log_scale(np.concatenate([columns[o] for o in nats]), CELLS[1]) for s in nats} | {
        "relative_residual": log_scale(columns["relative_residual"], CELLS[1])
    }
    assert scale is not None
    counts = {}
    for signal, up in upward.items():
        assert up is not None
        counts[signal] = density(scale, up, columns["residual"], columns[signal])
    edges = levels(max(int(c.max()) for c in counts.values()))
    for place, signal in enumerate(OTHERS):
        wanted = np.searchsorted(edges, counts[signal], side="right")
        foot = 72 * (0.72 + 2.3 * (place // 3) + 1.4)
        left = 72 * (0.72 + 2.85 * (place % 3))
        drawn = np.zeros_like(wanted)
        for level in range(1, len(edges) + 1):
            name = f"density {signal} {level}"
            for part in parts_of(svg, name):
                shade = to_hex(SEQUENTIAL((level - 1) / max(1, len(edges) - 1)))
                assert colour(svg, name) == shade
                path = next(e.attrib["d"] for e in part.iter() if "d" in e.attrib)
                for box in filter(None, map(corners, path.split("z"))):
                    xs, ys = zip(*box, strict=True)
                    row = round((foot - max(ys)) / (72 * 1.4 / CELLS[1]))
                    start, end = (
                        round((x - left) / (72 * 2.2 / CELLS[0])) for x in (min(xs), max(xs))
                    )
                    drawn[row, start:end] = level
        assert np.array_equal(drawn, wanted), signal


def test_types_are_named_in_their_row_and_brighter_where_they_hold_more(
    scene: Scene, pictures: dict[str, Picture]
) -> None:
    svg, last = pictures["types"].svg, scene.lasts[0]
    types = most_credited(last)
    for row, (_, text) in enumerate(types):
        middle = 72 * (0.62 + 0.34 * (row + 0.5))
        assert [y for name, _, y in written(svg) if name == text] == [pytest.approx(middle, abs=6)]
    ids = [token for token, _ in types]
    for column, signal in enumerate(SIGNAL_NAMES):
        for row, one in enumerate(type_credit(last, signal, ids)):
            assert one is not None
            shade = to_hex(SEQUENTIAL(float(one.share.value) ** 0.5))
            assert colour(svg, f"share {row} {column}") == shade
