import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import Sample
from arca_diag.inputs.rollouts.census import find_source
from tests.inputs import EOS, SAMPLE, a_run, read_rollouts, write_jsonl
from tests.inputs.odd_values import is_clean_or_refused, samples_of, spoilt

FIRST = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
SECOND = "<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n"


def batch(at: int = 10, /, **given: Any) -> dict[str, Any]:
    """One log step of ms-swift 4.6: two prompts, two completions of each."""
    plain = {
        "step": [str(at)] * 4,
        "prompt": [FIRST, FIRST, SECOND, SECOND],
        "completion": ["4", "5", "6", f"={at}"],
        "MathAccuracy": [1.0, 0.0, 1.0, None],
        "Format": [0.5, 0.5, 0.0, 0.0],
        "advantages": [0.7, -0.7, 0.0, 0.0],
        "solution": ["4", "4", "6", "6"],
        "difficulty": [0.1, 0.1, 0.9, 0.9],
        "entropy": [0.21, 0.35, 0.1, 0.2],
    }
    return plain | given


def log(tmp_path: Path, *batches: Any) -> Path:
    folder = tmp_path / "v0-20250101-120000"
    folder.mkdir(exist_ok=True)
    return write_jsonl(folder / "completions.jsonl", batches or [batch()])


def rewards(tmp_path: Path, record: dict[str, Any], **run: Any) -> list[float | None]:
    return [s.reward for s in samples_of(log(tmp_path, record), **run)[0]]


class TestWhatIsRead:
    def test_every_field(self, tmp_path):
        path = log(tmp_path)
        samples, notes, reader = samples_of(path)
        assert reader.name == "ms-swift completions"
        expected = [
            (FIRST, "4", 1.5, 0.7, "1/g0"),
            (FIRST, "5", 0.5, -0.7, "1/g0"),
            (SECOND, "6", 1.0, 0.0, "1/g1"),
            (SECOND, "=10", 0.0, 0.0, "1/g1"),
        ]
        assert samples == [
            Sample(
                id=f"1/{n}",
                place=f"completions.jsonl:1: entry {n}",
                step=9,
                group_id=group,
                prompt=prompt,
                completion=completion,
                rendered=True,
                reward=reward,
                advantage=advantage,
                prompt_text=prompt,
                completion_text=completion,
            )
            for n, (prompt, completion, reward, advantage, group) in enumerate(expected)
        ]
        assert notes.files == [str(path)]
        assert notes.step_source == "the log's step k: sampled after k - 1 steps"
        assert notes.group_source == "entries that lie together and share a prompt"

    def test_the_folder_reads_as_the_file_does(self, tmp_path):
        path = log(tmp_path)
        assert samples_of(path.parent)[0] == samples_of(path)[0]

    def test_a_rendered_prompt_gets_no_second_beginning(self, tmp_path):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(SAMPLE), local_files_only=True)
        bos = tokenizer.bos_token
        path = log(tmp_path, batch(prompt=[f"{bos}1+2>"] * 4, completion=["=3"] * 4))
        rollout = read_rollouts(path, tokenizer).rollouts[0]
        assert rollout.prompt_ids == (1, 5, 14, 6, 18)
        assert rollout.completion_ids == (15, 7)
        assert EOS not in rollout.completion_ids
        assert (rollout.ids_exact, rollout.guessed_prompt, rollout.entropies) == (
            False,
            False,
            None,
        )

    def test_a_batch_written_again_is_read_once(self, tmp_path):
        again = batch(11, completion=batch(10)["completion"])
        samples, notes, _ = samples_of(log(tmp_path, batch(10), again, batch(12)))
        assert [s.id for s in samples] == [f"{n}/{i}" for n in (1, 3) for i in range(4)]
        assert notes.duplicates == 4

    def test_an_empty_completion_is_left_out_and_the_others_keep_their_places(self, tmp_path):
        samples, notes, _ = samples_of(log(tmp_path, batch(completion=["4", "", "6", "7"])))
        assert [(s.id, s.group_id) for s in samples] == [
            ("1/0", "1/g0"),
            ("1/2", "1/g1"),
            ("1/3", "1/g1"),
        ]
        assert dict(notes.left_out) == {"empty: no token to credit": 1}


