"""The recorder, called as TRL calls a reward function."""

from types import SimpleNamespace

from arca_diag.trl import recorder


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
