import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.replay.batches import Batch, Work, plan

IDS = st.lists(st.integers(1, 99), min_size=1, max_size=9)


#: Up to a dozen rollouts as (prompt, completion, checkpoints); no id is 0, which pads. `Work`s
#: are made in the tests: beartype draws random numbers to check them, which strategies must not.
ROLLOUTS = st.lists(
    st.tuples(IDS, IDS, st.sampled_from([("a",), ("b",), ("a", "b")])), min_size=1, max_size=12
)
BUDGET = st.integers(1, 60)


def made(drawn: list[tuple[list[int], list[int], tuple[str, ...]]]) -> list[Work]:
    return [work(f"r{place}", *one) for place, one in enumerate(drawn)]


def work(
    identity: str, prompt: list[int], completion: list[int], checkpoints: tuple[str, ...] = ("a",)
) -> Work:
    rollout = Rollout(
        id=identity,
        step=None,
        group_id="g",
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        mask=(True,) * len(completion),
    )
    return Work(rollout=rollout, checkpoints=checkpoints)


def sequence(item: Work) -> list[int]:
    return [*item.rollout.prompt_ids, *item.rollout.completion_ids]


def shape_of(batches: list[Batch]) -> list[list[str]]:
    return [[item.rollout.id for item in batch.work] for batch in batches]


@given(ROLLOUTS, BUDGET)
def test_no_batch_is_over_the_budget_unless_one_sequence_is(drawn, budget) -> None:
    for batch in plan(made(drawn), budget):
        assert batch.ids.numel() <= budget or len(batch.work) == 1


@given(ROLLOUTS, BUDGET)
def test_every_rollout_is_planned_exactly_once(drawn, budget) -> None:
    planned = [name for names in shape_of(plan(made(drawn), budget)) for name in names]
    assert sorted(planned) == sorted(item.rollout.id for item in made(drawn))


@given(ROLLOUTS, BUDGET)
def test_rollouts_for_different_checkpoints_never_share_a_batch(drawn, budget) -> None:
    for batch in plan(made(drawn), budget):
        assert len({item.checkpoints for item in batch.work}) == 1


@given(ROLLOUTS, BUDGET)
def test_the_longest_come_first_so_that_memory_fails_early(drawn, budget) -> None:
    by_checkpoints: dict[tuple[str, ...], list[int]] = {}
    for batch in plan(made(drawn), budget):
        lengths = [len(sequence(item)) for item in batch.work]
        by_checkpoints.setdefault(batch.work[0].checkpoints, []).extend(lengths)
    for lengths in by_checkpoints.values():
        assert lengths == sorted(lengths, reverse=True)


@given(ROLLOUTS, BUDGET)
def test_no_rollout_that_fits_opens_a_new_batch(drawn, budget) -> None:
    batches = plan(made(drawn), budget)
    for batch, following in itertools.pairwise(batches):
        if batch.work[0].checkpoints == following.work[0].checkpoints:
            assert (len(batch.work) + 1) * batch.ids.shape[1] > budget


@given(ROLLOUTS, BUDGET, st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_given(drawn, budget, random) -> None:
    shuffled = made(drawn)
    random.shuffle(shuffled)
    assert shape_of(plan(shuffled, budget)) == shape_of(plan(made(drawn), budget))


@given(ROLLOUTS, BUDGET)
def test_rows_hold_prompt_and_completion_flush_left_and_zeros_behind(drawn, budget) -> None:
    for batch in plan(made(drawn), budget):
        width = max(len(sequence(item)) for item in batch.work)
        assert batch.ids.shape == batch.attend.shape == batch.predicts.shape
        assert batch.ids.shape == (len(batch.work), width)
        for row, item in enumerate(batch.work):
            ids = sequence(item)
            spare = width - len(ids)
            assert batch.ids[row].tolist() == ids + [0] * spare
            assert batch.attend[row].tolist() == [True] * len(ids) + [False] * spare


@given(ROLLOUTS, BUDGET)
def test_predicting_positions_are_one_before_the_completion_tokens(drawn, budget) -> None:
    for batch in plan(made(drawn), budget):
        targets = iter(batch.targets.tolist())
        for row, item in enumerate(batch.work):
            places = torch.nonzero(batch.predicts[row]).flatten().tolist()
            first = len(item.rollout.prompt_ids) - 1
            assert places == list(range(first, first + len(item.rollout.completion_ids)))
            for place in places:
                # Each position's target is the id that stands right after it.
                assert next(targets) == batch.ids[row, place + 1].item()
        assert next(targets, None) is None


def test_nothing_to_do_is_no_batch() -> None:
    assert plan([], 100) == []


def test_a_sequence_longer_than_the_budget_gets_a_batch_of_its_own() -> None:
    long, short = work("long", [1] * 5, [1] * 20), work("short", [1], [1])
    assert shape_of(plan([short, long], 10)) == [["long"], ["short"]]
