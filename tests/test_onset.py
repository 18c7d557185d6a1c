"""When credit went to one side, on planted series of classes."""

import itertools
from typing import Any

import pandas as pd
import pytest

from arca_diag.onset import find_onsets
from arca_diag.results import Onset
from arca_diag.thresholds import DEFAULT

OF = {
    "S": "sparse",
    "s": "leaning-sparse",
    "m": "middle",
    "u": "leaning-uniform",
    "U": "uniform",
    "0": "no-signal",
    ".": "short",
    "-": None,
}


def tables(series: list[str], **given: Any) -> dict[str, Any]:
    """A checkpoint a string, ten steps apart, and a prompt a letter with one completion each."""
    steps = given.pop("steps", {f"c{k}": 10 * (k + 1) for k in range(len(series))})
    of = {"fixed_set": True, "signal": "residual", "sharpening": 1.0} | given
    rows = [
        {"checkpoint": name, "rollout_id": f"r{i}", "class": OF[letter], **of}
        for name, classes in zip(steps, series, strict=True)
        for i, letter in enumerate(classes)
    ]
    widest = max(map(len, series))
    return {
        "trajectories": pd.DataFrame(rows),
        "rollouts": pd.DataFrame(
            {
                "rollout_id": [f"r{i}" for i in range(widest)],
                "cluster": [f"p{i}" for i in range(widest)],
            }
        ),
        "steps": steps,
        "sharpening": 1.0,
    }


def found(*series: str, **given: Any) -> list[Onset]:
    return find_onsets(**tables(list(series), **given))


def one(*series: str, **given: Any) -> Onset:
    (onset,) = found(*series, **given)
    return onset


ALL, NONE = "s" * 12, "m" * 12
#: Eleven of twelve are surely most, one is surely few, and eight are neither.
MOST, HALF, FEW = "s" * 11 + "m", "s" * 8 + "m" * 4, "s" + "m" * 11


class TestEnds:
    def test_it_lies_between_the_last_surely_not_and_the_first_surely_so(self):
        onset = one(NONE, FEW, HALF, MOST, ALL)
        assert (onset.after, onset.by, onset.reason) == (20, 40, None)
        assert (onset.side, onset.signal, onset.view) == ("sparse", "residual", "fixed-set")
        assert (onset.n_clusters, onset.sharpening) == (12, 1.0)

    def test_what_goes_back_is_no_onset_until_it_stays(self):
        assert (one(NONE, MOST, NONE, MOST, ALL).after) == 30
        assert (one(NONE, MOST, NONE, MOST, ALL).by) == 40
        assert one(NONE, MOST, HALF, MOST).by == 40

    def test_a_doubtful_stretch_widens_it_and_moves_no_end(self):
        fewer = "s" * 4 + "m" * 8
        onset = one(NONE, fewer, HALF, ALL)
        assert (onset.after, onset.by) == (10, 40)

    def test_most_at_the_first_checkpoint_says_that_it_was_so_already(self):
        onset = one(MOST, ALL, MOST)
        assert (onset.after, onset.by) == (None, 10)
        assert onset.reason == "already so at the first checkpoint that was measured"

    def test_doubt_at_every_checkpoint_before_leaves_the_start_open(self):
        onset = one(HALF, HALF, ALL)
        assert (onset.after, onset.by) == (None, 30)
        assert onset.reason == "no checkpoint before it is surely off this side"

    @pytest.mark.parametrize("last", [NONE, FEW, "s" * 6 + "m" * 6])
    def test_where_the_last_is_elsewhere_there_is_none(self, last):
        assert found(ALL, ALL, last) == []

    def test_doubt_at_the_last_says_what_is_missing(self):
        onset = one(NONE, ALL, HALF)
        assert (onset.after, onset.by) == (10, None)
        assert onset.reason.startswith("at step 30 67% of the completions are on this side")
        assert "has 50% in it" in onset.reason

    def test_every_short_series_is_judged_as_the_rule_says(self):
        # The rule once more, written the other way round: by hand over what each share says.
        says = {MOST: "yes", HALF: "?", FEW: "no"}
        for series in itertools.product(says, repeat=4):
            words = [says[s] for s in series]
            if words[-1] == "no":
                assert found(*series) == []
                continue
            starts = [k for k in range(4) if all(w == "yes" for w in words[k:])]
            by = min(starts) if starts else None
            nos = [k for k in range(4) if words[k] == "no" and (by is None or k < by)]
            onset = one(*series)
            assert onset.by == (None if by is None else 10 * (by + 1))
            assert onset.after == (10 * (max(nos) + 1) if nos else None)


