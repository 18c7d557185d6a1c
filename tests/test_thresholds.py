"""The cuts as data: their comparators, and what other values do to them."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from arca_diag.report.console import render_console
from arca_diag.results import Threshold
from arca_diag.thresholds import ASCENDING, DEFAULT, OF_FILES, OF_TABLES, Cuts
from tests.test_results import report


def cut(comparator: str, value: float = 0.5) -> Cuts:
    return Cuts([Threshold(id="a-cut", value=value, comparator=comparator, source="a test")])


class TestPassed:
    @pytest.mark.parametrize(
        ("comparator", "below", "at", "above"),
        [
            ("<", True, False, False),
            ("<=", True, True, False),
            (">", False, False, True),
            (">=", False, True, True),
        ],
    )
    def test_a_comparator_means_what_it_says_of_a_number_and_of_an_array(
        self, comparator, below, at, above
    ):
        values = [math.nextafter(0.5, 0), 0.5, math.nextafter(0.5, 1)]
        cuts = cut(comparator)
        assert [cuts.passed("a-cut", v) for v in values] == [below, at, above]
        assert cuts.passed("a-cut", np.array(values)).tolist() == [below, at, above]

    @pytest.mark.parametrize("comparator", ["<", "<=", ">", ">="])
    def test_nan_is_past_none(self, comparator):
        assert not cut(comparator).passed("a-cut", math.nan)
        assert not cut(comparator).passed("a-cut", np.array([math.nan])).any()

    def test_a_cut_that_there_is_not_is_an_error(self):
        with pytest.raises(KeyError, match="no-cut"):
            cut("<").passed("no-cut", 1.0)
        with pytest.raises(KeyError, match="no-cut"):
            cut("<")["no-cut"]


class TestReplaced:
    def test_another_value_keeps_place_and_comparator_and_says_where_it_is_from(self):
        others = DEFAULT.replaced({"gini-sparse": 0.9})
        assert [c.id for c in others] == [c.id for c in DEFAULT]
        before, after = (
            next(c for c in cuts if c.id == "gini-sparse") for cuts in (DEFAULT, others)
        )
        assert (before.value, after.value) == (0.85, 0.9)
        assert after.comparator == before.comparator
        assert "set in the configuration" in after.source
        assert "0.85" in after.source
        assert not others.passed("gini-sparse", 0.87)
        assert others.passed("gini-sparse", 0.9)

    def test_the_others_and_the_default_stay_as_they_are(self):
        before = list(DEFAULT)
        others = DEFAULT.replaced({"gini-sparse": 0.9})
        assert list(DEFAULT) == before
        assert [c for c in others if c.id != "gini-sparse"] == [
            c for c in before if c.id != "gini-sparse"
        ]

    def test_an_id_that_there_is_not_is_an_error(self):
        with pytest.raises(KeyError, match="gini-spares"):
            DEFAULT.replaced({"gini-spares": 0.9})


class TestDefault:
    def test_no_two_cuts_have_one_id(self):
        ids = [c.id for c in DEFAULT]
        assert len(ids) == len(set(ids))
        assert all(i in DEFAULT for i in ids)
        assert "no-cut" not in DEFAULT

    def test_every_cut_judges_either_tables_or_files(self):
        assert not {c.id for c in OF_TABLES} & {c.id for c in OF_FILES}
        assert [*OF_TABLES, *OF_FILES] == list(DEFAULT)

    def test_the_ladders_hold_every_cut_between_classes_in_ascending_order(self):
        ids = {c.id for c in DEFAULT if c.id.startswith(("gini-", "effn-"))}
        assert {name for ladder in ASCENDING for name in ladder} == ids
        for ladder in ASCENDING:
            values = [DEFAULT[name] for name in ladder]
            assert values == sorted(set(values))

    @pytest.mark.parametrize("found", list(DEFAULT), ids=lambda c: c.id)
    def test_each_is_a_finite_number_and_says_where_it_comes_from(self, found):
        assert math.isfinite(found.value)
        assert found.source.strip()


class TestOnTheConsole:
    def printed(self, cuts: Cuts, **options: str) -> str:
        made = report(thresholds=list(cuts), measurements=[], verdicts=[])
        given = made.provenance.options | {"epsilon": 1e-8} | options
        made = made.model_copy(
            update={
                "provenance": made.provenance.model_copy(
                    update={"options": given, "base": {"name": "a base"}}
                )
            }
        )
        printed = io.StringIO()
        console = Console(file=printed, width=200)
        console.print(render_console(made, Path("out"), "next"))
        return printed.getvalue()

    def test_the_cuts_that_were_set_are_named_beside_their_defaults(self):
        told = {"credit": "uniform", "credit_source": "given with --credit"}
        text = self.printed(DEFAULT.replaced({"gini-sparse": 0.9, "kl-at-start": 1.0}), **told)
        (line,) = (line for line in text.splitlines() if line.startswith("Thresholds"))
        assert line.split(maxsplit=1)[1].strip() == (
            "gini-sparse 0.9 (default 0.85), kl-at-start 1 (default 0.0005)"
        )
        assert "Thresholds" not in self.printed(DEFAULT, **told)

    def test_the_credit_is_named_with_where_it_comes_from(self):
        told = {"credit": "top_entropy:0.2", "credit_source": "recorded in args.json"}
        assert "top_entropy:0.2 in training (recorded in args.json)" in self.printed(
            DEFAULT, **told
        )
