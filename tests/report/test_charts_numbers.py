"""What pictures draw and write is what the report says, by plain loops and read back from SVG."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from arca_diag.diagnostics.agnosticism import POSITIONS
from arca_diag.report.charts import draw_pictures, positions, regime_map, trend
from arca_diag.report.charts.agreement import matrix
from arca_diag.report.charts.canvas import Canvas, Panel, covering, padded, spaced, wrapped
from arca_diag.report.charts.classes import draw_classes, short, token_shares
from arca_diag.report.charts.ink import style
from arca_diag.report.charts.layers import chosen, layer_ticks
from arca_diag.report.charts.lorenz import SHARES, lorenz
from arca_diag.report.charts.positions import lifts
from arca_diag.report.charts.residual import CELLS, OTHERS, LogScale, density, levels, log_scale
from arca_diag.report.charts.rewards import group_parts
from arca_diag.report.charts.scene import Scene
from arca_diag.report.charts.token_types import limit_words, most_credited, type_credit
from arca_diag.report.picture import Picture
from arca_diag.results import Measurement, Onset, Report
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import Tables, log_table
from arca_diag.thresholds import DEFAULT
from arca_diag.verdict import classify
from tests.report.drawn import PIECES, result
from tests.report.test_charts import texts

Found = tuple[Report, Tables]


@pytest.fixture(scope="module")
def scene(whole: Found) -> Scene:
    return Scene(report=whole[0], frames=whole[1])


def measured(report: Report, **given: object) -> list[Measurement]:
    """By a plain search."""
    return [
        m
        for m in report.measurements
        if all(getattr(m, key) == value for key, value in given.items())
    ]


def mean_over_prompts(frames: Tables, values: dict[str, float]) -> float:
    """Of one value a completion: first within prompts, then over them."""
    prompts = dict(zip(frames.rollouts["rollout_id"], frames.rollouts["cluster"], strict=True))
    by_prompt: dict[str, list[float]] = {}
    for rollout, value in values.items():
        by_prompt.setdefault(prompts[rollout], []).append(value)
    means = [sum(found) / len(found) for found in by_prompt.values()]
    return sum(means) / len(means)


def last_completions(frames: Tables, member: str) -> Iterable[tuple[str, pd.DataFrame]]:
    """Tokens of each completion of the last checkpoint in a view."""
    rows = frames.trajectories
    names = set(rows[(rows["checkpoint"] == "checkpoint-20") & rows[member]]["rollout_id"])
    tokens = frames.tokens[frames.tokens["checkpoint"] == "checkpoint-20"]
    for name, part in tokens.groupby("rollout_id", sort=False):
        if name in names:
            yield str(name), part[part["counted"]]


def parts_of(svg: str, name: str) -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(svg).iter() if e.attrib.get("class") == name]


def corners(path: str) -> list[tuple[float, float]]:
    found = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)
    return [(float(x), float(y)) for x, y in found]


def line(svg: str, name: str) -> list[tuple[float, float]]:
    """The corners of a line of that name, in points from the upper left."""
    (part,) = parts_of(svg, name)
    return corners(next(e.attrib["d"] for e in part.iter() if "d" in e.attrib))


@pytest.mark.parametrize("view", ["on-policy", "fixed-set"])
def test_the_trend_is_the_reports(whole: Found, pictures: dict[str, Picture], view: str) -> None:
    svg = pictures[f"trend-{view}"].svg
    written = texts(svg)
    for row, signal in enumerate(SIGNAL_NAMES):
        for column, name in enumerate(("gini_corrected", "effn_corrected")):
            found = measured(whole[0], name=name, view=view, signal=signal, sharpening=1.0)
            assert [m.checkpoint for m in found] == [10, 20]
            drawn = line(svg, f"{name} {signal}")
            top = 72 * (trend._TOP + row * (trend._ROW + trend._GAP))
            heights = [top + 72 * trend._ROW * (1 - (m.value or 0)) for m in found]
            assert [y for _, y in drawn] == pytest.approx(heights, abs=0.011)
            # Steps 1 to 20 were logged: 20 is as far from the right end as 1 from the left.
            left = 72 * (trend._LEFT + column * trend._STRIDE)
            places = [left + 72 * trend._PANEL * (step - 0.24) / 20.52 for step in (10, 20)]
            assert [x for x, _ in drawn] == pytest.approx(places, abs=0.02)
            m = found[-1]
            assert m.value is not None
            assert m.low is not None
            assert m.high is not None
            shares = [
                f"{v:.2f}".replace("0.", ".").replace("-.00", ".00")
                for v in (m.value, m.low, m.high)
            ]
            assert f"{shares[0]} ({shares[1]} to {shares[2]})" in written


@pytest.mark.parametrize("view", ["on-policy", "fixed-set"])
def test_limits_of_the_trend_are_the_reports_and_seen_behind_their_marks(
    whole: Found, pictures: dict[str, Picture], view: str
) -> None:
    svg = pictures[f"trend-{view}"].svg
    for row, signal in enumerate(SIGNAL_NAMES):
        for name in ("gini_corrected", "effn_corrected"):
            found = measured(whole[0], name=name, view=view, signal=signal, sharpening=1.0)
            top = 72 * (trend._TOP + row * (trend._ROW + trend._GAP))
            low, high = (
                [top + 72 * trend._ROW * (1 - min(1, max(0, getattr(m, end)))) for m in found]
                for end in ("low", "high")
            )
            ends = np.array(line(svg, f"limits {name} {signal}")).reshape(-1, 4)
            lines, lower, upper = ends[:2], ends[2:4], ends[4:]
            marks = [x for x, _ in line(svg, f"{name} {signal}")]
            assert lines == pytest.approx(np.array([marks, low, marks, high]).T, abs=0.011)
            for bars, heights in ((lower, low), (upper, high)):
                assert bars[:, 1] == pytest.approx(np.array(heights), abs=0.011)
                assert bars[:, 3] == pytest.approx(np.array(heights), abs=0.011)
                # A mark is 3.5 points wide: the bar is seen on both of its sides.
                assert np.all(bars[:, 0] < np.array(marks) - 3)
                assert np.all(bars[:, 2] > np.array(marks) + 3)


def test_level_limits_have_ends_too() -> None:
    canvas = Canvas(1.0)
    panel = Panel(canvas, 1.0, 0.0, 1.0, 1.0)
    panel.limits_level([0.5, 0.25], [0.1, np.nan], [0.4, 0.5], 5, "limits", ec="#0072b2")
    ends = np.array(line(canvas.svg("title", "alt"), "limits")).reshape(-1, 4)
    assert ends == pytest.approx(
        np.array([[79.2, 36, 100.8, 36], [79.2, 40.1, 79.2, 31.9], [100.8, 40.1, 100.8, 31.9]]),
        abs=0.011,
    )


def test_the_bands_of_the_trend_are_the_cuts_in_force() -> None:
    cuts = DEFAULT.replaced({"gini-sparse": 0.9})
    assert sorted(trend.bands("gini_corrected", cuts)) == [
        (0.0, 0.15),
        (0.0, 0.25),
        (0.6, 1.0),
        (0.9, 1.0),
    ]
    assert sorted(trend.bands("effn_corrected", cuts)) == [
        (0.0, 0.12),
        (0.0, 0.38),
        (0.83, 1.0),
        (0.93, 1.0),
    ]


def test_an_onset_is_marked_in_its_row_and_in_the_log(whole: Found) -> None:
    report, frames = whole
    onset = Onset(
        view="fixed-set",
        signal="entropy",
        sharpening=1.0,
        side="sparse",
        after=10,
        by=20,
        n_clusters=9,
        reason=None,
    )
    both = {
        n: draw_pictures(report.model_copy(update={"onsets": [onset] * n}), frames) for n in (0, 1)
    }
    assert both[0][0] == both[1][0]  # it is of the other view
    drawn = {n: of_both[1] for n, of_both in both.items()}
    assert "sparse from 10-20" in texts(drawn[1].svg)
    dashed = {n: picture.svg.count("stroke-dasharray: 4") for n, picture in drawn.items()}
    assert dashed[0] == 0
    assert dashed[1] == 2 + 3  # both figures, and reward, entropy and length
    assert "hatched" in drawn[1].caption
    assert "hatched" not in drawn[0].caption


@pytest.mark.parametrize(
    ("after", "by", "told"),
    [(2, 30, "sparse from 2-30"), (None, 30, "sparse by step 30"), (None, None, "sparse? unsure")],
)
def test_an_onset_in_words(after: int | None, by: int | None, told: str) -> None:
    onset = Onset(
        view="fixed-set",
        signal="entropy",
        sharpening=1.0,
        side="sparse",
        after=after,
        by=by,
        n_clusters=9,
        reason=None if after else "why",
    )
    assert trend.onset_words(onset) == told


def test_the_log_is_drawn_as_it_is_and_by_means_where_it_is_long() -> None:
    short_log = log_table([(3, "reward", 3.0), (1, "reward", 1.0), (2, "learning rate", 9.0)])
    (name, (x, y, each)) = next(iter(trend.logged_curves(short_log).items()))
    assert (name, list(x), list(y), each) == ("reward", [1, 3], [1, 3], 1)
    assert list(trend.logged_curves(short_log)) == ["reward"]
    values = [float(v) for v in np.random.default_rng(0).normal(size=1001)]
    x, y, each = trend.logged_curves(log_table((n, "kl", v) for n, v in enumerate(values)))["kl"]
    assert each == 6
    assert len(x) == 167
    for n in (0, 7, 166):
        some = values[6 * n : 6 * n + 6]
        assert y[n] == pytest.approx(sum(some) / len(some))
    assert x[166] == pytest.approx((996 + 1000) / 2)


def test_a_step_axis_holds_checkpoints_and_log() -> None:
    steps = trend.step_axis([10, 20], [1, 110])
    assert steps.dated
    assert steps.places == (10, 20)
    assert (steps.low, steps.high) == pytest.approx((1 - 0.04 * 109, 110 + 0.04 * 109))
    named = trend.step_axis(["a", 20], [1, 110])
    assert not named.dated
    assert named.places == (0, 1)
    alone = trend.step_axis([7], [])
    assert alone.low < 7 < alone.high


def test_regions_are_where_completions_have_that_class() -> None:
    grid = np.linspace(0, 1, 101)
    gini, effn = (v.ravel() for v in np.meshgrid(grid, grid))
    named = classify(gini, effn, np.full(len(gini), 50), np.zeros(len(gini), bool))
    seen = Counter()
    for g, e, name in zip(gini, effn, named, strict=True):
        inside = [
            region
            for region, (left, right, bottom, top) in regime_map.regions(DEFAULT).items()
            if left < g < right and bottom < e < top
        ]
        on_an_edge = any(
            abs(v - edge) < 1e-9
            for left, right, bottom, top in regime_map.regions(DEFAULT).values()
            for v, edges in ((g, (left, right)), (e, (bottom, top)))
            for edge in edges
        )
        if not on_an_edge:
            assert name == (inside[-1] if inside else "middle")
            seen[name] += 1
    assert len(seen) == 5


def test_the_regime_map_has_every_completion(scene: Scene, pictures: dict[str, Picture]) -> None:
    rows = scene.frames.trajectories
    for view, member, left in (("on-policy", "own_set", 0.5), ("fixed-set", "fixed_set", 4.9)):
        for signal in SIGNAL_NAMES:
            of = rows[
                (rows["checkpoint"] == "checkpoint-20") & rows[member] & (rows["signal"] == signal)
            ].dropna(subset=["gini_corrected"])
            (part,) = parts_of(pictures["regime-map"].svg, f"{view} {signal}")
            marks = [
                (float(e.attrib["x"]), float(e.attrib["y"]))
                for e in part.iter()
                if e.tag.endswith("}use")
            ]
            expected = [
                (72 * (left + 3.9 * g), 72 * (0.3 + 3.3 * (1 - e)))
                for g, e in zip(of["gini_corrected"], of["effn_corrected"], strict=True)
            ]
            assert np.array(marks) == pytest.approx(np.array(expected), abs=0.011)


def test_lorenz_curves_are_means_over_prompts(scene: Scene) -> None:
    for last, member in zip(scene.lasts, ("own_set", "fixed_set"), strict=True):
        for signal in ("surprisal", "residual"):
            found = lorenz(last.credit(signal))
            for place in (0, 7, 25, 50):
                share = {}
                for name, part in last_completions(scene.frames, member):
                    weights = sorted(part[f"w_{signal}"], reverse=True)
                    wanted, held = SHARES[place] * len(weights), 0.0
                    for weight in weights:
                        held += weight * min(1.0, max(0.0, wanted))
                        wanted -= 1
                    share[name] = held
                assert found[place] == pytest.approx(mean_over_prompts(scene.frames, share))


def test_the_table_beside_the_lorenz_curves_is_the_reports(
    whole: Found, pictures: dict[str, Picture]
) -> None:
    written = texts(pictures["lorenz"].svg)
    for view in ("on-policy", "fixed-set"):
        for m in measured(whole[0], name="token_share_90", checkpoint=20, view=view):
            assert m.value is not None
            assert m.low is not None
            assert m.high is not None
            assert f"{m.value:.0%} ({100 * m.low:.0f} to {100 * m.high:.0f})" in written


def test_a_scale_puts_each_value_into_the_cell_that_it_is_drawn_in() -> None:
    scale = LogScale(low=0.01, high=100.0, below=True, cells=9)  # two cells a decade
    values = np.array([0.0, 0.0099, 0.0101, 0.031, 0.032, 99.9, 100.0])
    assert scale.cell(values).tolist() == [0, 0, 1, 1, 2, 8, 8]
    assert scale.place(1.0) == pytest.approx(5.0)
    where, labels = scale.ticks()
    assert labels[0] == "less"
    assert len(where) == len(labels) <= 6
    found = log_scale(np.array([0.0, 1e-9, 2.0]), 5)
    assert found is not None
    assert found.below
    assert found.low == pytest.approx(2e-6)
    assert log_scale(np.zeros(3), 5) is None
    one = log_scale(np.array([3.0, 3.0]), 5)
    assert one is not None
    assert one.cell(np.array([3.0])).tolist() == [4]


def test_densities_count_every_token_once(scene: Scene) -> None:
    (last, _) = scene.lasts
    x, y = (last.tokens[n].to_numpy(float) for n in ("residual", "entropy_reduction"))
    across, upward = log_scale(x, 12), log_scale(y, 7)
    assert across is not None
    assert upward is not None
    counts = density(across, upward, x, y)
    assert (
        counts.sum()
        == len(last.tokens)
        == sum(len(p) for _, p in last_completions(scene.frames, "own_set"))
    )
    plain = Counter(
        (int(upward.cell(np.array([b]))[0]), int(across.cell(np.array([a]))[0]))
        for a, b in zip(x, y, strict=True)
    )
    for (row, column), n in plain.items():
        assert counts[row, column] == n
    assert counts[0].sum() >= (y == 0).sum() > 0


def test_density_cells_are_drawn_with_the_colour_of_their_count(
    scene: Scene, pictures: dict[str, Picture]
) -> None:
    """All cells that hold a token are covered once: their areas add up."""
    (last, _) = scene.lasts
    nats = [s for s in OTHERS if s != "relative_residual"]
    across = log_scale(last.tokens["residual"].to_numpy(float), CELLS[0])
    upward = log_scale(np.concatenate([last.tokens[s].to_numpy(float) for s in nats]), CELLS[1])
    assert across is not None
    assert upward is not None
    counts = density(
        across, upward, *(last.tokens[n].to_numpy(float) for n in ("residual", "divergence"))
    )
    area = 0.0
    for element in ElementTree.fromstring(pictures["residual"].svg).iter():
        if element.attrib.get("class", "").startswith("density divergence"):
            path = next(e.attrib["d"] for e in element.iter() if "d" in e.attrib)
            for box in path.split("z"):
                if at := corners(box):
                    xs, ys = zip(*at, strict=True)
                    area += (max(xs) - min(xs)) * (max(ys) - min(ys))
    cell = 72 * 72 * 2.2 * 1.4 / CELLS[0] / CELLS[1]
    assert area / cell == pytest.approx((counts > 0).sum(), rel=0.01)


def test_levels_are_few_and_begin_with_one() -> None:
    assert levels(1) == [1]
    assert levels(3) == [1, 2]
    for most in (1, 2, 7, 100, 100_000):
        found = levels(most)
        assert found[0] == 1
        assert found[-1] <= most
        assert len(found) <= 7
        assert found == sorted(set(found))


def test_the_matrix_has_each_view_on_its_side(
    whole: Found, scene: Scene, pictures: dict[str, Picture]
) -> None:
    cells = matrix(scene, scene.lasts)
    assert len(cells) == 42
    written = texts(pictures["agreement"].svg)
    for (row, column), m in cells.items():
        pair = {SIGNAL_NAMES[row], SIGNAL_NAMES[column]}
        view = "on-policy" if row > column else "fixed-set"
        (expected,) = [
            one
            for one in measured(whole[0], name="rank_agreement", checkpoint=20, view=view)
            if {one.signal, one.against} == pair
        ]
        assert m == expected
        assert expected.value is not None
        told = f"{abs(expected.value):.2f}".replace("0.", ".")
        assert written.count(told) + written.count(f"-{told}") >= 1


def test_rank_agreement_and_its_null_stand_above_each_panel(
    whole: Found, pictures: dict[str, Picture]
) -> None:
    written = texts(pictures["residual"].svg)
    (m,) = measured(
        whole[0],
        name="rank_agreement",
        checkpoint=20,
        view="on-policy",
        signal="surprisal",
        against="residual",
    )
    (null,) = measured(
        whole[0],
        name="rank_agreement_null",
        checkpoint=20,
        view="on-policy",
        signal="surprisal",
        against="residual",
    )

    def told(value: float | None) -> str:
        assert value is not None
        return re.sub(r"^(-?)0", r"\1", f"{value:.2f}").replace("-.00", ".00")

    rho = "\N{GREEK SMALL LETTER RHO}"
    limits = f"({told(m.low)} to {told(m.high)})"
    assert f"{rho} {told(m.value)} {limits}, null {told(null.value)}" in written


def test_classes_are_the_reports_beside_their_share_of_tokens(
    whole: Found, scene: Scene, pictures: dict[str, Picture]
) -> None:
    (last, _) = scene.lasts
    shares = token_shares(last, "surprisal")
    for name, share in shares.items():
        each = {
            rollout: (part["token_class"] == name).mean()
            for rollout, part in last_completions(whole[1], "own_set")
        }
        assert share == pytest.approx(mean_over_prompts(whole[1], each))
    assert sum(shares.values()) == pytest.approx(1)
    written = texts(pictures["classes"].svg)
    for m in measured(whole[0], name="class_share", checkpoint=20):
        (lift,) = measured(
            whole[0],
            name="class_lift",
            checkpoint=20,
            view=m.view,
            signal=m.signal,
            against=m.against,
        )
        assert m.value is not None
        assert lift.value is not None
        assert f"{m.value:.0%} \N{MULTIPLICATION SIGN}{short(lift.value)}" in written
        (mark,) = parts_of(pictures["classes"].svg, f"{m.view} {m.signal} {m.against}")
        assert mark is not None


def test_the_class_unknown_is_explained_where_a_token_is_of_it(whole: Found) -> None:
    report, frames = whole
    told = {}
    for name in ("unknown", "word"):
        kinds = frames.tokens["token_class"].replace("whitespace", name)
        scene = Scene(
            report=report,
            frames=dataclasses.replace(frames, tokens=frames.tokens.assign(token_class=kinds)),
        )
        with style():
            (picture,) = draw_classes(scene)
        told[name] = picture.caption.count("The class unknown holds tokens that cannot be read")
    assert told == {"unknown": 1, "word": 0}


@pytest.mark.parametrize(
    ("lift", "told"),
    [(0, ".00"), (0.044, ".04"), (0.949, ".95"), (0.951, "1.0"), (9.94, "9.9"), (12.3, "12")],
)
def test_a_lift_has_two_digits(lift: float, told: str) -> None:
    assert short(lift) == told


def test_positions_are_the_reports(
    whole: Found, scene: Scene, pictures: dict[str, Picture]
) -> None:
    for last in scene.lasts:
        for signal in SIGNAL_NAMES:
            value, low, high = lifts(scene, last, signal)
            for place, name in enumerate(POSITIONS):
                found = measured(
                    whole[0],
                    name="position_lift",
                    checkpoint=20,
                    view=last.view,
                    signal=signal,
                    against=name,
                )
                expected = found[0].value if found else None
                assert (None if np.isnan(value[place]) else value[place]) == expected
                if found and found[0].low is not None:
                    assert (low[place], high[place]) == (found[0].low, found[0].high)
    # On one scale of square roots for all: heights over the foot are in their ratio.
    svg = pictures["positions"].svg
    ratios = []
    for row, signal in ((0, "surprisal"), (1, "entropy")):
        foot = 72 * (0.32 + 1.95 * row + 1.25)
        value, _, _ = lifts(scene, scene.lasts[0], signal)
        for (_, y), v in zip(
            line(svg, f"on-policy {signal}"), value[~np.isnan(value)], strict=True
        ):
            if v > 0.1:
                ratios.append((foot - y) / np.sqrt(v))
    assert np.ptp(ratios) < 0.05


def test_types_hold_what_plain_loops_say(
    whole: Found, scene: Scene, pictures: dict[str, Picture]
) -> None:
    frames = whole[1]
    (last, _) = scene.lasts
    completions = dict(last_completions(frames, "own_set"))

    def share(signal: str, token: int) -> float:
        return mean_over_prompts(
            frames,
            {n: p.loc[p["token_id"] == token, f"w_{signal}"].sum() for n, p in completions.items()},
        )

    mean = {t: np.mean([share(s, t) for s in SIGNAL_NAMES]) for t in range(len(PIECES))}
    types = most_credited(last)
    assert types == [(t, PIECES[t]) for t in sorted(mean, key=lambda t: -mean[t])]
    ids = [token for token, _ in types]
    written = texts(pictures["types"].svg)
    for signal in ("surprisal", "entropy_reduction"):
        for token, found in zip(ids, type_credit(last, signal, ids), strict=True):
            assert found is not None
            assert found.share.value == pytest.approx(share(signal, token), abs=1e-12)
            having = {n: p for n, p in completions.items() if (p["token_id"] == token).any()}
            lift = mean_over_prompts(
                frames,
                {
                    n: p.loc[p["token_id"] == token, f"w_{signal}"].sum()
                    / (p["token_id"] == token).mean()
                    for n, p in having.items()
                },
            )
            assert found.lift.value == pytest.approx(lift)
            told = f"{found.share.value:.0%} \N{MULTIPLICATION SIGN}{short(lift)}"
            limits = limit_words(found.share.low, found.share.high)
            assert (told, limits) in pairwise(written)
    some = type_credit(last, "surprisal", ids[::-2])
    assert some[0] == type_credit(last, "surprisal", ids)[-1]


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(0.1, 0.25, "(10 to 25)"), (-0.04, 0.03, "(0 to 3)"), (0.9, 1.2, "(90 to 100)")],
)
def test_limits_of_a_share_are_cut_at_none_and_all(low: float, high: float, told: str) -> None:
    assert limit_words(low, high) == told


def test_layers_are_drawn_where_the_table_has_them(
    whole: Found, pictures: dict[str, Picture]
) -> None:
    svg = pictures["layers"].svg
    table = whole[1].layers
    assert table["residual_high"].max() == 11
    top = 12  # the round number above it
    for place, name in enumerate(("checkpoint-10", "checkpoint-20")):
        rows = table[table["checkpoint"] == name]
        heights = [72 * (0.3 + 1.25 * (1 - v / top)) for v in rows["residual_mean"]]
        assert [y for _, y in line(svg, f"residual_mean {place}")] == pytest.approx(
            heights, abs=0.02
        )
    assert pictures["layers"].view == "on-policy"
    assert "8 prompts with a completion each and 80 tokens" in pictures["layers"].caption
    assert "9 at the output" not in pictures["layers"].alt
    assert "10 at the output, largest 10 at layer 4" in pictures["layers"].alt


def test_few_checkpoints_and_layers_are_named() -> None:
    assert chosen(["a", "b"]) == ["a", "b"]
    assert chosen([str(n) for n in range(10)]) == ["0", "2", "4", "7", "9"]
    for high in (2, 5, 30, 80, 126):
        places, labels = layer_ticks(-1, high)
        assert len(places) == len(labels) <= 17
        assert places == sorted(set(places))
        assert (labels[0], labels[-1]) == ("in", "out")


def test_groups_are_counted_as_plain_loops_count_them(
    whole: Found, scene: Scene, pictures: dict[str, Picture]
) -> None:
    report, frames = whole
    rows = frames.trajectories
    highest, lowest = frames.rollouts["reward"].max(), frames.rollouts["reward"].min()
    for view, member in (("on-policy", "own_set"), ("fixed-set", "fixed_set")):
        inside = set(rows[rows[member] & (rows["checkpoint"] == "checkpoint-20")]["rollout_id"])
        kinds = Counter()
        for _, group in frames.rollouts[frames.rollouts["rollout_id"].isin(inside)].groupby(
            "group_id"
        ):
            found = set(group["reward"])
            kind = "spread" if len(found) > 1 else "best" if highest in found else "other"
            kinds["worst" if found == {lowest} else kind] += 1
        total = sum(kinds.values())
        parts = group_parts(scene, view, 20)
        assert parts == pytest.approx(
            [kinds[k] / total for k in ("spread", "best", "worst", "other")]
        )
        assert 0 < kinds["spread"] < total
        (m,) = measured(report, name="groups_without_spread", checkpoint=20, view=view)
        assert m.value == pytest.approx(1 - kinds["spread"] / total)
        assert m.low is not None
        assert m.high is not None
        told = f"{m.value:.0%} ({100 * m.low:.0f} to {100 * m.high:.0f})"
        assert told in texts(pictures["rewards"].svg)


def test_reward_gaps_stand_where_the_report_has_them(
    whole: Found, pictures: dict[str, Picture]
) -> None:
    found = [m for m in measured(whole[0], name="reward_gap", checkpoint=20) if m.value is not None]
    assert found
    places = []
    for m in found:
        (part,) = parts_of(pictures["rewards"].svg, f"gap {m.view} {m.signal}")
        (mark,) = [e for e in part.iter() if e.tag.endswith("}use")]
        places.append(float(mark.attrib["x"]))
    slope, middle = np.polyfit([m.value for m in found], places, 1)
    assert middle == pytest.approx(72 * (5.75 + 1.75 / 2), abs=0.05)
    assert slope > 0
    fitted = [middle + slope * (m.value or 0) for m in found]
    assert places == pytest.approx(fitted, abs=0.05)


def test_groups_of_one_reward_for_all_are_best_and_not_worst_too(whole: Found) -> None:
    report, frames = whole
    same = [
        m.model_copy(update={"value": 1.0}) if m.name.startswith("groups_") else m
        for m in report.measurements
    ]
    flat = Scene(report=report.model_copy(update={"measurements": same}), frames=frames)
    assert group_parts(flat, "fixed-set", 20) == (0.0, 1.0, 0.0, 0.0)


def test_another_sharpening_is_the_one_that_is_drawn() -> None:
    report, frames = result([10], sharpening=3.0, prompts=2, each=2, own=False)
    assert {m.sharpening for m in report.measurements} == {None, 1.0, 3.0}
    scene = Scene(report=report, frames=frames)
    (m,) = scene.over_checkpoints("gini_corrected", "fixed-set", "surprisal")
    assert m.sharpening == 3.0
    assert all(
        "sharpening 3" in p.caption
        for p in draw_pictures(report, frames)
        if p.id in ("lorenz", "types")
    )
    assert set(scene.lasts[0].rows["sharpening"]) == {3.0}


def test_ticks_keep_their_distance_and_lines_their_length() -> None:
    assert spaced([0, 1, 2, 10], 2) == [0, 2, 3]
    assert spaced([5], 2) == [0]
    assert covering(-0.2, 0.2, 4)[1] == ["-0.2", "-0.1", "0", "0.1", "0.2"]
    assert positions.square_ticks(1.0) == [0, 1, 4]
    assert positions.square_ticks(36.0) == [0, 1, 9, 16, 36]
    assert positions.square_ticks(36.1) == [0, 1, 16, 25, 49]
    assert padded(3.0, 3.0)[0] < 3 < padded(3.0, 3.0)[1]
    assert padded(0.0, 0.0) == (-1, 1)
    assert wrapped("not measured: one two three", 13).split("\n") == [
        "not measured:",
        "one two three",
    ]


@pytest.mark.parametrize("most", [2, 3, 4])
@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.2, 0.83), (1e-6, 9e-6), (3, 3), (0, 0), (-5, -2.2), (0, 10.5), (-0.27, 0.27)],
)
def test_an_axis_has_a_tick_at_or_beyond_each_end(low: float, high: float, most: int) -> None:
    places, labels = covering(low, high, most)
    assert len(places) == len(labels) <= most + 2
    assert places == sorted(places)
    assert places[0] <= low <= high <= places[-1]
    if (low, high) == (0.2, 0.83):
        assert (places[0], places[-1]) == pytest.approx({2: (0, 1.2), 3: (0, 1), 4: (0.2, 1)}[most])
    assert len(set(labels)) == len(labels)


def test_what_the_run_logged_stands_below_its_highest_tick(
    whole: Found, pictures: dict[str, Picture]
) -> None:
    """The log of `drawn.result` ends at 1, 2 and 30, and the lines begin near 0."""
    root = ElementTree.fromstring(pictures["trend-fixed-set"].svg)
    written = [
        (e.text, float(e.attrib["y"]))
        for e in root.iter("{http://www.w3.org/2000/svg}text")
        if "end" in e.attrib.get("style", "")
    ]
    for name, highest in (("reward", "1"), ("entropy", "2"), ("length", "30")):
        drawn = [y for _, y in line(pictures["trend-fixed-set"].svg, f"log {name}")]
        heights = [y for text, y in written if text == highest and abs(y - min(drawn)) < 5]
        assert heights, name


def test_credit_is_of_the_completions_that_have_it(whole: Found) -> None:
    report, frames = whole
    some = frames.tokens.copy()
    gone = some["rollout_id"] == some["rollout_id"].iloc[-1]
    some.loc[gone, "w_residual"] = np.nan
    (last, _) = Scene(report=report, frames=dataclasses.replace(frames, tokens=some)).lasts
    credit, whole_credit = last.credit("residual"), last.credit("entropy")
    assert len(credit.layout.prompt) == len(whole_credit.layout.prompt) - 1
    assert credit.part.sum() == pytest.approx(1)
    assert len(credit.weights) == credit.known.sum() < len(last.tokens)
