"""What is read out of a trainer's arguments."""

import importlib
import math

import pytest

from arca_diag.inputs.arguments import (
    as_number,
    declared_credit,
    groups_a_step,
    number_of,
    temperature_of,
)
from arca_diag.inputs.pickles import read_training_args
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


class TestCredit:
    EVEN = ("uniform", "stock trainers weight tokens evenly")

    def test_what_was_given_counts_before_what_was_recorded(self):
        run = a_run(
            training_args={"top_entropy_quantile": 0.2}, training_args_source="training_args.bin"
        )
        assert declared_credit("residual", run) == ("residual", "given with --credit")
        assert declared_credit("uniform", run) == ("uniform", "given with --credit")
        expected = ("top_entropy:0.2", "recorded in training_args.bin")
        assert declared_credit(None, run) == expected

    def test_none_of_the_share_is_the_single_token_of_the_largest_entropy(self):
        run = a_run(training_args={"top_entropy_quantile": 0.0}, training_args_source="args.json")
        assert declared_credit(None, run) == ("top_entropy:0.0", "recorded in args.json")

    @pytest.mark.parametrize("kept", [1, 1.0, 1.5, -0.2, "0.2", None, True, math.nan, math.inf])
    def test_all_of_it_and_what_is_no_share_are_even_credit(self, kept):
        run = a_run(training_args={"top_entropy_quantile": kept})
        assert declared_credit(None, run) == self.EVEN

    def test_without_a_record_it_is_even(self):
        assert declared_credit(None, a_run(training_args={})) == self.EVEN

    @pytest.mark.filterwarnings("ignore::FutureWarning")  # of Transformers, at TRL's defaults
    @pytest.mark.parametrize("kept", [0.2, 1.0])
    def test_it_is_read_from_what_trl_writes(self, tmp_path, kept):
        torch, trl = importlib.import_module("torch"), importlib.import_module("trl")
        config = trl.GRPOConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, top_entropy_quantile=kept
        )
        torch.save(config, tmp_path / "training_args.bin")
        found = read_training_args(tmp_path / "training_args.bin")
        assert found["top_entropy_quantile"] == kept


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
