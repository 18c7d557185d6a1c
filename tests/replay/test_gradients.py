"""Gradient norms against plain autograd over a plain PEFT model, and what they leave untouched."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.adapters import read_adapter
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.runs import Checkpoint
from arca_diag.progress import Silent
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.gradients import check_memory, measure_gradients, needed_bytes
from arca_diag.replay.scores import TokenGradients
from tests.replay.test_convert import special_adapter
from tests.replay.test_families import FAMILIES
from tests.replay.test_forward import (
    COLUMNS,
    load,
    new_adapter,
    plain_models,
    random_rollouts,
    rewrite,
    rollout,
    sampled,
    scored,
    small_llama,
)
from tests.replay.test_variants import small_moe

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def by_autograd(
    model: Any, rollout: Rollout, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Norms by `backward` on log_softmax, and ||e_y - pi||, of a PEFT model as anybody loads it."""
    lora = [p for name, p in model.named_parameters() if "lora_" in name]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in lora:
        parameter.requires_grad_(True)
    norms, factors = [], []
    ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
    for position, target in enumerate(rollout.completion_ids):
        if not rollout.mask[position]:
            continue
        logits = model(input_ids=ids).logits[0, len(rollout.prompt_ids) - 1 + position]
        logp = torch.log_softmax(logits / temperature, dim=-1)
        model.zero_grad()
        logp[target].backward()
        norms.append(sum(float((p.grad**2).sum()) for p in lora if p.grad is not None) ** 0.5)
        pull = -logp.detach().exp()
        pull[target] += 1
        factors.append(float((pull**2).sum() ** 0.5))
    return np.array(norms), np.array(factors)


def found(
    model: AdaptedModel, name: str, rollouts: list[Rollout], temperature: float = 1.0
) -> list[TokenGradients]:
    chosen = {name: tuple(rollouts)}
    return list(measure_gradients(model, chosen, temperature=temperature, progress=Silent()))


def resident(base: Path, checkpoint: Path) -> AdaptedModel:
    """In float64, with whatever attention the family has."""
    model = AdaptedModel(AutoModelForCausalLM.from_pretrained(base).double().eval())
    model.add(read_adapter(Checkpoint(name=checkpoint.name, step=None, path=checkpoint)))
    return model


