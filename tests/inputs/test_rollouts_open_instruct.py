from pathlib import Path
from typing import Any

import pytest

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import open_instruct
from arca_diag.inputs.rollouts.record import Notes, Sample, hash_ids
from tests.inputs import EOS, a_run, read_rollouts, write_jsonl
from tests.inputs.hostile import check_broken_lines, check_every_damage

NAME = "run_rollouts_000000.jsonl"


def row(**given: Any) -> dict[str, Any]:
    plain = {
        "step": 5,
        "sample_idx": 0,
        "prompt_idx": 0,
        "prompt_tokens": [1, 9],
        "response_tokens": [7, 8, EOS],
        "reward": 10.0,
        "advantage": 0.98,
        "finish_reason": "stop",
        "dataset": "gsm8k",
        "ground_truth": [4],
        "request_info": {"num_calls": 0, "timeouts": 0, "tool_errors": "", "tool_calleds": False},
        "logprobs": [-0.3, -1.2, -0.1],
    }
    return plain | given


def samples(path: Path, notes: Notes | None = None) -> list[Sample]:
    return list(open_instruct.read(path, a_run(), notes or Notes()))


class TestWhatIsRead:
    def test_a_row(self, tmp_path):
        notes = Notes()
        assert samples(write_jsonl(tmp_path / NAME, [row()]), notes) == [
            Sample(
                id="0/1",
                place=f"{NAME}:1",
                step=5,
                group_id=f"{hash_ids([1, 9])}@5",
                prompt=(1, 9),
                completion=(7, 8, EOS),
                reward=10.0,
                advantage=0.98,
                finish_reason="stop",
                sampling_logprobs=(-0.3, -1.2, -0.1),
            )
        ]
        assert "counted from 0" in notes.step_source
        assert notes.group_source == "the same prompt at the same step"

    def test_shards_are_in_order_and_the_metadata_is_no_shard(self, tmp_path):
        for shard in (10, 9):
            write_jsonl(tmp_path / f"a_rollouts_{shard:06d}.jsonl", [row(step=shard), row()])
        write_jsonl(tmp_path / "a_metadata.jsonl", [{"run_name": "a"}])
        assert [s.id for s in samples(tmp_path)] == ["9/1", "9/2", "10/1", "10/2"]

    def test_a_miscounted_prompt_idx_mixes_no_prompts(self, tmp_path):
        """Rows 0 to 2 share prompt_idx 0 after one of the first prompt's rows was taken out."""
        rows = [
            row(prompt_idx=0),
            row(prompt_idx=0, prompt_tokens=[1, 4]),
            row(prompt_idx=1, prompt_tokens=[1, 4]),
            row(prompt_idx=1, prompt_tokens=[1, 4], step=6),
        ]
        groups = [s.group_id for s in samples(write_jsonl(tmp_path / NAME, rows))]
        assert groups[1] == groups[2]
        assert len(set(groups)) == 3

    @pytest.mark.parametrize("info", [{"tool_calleds": True}, {"num_calls": 2}])
    def test_a_response_with_tool_outputs_in_it_is_left_out(self, tmp_path, info):
        notes = Notes()
        path = write_jsonl(tmp_path / NAME, [row(request_info=info), row(request_info=None)])
        assert [s.id for s in samples(path, notes)] == ["0/2"]
        assert notes.left_out == {"tool calls, whose tokens the file does not tell apart": 1}

    def test_a_folder_of_several_runs_is_refused(self, tmp_path):
        for run in ("a", "b"):
            write_jsonl(tmp_path / f"{run}_rollouts_000000.jsonl", [row()])
        with pytest.raises(RolloutError, match="rollouts of 2 runs: a, b"):
            read_rollouts(tmp_path)
        assert len(read_rollouts(tmp_path / "b_rollouts_000000.jsonl").rollouts) == 1

    def test_a_runs_files_are_found(self, tmp_path):
        (tmp_path / "rollouts").mkdir()
        write_jsonl(tmp_path / "rollouts" / NAME, [row()])
        assert read_rollouts(None, root=tmp_path).source == "open-instruct traces: rollouts"


class TestFaults:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"prompt_tokens": []}, "prompt_tokens is missing or empty"),
            ({"response_tokens": None}, "response_tokens is missing or empty"),
            ({"logprobs": [-0.3]}, "logprobs must have one entry a completion token, 3: 1"),
            ({"request_info": [1]}, "request_info must be an object"),
            ({"step": "5"}, "step must be int"),
        ],
        ids=str,
    )
    def test_they_are_named(self, tmp_path, given, says):
        path = write_jsonl(tmp_path / NAME, [row(), row(**given)])
        with pytest.raises(RolloutError, match=rf"^{NAME}:2: {says}"):
            read_rollouts(path)

    def test_every_damage_is_refused_or_read(self, tmp_path):
        refused, read = check_every_damage(tmp_path / NAME, row())
        assert refused > 120
        assert read > 100
        check_broken_lines(tmp_path / NAME, row())
