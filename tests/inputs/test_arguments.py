"""What is read out of a trainer's arguments."""

import math

import pytest

from arca_diag.inputs.arguments import as_number, groups_a_step, number_of, temperature_of
from tests.inputs import a_run

BATCH = {
    "generation_batch_size": 128,
    "num_generations": 16,
    "steps_per_generation": 4,
    "num_iterations": 2,
}


class TestTemperature:
    def test_what_was_asked_for_counts_before_what_was_recorded(self):
        run = a_run(training_args={"temperature": 0.7}, training_args_source="args.json")
        assert temperature_of(0.9, run) == (0.9, "given with --temperature")
        assert temperature_of(None, run) == (0.7, "recorded in args.json")

    @pytest.mark.parametrize("odd", [0, -1, "0.7", None, True, math.nan, math.inf, 10**400])
    def test_what_is_none_is_not_taken(self, odd):
        value, source = temperature_of(None, a_run(training_args={"temperature": odd}))
        assert value == 1
        assert source.startswith("assumed")


class TestGroups:
    def test_a_batch_of_groups_serves_its_steps_and_rounds(self):
        assert groups_a_step(a_run(training_args=BATCH)) == 128 / 16 / 4 / 2

    @pytest.mark.parametrize("key", BATCH)
    @pytest.mark.parametrize("odd", [None, 0, -8, "8", math.inf])
    def test_it_is_unknown_where_a_part_of_it_is(self, key, odd):
        assert groups_a_step(a_run(training_args=BATCH | {key: odd})) is None


@pytest.mark.parametrize(("value", "number"), [(3, 3.0), (True, None), ("3", None), (None, None)])
def test_only_numbers_are_numbers(value, number):
    assert as_number(value) == number
    assert number_of(a_run(training_args={"beta": value}), "beta") == number


def test_an_integer_beyond_any_float_is_infinite():
    assert as_number(10**400) == math.inf
