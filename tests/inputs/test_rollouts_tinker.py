from pathlib import Path
from typing import Any

import pytest

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import Sample
from arca_diag.inputs.rollouts.census import find_source
from tests.inputs import a_run, read_rollouts, write_jsonl
from tests.inputs.odd_values import is_clean_or_refused, samples_of, spoilt

SUMMARY = {
    "schema_version": 1,
    "split": "train",
    "iteration": 3,
    "group_idx": 0,
    "traj_idx": 2,
    "tags": ["math"],
    "sampling_client_step": 3,
    "total_reward": 1.0,
    "final_reward": 1.0,
    "trajectory_metrics": {},
    "steps": [{"step_idx": 0, "ob_len": 57, "ac_len": 210, "reward": 1.0}],
    "final_ob_len": 0,
}


def request(iteration: int = 3, **given: Any) -> dict[str, Any]:
    plain = {
        "prompt_tokens": [1, 4, 14],
        "samples": [
            {"tokens": [5, 6, 2], "logprobs": [-0.1, -0.2, -0.3], "stop_reason": "stop"},
            {"tokens": [7, 8], "logprobs": [-1.5, -0.5], "stop_reason": "length"},
        ],
        "scope": {"split": "train", "iteration": iteration, "group_idx": 0},
    }
    return plain | given


def capture(tmp_path: Path, *lines: Any) -> Path:
    (tmp_path / "capture").mkdir(exist_ok=True)
    return write_jsonl(tmp_path / "capture" / "sample.jsonl", lines or [request()])


def step_of(tmp_path: Path, scope: object) -> int | None:
    return samples_of(capture(tmp_path, request(scope=scope)))[0][0].step


class TestWhatIsRead:
    def test_every_field(self, tmp_path):
        samples, notes, reader = samples_of(capture(tmp_path))
        assert reader.name == "Tinker samples"
        shared: dict[str, Any] = {
            "place": "sample.jsonl:1",
            "step": 3,
            "group_id": samples[0].group_id,
            "prompt": (1, 4, 14),
        }
        assert samples == [
            Sample(
                id="1/0",
                completion=(5, 6, 2),
                finish_reason="stop",
                sampling_logprobs=(-0.1, -0.2, -0.3),
                **shared,
            ),
            Sample(
                id="1/1",
                completion=(7, 8),
                finish_reason="length",
                sampling_logprobs=(-1.5, -0.5),
                **shared,
            ),
        ]
        assert notes.step_source == "the iteration in scope"
        assert notes.group_source == "the same prompt at the same step"

    def test_the_folder_reads_as_the_file_does(self, tmp_path):
        path = capture(tmp_path)
        assert samples_of(path.parent)[0] == samples_of(path)[0]

    def test_ids_are_exact_and_need_no_tokenizer(self, tmp_path):
        rollouts = read_rollouts(capture(tmp_path)).rollouts
        assert [r.ids_exact for r in rollouts] == [True, True]
        assert [r.reward for r in rollouts] == [None, None]

    def test_requests_of_one_prompt_at_one_step_share_a_group(self, tmp_path):
        path = capture(
            tmp_path, request(3), request(3), request(4), request(3, prompt_tokens=[1, 4])
        )
        groups = [s.group_id for s in samples_of(path)[0]]
        assert groups[0] == groups[3]
        assert len({groups[0], groups[4], groups[6]}) == 3

    def test_an_empty_answer_is_left_out(self, tmp_path):
        path = capture(tmp_path, request(samples=[{"tokens": []}, {"tokens": [5]}]))
        samples, notes, _ = samples_of(path)
        assert [s.id for s in samples] == ["1/1"]
        assert dict(notes.left_out) == {"empty: no token to credit": 1}


@pytest.mark.parametrize(
    ("scope", "step"),
    [
        ({"iteration": 0}, 0),
        ({"iteration": 5, "sampling_client_step": 4}, 4),
        ("train/iteration_000012/group_3", 12),
        ("iteration=7", 7),
        ("eval", None),
        ({}, None),
        (None, None),
        ([3], None),
    ],
)
def test_the_step_is_the_scopes_iteration(tmp_path, scope, step):
    assert step_of(tmp_path, scope) == step


class TestSummaries:
    @pytest.mark.parametrize("whole", [True, False])
    def test_they_are_refused_with_what_to_do(self, tmp_path, whole):
        folder = tmp_path / "iteration_000003"
        folder.mkdir()
        path = write_jsonl(folder / "train_rollout_summaries.jsonl", [SUMMARY])
        with pytest.raises(RolloutError, match=r"neither the token ids nor the text") as caught:
            read_rollouts(folder if whole else path)
        assert "capture" in caught.value.hint

    def test_a_run_that_has_nothing_else_says_so(self, tmp_path):
        folder = tmp_path / "iteration_000003"
        folder.mkdir()
        write_jsonl(folder / "train_rollout_summaries.jsonl", [SUMMARY])
        with pytest.raises(RolloutError, match="neither the token ids nor the text"):
            read_rollouts(None, root=tmp_path.resolve())

    def test_what_was_captured_counts_before_them(self, tmp_path):
        folder = tmp_path / "iteration_000003"
        folder.mkdir()
        write_jsonl(folder / "train_rollout_summaries.jsonl", [SUMMARY])
        path = capture(tmp_path)
        source = find_source(None, a_run(root=tmp_path.resolve()))
        assert source is not None
        assert source.path == path.parent.resolve()


class TestFaults:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"prompt_tokens": None}, "prompt_tokens is missing"),
            ({"prompt_tokens": []}, "prompt_tokens is empty"),
            ({"prompt_tokens": [2**31]}, "prompt_tokens holds a number that is no token id"),
            ({"samples": None}, "samples must be a list of objects"),
            ({"samples": [5]}, "samples must be a list of objects"),
            ({"samples": [{}]}, "tokens is missing"),
            ({"samples": [{"tokens": "x"}]}, "tokens must be list, found str"),
            (
                {"samples": [{"tokens": [5, 6], "logprobs": [-1]}]},
                "logprobs must have one entry a completion token, 2: 1",
            ),
            ({"samples": [{"tokens": [5], "stop_reason": 1}]}, "stop_reason must be str"),
            ({"scope": {"iteration": -1}}, "iteration must be >= 0, found -1"),
        ],
    )
    def test_it_is_named_with_file_and_line(self, tmp_path, given, says):
        with pytest.raises(RolloutError) as caught:
            read_rollouts(capture(tmp_path, request(), request(**given), request()))
        assert str(caught.value).startswith(f"sample.jsonl:2: {says}")

    def test_no_odd_value_is_more_than_a_fault(self, tmp_path):
        _, _, reader = samples_of(capture(tmp_path))
        inside = request()["samples"][0]
        lines = [text for _, text in spoilt(request())]
        lines += ['{"prompt_tokens": [1], "samples": [' + text + "]}" for _, text in spoilt(inside)]
        read = 0
        for text in lines:
            path = capture(tmp_path, request(1), text, request(2))
            try:
                read += is_clean_or_refused(path, reader)
            except Exception as error:
                raise AssertionError(text[:200]) from error
        assert read > 20
