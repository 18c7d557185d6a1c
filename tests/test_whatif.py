"""Credit given in other ways, against tests/reference.py and on planted scores."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from arca_diag import crediting, tables
from arca_diag.measurements.concentration import measure_concentration
from arca_diag.measurements.evidence import Evidence
from arca_diag.results import WhatIf
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.verdict import judge_regimes
from arca_diag.whatif import what_if
from tests import reference

#: What stands behind a signal, in order; "?" is a floor that depends on its scores.
WAYS = ("s=1", "s=2", "eps=1e-08", "?", "?", "top 20%")


def evidence(scores: dict[str, list[float]], prompts: str, **given: object) -> Evidence:
    """A completion a prompt letter, of which every fourth token does not count.

    Args:
        scores: Signal -> the counted scores of each completion; others are exponential.
        prompts: One letter a completion.
    """
    rng = np.random.default_rng(5)
    options = {"steps": {"c-3": 3, "c-20": 20}, "epsilon": 1e-3} | given
    drawn = {s: [list(rng.exponential(size=9)) for _ in prompts] for s in SIGNAL_NAMES} | scores
    lengths = [len(row) for row in next(iter(scores.values()), drawn["entropy"])]
    rows = []
    for checkpoint in options["steps"]:
        for i, n in enumerate(lengths):
            waiting = {s: iter(drawn[s][i]) for s in SIGNAL_NAMES}
            for position in range(n + n // 3 + 1):
                counts = position % 4 != 3 and position - position // 4 < n
                score = {s: next(waiting[s], 9.0) if counts else 99.0 for s in SIGNAL_NAMES}
                rows.append(
                    {"checkpoint": checkpoint, "rollout_id": f"r{i}", "position": position}
                    | {"counted": counts, "group_id": f"g{i}", "rollout_step": None}
                    | {"checkpoint_step": options["steps"][checkpoint]}
                    | {"ref_surprisal": 1.0, "ref_entropy": 1.0, "ref_entropy_reduction": 0.0}
                    | score
                )
    tokens = pd.DataFrame(rows)
    tokens = tokens.assign(
        **{name: None for name in tables.TOKENS.names if name not in tokens and name[:2] != "w_"}
    )
    rollouts = pd.DataFrame(
        {
            "rollout_id": [f"r{i}" for i in range(len(prompts))],
            "cluster": list(prompts),
            "completion": [f"h{i}" for i in range(len(prompts))],
            "finish_reason": "stop",
        }
    )
    members = tokens[["checkpoint", "rollout_id"]].drop_duplicates()
    members = members.assign(own_set=True, fixed_set=False)
    members = members.set_index(["checkpoint", "rollout_id"])
    judged, trajectories = crediting.judge(
        tokens, members, rollouts, epsilon=options["epsilon"], sharpening=2.0
    )
    return Evidence(
        tokens=judged, trajectories=trajectories, rollouts=rollouts, sharpening=2.0, **options
    )


def found_in(of: Evidence, view: str = "on-policy") -> dict[str, WhatIf]:
    found = [w for w in what_if(of) if w.view == view]
    keyed = {w.credit: w for w in found}
    assert len(keyed) == len(found)
    return keyed


def named(found: dict[str, WhatIf], start: str) -> WhatIf:
    """The one whose name begins so."""
    (name,) = [name for name in found if name.startswith(start)]
    return found[name]


def mean(rows: list[list[float]], prompts: str, measure) -> float:
    """Over prompts, by the reference; `rows` are weights."""
    return reference.cluster_mean([measure(row) for row in rows], list(prompts))[0]


SCORES = [
    [0.1, 4.0, 0.3, 2.0, 0.5, 0.5, 1.0],
    [1.0] * 12,
    [0.0, 0.0, 7.0, 0.0, 0.0, 1e-3, 0.0, 0.0, 0.0, 0.0, 0.0],
    [5.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    [0.0] * 6,
]
PROMPTS = "aabcd"


class TestWays:
    def test_every_way_is_tried_at_the_last_checkpoint_alone(self):
        of = evidence({"residual": SCORES}, PROMPTS)
        found = what_if(of)
        assert {(w.checkpoint, w.view) for w in found} == {(20, "on-policy")}
        assert len(found) == 7 * 6 + 2
        expected = [f"{signal} {way}" for signal in SIGNAL_NAMES for way in WAYS]
        expected += ["top_entropy 0.2", "top_entropy 0.5"]
        for one, name in zip(found, expected, strict=True):
            assert one.credit == name or name.endswith("?")

    @pytest.mark.parametrize(
        ("way", "epsilon", "sharpening"),
        [("s=1", 1e-3, 1), ("s=2", 1e-3, 2), ("eps=1e-08", 1e-8, 1)],
    )
    def test_powers_and_floors_are_those_of_the_reference(self, way, epsilon, sharpening):
        found = found_in(evidence({"residual": SCORES}, PROMPTS))[f"residual {way}"]
        weights = [
            reference.credit_weights(row, epsilon=epsilon, sharpening=sharpening) for row in SCORES
        ]
        for name in ("gini_corrected", "effn_corrected", "token_share_90"):
            expected = mean(weights, PROMPTS, getattr(reference, name))
            assert getattr(found, name).value == pytest.approx(expected, rel=1e-9)

    def test_floors_are_parts_of_the_mean_over_counted_tokens(self):
        found = found_in(evidence({"residual": SCORES}, PROMPTS))
        flat = [score for row in SCORES for score in row]
        for part, said in ((0.01, "(1% of its mean)"), (0.1, "(10% of its mean)")):
            floor = part * math.fsum(flat) / len(flat)
            weights = [reference.credit_weights(row, epsilon=floor) for row in SCORES]
            one = found[f"residual eps={floor:.3g} {said}"]
            expected = mean(weights, PROMPTS, reference.gini_corrected)
            assert one.gini_corrected.value == pytest.approx(expected, rel=1e-9)

    def test_the_top_fifth_shares_evenly_and_zeros_get_nothing(self):
        found = found_in(evidence({"residual": SCORES}, PROMPTS))["residual top 20%"]
        weights = [
            [0, 0.5, 0, 0.5, 0, 0, 0],
            [1 / 12] * 12,  # all tie: each is one of the three in part
            [0, 0, 0.5, 0, 0, 0.5, 0, 0, 0, 0, 0],  # three places, and two scores above zero
            [1 / 2, *[0.25 / 2] * 4, 0],  # the second place is shared by four that tie
            [math.nan] * 6,
        ]
        for name in ("gini_corrected", "effn_corrected", "token_share_90"):
            expected = mean(weights, PROMPTS, getattr(reference, name))
            assert getattr(found, name).value == pytest.approx(expected, rel=1e-9)

    def test_the_most_uncertain_tokens_are_of_all_completions_together(self):
        entropies = [[9.0, 8.0, 0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 0.1, 7.0], [0.5] * 5]
        found = found_in(evidence({"entropy": entropies}, "abc"))["top_entropy 0.2"]
        # Of 15 tokens the threshold lies between the third and the fourth largest.
        assert found.uncredited.value == pytest.approx(1 / 3)
        one, other = reference.gini_corrected([0.5, 0.5, 0, 0, 0]), 1.0
        assert found.gini_corrected.value == pytest.approx((one + other) / 2)


class TestUncredited:
    def test_completions_without_a_score_get_no_credit_and_are_counted(self):
        found = found_in(evidence({"residual": SCORES}, PROMPTS))["residual s=1"]
        assert found.uncredited.value == pytest.approx(1 / 4)
        assert found.n_clusters == 4
        assert found_in(evidence({}, PROMPTS))["residual s=1"].uncredited.value == 0

    def test_a_signal_that_is_zero_everywhere_is_no_signal_and_no_figure(self):
        found = found_in(evidence({"residual": [[0.0] * 8] * 3}, "abc"))
        for way in ("s=1", "s=2", "eps=1e-08", "top 20%"):
            one = found[f"residual {way}"]
            assert (one.regime, one.uncredited.value) == ("no-signal", 1)
            assert one.gini_corrected.value is one.token_share_90.value is None

    def test_completions_that_count_no_token_are_left_out(self):
        of = evidence({"residual": SCORES}, PROMPTS)
        first = of.tokens["rollout_id"] == "r0"
        of = replace(of, tokens=of.tokens.assign(counted=of.tokens["counted"] & ~first))
        found = found_in(of)["residual s=1"]
        assert found.n_clusters == 4
        none = replace(of, tokens=of.tokens.assign(counted=False))
        assert what_if(none) == []


class TestAgreement:
    PROMPTS = "abcdefghij" * 2

    def planted(self, exponent: float) -> Evidence:
        """Of 40 tokens, scores of a power law: steep is sparse, flat is uniform."""
        row = [float(k) ** -exponent for k in range(1, 41)]
        return evidence({"surprisal": [row] * len(self.PROMPTS)}, self.PROMPTS)

    def test_as_judged_it_says_what_measurements_and_verdicts_say(self):
        of = self.planted(1.0)
        found = found_in(of)
        measured = {
            (m.signal, m.sharpening, m.name): m
            for m in measure_concentration(of)
            if (m.checkpoint, m.view) == (20, "on-policy")
        }
        verdicts = judge_regimes(of.trajectories, of.rollouts)
        for verdict in (v for v in verdicts if v.checkpoint == 20):
            one = found[f"{verdict.signal} s={verdict.sharpening:g}"]
            assert one.regime == verdict.regime
            for name in ("gini_corrected", "effn_corrected", "token_share_90"):
                figure = measured[verdict.signal, verdict.sharpening, name]
                said = getattr(one, name)
                assert (said.value, said.low, said.high) == pytest.approx(
                    (figure.value, figure.low, figure.high)
                )

    @pytest.mark.parametrize(
        ("exponent", "plain", "squared"),
        [
            (0.05, "uniform", "uniform"),
            (0.6, "middle", "leaning-sparse"),
            (3.0, "sparse", "sparse"),
        ],
    )
    def test_squaring_moves_the_regime_as_planted(self, exponent, plain, squared):
        found = found_in(self.planted(exponent))
        assert found["surprisal s=1"].regime == plain
        assert found["surprisal s=2"].regime == squared

    def test_a_large_floor_evens_credit_out(self):
        found = found_in(self.planted(3.0))
        ginis = [
            named(found, start).gini_corrected.value
            for start in ("surprisal eps=1e-08", "surprisal eps=0.0003", "surprisal eps=0.003")
        ]
        assert ginis == sorted(ginis, reverse=True)
        assert ginis[0] > ginis[1] + 0.005
        assert ginis[1] > ginis[2] + 0.05


class TestNoise:
    """What verdicts do not judge is not judged here."""

    PROMPTS = "abcdefghij" * 2

    def test_a_signal_that_may_be_rounding_has_figures_and_no_regime(self):
        row = [float(k) ** -3.0 for k in range(1, 41)]
        of = evidence({"residual": [row] * 20, "entropy": [row] * 20}, self.PROMPTS)
        plain = what_if(of)
        why = {(20, "on-policy", "residual"): "loud", (20, "on-policy", "entropy"): "too"}
        found = what_if(of, drowned=why)
        for before, one in zip(plain, found, strict=True):
            signal = "entropy" if one.credit.startswith("top_entropy") else one.credit.split()[0]
            reason = why.get((20, "on-policy", signal))
            regime = "inconclusive" if reason else before.regime
            assert one == before.model_copy(update={"regime": regime, "reason": reason})
        assert {w.regime for w in plain if w.credit.startswith("residual")} >= {"sparse"}

    def test_noise_elsewhere_withholds_nothing(self):
        of = evidence({"residual": SCORES}, PROMPTS)
        elsewhere = {(3, "on-policy", "residual"): "loud", (20, "fixed-set", "residual"): "loud"}
        assert what_if(of, drowned=elsewhere) == what_if(of)


class TestLast:
    def test_the_last_is_by_step_and_else_by_order(self):
        of = evidence({}, "abc", steps={"x": 20, "y": 3})
        assert {w.checkpoint for w in what_if(of)} == {20}
        of = evidence({}, "abc", steps={"x": None, "y": None})
        assert {w.checkpoint for w in what_if(of)} == {"y"}
        assert what_if(replace(of, steps={})) == []

    def test_names_of_rollouts_and_prompts_move_nothing(self):
        of = evidence({"residual": SCORES}, PROMPTS)
        swap = {"a": "z", "b": "m", "c": "b", "d": "a"}
        other = replace(of, rollouts=of.rollouts.assign(cluster=of.rollouts["cluster"].map(swap)))
        assert what_if(other) == what_if(of)
