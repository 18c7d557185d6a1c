"""Changes since the first checkpoint, on tables built by hand."""

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from arca_diag.diagnostics.change import Completions, matched_change
from arca_diag.measurements.evidence import Evidence
from arca_diag.measurements.trend import measure_trend
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.thresholds import DEFAULT

CHANGES = ("gini_corrected_change", "effn_corrected_change")
STEPS = {"c-9": 9, "c-80": 80}


def row(checkpoint: str, rollout: str, gini: float, **given: Any) -> dict[str, Any]:
    """A completion at a checkpoint; its prompt is the first letter of its name."""
    of = {"own_set": False, "fixed_set": False, "n_tokens": 10, "class": "middle", "effn": 1 - gini}
    return of | {"checkpoint": checkpoint, "rollout_id": rollout, "gini": gini} | given


def fixed(checkpoint: str, rollout: str, gini: float, **given: Any) -> dict[str, Any]:
    return row(checkpoint, rollout, gini, fixed_set=True, **given)


def own(checkpoint: str, rollout: str, gini: float, **given: Any) -> dict[str, Any]:
    return row(checkpoint, rollout, gini, own_set=True, **given)


def evidence(*rows: dict[str, Any], **given: Any) -> Evidence:
    """At sharpening 1 the figures are as given; at 2 they are half; each signal adds nothing."""
    sharpening = given.get("sharpening", 1.0)
    trajectories = [
        {
            **{k: v for k, v in r.items() if k not in ("gini", "effn", *SIGNAL_NAMES)},
            "group_id": f"{r['checkpoint'] if r['own_set'] else ''}{r['rollout_id'][0]}",
            "signal": name,
            "sharpening": power,
            "gini_corrected": r.get(name, r["gini"]) / power,
            "effn_corrected": r.get(name, r["effn"]) / power,
        }
        for name in SIGNAL_NAMES
        for power in sorted({1.0, sharpening})
        for r in rows
    ]
    names = list(dict.fromkeys(r["rollout_id"] for r in rows))
    return Evidence(
        tokens=pd.DataFrame(),
        trajectories=pd.DataFrame(trajectories),
        rollouts=pd.DataFrame({"rollout_id": names, "cluster": [n[0] for n in names]}),
        **({"steps": STEPS} | given),
    )


def changes(of: Evidence, view: str) -> dict[tuple[str | None, str], Measurement]:
    """Those of the last checkpoint at sharpening 1, by signal and name."""
    found = [m for m in measure_trend(of) if m.view == view and m.sharpening in (1.0, None)]
    keyed = {(m.signal, m.name): m for m in found}
    assert len(keyed) == len(found)
    return keyed


PAIRED = [
    fixed("c-9", "a1", 0.2),
    fixed("c-9", "a2", 0.4),
    fixed("c-9", "b1", 0.5),
    fixed("c-80", "b1", 0.9),
    fixed("c-80", "a2", 0.5),
    fixed("c-80", "a1", 0.5),
]


class TestFixedSet:
    def test_it_is_the_mean_over_prompts_of_the_differences_on_the_same_completions(self):
        found = changes(evidence(*PAIRED), "fixed-set")["residual", "gini_corrected_change"]
        assert found.value == pytest.approx(((0.3 + 0.1) / 2 + 0.4) / 2)
        assert (found.checkpoint, found.against) == (80, "9")
        assert (found.n_clusters, found.n_groups, found.n_completions) == (2, 2, 3)
        assert found.n_tokens == 30
        assert found.low < found.value < found.high

    def test_the_other_figure_changes_the_other_way(self):
        found = changes(evidence(*PAIRED), "fixed-set")
        one, other = (found["residual", name].value for name in CHANGES)
        assert one == pytest.approx(-other)

    def test_it_is_given_at_one_and_at_the_configured_power(self):
        found = [
            m
            for m in measure_trend(evidence(*PAIRED, sharpening=2.0))
            if m.view == "fixed-set" and (m.signal, m.name) == ("entropy", CHANGES[0])
        ]
        assert [m.sharpening for m in found] == [1.0, 2.0]
        assert found[1].value == pytest.approx(found[0].value / 2)

    def test_every_checkpoint_after_the_first_is_held_against_the_first(self):
        rows = [r | {"checkpoint": "c-200"} for r in PAIRED if r["checkpoint"] == "c-9"]
        of = evidence(*PAIRED, *rows, steps={"c-200": 200, **STEPS})
        found = [m for m in measure_trend(of) if (m.signal, m.name) == ("residual", CHANGES[0])]
        found = [m for m in found if m.view == "fixed-set"]
        assert [(m.checkpoint, m.against) for m in found] == [(200, "9"), (80, "9")]
        assert found[0].value == pytest.approx(0.0)

    def test_a_completion_without_credit_on_one_side_is_left_out(self):
        rows = [r | ({"residual": math.nan} if r is PAIRED[0] else {}) for r in PAIRED]
        found = changes(evidence(*rows), "fixed-set")
        assert found["residual", CHANGES[0]].n_completions == 2
        assert found["residual", CHANGES[0]].value == pytest.approx((0.1 + 0.4) / 2)
        assert found["entropy", CHANGES[0]].n_completions == 3

    def test_a_signal_that_is_zero_at_one_of_them_has_no_change_and_says_so(self):
        rows = [
            r | ({"residual": math.nan, "class": "no-signal"} if r["checkpoint"] == "c-9" else {})
            for r in PAIRED
        ]
        found = changes(evidence(*rows), "fixed-set")["residual", CHANGES[0]]
        assert found.value is None
        assert found.reason == "every raw score is exactly zero"
        assert found.n_completions == found.n_clusters == 0


