"""The benchmarks of the judge: that what they plant is so, and that they tell right from wrong."""

import dataclasses
import json
import math

import numpy as np
import pytest

from arca_diag import measurements
from arca_diag.diagnostics.agnosticism import explained
from arca_diag.diagnostics.uncertainty import cluster_mean
from arca_diag.thresholds import DEFAULT
from tests.benchmarks import (
    comparisons,
    coverage,
    detection,
    drawing,
    planted,
    plants,
    replay,
    tally,
    workload,
)
from tests.benchmarks.planted import Recipe
from tests.benchmarks.tally import Case
from tests.benchmarks.truth import BORDERLINE, CUT_OF, truths

ON_POLICY = "on-policy"


OF_VALUES = [f for f in comparisons.figures() if f.estimate is not comparisons.of_tokens]
OF_TOKENS = [f for f in comparisons.figures() if f.estimate is comparisons.of_tokens]


class TestCoverage:
    @pytest.mark.parametrize("figure", OF_VALUES, ids=lambda f: f.name)
    def test_the_truth_lies_on_the_cut_under_every_law(self, figure):
        for law in figure.laws:
            values = (
                law.draw(np.random.default_rng(1), 20_000, figure.each).astype(float).mean(axis=1)
            )
            error = values.std() / math.sqrt(len(values))
            assert abs(values.mean() - DEFAULT[figure.cut]) < 4 * error

    @pytest.mark.parametrize("law", OF_TOKENS[0].laws, ids=lambda law: law.shape)
    def test_what_a_label_explains_lies_on_the_cut_in_a_large_population(self, law):
        tokens = law.draw(np.random.default_rng(1), 2_000, 4)
        values = explained(tokens.weights, tokens.labels, tokens.layout)
        found = cluster_mean(values, tokens.layout.prompt)
        error = (found.high - found.low) / 4
        assert abs(found.value - DEFAULT["agnostic-share"]) < 4 * error

    def test_an_interval_that_is_too_narrow_is_seen(self, monkeypatch):
        right = comparisons.figures()[:1]

        def narrow(values):
            found = right[0].estimate(values)
            return dataclasses.replace(
                found, low=(found.low + found.value) / 2, high=(found.high + found.value) / 2
            )

        def called(figure):
            monkeypatch.setattr(coverage, "figures", lambda: [figure])
            return [r.called for r in coverage.rows(300, 0, (16,)) if r.barred]

        assert max(called(right[0])) < 0.06
        wrong = dataclasses.replace(right[0], estimate=narrow, laws=right[0].laws[:5])
        assert min(called(wrong)) > 0.1

    def test_a_call_is_what_the_package_calls(self, monkeypatch):
        """At a smaller p-value there are fewer, and below its prompts a line is not barred."""
        (figure,) = OF_TOKENS
        law = next(law for law in figure.laws if law.shape == "by 12 types, sd 0.42")
        figure = dataclasses.replace(figure, laws=[law])
        monkeypatch.setattr(coverage, "figures", lambda: [figure])
        found = list(coverage.rows(200, 0, (8,)))
        assert [(r.prompts, r.barred) for r in found] == [(8, False), (16, True)]
        assert found[0].called > coverage.BAR > found[1].called
        assert found[1].called <= found[1].past

    @pytest.mark.parametrize(
        ("figures", "remark"),
        [
            ({}, ""),
            ({"called": 0.05}, "BAR MISSED"),
            ({"called": 0.05, "unguarded": "why"}, "why"),
            ({"called": 0.03, "unguarded": "why"}, ""),
            ({"called": 0.05, "judged": False}, "not called at that size"),
            ({"coverage": 0.92, "past": 0.05}, "miss"),
            ({"coverage": 0.92, "past": 0.01}, "miss, where nothing is called"),
            ({"coverage": 0.98}, "conservative"),
        ],
    )
    def test_a_line_says_what_is_wrong_with_it(self, figures, remark):
        well = {
            "figure": "a",
            "cut": 0.5,
            "side": "above",
            "shape": "b",
            "correlation": 0.0,
            "prompts": 8,
            "replications": 100,
            "called": 0.02,
            "coverage": 0.95,
            "past": 0.02,
            "judged": True,
            "unguarded": None,
        }
        assert coverage.Row(**(well | figures)).remark == remark

    def test_the_command_writes_what_it_prints(self, tmp_path, capsys):
        out = tmp_path / "coverage.json"
        status = coverage.main(["--replications", "4", "--out", str(out)])
        told, printed = json.loads(out.read_text()), capsys.readouterr().out
        assert status == (1 if told["missed"] else 0)
        assert {row["prompts"] for row in told["rows"]} == set(coverage.SIZES)
        assert all(row["figure"] in printed for row in told["rows"])
        again = tmp_path / "again.json"
        coverage.main(["--replications", "4", "--out", str(again)])
        assert again.read_bytes() == out.read_bytes()


def root(recipe: Recipe, signal: str, power: float = 1.0) -> str | None:
    truth = truths(recipe.build(0), (signal,))[ON_POLICY, signal, power]
    return "borderline" if truth.borderline else truth.root