class TestSides:
    @pytest.mark.parametrize(
        ("letters", "side"),
        [("sS", "sparse"), ("S", "sparse"), ("uU", "uniform"), ("0", "no-signal")],
    )
    def test_a_side_is_its_two_classes(self, letters, side):
        last = (letters * 12)[:12]
        onset = one(NONE, last)
        assert (onset.side, onset.after, onset.by) == (side, 10, 20)

    def test_the_middle_is_no_side(self):
        assert found(ALL, NONE, NONE) == []

    def test_sides_are_apart(self):
        assert [o.side for o in found("s" * 12, "u" * 12)] == ["uniform"]
        assert found("s" * 6 + "u" * 6, "s" * 6 + "u" * 6) == []

    def test_short_and_undefined_completions_do_not_count(self):
        short = "s" * 9 + "......"
        assert one("m" * 15, short).by == 20
        assert one("m" * 15, short).n_clusters == 9
        assert one("m" * 15, "s" * 9 + "------").n_clusters == 9
        assert found("." * 12, "." * 12) == []


class TestFewPrompts:
    def test_under_eight_prompts_nothing_is_judged(self):
        onset = one("m" * 7, "s" * 7)
        assert (onset.after, onset.by) == (None, None)
        assert onset.reason == (
            "at step 20 100% of the completions are on this side, of 7 prompts: none is judged "
            "below 8"
        )

    def test_exact_zeros_are_facts_at_any_number(self):
        onset = one("mmm", "000")
        assert (onset.after, onset.by, onset.reason) == (10, 20, None)
        # Some of them zero is no fact about all.
        assert one("mmm", "00m").by is None

    def test_the_cuts_are_data(self):
        seven = tables(["m" * 7, "s" * 7])
        (onset,) = find_onsets(**seven, cuts=DEFAULT.replaced({"clusters-least": 7}))
        assert (onset.after, onset.by) == (10, 20)
        (onset,) = find_onsets(
            **tables([NONE, ALL]), cuts=DEFAULT.replaced({"share-majority": 0.9})
        )
        assert onset.by is None
        assert "has 90% in it" in onset.reason

    def test_completions_of_one_prompt_are_one_voice(self):
        many = tables([NONE, ALL])
        many["rollouts"]["cluster"] = [f"p{i % 4}" for i in range(12)]
        (onset,) = find_onsets(**many)
        assert (onset.by, onset.n_clusters) == (None, 4)


class TestOrder:
    def test_steps_order_the_checkpoints_and_names_do_not(self):
        onset = one(ALL, ALL, NONE, steps={"a": 300, "b": 40, "c": 5})
        assert (onset.after, onset.by) == (5, 40)

    def test_a_checkpoint_without_a_step_is_left_out(self):
        assert one(NONE, ALL, NONE, steps={"a": 1, "b": 2, "final": None}).by == 2
        assert found(NONE, ALL, steps={"a": None, "final": None}) == []
        assert found(NONE, ALL, steps={"a": None, "b": 3}) == []

    def test_it_is_of_the_fixed_set_and_the_configured_power(self):
        assert found(NONE, ALL, fixed_set=False) == []
        assert found(NONE, ALL, sharpening=2.0) == []