def assert_plain(
    base: Path, checkpoint: Path, rollouts: list[Rollout], temperature: float = 1.0
) -> None:
    _, policy = plain_models(base, checkpoint, torch.float64)
    for one in found(resident(base, checkpoint), checkpoint.name, rollouts, temperature):
        norms, factors = by_autograd(policy, one.rollout, temperature)
        assert norms.min() > 1e-6
        np.testing.assert_allclose(one.gradient_norm, norms, rtol=1e-8)
        np.testing.assert_allclose(one.output_factor, factors, rtol=1e-8)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_on_the_tiny_sample_they_are_those_of_plain_autograd(
    tiny_run: Path, temperature: float
) -> None:
    rollouts = sampled(tiny_run, 101)[::60]
    assert_plain(tiny_run / "base", tiny_run / "checkpoint-100", rollouts, temperature)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ALL, "use_rslora": True},
        {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["down_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["down_proj"], "lora_dropout": 0.5},
    ],
    ids=["all", "DoRA", "embedding", "head", "a head trained whole", "dropout"],
)
def test_every_kind_of_lora_parameter_counts_and_nothing_else(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    base = small_llama(tmp_path / "base")
    checkpoint = new_adapter(base, tmp_path / "checkpoint-1", **options)
    assert_plain(base, checkpoint, random_rollouts(19))


def test_a_layer_that_no_token_went_through_has_no_part_in_it(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    checkpoint = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["down_proj"])
    model, (_, policy) = load(base, checkpoint), plain_models(base, checkpoint, torch.float64)
    for skipped in (model.base.model.layers[0], policy.model.model.layers[0]):
        skipped.forward = lambda hidden_states, **_: hidden_states
    for one in found(model, "checkpoint-1", random_rollouts(19)):
        norms, _ = by_autograd(policy, one.rollout)
        assert norms.min() > 1e-6
        np.testing.assert_allclose(one.gradient_norm, norms, rtol=1e-8)


def test_experts_count_too(tmp_path: Path) -> None:
    base = small_moe(tmp_path / "base")
    checkpoint = new_adapter(
        base,
        tmp_path / "checkpoint-1",
        target_modules=["q_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    assert_plain(base, checkpoint, random_rollouts(19))


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_the_start_that_stands_behind_pissa_and_olora_was_not_trained(
    tmp_path: Path, kind: str
) -> None:
    base = small_llama(tmp_path / "base")
    checkpoint, _ = special_adapter(base, tmp_path / "checkpoint-3", init_lora_weights=kind)
    _, policy = plain_models(base, checkpoint, torch.float32)
    rollouts = random_rollouts(19)
    for one in found(load(base, checkpoint), checkpoint.name, rollouts):
        # PEFT rounds the base that it rewrites to float32.
        norms, _ = by_autograd(policy, one.rollout)
        np.testing.assert_allclose(one.gradient_norm, norms, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("family", ["gemma2", "gpt2", "granite", "cohere"])
def test_heads_that_scale_and_cap_have_their_part_in_it(family: str, tmp_path: Path) -> None:
    base, checkpoint = family_run(family, tmp_path)
    assert_plain(base, checkpoint, random_rollouts(64, count=3), 0.7)


def family_run(family: str, folder: Path) -> tuple[Path, Path]:
    """A tiny base of a family with random weights, and an adapter that moves it."""
    fields, targets = FAMILIES[family]
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **fields)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    checkpoint = new_adapter(folder / "base", folder / "checkpoint-1", target_modules=targets)
    return folder / "base", checkpoint


def test_the_factor_of_a_known_distribution(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    checkpoint = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["q_proj"])
    model = load(base, checkpoint)
    # Hidden states that the head maps to nothing give the uniform distribution over 19.
    model.plain_head.weight.data.zero_()
    (one,) = found(model, "checkpoint-1", [rollout("a", [1, 2], [3, 4, 5])])
    # (1 - 1/V)^2 + (V - 1) / V^2 = 1 - 1/V
    np.testing.assert_allclose(one.output_factor, (1 - 1 / 19) ** 0.5, rtol=1e-14)
    np.testing.assert_array_equal(one.gradient_norm, 0.0)


def test_where_the_policy_is_all_but_certain_float32_does_not_drown(tiny_run: Path) -> None:
    """1 - pi(y) is lost in a float32 beside 1, and below its smallest number besides."""
    base, checkpoint = tiny_run / "base", tiny_run / "checkpoint-100"
    rollouts = sampled(tiny_run, 101)[::60]
    low = found(load(base, checkpoint, dtype=torch.float32), "checkpoint-100", rollouts, 0.05)
    exact = found(load(base, checkpoint), "checkpoint-100", rollouts, 0.05)
    factors = np.concatenate([one.output_factor for one in exact])
    assert 0 < factors.min() < 1e-50
    for one, truth in zip(low, exact, strict=True):
        np.testing.assert_allclose(one.gradient_norm, truth.gradient_norm, rtol=5e-3)
        np.testing.assert_allclose(one.output_factor, truth.output_factor, rtol=5e-3)


def test_only_counted_tokens_are_measured(tiny_run: Path) -> None:
    whole = sampled(tiny_run, 101)[0]
    mask = tuple(i % 3 == 1 for i in range(len(whole.completion_ids)))
    part = dataclasses.replace(whole, mask=mask)
    model = load(tiny_run / "base", tiny_run / "checkpoint-100")
    (every,), (some,) = (found(model, "checkpoint-100", [r]) for r in (whole, part))
    np.testing.assert_array_equal(some.position, np.flatnonzero(mask))
    np.testing.assert_array_equal(some.gradient_norm, every.gradient_norm[list(mask)])


def test_nothing_of_the_model_is_changed_by_them(tiny_run: Path) -> None:
    steps = [tiny_run / f"checkpoint-{step}" for step in (20, 100)]
    names = [path.name for path in steps]
    rollouts = sampled(tiny_run, 101)[:6]
    before = scored(load(tiny_run / "base", *steps, dtype=torch.float32), rollouts, names)
    model = load(tiny_run / "base", *steps, dtype=torch.float32)
    assert model.peft is not None
    wanted = {key: p.requires_grad for key, p in model.peft.named_parameters()}
    weights = {key: p.clone() for key, p in model.peft.named_parameters()}
    for name in names:
        found(model, name, rollouts[:2])
    for key, parameter in model.peft.named_parameters():
        assert parameter.requires_grad == wanted[key], key
        assert parameter.grad is None, key
        assert torch.equal(parameter, weights[key]), key
    after = scored(model, rollouts, names)
    for key, replayed in after.items():
        for column in COLUMNS:
            assert getattr(replayed, column).tobytes() == getattr(before[key], column).tobytes()


def test_each_checkpoint_has_its_own_whichever_came_first(tiny_run: Path) -> None:
    steps = [tiny_run / f"checkpoint-{step}" for step in (2, 100)]
    both = load(tiny_run / "base", *steps)
    rollouts = sampled(tiny_run, 101)[:1]
    for path in steps:
        alone = found(load(tiny_run / "base", path), path.name, rollouts)
        beside = found(both, path.name, rollouts)
        np.testing.assert_array_equal(alone[0].gradient_norm, beside[0].gradient_norm)


def test_a_gradient_that_is_not_finite_names_checkpoint_and_remedy(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    checkpoint = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["q_proj"])
    # B = 0 keeps the forward pass finite; the gradient by B has A in it, and its square overflows.
    rewrite(checkpoint, lambda t: {k: v * 1e30 if ".lora_A." in k else v * 0 for k, v in t.items()})
    model = load(base, checkpoint, dtype=torch.float32)
    with pytest.raises(CheckpointError, match="checkpoint-1: gradients of completion 7 are NaN"):
        found(model, "checkpoint-1", [rollout("7", [1, 2], [3, 4, 5])])


class Counting(Silent):
    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.done = 0

    def stage(self, name: str) -> None:
        self.heard.append(name)

    def start(self, total: int, unit: str) -> None:
        self.heard.append((total, unit))

    def advance(self, done: int) -> None:
        self.done += done


def test_the_cost_is_said_before_it_starts(tiny_run: Path) -> None:
    rollouts = sampled(tiny_run, 101)[:2]
    tokens = sum(r.n_counted for r in rollouts)
    model = load(tiny_run / "base", tiny_run / "checkpoint-100")
    progress = Counting()
    chosen = {"checkpoint-100": tuple(rollouts)}
    work = measure_gradients(model, chosen, temperature=1.0, progress=progress)
    next(work)
    assert progress.heard == ["gradients, one backward pass a token", (tokens, "tokens")]
    assert 0 < progress.done < tokens
    list(work)
    assert progress.done == tokens


# Memory.


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("length", [100, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_covers_what_is_kept_and_is_not_far_above(
    family: str, dtype: torch.dtype, length: int, tmp_path: Path
) -> None:
    fields, _ = FAMILIES[family]
    wide = {"n_embd": 128, "n_positions": 512} if family == "gpt2" else {}
    config = AutoConfig.for_model(
        family, **fields | (wide or {"hidden_size": 128, "intermediate_size": 256})
    )
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_config(config), lora).save_pretrained(tmp_path / "c")
    model = AdaptedModel(AutoModelForCausalLM.from_config(config).eval().to(dtype))
    model.add(read_adapter(Checkpoint(name="c", step=1, path=tmp_path / "c")))
    own = {p.untyped_storage().data_ptr() for p in model.base.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found(model, "c", [rollout("a", [1] * (length - 1), [2])])
    used = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert used <= needed_bytes(model, length) <= 4 * used


def test_too_little_memory_is_refused_with_what_would_help(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tiny_run / "base", tiny_run / "checkpoint-100")
    short, long = rollout("short", [1], [2, 3]), rollout("long", [1] * 50, [2] * 40)
    chosen = {"checkpoint-100": (long, short)}
    check_memory(model, chosen)
    needed = needed_bytes(model, 90)
    free = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=needed))
    with pytest.raises(ArcaError, match=r"for completion long \(90 tokens with its prompt\)") as no:
        check_memory(model, chosen)
    assert "a smaller --gradients N saves time and no memory" in no.value.hint
    check_memory(model, {"checkpoint-100": (short,)})
    check_memory(model, {})