class TestEvaluations:
    """Every entry of the log writes a line, an evaluation's after that of its step's training."""

    def log(self, *entries: tuple[int, str]) -> tuple[dict[str, Any], ...]:
        return tuple({"step": step, f"{kind}reward": 0.5} for step, kind in entries)

    def test_the_line_of_an_evaluation_is_left_out_and_counted(self, tmp_path):
        lines = [batch(at, completion=list(words)) for at, words in [(10, "abcd"), (10, "efgh")]]
        entries = self.log((10, ""), (10, "eval_"), (20, ""))
        samples, notes, _ = samples_of(log(tmp_path, *lines, batch(20)), log=entries)
        assert [s.completion for s in samples] == [*"abcd", "4", "5", "6", "=20"]
        assert notes.eval_excluded == 4

    def test_one_that_comes_alone_too_and_what_repeats_it(self, tmp_path):
        left = batch(10)["completion"]
        path = log(tmp_path, batch(10), batch(11, completion=left), batch(12))
        samples, notes, _ = samples_of(path, log=self.log((10, "eval_"), (11, ""), (12, "")))
        assert [s.id for s in samples] == ["3/0", "3/1", "3/2", "3/3"]
        assert notes.eval_excluded == 8

    def test_without_a_log_nothing_tells(self, tmp_path):
        assert samples_of(log(tmp_path))[1].eval_excluded == 0


class TestSteps:
    def test_a_batch_of_several_steps_was_sampled_at_the_first(self, tmp_path):
        arguments = {"steps_per_generation": 8, "gradient_accumulation_steps": 2}
        samples, notes, _ = samples_of(log(tmp_path, batch(10)), training_args=arguments)
        assert samples[0].step == 8
        assert notes.step_source.endswith("once for every 4")

    def test_megatrons_step_counts_those_done_before(self, tmp_path):
        record = {"gen_step": [10] * 4} | {k: v for k, v in batch().items() if k != "step"}
        samples, notes, _ = samples_of(log(tmp_path, record))
        assert {s.step for s in samples} == {10}
        assert notes.step_source == "gen_step"

    def test_a_later_line_without_a_step_has_none(self, tmp_path):
        samples, _, _ = samples_of(log(tmp_path, batch(), batch(12, step=None)))
        assert [s.step for s in samples] == [9] * 4 + [None] * 4


class TestRewards:
    def test_those_that_the_run_logged_count_before_a_guess(self, tmp_path):
        assert rewards(tmp_path, batch(), reward_columns=("Format", "difficulty")) == [
            pytest.approx(0.6),
            pytest.approx(0.6),
            pytest.approx(0.9),
            pytest.approx(0.9),
        ]

    def test_weights_of_the_run_are_applied_in_the_logs_order(self, tmp_path):
        arguments = {"reward_weights": [2.0, -1.0]}
        assert rewards(tmp_path, batch(), training_args=arguments) == [1.5, -0.5, 2.0, 0.0]

    def test_as_many_weights_as_functions_or_none(self, tmp_path):
        for weights in ([2.0], [2.0, "x"], [2.0, None], "2"):
            arguments = {"reward_weights": weights}
            assert rewards(tmp_path, batch(), training_args=arguments) == [1.5, 0.5, 1.0, 0.0]

    def test_none_is_left_out_and_all_none_is_no_reward(self, tmp_path):
        record = batch(MathAccuracy=[1.0, None, None, None], Format=[None, None, 0.5, float("nan")])
        assert rewards(tmp_path, record) == [1.0, None, 0.5, None]

    def test_counts_and_texts_are_no_rewards(self, tmp_path):
        record = batch(MathAccuracy=[1, 0, 1, 0], Format=["a", "b", "c", "d"])
        assert rewards(tmp_path, record) == [None] * 4

    def test_a_sum_beyond_any_float_is_no_reward(self, tmp_path):
        record = batch(MathAccuracy=[1e308] * 4, Format=[1e308] * 4)
        assert rewards(tmp_path, record) == [None] * 4


