"""The recorder, called as TRL calls a reward function, and called by TRL itself; what is read."""

import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from transformers import PreTrainedTokenizerFast

from arca_diag.inputs.rollouts.census import Census, find_source, load, take_census
from arca_diag.inputs.rollouts.record import Sample
from arca_diag.inputs.runs import find_run
from arca_diag.trl import recorder
from tests.conftest import TINY


def called(
    completion_ids: list[list[int]], step: int
) -> tuple[list[None], dict[str, list[object]]]:
    """What the recorder returned, and the columns that it added."""
    columns: dict[str, list[object]] = {}
    result = recorder()(
        prompts=["1+1>"] * len(completion_ids),
        completions=["=2"] * len(completion_ids),
        completion_ids=completion_ids,
        trainer_state=SimpleNamespace(global_step=step),
        log_extra=columns.__setitem__,
        log_metric=lambda name, value: None,
    )
    return result, columns


def test_it_rewards_nothing_and_records_ids_and_step() -> None:
    result, columns = called([[5, 6, 2], [7]], step=4)
    assert result == [None, None]
    assert columns == {
        "arca_completion_ids": [[5, 6, 2], [7]],
        "arca_gen_step": [4, 4],
    }


def test_what_is_recorded_does_not_change_with_the_trainers_lists() -> None:
    ids = [[5, 6]]
    _, columns = called(ids, step=0)
    ids[0].append(9)
    assert columns["arca_completion_ids"] == [[5, 6]]


def test_its_name_is_the_name_of_its_empty_reward_column() -> None:
    assert recorder().__name__ == "arca_recorder"


class TestInsideTRL:
    def test_it_changes_neither_the_training_nor_what_is_logged(self, trl_runs) -> None:
        without, with_it = trl_runs["no-recorder"], trl_runs["fresh"]
        adapters = sorted(without.glob("checkpoint-*/adapter_model.safetensors"))
        assert len(adapters) == 3
        for adapter in adapters:
            same = with_it / adapter.relative_to(without)
            assert adapter.read_bytes() == same.read_bytes(), adapter.parent.name
        for number, table in tables(without).items():
            more = tables(with_it)[number]
            pd.testing.assert_frame_equal(more[table.columns], table)

    def test_its_columns_stand_between_the_rewards_and_the_advantage(self, trl_runs) -> None:
        assert list(tables(trl_runs["no-recorder"])[1]) == [
            *("step", "prompt", "completion", "odd_digits", "advantage"),
        ]
        assert list(tables(trl_runs["fresh"])[1]) == [
            *("step", "prompt", "completion", "odd_digits", "arca_recorder"),
            *("arca_completion_ids", "arca_gen_step", "advantage"),
        ]

    def test_its_reward_column_is_empty(self, trl_runs) -> None:
        for table in tables(trl_runs["fresh"]).values():
            assert table["arca_recorder"].isna().all()

    def test_the_ids_decode_to_the_text_and_hold_the_closing_token(self, trl_runs) -> None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(TINY / "base")
        ended = []
        for table in tables(trl_runs["fresh"]).values():
            for ids, text in zip(table["arca_completion_ids"], table["completion"], strict=True):
                assert tokenizer.decode(ids, skip_special_tokens=True) == text
                assert tokenizer.eos_token_id not in ids[:-1]
                ended.append(ids[-1] == tokenizer.eos_token_id)
                # 20 is the limit of these runs: cut off there, or ended by the model.
                assert ended[-1] or len(ids) == 20
        assert any(ended)
        assert not all(ended)

    def test_the_step_is_that_of_the_policy_which_sampled(self, trl_runs) -> None:
        steps = {
            number: set(table["arca_gen_step"])
            for number, table in tables(trl_runs["fresh"]).items()
        }
        assert steps == {1: {0}, 2: {1}, 3: {2}, 4: {3}}


def read(folder: Path) -> tuple[Census, list[Sample]]:
    """All completions that the reader takes from a run."""
    run = find_run(folder)
    source = find_source(None, run)
    assert source is not None
    census = take_census(source, run, skip_bad_lines=False)
    return census, list(load(census, run, {e.group_id for e in census.entries}).values())


class TestWhatIsReadOfIt:
    #: Run -> rows of its tables that an evaluation left, alone or mixed; see tests/trl_runs.py.
    EVALUATED = {"evaluated": 16, "evaluated-mixed": 26, "evaluated-reused": 24}  # noqa: RUF012

    @pytest.mark.parametrize("name", ["fresh", "reused", "accumulated", "sparse", *EVALUATED])
    def test_what_training_sampled_at_the_step_that_the_recorder_says(self, trl_runs, name):
        census, samples = read(trl_runs[name])
        steps = {
            f"completions_{number:05d}/{row}": step
            for number, table in tables(trl_runs[name]).items()
            for row, step in enumerate(table["arca_gen_step"])
        }
        assert {s.id: s.step for s in samples} == {s.id: steps[s.id] for s in samples}
        assert all(s.has_ids and s.ids_exact for s in samples)
        assert not {s.prompt for s in samples} & {"91+13>", "82+24>", "73+35>"}
        assert census.notes.eval_excluded == self.EVALUATED.get(name, 0)
        assert len(samples) + census.notes.eval_excluded + census.notes.duplicates == len(steps)

    @pytest.mark.parametrize("name", ["reused", "accumulated", "sparse"])
    def test_the_step_is_the_same_without_the_recorders_column(self, trl_runs, name, tmp_path):
        steps = {s.id: s.step for s in read(trl_runs[name])[1]}
        copy = Path(shutil.copytree(trl_runs[name], tmp_path / name))
        for file in (copy / "completions").iterdir():
            pd.read_parquet(file).drop(columns="arca_gen_step").to_parquet(file)
        assert {s.id: s.step for s in read(copy)[1]} == steps

    def test_its_groups_are_those_of_training(self, trl_runs):
        census, samples = read(trl_runs["fresh"])
        sizes = [len(list(group)) for _, group in itertools.groupby(s.group_id for s in samples)]
        assert sizes == [4] * 8
        assert census.notes.group_source == "rows that lie together and share a prompt"


def tables(run: Path) -> dict[int, pd.DataFrame]:
    """The completion tables of a run by the number in their names."""
    files = sorted((run / "completions").glob("completions_*.parquet"))
    return {int(file.stem.rpartition("_")[2]): pd.read_parquet(file) for file in files}
