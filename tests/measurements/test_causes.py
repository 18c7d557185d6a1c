"""Each figure against plain loops over the completions' own counted tokens."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, stats

from arca_diag.diagnostics.structure import gini_permuted
from arca_diag.measurements.causes import measure_causes
from arca_diag.measurements.evidence import Evidence
from arca_diag.replay.scores import Replayed
from arca_diag.results import Measurement
from arca_diag.tables import Tables
from arca_diag.thresholds import DEFAULT, Cuts
from tests import reference
from tests.test_tables import (
    OF_REFERENCE,
    SEVEN,
    STEPS,
    VIEWS,
    expected_signals,
    judged,
    rollout,
    scores,
    world,
)

EPSILON = 1e-6
ONE: dict[str, int | None] = {"checkpoint-2": 2}


def measured(
    frames: Tables,
    steps: dict[str, int | None] = STEPS,
    *,
    sharpening: float = 1.0,
    cuts: Cuts = DEFAULT,
) -> dict[tuple, Measurement]:
    found = measure_causes(
        Evidence(
            tokens=frames.tokens,
            trajectories=frames.trajectories,
            rollouts=frames.rollouts,
            steps=steps,
            sharpening=sharpening,
            epsilon=EPSILON,
            cuts=cuts,
        )
    )
    keyed = {(m.checkpoint, m.view, m.signal, m.sharpening, m.name): m for m in found}
    assert len(keyed) == len(found)
    assert all(m.against is None for m in found)
    return keyed


def of_completion(found: Replayed, name: str, power: float) -> dict[str, float]:
    """The figures of one completion, by the reference."""
    rule = {"epsilon": EPSILON, "sharpening": power}
    signals = expected_signals(found)
    closed = found.rollout.finish_reason != "length"
    weights = reference.credit_weights(signals[name], **rule)
    inner = reference.credit_weights(reference.without_ends(signals[name], closed=closed), **rule)
    figures = {
        "gini_inner": reference.gini_corrected(inner),
        "effn_inner": reference.effn_corrected(inner),
    }
    if name in OF_REFERENCE:
        others = reference.credit_weights(signals[f"ref_{name}"], **rule)
        figures["inherited_tv"] = reference.total_variation(weights, others)
    if name == "entropy_reduction":
        null = gini_permuted(found.entropy[None], np.array([found.rollout.mask]), **rule).item()
        figures["structural_excess"] = reference.gini_corrected(weights) - null
    return figures


def student(means: list[float]) -> tuple[float, float]:
    low, high = stats.t.interval(0.95, len(means) - 1, np.mean(means), stats.sem(means))
    return float(low), float(high)


def skewed(means: list[float]) -> tuple[float, float]:
    """Student's limits, or where Hall's statistic reaches Student's quantile if that is farther."""
    n, mean, s = len(means), float(np.mean(means)), float(np.std(means, ddof=1))
    low, high = student(means)
    if n < 3 or s == 0:
        return low, high
    g, t = stats.skew(means, bias=False), stats.t.ppf(0.975, n - 1)

    def hall(mu: float) -> float:
        u = (mean - mu) / s
        return math.sqrt(n) * (u + g * u**2 / 3 + g**2 * u**3 / 27 + g / (6 * n))

    far = 1e3 * s
    below = optimize.brentq(lambda mu: hall(mu) - t, mean - far, mean + far, xtol=1e-13)
    above = optimize.brentq(lambda mu: hall(mu) + t, mean - far, mean + far, xtol=1e-13)
    return min(low, below), max(high, above)


def cluster_means(values: dict[str, list[float]]) -> list[float]:
    defined = [[v for v in found if not math.isnan(v)] for found in values.values()]
    return [sum(found) / len(found) for found in defined if found]


@pytest.mark.parametrize("sharpening", [1.0, 2.0])
def test_each_figure_is_the_mean_over_prompts_of_what_plain_loops_give(sharpening: float) -> None:
    here = world()
    found = measured(here.judged(epsilon=EPSILON, sharpening=sharpening), sharpening=sharpening)
    checked = set()
    for (view, member), name in itertools.product(VIEWS, SEVEN):
        for checkpoint, step in STEPS.items():
            sets = here.selection.own[checkpoint] if member == "own_set" else here.selection.fixed
            items = [here.found(checkpoint, r.id) for g in sets for r in g.rollouts]
            wanted: dict[tuple, dict[str, list[float]]] = {}
            for item in items:
                raw = expected_signals(item)[name]
                figures = {(None, "floor_share"): reference.floor_share(raw, epsilon=EPSILON)}
                for power in {1.0, sharpening}:
                    for key, value in of_completion(item, name, power).items():
                        figures[power, key] = value
                for key, value in figures.items():
                    by_cluster = wanted.setdefault(key, {})
                    by_cluster.setdefault(item.rollout.cluster, []).append(value)
            for (power, key), values in wanted.items():
                one = found[step, view, name, power, key]
                means = cluster_means(values)
                assert one.value == pytest.approx(np.mean(means), rel=1e-9, abs=1e-12)
                assert one.n_clusters == len(means)
                assert one.n_completions == sum(
                    not math.isnan(v) for vs in values.values() for v in vs
                )
                if len(means) > 1:
                    limits = skewed(means) if key == "inherited_tv" else student(means)
                    assert (one.low, one.high) == pytest.approx(limits, rel=1e-6, abs=1e-9)
                checked.add((step, view, name, power, key))
    of_all = {key for key in found if key[-1] != "short_share"}
    assert checked == of_all


