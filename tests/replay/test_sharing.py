"""Completions that share what they begin with: no number moves, in any kind of adapter or base."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from arca_diag.errors import ArcaError
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.progress import Silent
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Work, plan
from arca_diag.replay.forward import replay
from arca_diag.replay.passes import Passes, replay_all
from arca_diag.replay.scores import Replayed
from arca_diag.replay.sharing import can_share
from tests.replay.test_families import SMALL
from tests.replay.test_forward import (
    COLUMNS,
    KINDS,
    assert_same,
    load,
    new_adapter,
    plain,
    rollout,
    sampled,
    small_llama,
)

FEW = ("checkpoint-2", "checkpoint-100")


def groups(vocabulary: int) -> list[Rollout]:
    """Three prompts with five completions each, some of which begin alike or are the same."""
    rng = np.random.default_rng(1)
    found = []
    for number, size in enumerate((1, 4, 9)):
        prompt = rng.integers(vocabulary, size=size).tolist()
        one, other = (rng.integers(vocabulary, size=n).tolist() for n in (8, 5))
        completions = (one, other, one, [*one[:3], *other], one[:1])
        found += [rollout(f"{number}/{k}", prompt, c) for k, c in enumerate(completions)]
    return found


def shared(
    model: AdaptedModel, rollouts: Sequence[Rollout], *names: str, budget: int = 300, **more: Any
) -> dict[tuple[str, str], Replayed]:
    work = [Work(rollout=r, checkpoints=names) for r in rollouts]
    batches = plan(work, budget, share=True)
    assert sum(b.tokens for b in batches) < 0.8 * sum(b.tokens for b in plan(work, budget))
    options = {"temperature": 1.0} | more
    return {
        (r.checkpoint, r.rollout.id): r
        for r in replay(model, batches, progress=Silent(), **options)
    }


def everything(
    model: AdaptedModel, rollouts: Sequence[Rollout], *names: str, **more: Any
) -> Passes:
    work = [Work(rollout=r, checkpoints=names) for r in rollouts]
    options = {"batch_tokens": 200, "share": True, "temperature": 1.0} | more
    return replay_all(model, work, progress=Silent(), **options)


# No number moves.


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_in_float64_every_number_is_the_plain_forwards(tiny_run: Path, temperature: float) -> None:
    rollouts = sampled(tiny_run, 21)[:16]  # two groups
    folders = [tiny_run / name for name in FEW]
    found = shared(load(tiny_run / "base", *folders), rollouts, *FEW, temperature=temperature)
    for folder in folders:
        truth = plain(tiny_run / "base", folder, rollouts, temperature=temperature)
        for r in rollouts:
            assert_same(found[folder.name, r.id], truth[r.id], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("budget", [40, 300, 5000])
def test_in_float32_scores_are_within_1e4_nats_and_residuals_within_5e5_of_the_norm(
    tiny_run: Path, budget: int
) -> None:
    rollouts = sampled(tiny_run, 101)[:24]
    folder = tiny_run / "checkpoint-100"
    model = load(tiny_run / "base", folder, dtype=torch.float32)
    found = shared(model, rollouts, folder.name, budget=budget)
    truth = plain(tiny_run / "base", folder, rollouts, dtype=torch.float32)
    for (_, identity), one in found.items():
        for name in ("logprob", "entropy", "ref_logprob", "ref_entropy", "kl_exact"):
            assert np.abs(getattr(one, name) - truth[identity][name]).max() <= 1e-4, name
        gap = np.abs(one.residual - truth[identity]["residual"])
        assert (gap / truth[identity]["ref_norm"]).max() <= 5e-5


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed but the targeted layer")
@pytest.mark.filterwarnings("ignore:.*have invalid shape")
def test_every_kind_of_lora_is_replayed_as_peft_applies_it(
    tmp_path: Path, kind: str, tied: bool
) -> None:
    base = small_llama(tmp_path / "base", tied=tied)
    folder = new_adapter(base, tmp_path / "checkpoint-7", **KINDS[kind])
    rollouts = groups(19)
    truth = plain(base, folder, rollouts)
    for (_, identity), one in shared(load(base, folder), rollouts, folder.name).items():
        assert_same(one, truth[identity], rtol=1e-8, atol=1e-8)


def test_an_adapter_with_b_zero_moves_nothing_at_all(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-7", target_modules=["q_proj"])
    for dtype in (torch.float32, torch.bfloat16):
        model = load(base, folder, dtype=dtype)
        for name, parameter in model.peft.named_parameters():
            if "lora_B" in name:
                parameter.data.zero_()
        for one in shared(model, groups(19), folder.name).values():
            assert not one.residual.any()
            assert not one.kl_exact.any()


def test_equal_completions_have_equal_numbers(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-7", target_modules=["q_proj"])
    found = shared(load(base, folder, dtype=torch.float32), groups(19), folder.name)
    for name in COLUMNS:
        one, other = (getattr(found[folder.name, f"1/{k}"], name) for k in (0, 2))
        np.testing.assert_array_equal(one, other)


def test_shifts_are_those_of_the_completion(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-7", target_modules=["q_proj"])
    keep = {(folder.name, "1/3"), (folder.name, "2/1")}
    found = shared(load(base, folder), groups(19), folder.name, keep=keep)
    for key, one in found.items():
        assert (one.shift is not None) == (key in keep)
        if one.shift is not None:
            np.testing.assert_allclose(np.linalg.norm(one.shift, axis=1), one.residual, rtol=1e-12)


# Which architectures allow it.

LARGER = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "llama": ("llama", SMALL, True),
    "qwen3": ("qwen3", SMALL | {"head_dim": 8}, True),
    "a window that is not reached": ("mistral", SMALL | {"sliding_window": 30}, True),
    "a window in the way": ("mistral", SMALL | {"sliding_window": 29}, False),
    "windows in some layers": ("gemma2", SMALL | {"head_dim": 8, "sliding_window": 16}, False),
    "eager attention": ("gemma2", SMALL | {"head_dim": 8, "sliding_window": 64}, True),
    "positions by number": (
        "gpt2",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        True,
    ),
    "positions from the mask": ("bloom", LARGER | {"n_head": 4}, False),
    "a state along the sequence": ("mamba", LARGER | {"state_size": 4}, False),
    "experts": ("mixtral", SMALL | {"num_local_experts": 2, "sliding_window": None}, True),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_that_cannot_share_is_found_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, fields, expected = ARCHITECTURES[name]
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **fields)).eval()
    model = AdaptedModel(base)
    monkeypatch.setattr(model, "peft", SimpleNamespace(base_model=_NoAdapter()))
    assert can_share(model, 30) is expected


class _NoAdapter:
    """What `using(None)` needs."""

    def disable_adapter_layers(self) -> None:
        """There is none to disable."""

    def enable_adapter_layers(self) -> None:
        """There is none to enable."""


def test_where_sharing_is_impossible_or_unwanted_every_completion_runs_alone(
    tmp_path: Path,
) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-7", target_modules=["q_proj"])
    model = load(base, folder)
    assert everything(model, groups(19), folder.name).shared
    unwanted = everything(model, groups(19), folder.name, share=False)
    model.base.config.sliding_window = 3
    impossible = everything(model, groups(19), folder.name)
    for passes in (unwanted, impossible):
        assert not passes.shared
        assert all(b.chains for b in passes.batches)


# Memory.


class _Small(AdaptedModel):
    """A model on a device without room for more than 60 tokens at once."""

    def hidden_of_trees(self, ids: Any, depth: Any, end: Any) -> Any:
        if ids.numel() > 60:
            raise torch.OutOfMemoryError("no room")
        return super().hidden_of_trees(ids, depth, end)


def test_out_of_memory_halves_the_batches_once_and_keeps_what_was_done(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-7", target_modules=["q_proj"])
    model = load(base, folder)
    truth = everything(model, groups(19), folder.name, batch_tokens=119)
    model.__class__ = _Small
    passes = everything(model, groups(19), folder.name, batch_tokens=119)
    assert passes.batch_tokens == 59
    found = {r.rollout.id: r for r in passes.scored}
    assert len(found) == len(passes.scored) == len(truth.scored)
    for one in truth.scored:
        assert_same(found[one.rollout.id], one)
    with pytest.raises(ArcaError, match="no memory for batches of 1,000 tokens"):
        everything(model, groups(19), folder.name, batch_tokens=2000)


def test_after_memory_gave_out_only_what_is_left_is_run(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-7", target_modules=["q_proj"])
    model = load(base, folder)
    asked: list[int] = []
    own = model.hidden_of_trees
    batches = plan(
        [Work(rollout=r, checkpoints=(folder.name,)) for r in groups(19)], 24, share=True
    )
    assert len(batches) > 2

    def fails_late(ids: Any, *more: Any) -> Any:
        asked.append(ids.numel())
        if len(asked) == 6:  # the first to try sharing, then two a batch
            raise torch.OutOfMemoryError("no room")
        return own(ids, *more)

    model.hidden_of_trees = fails_late  # type: ignore[method-assign]
    passes = everything(model, groups(19), folder.name, batch_tokens=24)
    first, second = batches[0].ids.numel(), batches[1].ids.numel()
    assert asked[1:6] == [first, first, second, second, batches[2].ids.numel()]
    assert max(asked[6:]) <= 12
    done = {w.rollout.id for b in batches[:2] for w in b.work}
    again = {w.rollout.id for b in passes.batches[len(batches) :] for w in b.work}
    assert done.isdisjoint(again)
    assert done | again == {r.id for r in groups(19)}


def test_work_that_is_fixed_and_work_that_is_not_give_the_same(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-7", target_modules=["q_proj"])
    model = load(base, folder)
    work = [Work(rollout=r, checkpoints=(folder.name,)) for r in groups(19)]
    mixed = [dataclasses.replace(w, fixed=n % 2 == 0) for n, w in enumerate(work)]
    results = [
        {
            r.rollout.id: r
            for r in replay(model, plan(w, 99, share=True), temperature=1.0, progress=Silent())
        }
        for w in (work, mixed)
    ]
    for identity, one in results[0].items():
        assert_same(results[1][identity], one)
