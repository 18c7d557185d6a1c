from pathlib import Path
from typing import Any

import pytest

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import nemo_rl
from arca_diag.inputs.rollouts.record import Notes, Sample
from tests.inputs import EOS, a_run, read_rollouts, write_jsonl
from tests.inputs.hostile import check_broken_lines, check_every_damage


def row(number: int = 0, **given: Any) -> dict[str, Any]:
    """A row as the logger writes it: two ids of padding, all but `idx` wrapped."""
    plain = {
        "content": ["<user>2+2?"],
        "rewards": 1.0,
        "input_lengths": 5,
        "token_ids": [1, 9, 7, 8, EOS, 0, 0],
        "token_loss_mask": [0, 0, 1, 1, 1, 0, 0],
        "sample_loss_mask": 1.0,
        "advantages": [0.7] * 7,
        "generation_logprobs": [0.0, 0.0, -0.3, -1.2, -0.1, 0.0, 0.0],
        "prev_logprobs": [0.0, -2.0, -0.31, -1.19, -0.11, 0.0, 0.0],
    }
    return {key: [value] for key, value in (plain | given).items()} | {"idx": number}


def samples(path: Path, notes: Notes | None = None) -> list[Sample]:
    return list(nemo_rl.read(path, a_run(), notes or Notes()))


def step_file(folder: Path, step: int, *rows: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_jsonl(folder / f"train_data_step{step}.jsonl", rows)


EXPECTED = Sample(
    id="1/3/1",
    place="exp_001/train_data_step3.jsonl:1",
    step=2,
    group_id="1/3/g1",
    prompt=(1, 9),
    completion=(7, 8, EOS),
    mask=(True, True, True),
    reward=1.0,
    advantage=(0.7, 0.7, 0.7),
    sampling_logprobs=(-0.3, -1.2, -0.1),
    trainer_logprobs=(-0.31, -1.19, -0.11),
)


class TestWhatIsRead:
    def test_a_wrapped_row(self, tmp_path):
        notes = Notes()
        step_file(tmp_path / "exp_001", 3, row())
        assert samples(tmp_path, notes) == [EXPECTED]
        assert "N - 1" in notes.step_source
        assert notes.group_source == "rows that lie together and share a prompt"

    def test_a_row_without_the_wrapping(self, tmp_path):
        plain = {k: v[0] if isinstance(v, list) else v for k, v in row().items()}
        step_file(tmp_path / "exp_001", 3, plain)
        assert samples(tmp_path) == [EXPECTED]

    def test_steps_are_in_order_and_a_folder_or_a_file_can_be_named(self, tmp_path):
        for step in (10, 9):
            step_file(tmp_path / "exp_002", step, row())
        file = step_file(tmp_path / "exp_001", 1, row())
        assert [s.step for s in samples(tmp_path)] == [0, 8, 9]
        assert [s.step for s in samples(tmp_path / "exp_002")] == [8, 9]
        assert [s.step for s in samples(file)] == [0]

    def test_a_file_of_another_name_has_no_step(self, tmp_path):
        notes = Notes()
        (found,) = samples(write_jsonl(tmp_path / "any.jsonl", [row()]), notes)
        assert found.step is None
        assert notes.step_source == ""

    def test_padding_is_cut_whatever_stands_in_it(self, tmp_path):
        spoilt = row(token_loss_mask=[0, 0, 1, 1, 1, 1, 1])
        (found,) = samples(step_file(tmp_path, 1, spoilt))
        assert found.completion == (7, 8, EOS)

    def test_a_tools_turn_stays_and_does_not_count(self, tmp_path):
        (found,) = samples(step_file(tmp_path, 1, row(token_loss_mask=[0, 1, 0, 1, 0, 0, 0])))
        assert (found.prompt, found.completion) == ((1,), (9, 7, 8))
        assert found.mask == (True, False, True)
        assert repr(found.sampling_logprobs) == "(0.0, nan, -1.2)"

    def test_rows_side_by_side_with_a_prompt_are_a_group(self, tmp_path):
        other = row(token_ids=[1, 4, 7, 8, EOS, 0, 0])
        masked = row(sample_loss_mask=0.0)
        notes = Notes()
        rows = [row(), masked, row(), other, other, row()]
        found = samples(step_file(tmp_path, 1, *rows), notes)
        assert [s.group_id[-2:] for s in found] == ["g1", "g1", "g2", "g2", "g3"]
        assert notes.left_out == {"masked out of the loss as a whole": 1}

    def test_with_dynamic_sampling_the_filtered_reward_is_the_rows(self, tmp_path):
        (found,) = samples(step_file(tmp_path, 1, row(filtered_rewards=0.25)))
        assert found.reward == 0.25

    def test_an_advantage_may_be_one_for_all(self, tmp_path):
        (found,) = samples(step_file(tmp_path, 1, row(advantages=0.7)))
        assert found.advantage == 0.7
        (found,) = samples(step_file(tmp_path, 1, row(advantages=[0.7])))
        assert found.advantage == 0.7

    @pytest.mark.parametrize("logs", ["logs/exp_001", "logs/grpo/exp_001", "exp_001"])
    def test_a_runs_files_are_found(self, tmp_path, logs):
        step_file(tmp_path / logs, 1, row())
        found = read_rollouts(None, root=tmp_path)
        assert found.source.startswith("NeMo-RL training data")
        assert len(found.rollouts) == 1


class TestFaults:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"token_ids": []}, "token_ids is missing or empty"),
            ({"token_loss_mask": None}, "token_loss_mask is missing"),
            ({"token_loss_mask": [1, 1]}, "token_loss_mask must have one entry"),
            ({"token_loss_mask": [1] * 7}, "nothing to follow"),
            ({"input_lengths": None}, "input_lengths is missing"),
            ({"input_lengths": 8}, "input_lengths must be 1 to 7"),
            ({"input_lengths": 0}, "input_lengths must be 1 to 7"),
            ({"prev_logprobs": [0.0] * 5}, "prev_logprobs must have one entry"),
            ({"rewards": "high"}, "rewards must be a finite number"),
        ],
        ids=str,
    )
    def test_they_are_named(self, tmp_path, given, says):
        path = step_file(tmp_path, 1, row(), row(**given))
        with pytest.raises(RolloutError, match=rf"^train_data_step1\.jsonl:2: .*{says}"):
            read_rollouts(path)

    def test_every_damage_is_refused_or_read(self, tmp_path):
        refused, read = check_every_damage(tmp_path / "train_data_step1.jsonl", row())
        assert refused > 150
        assert read > 50
        check_broken_lines(tmp_path / "train_data_step1.jsonl", row())