class TestGroups:
    def test_equal_neighbours_are_cut_to_the_runs_group_size(self, tmp_path):
        record = batch(prompt=[FIRST] * 4)
        path = log(tmp_path, record)
        groups = [s.group_id for s in samples_of(path, training_args={"num_generations": 2})[0]]
        assert groups == ["1/g0", "1/g0", "1/g1", "1/g1"]
        for size in (3, None):
            found = samples_of(path, training_args={"num_generations": size})[0]
            assert {s.group_id for s in found} == {"1/g0"}


class TestWhereItLies:
    @pytest.mark.parametrize("folder", [".", "v0-20250101-120000"])
    def test_it_is_found_in_the_run_and_in_its_version_folder(self, tmp_path, folder):
        place = tmp_path.resolve() / folder
        place.mkdir(exist_ok=True)
        path = write_jsonl(place / "completions.jsonl", [batch()])
        source = find_source(None, a_run(root=tmp_path.resolve()))
        assert source is not None
        assert (source.path, source.reader.name) == (path, "ms-swift completions")

    def test_a_line_longer_than_what_is_looked_at_is_known(self, tmp_path):
        path = log(tmp_path, batch(prompt=[FIRST + "x" * 100_000] * 4))
        assert len(samples_of(path)[0]) == 4

    def test_a_file_of_another_kind_by_that_name_is_not(self, tmp_path):
        path = log(tmp_path, {"step": 3, "prompt": "a", "completion": "b"})
        with pytest.raises(RolloutError, match="no rollout file that is known here") as caught:
            samples_of(path)
        assert "--columns" in caught.value.hint


class TestFaults:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"prompt": FIRST}, "prompt must be list, found str"),
            ({"prompt": [FIRST, 5, SECOND, SECOND]}, "prompt must hold texts only"),
            ({"prompt": [FIRST, "", SECOND, SECOND]}, "prompt is empty"),
            ({"prompt": [FIRST] * 3}, "prompt must be a list as long as completion, 4"),
            ({"completion": None}, "completion must be list, found NoneType"),
            ({"completion": []}, "no completion in it"),
            ({"completion": [["x"]] * 4}, "completion must hold texts only"),
            ({"advantages": [0.1]}, "advantages must be a list as long as completion, 4"),
            ({"advantages": "0.1"}, "advantages must be a list as long as completion, 4"),
            ({"advantages": ["x"] * 4}, "advantages must hold numbers only"),
            ({"step": ["1", "2"]}, "step must be a list of one and the same number"),
            ({"step": ["x"] * 4}, "step must be a list of one and the same number"),
            ({"step": [[]] * 4}, "step must be a list of one and the same number"),
            ({"step": "10"}, "step must be a list of one and the same number"),
        ],
    )
    def test_it_is_named_with_file_and_line(self, tmp_path, given, says):
        path = log(tmp_path, batch(1), batch(2, **given), batch(3))
        with pytest.raises(RolloutError) as caught:
            read_rollouts(path)
        assert str(caught.value) == f"completions.jsonl:2: {says}"

    def test_no_odd_value_is_more_than_a_fault(self, tmp_path):
        _, _, reader = samples_of(log(tmp_path))
        read = 0
        for name, text in spoilt(batch(2)):
            path = log(tmp_path, batch(1), text, json.dumps(batch(3)))
            try:
                read += is_clean_or_refused(path, reader)
            except Exception as error:
                raise AssertionError(name) from error
        assert read > 20