class TestPlantedTruth:
    """What is true follows from the numbers of a population, and from nothing else."""

    @pytest.fixture(autouse=True)
    def _smaller(self, monkeypatch):
        monkeypatch.setattr(planted, "PROMPTS", 24)

    @pytest.mark.parametrize(
        ("dose", "true"), [(0.2, None), (0.5, "borderline"), (0.85, "credit-floor")]
    )
    def test_it_follows_the_dose_and_not_the_name(self, dose, true):
        for name in ("healthy", "credit-floor"):
            floored = (plants.floored("kl_exact", dose),)
            assert root(Recipe(name=name, plants=floored), "kl_exact") == true

    @pytest.mark.parametrize(
        ("recipe", "signal", "true"),
        [
            (Recipe(name="a"), "residual", None),
            (Recipe(name="a", plants=(plants.inert(),)), "residual", "adapter-inert"),
            (Recipe(name="a", plants=(plants.inert(),)), "surprisal", None),
            (Recipe(name="a", rounding={"entropy": 0.4}), "entropy", "numeric-noise"),
            (Recipe(name="a", lengths=plants.short(0.95)), "entropy", "completions-short"),
            (
                Recipe(name="a", plants=(plants.inherited("surprisal", 0.1),)),
                "surprisal",
                "credit-inherited",
            ),
            (Recipe(name="a"), "entropy_reduction", "credit-structural"),
            (Recipe(name="a", plants=(plants.climbing(1.0),)), "entropy_reduction", None),
            (
                Recipe(name="a", plants=(plants.by_type("residual", 0.2),)),
                "residual",
                "credit-task-agnostic",
            ),
            (
                Recipe(name="a", plants=(plants.by_place("residual", 0.2),)),
                "residual",
                "credit-task-agnostic",
            ),
        ],
    )
    def test_each_plant_makes_its_cause_true(self, recipe, signal, true):
        assert root(recipe, signal) == true

    def test_a_power_that_makes_the_regime_is_true_at_that_power_only(self):
        found = truths(Recipe(name="a", sharpening=2.0).build(0), ("kl_exact",))
        assert found[ON_POLICY, "kl_exact", 1.0].root is None
        assert found[ON_POLICY, "kl_exact", 2.0].root == "sharpening-only"

    def test_one_hot_is_sparse_and_flat_is_uniform(self):
        for plant, regime in ((plants.one_hot, "sparse"), (plants.flat, "uniform")):
            pool = Recipe(name="a", plants=(plant("residual"),)).build(0)
            assert truths(pool, ("residual",))[ON_POLICY, "residual", 1.0].regime == regime

    def test_every_cut_lies_in_its_zone_of_doubt(self):
        for cut, (low, high) in BORDERLINE.items():
            assert low < DEFAULT[cut] < high
        assert set(BORDERLINE) == {cut for cut in CUT_OF.values() if cut}

    def test_names_of_populations_differ(self):
        everything = (*detection.REPLAYED, *detection.SYNTHETIC, *detection.CURVES)
        assert len(detection.ALL) == len(everything)


@pytest.fixture(scope="module")
def source() -> drawing.Source:
    return drawing.Source(Recipe(name="a", prompts=120).build(0))


class TestDrawnRuns:
    def test_a_prompt_that_is_drawn_twice_is_two_prompts(self, source):
        run = source.draw(np.random.default_rng(0))
        assert run.rollouts["cluster"].nunique() == 120 > planted.PROMPTS
        assert run.rollouts["rollout_id"].is_unique
        assert len(run.rollouts) == 120 * planted.EACH
        assert set(run.noise["rollout_id"]) <= set(run.rollouts["rollout_id"])

    def test_the_same_seed_draws_the_same_run(self, source):
        runs = [source.draw(np.random.default_rng(seed)).tokens for seed in (3, 3, 4)]
        assert runs[0].equals(runs[1])
        assert not runs[0].equals(runs[2])

    def test_figures_are_those_of_the_package(self):
        assert set(drawing.MEASURES) <= set(measurements.MEASURES)


@pytest.mark.slow
class TestDetection:
    def test_what_is_planted_is_found_and_written(self, capsys):
        found = [detection.look_at(name, 2, 0) for name in ("floor", "few groups")]
        told = detection.tables(found)
        assert told["causes"]["credit-floor"]["recall"]["share"] == 1
        assert told["few_prompts"]["inconclusive"]["share"] == 1
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert "credit-floor" in detection.show(told)


def case(**changes) -> Case:
    whole = {
        "pool": "a",
        "curve": None,
        "prompts": 32,
        "draw": 1,
        "place": (ON_POLICY, "residual", 1.0),
        "true_root": "credit-floor",
        "holds": dict.fromkeys(CUT_OF, False) | {"credit-floor": True},
        "true_figures": {"credit-floor": 0.8},
        "true_regime": "uniform",
        "said_causes": ("credit-floor",),
        "said_regime": "uniform",
        "figures": {"credit-floor": (0.8, 0.7, 0.9, 32)},
    }
    return Case(**(whole | changes))


