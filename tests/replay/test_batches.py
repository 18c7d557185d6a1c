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
    """What goes in: the last token predicts nothing."""
    return [*item.rollout.prompt_ids, *item.rollout.completion_ids[:-1]]


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
        assert batch.chains
        assert batch.ids.shape == batch.attend.shape == (len(batch.work), width)
        for row, item in enumerate(batch.work):
            ids = sequence(item)
            spare = width - len(ids)
            assert batch.ids[row].tolist() == ids + [0] * spare
            assert batch.attend[row].tolist() == [True] * len(ids) + [False] * spare
        assert batch.tokens == sum(len(sequence(item)) for item in batch.work)


def seen_from(batch: Batch, node: int) -> list[int]:
    """Tokens that a node sees, itself included, by the rule of `trees`."""
    row, own = divmod(node, batch.ids.shape[1])
    return [
        int(batch.ids[row, other]) for other in range(own + 1) if own < int(batch.end[row, other])
    ]


@given(ROLLOUTS, BUDGET, st.booleans())
def test_every_token_is_predicted_from_what_stands_before_it(drawn, budget, share) -> None:
    found = []
    for batch in plan(made(drawn), budget, share=share):
        at, targets = iter(batch.at.tolist()), iter(batch.targets.tolist())
        for item in batch.work:
            ids = [*item.rollout.prompt_ids, *item.rollout.completion_ids]
            for place in range(len(item.rollout.prompt_ids), len(ids)):
                node = int(batch.states[next(at)])
                assert next(targets) == ids[place]
                assert seen_from(batch, node) == ids[:place]
                assert int(batch.depth.flatten()[node]) == place - 1
            found.append(item.rollout.id)
        assert next(at, None) is None
        assert next(targets, None) is None
    assert sorted(found) == sorted(f"r{n}" for n in range(len(drawn)))


@given(ROLLOUTS, BUDGET)
def test_padding_of_trees_sees_itself_alone_and_nothing_sees_it(drawn, budget) -> None:
    for batch in plan(made(drawn), budget, share=True):
        width = batch.ids.shape[1]
        for row, place in torch.nonzero(~batch.attend).tolist():
            assert int(batch.end[row, place]) == place + 1
            assert seen_from(batch, row * width + place)[-1] == 0
        for row, last in enumerate(batch.attend.sum(1).tolist()):
            assert (batch.end[row, :last] <= last).all()


@given(ROLLOUTS)
def test_a_state_is_read_once_however_many_tokens_follow_it(drawn) -> None:
    for batch in plan(made(drawn), 10_000, share=True):
        assert len(set(batch.states.tolist())) == len(batch.states)
        assert sorted(set(batch.at.tolist())) == list(range(len(batch.states)))


def test_a_group_runs_its_prompt_once_and_what_its_completions_share() -> None:
    prompt = [1] * 20
    group = [
        work("a", prompt, [2, 3, 4]),
        work("b", prompt, [2, 3, 5]),
        work("c", prompt, [6, 7]),
        work("d", prompt, [2, 3, 4]),
    ]
    (batch,) = plan(group, 1000, share=True)
    assert batch.tokens == 20 + 2 + 1  # the prompt, 2 3, and 6
    assert len(batch.states) == 1 + 2 + 1
    assert not batch.chains
    assert sum(b.tokens for b in plan(group, 1000)) == 4 * 20 + 3 * 2 + 1


@given(ROLLOUTS, BUDGET)
def test_sharing_never_puts_more_tokens_through_the_model(drawn, budget) -> None:
    plain, shared = (plan(made(drawn), budget, share=share) for share in (False, True))
    assert sum(b.tokens for b in shared) <= sum(b.tokens for b in plain)


@given(ROLLOUTS, BUDGET)
def test_another_checkpoint_leaves_the_batches_of_the_fixed_set_alone(drawn, budget) -> None:
    def fixed(*checkpoints: str) -> list[Work]:
        return [Work(rollout=w.rollout, checkpoints=checkpoints, fixed=True) for w in made(drawn)]

    own = [work("own", [1, 2], [3, 4], ("new",))]
    before = plan(fixed("a", "b"), budget, share=True)
    after = plan([*fixed("a", "b", "new"), *own], budget, share=True)
    assert [b.sha256 for b in before] == [b.sha256 for b in after[: len(before)]]
    assert [w.rollout.id for b in after[len(before) :] for w in b.work] == ["own"]


def test_nothing_to_do_is_no_batch() -> None:
    assert plan([], 100) == []


def test_a_sequence_longer_than_the_budget_gets_a_batch_of_its_own() -> None:
    long, short = work("long", [1] * 5, [1] * 20), work("short", [1], [1])
    assert shape_of(plan([short, long], 10)) == [["long"], ["short"]]
