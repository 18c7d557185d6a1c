"""Which completions are looked at closely: spread over prompts, and by nothing but their names."""

import random

from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.selection import Group, Selection
from arca_diag.replay.subsample import PROMPTS, subsample


def rollout(name: str, prompt: int, counted: int = 5) -> Rollout:
    return Rollout(
        id=name,
        step=0,
        group_id="g",
        prompt_ids=(prompt, 1),
        completion_ids=tuple(range(6)),
        mask=tuple(i < counted for i in range(6)),
    )


def selection(own: list[Rollout], fixed: list[Rollout] | None = None) -> Selection:
    def groups(rollouts: list[Rollout]) -> tuple[Group, ...]:
        return tuple(Group(id=r.id, step=0, members=(r.id,), rollouts=(r,)) for r in rollouts)

    return Selection(own={"c": groups(own)}, fixed=groups(fixed or []), window=0)


MANY = [rollout(f"{prompt}/{n}", prompt) for prompt in range(12) for n in range(4)]


def prompts(rollouts: tuple[Rollout, ...]) -> list[int]:
    return [r.prompt_ids[0] for r in rollouts]


def test_one_completion_each_of_up_to_eight_prompts() -> None:
    found = subsample(selection(MANY), "c")
    assert len(found) == PROMPTS
    assert len(set(prompts(found))) == PROMPTS
    few = subsample(selection(MANY[:12]), "c")
    assert sorted(prompts(few)) == [0, 1, 2]


def test_tokens_are_reached_by_the_fewest_completions_and_no_prompt_is_used_twice_too_soon() -> (
    None
):
    found = subsample(selection(MANY), "c", tokens=86)  # 5 tokens each: 18 completions
    assert len(found) == 18
    assert len(set(prompts(found)[:12])) == 12
    assert len(set(prompts(found)[12:])) == 6
    assert len(subsample(selection(MANY), "c", tokens=85)) == 17
    assert len(subsample(selection(MANY), "c", tokens=3)) == PROMPTS
    assert len(subsample(selection(MANY), "c", tokens=10**6)) == len(MANY)


def test_the_choice_depends_on_names_alone() -> None:
    shuffled = list(MANY)
    random.Random(3).shuffle(shuffled)
    wanted = subsample(selection(MANY), "c", tokens=70)
    assert subsample(selection(shuffled), "c", tokens=70) == wanted
    renamed = [rollout(f"other {r.id}", r.prompt_ids[0]) for r in MANY]
    assert prompts(subsample(selection(renamed), "c")) == prompts(subsample(selection(MANY), "c"))
    assert {r.id for r in subsample(selection(renamed), "c")} != {
        f"other {r.id}" for r in subsample(selection(MANY), "c")
    }


def test_the_fixed_set_stands_in_where_the_own_set_counts_nothing() -> None:
    fixed = [rollout("fixed", 99)]
    assert prompts(subsample(selection([], fixed), "c", tokens=4)) == [99]
    assert prompts(subsample(selection([rollout("own", 1, counted=0)], fixed), "c")) == [99]
    assert prompts(subsample(selection([rollout("own", 1)], fixed), "c", tokens=50)) == [1]
    assert subsample(selection([], []), "c", tokens=4) == ()