class TestTally:
    def test_only_the_first_cause_counts_as_the_root(self):
        second = case(said_causes=("numeric-noise", "credit-floor"))
        found = tally.by_cause([case(), second])
        assert found["credit-floor"]["recall"]["share"] == 0.5
        assert found["numeric-noise"]["precision"]["share"] == 0
        assert tally.not_told_apart([case(), second])

    def test_borderline_fitted_and_small_cases_do_not_count(self):
        apart = [case(true_root=None), case(draw=2), case(prompts=8), case(curve="credit-floor")]
        assert tally.by_cause(apart)["credit-floor"]["recall"]["n"] == 0
        assert tally.confusion(apart)["borderline"] == {"credit-floor": 1}

    def test_limits_are_those_of_clopper_and_pearson(self):
        # Of 0 in n the upper limit is 1 - .025^(1/n).
        assert tally.limits(0, 40) == (0.0, pytest.approx(1 - 0.025 ** (1 / 40)))

    def test_a_cut_is_fitted_to_even_draws_and_held_against_odd_ones(self):
        def at(value: float, holds: bool, draw: int) -> Case:
            return case(
                holds={**dict.fromkeys(CUT_OF, False), "credit-floor": holds},
                figures={"credit-floor": (value, value - 0.01, value + 0.01, 32)},
                draw=draw,
            )

        even = [at(0.6, True, 0), at(0.55, False, 0)]
        odd = [at(0.6, True, 1), at(0.55, False, 1), at(0.5, True, 1), at(0.7, False, 1)]
        found = tally.fits([*even, *odd])["credit-floor"]
        assert 0.55 <= found["fitted"] < 0.6
        assert found["at_shipped"] == {"recall": 0.5, "false": 1.0}
        assert found["at_fitted"] == {"recall": 0.5, "false": 0.5}

    @pytest.mark.parametrize(
        ("called", "monotone", "crosses"),
        [
            ((0.0, 0.0, 1.0, 1.0), True, True),
            ((0.0, 1.0, 1.0, 1.0), True, False),  # called short of the cut
            ((0.0, 0.0, 0.0, 0.2), True, False),  # never called
            ((0.0, 0.8, 0.2, 1.0), False, False),
        ],
    )
    def test_a_dose_curve_has_to_rise_and_cross_past_the_cut(self, called, monotone, crosses):
        cases = [
            case(
                curve="credit-floor",
                true_figures={"credit-floor": dose},
                said_causes=("credit-floor",) if place < 10 * share else (),
            )
            for dose, share in zip((0.3, 0.45, 0.55, 0.8), called, strict=True)
            for place in range(10)
        ]
        found = tally.curves(cases)["credit-floor"]
        assert (found["monotone"], found["crosses_at_cut"]) == (monotone, crosses)


class TestReplay:
    def test_the_workload_is_the_one_that_is_told(self):
        rollouts = workload.group_rollouts(100, 3)
        assert len(rollouts) == 3 * workload.EACH
        assert {len(r.prompt_ids) for r in rollouts} == {45}
        assert np.mean([len(r.completion_ids) for r in rollouts]) == 17
        assert workload.all_tokens(rollouts) == 24 * (45 + 17)
        assert workload.floor_tokens(rollouts) == 3 * 45 + 24 * 17

    def test_repeats_take_turns(self):
        turns = []
        took = replay.seconds(2, a=lambda: turns.append("a"), b=lambda: turns.append("b"))
        assert turns == ["a", "b", "a", "b"]
        assert took.keys() == {"a", "b"}

    def test_a_bar_is_missed_on_its_own_side(self):
        assert replay.most("x", 0.7, 0.7).met
        assert not replay.most("x", 0.71, 0.7).met
        assert replay.least("x", 3.5, 3.5).met
        assert not replay.least("x", 3.4, 3.5).met

    def test_a_bar_of_a_numpy_figure_is_written_as_any_other(self):
        for row in (replay.most("x", np.float64(0.7), 0.7), replay.least("x", np.float64(1), 2)):
            assert json.loads(json.dumps(dataclasses.asdict(row)))["met"] in (True, False)

    def test_it_runs_on_a_tiny_model_and_writes_its_figures(self, tmp_path, capsys):
        only = "passes,bfloat16,second,sample,diagnostics"
        out = tmp_path / "figures.json"
        assert replay.main(["--quick", "--only", only, "--out", str(out)]) == 0
        rows = json.loads(out.read_text())["rows"]
        of_loops = [row["name"] for row in rows if "loop" in row["name"]]
        assert of_loops == [
            "loop / replay, float32",
            "the same loop, a completion a pass / replay, float32",
            "loop / replay, bfloat16",
        ]
        assert len(rows) == 9
        assert all(row["value"] > 0 for row in rows)
        assert "prompts of 45 tokens, completions of 17 on average" in capsys.readouterr().out