def test_only_signals_that_have_a_figure_are_given_it() -> None:
    found = measured(world().judged())
    for name, signals in (
        ("floor_share", set(SEVEN)),
        ("inherited_tv", set(OF_REFERENCE)),
        ("structural_excess", {"entropy_reduction"}),
        ("gini_inner", set(SEVEN)),
        ("effn_inner", set(SEVEN)),
        ("short_share", {None}),
    ):
        assert {key[2] for key in found if key[-1] == name} == signals
    assert {key[3] for key in found if key[-1] in ("floor_share", "short_share")} == {None}


def lengths(*counts: int) -> Tables:
    """A prompt a completion of so many counted tokens."""
    items = [
        rollout(f"r{n}", group=f"g{n}", step=2, length=count, prompt_ids=(n,))
        for n, count in enumerate(counts)
    ]
    return judged(items, [scores(item, "checkpoint-2", 1) for item in items], ONE)


class TestShortShare:
    def share(self, frames: Tables, cuts: Cuts = DEFAULT) -> Measurement:
        return measured(frames, ONE, cuts=cuts)[2, "on-policy", None, None, "short_share"]

    def test_it_counts_what_is_too_short_for_a_class_and_for_any_figure(self) -> None:
        one = self.share(lengths(1, 2, 4, 5, 6, 7, 8, 9))
        assert one.value == 3 / 8
        shares = [1.0] * 3 + [0.0] * 5
        assert (one.low, one.high) == pytest.approx(
            (max(0, student(shares)[0]), student(shares)[1])
        )
        assert (one.n_clusters, one.n_completions, one.n_tokens) == (8, 8, 42)

    def test_prompts_that_agree_have_the_exact_interval_and_not_none(self) -> None:
        one = self.share(lengths(*[9] * 10))
        exact = stats.binomtest(0, 10).proportion_ci(0.95, "exact")
        assert (one.value, one.low) == (0.0, 0.0)
        assert one.high == pytest.approx(exact.high)

    def test_the_cut_is_that_in_force(self) -> None:
        frames = lengths(1, 4, 6, 9)
        assert self.share(frames, DEFAULT.replaced({"tokens-short": 7})).value == 0.75
        assert self.share(frames, DEFAULT.replaced({"tokens-short": 0})).value == 0.25

    def test_tokens_that_do_not_count_make_nothing_longer(self) -> None:
        mask = (True, True, False, False, False, True, True)
        items = [rollout("r", group="g", step=2, length=7, mask=mask)]
        assert self.share(judged(items, [scores(items[0], "checkpoint-2", 1)], ONE)).value == 1.0

    def test_it_is_over_prompts_not_completions(self) -> None:
        items = [
            rollout(f"r{n}", group=f"g{n}", step=2, length=count, prompt_ids=(prompt,))
            for n, (prompt, count) in enumerate([(1, 2), (2, 9), (2, 9), (2, 9)])
        ]
        frames = judged(items, [scores(item, "checkpoint-2", 1) for item in items], ONE)
        assert self.share(frames).value == 0.5


class TestReasons:
    def reasons(self, frames: Tables, view: str = "on-policy") -> dict[tuple, str | None]:
        found = measured(frames, ONE)
        return {key[2::2]: one.reason for key, one in found.items() if key[1] == view}

    def test_no_completion_in_a_view(self) -> None:
        assert set(self.reasons(lengths(9), "fixed-set").values()) == {
            "no completion in the fixed set"
        }

    def test_completions_that_count_one_token(self) -> None:
        found = self.reasons(lengths(1))
        assert found.pop((None, "short_share")) is None
        assert set(found.values()) == {"every completion counts fewer than two tokens"}

    def test_a_signal_that_is_zero(self) -> None:
        item = rollout("r", group="g", step=2, length=9)
        still = scores(item, "checkpoint-2", 1, still=True)
        found = self.reasons(judged([item], [still], ONE))
        for signal in ("divergence", "kl_exact", "residual", "relative_residual"):
            for name in ("floor_share", "gini_inner", "effn_inner"):
                assert found[signal, name] == "every raw score is exactly zero"
        assert found["surprisal", "inherited_tv"] is None

    def test_a_reference_that_is_zero(self) -> None:
        item = rollout("r", group="g", step=2, length=9)
        sure = replace(scores(item, "checkpoint-2", 1), ref_logprob=np.zeros(9))
        found = self.reasons(judged([item], [sure], ONE))
        assert found["surprisal", "inherited_tv"] == (
            "where the policy has credit, every raw score of the reference is exactly zero"
        )
        assert found["entropy", "inherited_tv"] is None

    def test_nothing_between_the_ends(self) -> None:
        item = rollout("r", group="g", step=2, length=9)
        ends = np.array([5.0, 0, 0, 0, 0, 0, 0, 0, 3.0])
        frames = judged([item], [replace(scores(item, "checkpoint-2", 1), residual=ends)], ONE)
        assert self.reasons(frames)["residual", "gini_inner"] == (
            "every raw score is exactly zero, the ends aside"
        )
        assert self.reasons(lengths(3))["surprisal", "effn_inner"] == (
            "every completion counts fewer than two tokens, the ends aside"
        )

    def test_a_fall_that_no_drawn_order_has(self) -> None:
        # One turn of two tokens among many of one: only they can fall, and hardly ever do.
        mask = (True, True, *((False, True) * 400))
        item = rollout("r", group="g", step=2, length=len(mask), mask=mask)
        entropy = np.array([2.0, *np.ones(len(mask) - 1)])
        frames = judged([item], [replace(scores(item, "checkpoint-2", 1), entropy=entropy)], ONE)
        assert self.reasons(frames)["entropy_reduction", "structural_excess"] == (
            "no entropy falls in any order that was drawn"
        )
