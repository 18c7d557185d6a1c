"""Replicas of a replay: which completions, really composed otherwise, and float32 from the base."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.selection import Group, Selection
from arca_diag.progress import Silent
from arca_diag.replay import noise
from arca_diag.replay.batches import Work, plan, recompose
from arca_diag.replay.forward import replay
from arca_diag.replay.noise import PROMPTS, noise_work, replay_higher, replay_recomposed
from tests.replay.test_forward import assert_same, load, sampled


def rollout(name: str, *, prompt: int, step: int | None = 0, counted: int = 10) -> Rollout:
    return Rollout(
        id=name,
        step=step,
        group_id=f"{step}/{prompt}",
        prompt_ids=(prompt, 1),
        completion_ids=tuple(range(2, 2 + max(counted, 3))),
        mask=tuple(i < counted for i in range(max(counted, 3))),
    )


def groups(*rollouts: Rollout) -> tuple[Group, ...]:
    return tuple(Group(id=r.id, step=r.step, members=(r.id,), rollouts=(r,)) for r in rollouts)


def chosen(*rollouts: Rollout) -> list[Rollout]:
    selection = Selection(own={"c": groups(*rollouts)}, fixed=(), window=0)
    return [item.rollout for item in noise_work(selection, ["c"])]


MANY = [
    rollout(f"{step}/{prompt}/{n}", prompt=prompt, step=step, counted=8 + n)
    for step in range(0, 100, 5)
    for prompt in range(24)
    for n in range(3)
]


# Which completions.


def test_one_completion_of_each_of_sixteen_prompts_spread_over_the_steps() -> None:
    found = chosen(*MANY)
    assert len(found) == PROMPTS == len({r.cluster for r in found})
    steps = sorted(r.step or 0 for r in found)
    # Sixteenths of 0 to 95 have their middles at 3.0, 8.9, ...: each has a step within 2.5.
    middles = [95 * (place + 0.5) / 16 for place in range(16)]
    assert max(abs(s - m) for s, m in zip(steps, middles, strict=True)) <= 2.5


def test_every_prompt_is_used_where_there_are_fewer() -> None:
    found = chosen(*(r for r in MANY if r.prompt_ids[0] < 3))
    assert sorted(r.prompt_ids[0] for r in found) == [0, 1, 2]


def test_short_completions_are_used_only_where_a_prompt_has_no_other() -> None:
    short = [rollout(f"s{p}", prompt=p, step=50, counted=7) for p in range(4)]
    long = [rollout(f"l{p}", prompt=p, step=99, counted=8) for p in range(3)]
    assert sorted(r.id for r in chosen(*short, *long)) == ["l0", "l1", "l2", "s3"]


def test_of_one_step_the_completion_nearest_to_the_median_length_is_used() -> None:
    one_prompt = [rollout(f"n{n}", prompt=1, counted=n) for n in (9, 12, 13, 40, 90)]
    assert [r.id for r in chosen(*one_prompt)] == ["n13"]


def test_a_completion_that_counts_no_token_is_never_used() -> None:
    assert chosen(rollout("a", prompt=1, counted=0)) == []
    assert [r.id for r in chosen(rollout("a", prompt=1, counted=0), rollout("b", prompt=1))] == [
        "b"
    ]


def test_completions_without_a_step_are_chosen_too() -> None:
    found = chosen(*(rollout(f"{p}", prompt=p, step=None) for p in range(20)))
    assert len(found) == PROMPTS


def test_the_order_of_files_moves_nothing_and_names_do() -> None:
    shuffled = list(MANY)
    random.Random(3).shuffle(shuffled)
    assert chosen(*shuffled) == chosen(*MANY)
    alike = [rollout(f"{n}", prompt=1) for n in range(50)]
    renamed = [rollout(f"other {n}", prompt=1) for n in range(50)]
    assert [r.id for r in chosen(*renamed)] != [f"other {r.id}" for r in chosen(*alike)]


def test_both_views_of_every_checkpoint_are_sampled_and_the_fixed_set_alike() -> None:
    own = {f"c{i}": [r for r in MANY if r.step == 5 * i] for i in range(3)}
    fixed = [r for r in MANY if (r.step or 0) >= 50]
    selection = Selection(
        own={name: groups(*rollouts) for name, rollouts in own.items()},
        fixed=groups(*fixed),
        window=0,
    )
    work = noise_work(selection, own)
    assert len({item.rollout.id for item in work}) == len(work)
    shared = [w.rollout for w in work if w.checkpoints == ("c0", "c1", "c2")]
    assert len(shared) == PROMPTS
    assert set(shared) <= set(fixed)
    for name, rollouts in own.items():
        alone = [w.rollout for w in work if w.checkpoints == (name,)]
        assert len(alone) == PROMPTS
        assert set(alone) <= set(rollouts)


# In another composition.


def test_what_shared_a_batch_runs_alone_and_what_was_alone_beside_a_copy_with_padding() -> None:
    lengths = (30, 9, 8, 7)
    work = [Work(rollout=rollout(str(n), prompt=n, counted=n), checkpoints=("c",)) for n in lengths]
    batches = plan(work, 40)
    assert [[w.rollout.id for w in b.work] for b in batches] == [["30"], ["9", "8", "7"]]
    copied, *alone = recompose(batches, work)
    assert copied.work == (work[0], work[0])
    assert not copied.attend.all(dim=1).any()
    assert torch.equal(copied.ids[0], copied.ids[1])
    assert [b.work for b in alone] == [(w,) for w in work[1:]]
    assert all(b.attend.all() for b in alone)


def test_a_rollout_that_shared_a_batch_under_any_checkpoints_runs_alone() -> None:
    one, other = (rollout(n, prompt=p) for n, p in (("a", 1), ("b", 2)))
    batches = plan([Work(rollout=r, checkpoints=("c", "d")) for r in (one, other)], 1000)
    (again,) = recompose(batches, [Work(rollout=one, checkpoints=("d",))])
    assert len(again.work) == 1
    assert again.work[0].checkpoints == ("d",)


@pytest.mark.parametrize("batch_tokens", [1, 2000])
def test_recomposed_tokens_are_those_of_the_replay_once_each(
    tiny_run: Path, batch_tokens: int
) -> None:
    folder = tiny_run / "checkpoint-20"
    model = load(tiny_run / "base", folder)
    work = [Work(rollout=r, checkpoints=(folder.name,)) for r in sampled(tiny_run, 21)[:6]]
    batches = plan(work, batch_tokens)
    assert {len(b.work) for b in batches} == ({1} if batch_tokens == 1 else {6})
    first = {r.rollout.id: r for r in replay(model, batches, temperature=0.7, progress=Silent())}
    again = replay_recomposed(model, batches, work[1:4], temperature=0.7, progress=Silent())
    assert sorted(r.rollout.id for r in again) == sorted(w.rollout.id for w in work[1:4])
    for one in again:
        assert_same(one, first[one.rollout.id])


# In float32.


def test_where_the_device_has_no_room_for_float32_the_cpu_takes_over(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def loaded(inputs: Any, dtype: str, device: str) -> Any:
        asked.append((dtype, device))
        if device != "cpu":
            raise torch.OutOfMemoryError("too small")
        return load(tiny_run / "base", tiny_run / "checkpoint-20", dtype=torch.float32), inputs

    monkeypatch.setattr(noise, "load_adapted", loaded)

    class Inputs:
        temperature = 1.0

    work = [Work(rollout=r, checkpoints=("checkpoint-20",)) for r in sampled(tiny_run, 21)[:2]]
    found = replay_higher.__wrapped__(  # type: ignore[attr-defined]
        Inputs(), work, "float32", "cuda", batch_tokens=99, progress=Silent()
    )
    assert asked == [("float32", "cuda"), ("float32", "cpu")]
    assert len(found) == 2
    assert all(np.isfinite(r.residual).all() for r in found)