class TestOnPolicy:
    def test_it_is_at_like_length_and_without_short_completions(self):
        rows = [
            *[own("c-9", f"{c}1", 0.2, n_tokens=10) for c in "abcd"],
            own("c-9", "a3", 0.0, n_tokens=400),
            own("c-9", "a4", 0.0, n_tokens=4),
            *[own("c-80", f"{c}2", 0.5, n_tokens=14) for c in "efg"],
            own("c-80", "e3", 1.0, n_tokens=50),
            own("c-80", "e4", 1.0, n_tokens=4),
        ]
        found = changes(evidence(*rows), "on-policy")
        gini = found["residual", CHANGES[0]]
        assert gini.value == pytest.approx(0.3)
        assert (gini.n_clusters, gini.n_groups, gini.n_completions) == (3, 7, 7)
        assert gini.n_tokens == 4 * 10 + 3 * 14
        share = found[None, "matched_share"]
        assert share.value == pytest.approx((1 / 3 + 1 + 1) / 3)
        assert (share.n_completions, share.against, share.sharpening) == (5, "9", None)
        # What is short is a cut like any other.
        cuts = DEFAULT.replaced({"tokens-short": 4})
        found = changes(evidence(*rows, cuts=cuts), "on-policy")
        assert found["residual", CHANGES[0]].n_completions == 9

    def test_prompts_of_both_checkpoints_are_paired(self):
        rng = np.random.default_rng(0)
        levels = dict(zip("abcdefgh", rng.random(8) / 2, strict=True))
        rows = [own("c-9", f"{c}1", v) for c, v in levels.items()]
        rows += [own("c-80", f"{c}2", v + 0.1) for c, v in reversed(levels.items())]
        found = changes(evidence(*rows), "on-policy")["residual", CHANGES[0]]
        assert (found.low, found.high) == pytest.approx((0.1, 0.1))

    def test_it_is_what_the_pure_function_says(self):
        rng = np.random.default_rng(1)
        sides, rows = [], []
        for checkpoint, prompts in (("c-9", "abcdef"), ("c-80", "defgh")):
            names = [f"{c}{checkpoint}{k}" for c in prompts for k in range(5)]
            values, lengths = rng.random(len(names)), rng.integers(2, 40, len(names))
            rows += [
                own(checkpoint, name, v, n_tokens=n)
                for name, v, n in zip(names, values, lengths, strict=True)
            ]
            numbers = np.array(["abcdefgh".index(name[0]) for name in names])
            kept = lengths >= 5
            sides.append(
                Completions(values=values[kept], n_tokens=lengths[kept], clusters=numbers[kept])
            )
        found = changes(evidence(*rows), "on-policy")["residual", CHANGES[0]]
        expected = matched_change(*sides)
        assert (found.value, found.low, found.high, found.n_clusters) == pytest.approx(
            (expected.value, expected.low, expected.high, expected.n_clusters)
        )

    def test_without_a_common_length_it_says_so(self):
        rows = [own("c-9", "a1", 0.2, n_tokens=40), own("c-80", "a2", 0.2, n_tokens=7)]
        found = changes(evidence(*rows), "on-policy")
        assert found["residual", CHANGES[0]].value is None
        assert found["residual", CHANGES[0]].reason.startswith("no completions of like length")
        assert found[None, "matched_share"].value == 0


class TestOrder:
    def test_one_checkpoint_has_no_trend(self):
        assert measure_trend(evidence(*PAIRED[:3], steps={"c-9": 9})) == []

    def test_without_steps_the_order_is_unknown_and_there_is_no_trend(self):
        assert measure_trend(evidence(*PAIRED, steps={"c-9": None, "c-80": None})) == []

    def test_a_checkpoint_without_a_step_says_why_it_has_none(self):
        found = measure_trend(evidence(*PAIRED, steps={"c-9": 9, "c-80": None}))
        assert {m.checkpoint for m in found} == {"c-80"}
        assert {m.reason for m in found} == {
            "the step of the checkpoint is unknown, and so is what came before it"
        }

    def test_a_checkpoint_without_completions_says_which(self):
        rows = [*PAIRED, own("c-9", "a9", 0.2)]
        found = changes(evidence(*rows), "on-policy")
        assert {m.reason for m in found.values()} == {
            "checkpoint 80: no completion in its window of steps"
        }
        rows = [*PAIRED, own("c-80", "a9", 0.2)]
        found = changes(evidence(*rows), "on-policy")
        assert {m.reason for m in found.values()} == {
            "checkpoint 9: no completion in its window of steps"
        }

    def test_names_of_rollouts_and_prompts_move_nothing(self):
        # As redaction renames them: equal names stay equal, and sort otherwise.
        rng = np.random.default_rng(2)
        rows = [own("c-9", f"{c}1", v) for c, v in zip("abcdef", rng.random(6), strict=True)]
        rows += [own("c-80", f"{c}2", v) for c, v in zip("defghi", rng.random(6), strict=True)]
        for checkpoint in STEPS:
            rows += [fixed(checkpoint, f"{c}3", rng.random()) for c in "abcdefghi"]
        of = evidence(*rows)

        def renamed(name: str) -> str:
            return f"{7 * ord(name[0]) % 26:02}{name[1:]}"

        other = dataclasses.replace(
            of,
            trajectories=of.trajectories.assign(
                rollout_id=of.trajectories["rollout_id"].map(renamed)
            ),
            rollouts=of.rollouts.map(renamed),
        )
        assert measure_trend(other) == measure_trend(of)
