import gzip
import json
from typing import Any

import pytest

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts.census import find_source, none_found, take_census
from tests.inputs import a_run, read_rollouts, record, write_jsonl
from tests.inputs.odd_values import samples_of


class TestGroupsThatAreGuessed:
    """Two prompts that are equal are one group for us, and may have been two in training."""

    def said(self, tmp_path, *rewards_and_advantages: Any, **run: Any) -> str:
        rows = [
            record(n, step=1, prompt_ids=[1, 4], reward=reward, advantage=advantage)
            for n, (reward, advantage) in enumerate(rewards_and_advantages)
        ]
        source = find_source(write_jsonl(tmp_path / "r.jsonl", rows), a_run())
        assert source is not None
        return take_census(source, a_run(**run), skip_bad_lines=False).notes.group_source

    DOUBTED = "; 1 of these groups may be two, or a part of one"

    def test_one_whose_advantages_add_up_is_not_doubted(self, tmp_path):
        said = self.said(tmp_path, (1.0, 0.9999), (0.0, -0.4999), (0.0, -0.5))
        assert said == "the same prompt at the same step"

    def test_a_part_of_one_is(self, tmp_path):
        assert self.DOUBTED in self.said(tmp_path, (1.0, 1.0), (0.0, -0.5))

    def test_two_are_told_where_equal_rewards_had_other_advantages(self, tmp_path):
        # Each of the two adds up: rewards 1 0 0 and 1 1 0.
        rows = [(1.0, 1.0), (0.0, -0.5), (0.0, -0.5), (1.0, 0.5), (1.0, 0.5), (0.0, -1.0)]
        assert self.DOUBTED in self.said(tmp_path, *rows)
        scaled_by_function = {"multi_objective_aggregation": "normalize_then_sum"}
        assert self.DOUBTED not in self.said(tmp_path, *rows, training_args=scaled_by_function)

    @pytest.mark.parametrize("advantage", [None, [0.1, 0.2, 0.3]])
    def test_without_an_advantage_a_completion_nothing_is_said(self, tmp_path, advantage):
        assert self.DOUBTED not in self.said(tmp_path, (1.0, 1.0), (0.0, advantage))

    def test_one_advantage_for_every_token_is_one(self, tmp_path):
        assert self.DOUBTED in self.said(tmp_path, (1.0, [1.0] * 3), (0.0, [-0.5] * 3))

    def test_groups_that_are_recorded_are_believed(self, tmp_path):
        path = write_jsonl(tmp_path / "r.jsonl", [record(0, group_id="g", advantage=5.0)])
        source = find_source(path, a_run())
        assert source is not None
        assert take_census(source, a_run(), skip_bad_lines=False).notes.group_source == ""


class TestOddFiles:
    def test_windows_line_ends(self, tmp_path):
        path = tmp_path / "r.jsonl"
        path.write_bytes(b"\r\n".join(json.dumps(record(n)).encode() for n in range(3)) + b"\r\n")
        assert len(read_rollouts(path).rollouts) == 3

    def test_one_that_is_compressed_is_no_text(self, tmp_path):
        path = tmp_path / "r.jsonl"
        path.write_bytes(gzip.compress(json.dumps(record(0)).encode() * 100))
        with pytest.raises(RolloutError, match=r"r\.jsonl:1: not UTF-8 text"):
            read_rollouts(path)

    def test_text_of_two_bytes_a_character(self, tmp_path):
        (tmp_path / "r.jsonl").write_text(json.dumps(record(0)), "utf-16")
        with pytest.raises(RolloutError, match=r"r\.jsonl:1: not UTF-8 text"):
            read_rollouts(tmp_path / "r.jsonl")

    @pytest.mark.parametrize("content", ["", "\n", "\n \n\t\n\r\n"], ids=repr)
    def test_nothing_but_blank_lines(self, tmp_path, content):
        (tmp_path / "r.jsonl").write_text(content)
        with pytest.raises(RolloutError, match=r"r\.jsonl: no rollout in it"):
            read_rollouts(tmp_path / "r.jsonl")

    def test_a_file_that_was_joined_to_itself_names_both_places(self, tmp_path):
        rows = [record(n) for n in range(30)]
        path = write_jsonl(tmp_path / "r.jsonl", [*rows, *rows])
        with pytest.raises(RolloutError) as caught:
            read_rollouts(path)
        said = str(caught.value).splitlines()
        assert said[0] == "r.jsonl:31: id 'r0' was used before, at r.jsonl:1"
        assert said[19] == "r.jsonl:50: id 'r19' was used before, at r.jsonl:20"
        assert said[20:] == ["... and 10 more"]


class TestARunWithoutRollouts:
    def test_it_is_said_how_to_get_some(self):
        error = none_found(a_run())
        for way in (
            "scan RUN --prompts FILE --generate 8",
            "log_completions=True",
            "arca_diag.trl.recorder()",
            "--rollouts",
        ):
            assert way in error.hint

    def test_no_place_in_it_leads_to_a_reader(self, tmp_path):
        (tmp_path / "completions").mkdir()
        (tmp_path / "rollouts").mkdir()
        assert find_source(None, a_run(root=tmp_path)) is None


def test_what_is_read_twice_is_the_same_twice(tmp_path):
    path = write_jsonl(tmp_path / "r.jsonl", [record(n, step=n) for n in range(5)])
    assert samples_of(path)[0] == samples_of(path)[0]
