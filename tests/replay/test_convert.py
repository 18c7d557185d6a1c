"""PiSSA, OLoRA and trained biases: kinds with which switching the adapter off is not enough."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from arca_diag.errors import CheckpointError
from arca_diag.inputs.adapters import Adapter, read_adapter
from arca_diag.inputs.runs import Checkpoint
from tests.replay.test_forward import (
    AdaptedModel,
    assert_same,
    load,
    new_adapter,
    one,
    plain,
    plain_pass,
    plain_scores,
    random_rollouts,
    scored,
    small_llama,
)

PREFIX = "base_model.model."
SPECIAL = {
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "PiSSA, rank-stabilised": {"init_lora_weights": "pissa", "use_rslora": True},
    "OLoRA by layer": {
        "init_lora_weights": "olora",
        "use_rslora": True,
        "rank_pattern": {"down_proj": 5},
        "alpha_pattern": {"q_proj": 1},
    },
    "PiSSA by layer": {
        "init_lora_weights": "pissa",
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"down_proj": 20},
    },
}


def special_adapter(base: Path, folder: Path, seed: int = 2, **options: Any) -> tuple[Path, Path]:
    """A PiSSA or OLoRA adapter a little way from where it started, and the start, both saved."""
    settings = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]} | options
    config = LoraConfig(task_type="CAUSAL_LM", **settings)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    start = folder.parent / f"start-of-{folder.name}"
    model.save_pretrained(start)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder, start


def scale_of(config: dict[str, Any], layer: str) -> float:
    leaf = layer.rsplit(".", 1)[-1]
    rank = config["rank_pattern"].get(leaf, config["r"])
    alpha = config["alpha_pattern"].get(leaf, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config["use_rslora"] else rank)


def summed(base: Path, checkpoint: Path, start: Path) -> Any:
    """transformers alone, in float64, with W - s B0 A0 + s B A written in."""
    model = AutoModelForCausalLM.from_pretrained(base).double().eval()
    config = json.loads((checkpoint / "adapter_config.json").read_text())
    now, then = (load_file(f / "adapter_model.safetensors") for f in (checkpoint, start))
    for key in now:
        if key.endswith(".lora_A.weight"):
            layer = key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            b = key.replace("lora_A", "lora_B")
            update = now[b].double() @ now[key].double() - then[b].double() @ then[key].double()
            module = model.get_submodule(layer)
            transposed = type(module).__name__ == "Conv1D"
            module.weight.data += scale_of(config, layer) * (update.T if transposed else update)
    return model


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.filterwarnings("ignore:Using Rank-Stabilized LoRA with:UserWarning")
def test_what_pissa_and_olora_make_is_replayed_over_the_true_base(
    tmp_path: Path, kind: str
) -> None:
    base = small_llama(tmp_path / "base")
    folder, start = special_adapter(base, tmp_path / "checkpoint-3", **SPECIAL[kind])
    rollouts = random_rollouts(19)
    found = one(base, folder, rollouts)
    bare = AutoModelForCausalLM.from_pretrained(base).double().eval()
    policy = summed(base, folder, start)
    with_peft = plain(base, folder, rollouts, dtype=torch.float32)
    for r in rollouts:
        truth = plain_scores(plain_pass(bare, r), plain_pass(policy, r), r, 1.0)
        assert_same(found[r.id], truth)
        # PEFT as anybody would use it rounds the base that it rewrites to float32.
        for name in ("logprob", "entropy", "ref_logprob"):
            np.testing.assert_allclose(
                getattr(found[r.id], name), with_peft[r.id][name], rtol=2e-5, atol=2e-5
            )
        assert found[r.id].residual.min() > 1e-3


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_where_they_start_is_the_base(tmp_path: Path, kind: str) -> None:
    base = small_llama(tmp_path / "base")
    _, start = special_adapter(base, tmp_path / "checkpoint-3", init_lora_weights=kind)
    for replayed in one(base, start, random_rollouts(19)).values():
        assert replayed.residual.max() < 1e-12


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_several_may_be_resident_in_any_order(tmp_path: Path, kind: str) -> None:
    base = small_llama(tmp_path / "base")
    options: dict[str, Any] = {"init_lora_weights": kind}
    made = [
        special_adapter(base, tmp_path / f"checkpoint-{i}", seed=i, r=2 + i % 2, **options)
        for i in (1, 2, 3)
    ]
    other = new_adapter(base, tmp_path / "checkpoint-4", target_modules=["q_proj"])
    rollouts = random_rollouts(19)
    bare = AutoModelForCausalLM.from_pretrained(base).double().eval()
    for order in ((0, 1, 2), (2, 0, 1)):
        folders = [other, *(made[i][0] for i in order)]
        found = scored(load(base, *folders), rollouts, [f.name for f in folders])
        for r in rollouts:
            reference = plain_pass(bare, r)
            for folder, start in made:
                policy = plain_pass(summed(base, folder, start), r)
                assert_same(found[folder.name, r.id], plain_scores(reference, policy, r, 1.0))
        truth = plain(base, other, rollouts)
        for r in rollouts:
            assert_same(found[other.name, r.id], truth[r.id])


def test_with_dora_too(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder, _ = special_adapter(
        base, tmp_path / "checkpoint-3", init_lora_weights="pissa", use_dora=True
    )
    rollouts = random_rollouts(19)
    found = one(base, folder, rollouts, dtype=torch.float32)
    truth = plain(base, folder, rollouts, dtype=torch.float32)
    for r in rollouts:
        assert_same(found[r.id], truth[r.id], rtol=5e-4, atol=5e-4)
        assert found[r.id].residual.min() > 1e-2


def small_gpt2(folder: Path, width: int = 16) -> Path:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=19,
        n_positions=64,
        n_embd=width,
        n_layer=2,
        n_head=2,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder


def test_pissa_on_weights_stored_transposed(tmp_path: Path) -> None:
    base = small_gpt2(tmp_path / "base")
    options: dict[str, Any] = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    folder, start = special_adapter(
        base, tmp_path / "checkpoint-3", init_lora_weights="pissa", **options
    )
    rollouts = random_rollouts(19)
    bare = AutoModelForCausalLM.from_pretrained(base).double().eval()
    policy = summed(base, folder, start)
    for identity, replayed in one(base, folder, rollouts).items():
        r = next(r for r in rollouts if r.id == identity)
        assert_same(replayed, plain_scores(plain_pass(bare, r), plain_pass(policy, r), r, 1.0))
        assert replayed.residual.min() > 1e-3


# Saved starting points.


def read(folder: Path, **config: Any) -> Adapter:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return read_adapter(Checkpoint(name=folder.name, step=None, path=folder))


def resident(base: Path, adapter: Adapter, initial: Adapter | None) -> AdaptedModel:
    model = load(base)
    model.add(adapter, initial=initial)
    return model


def test_a_saved_start_counts_and_not_what_the_base_would_give(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder, start = special_adapter(base, tmp_path / "checkpoint-3", init_lora_weights="pissa")
    weights = start / "adapter_model.safetensors"
    save_file({k: v + 0.05 for k, v in load_file(weights).items()}, weights)
    rollouts = random_rollouts(19)
    bare = AutoModelForCausalLM.from_pretrained(base).double().eval()
    policy = summed(base, folder, start)
    model = resident(base, read(folder), read(start, init_lora_weights=True))
    without = one(base, folder, rollouts)
    for (_, identity), replayed in scored(model, rollouts, [folder.name]).items():
        r = next(r for r in rollouts if r.id == identity)
        assert_same(replayed, plain_scores(plain_pass(bare, r), plain_pass(policy, r), r, 1.0))
        assert np.abs(replayed.residual - without[identity].residual).max() > 1e-2


def test_a_start_that_belongs_to_another_run_is_refused(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder, start = special_adapter(base, tmp_path / "checkpoint-3", init_lora_weights="pissa")
    adapter = read(folder)
    with pytest.raises(CheckpointError, match=r"start-of-checkpoint-3 has lora_alpha 7, and it"):
        resident(base, adapter, read(start, lora_alpha=7))
    fewer = read(start, lora_alpha=6)
    for key in [k for k in fewer.tensors if "layers.1." in k]:
        del fewer.tensors[key]
    with pytest.raises(CheckpointError, match=r"has nothing for layer model\.layers\.1\."):
        resident(base, adapter, fewer)
    cut = read(start)
    for key in [k for k in cut.tensors if "lora_A" in k]:
        cut.tensors[key] = cut.tensors[key][:, 1:]
    with pytest.raises(CheckpointError, match=r"starts from matrices of shape \[3, "):
        resident(base, adapter, cut)


# What cannot be undone.


def changed(folder: Path, **config: Any) -> Adapter:
    """An adapter as read, with another configuration than it has on disk."""
    adapter = read_adapter(Checkpoint(name=folder.name, step=None, path=folder))
    adapter.config.update(config)
    return adapter


def test_fast_pissa_needs_its_saved_start(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder, start = special_adapter(base, tmp_path / "checkpoint-3", init_lora_weights="pissa")
    fast = changed(folder, init_lora_weights="pissa_niter_4")
    with pytest.raises(CheckpointError, match="randomised") as caught:
        resident(base, fast, None)
    assert "pissa_init/" in caught.value.hint
    rollouts = random_rollouts(19, count=1)
    found = scored(resident(base, fast, changed(start)), rollouts, [folder.name])
    bare = AutoModelForCausalLM.from_pretrained(base).double().eval()
    policy = plain_pass(summed(base, folder, start), rollouts[0])
    truth = plain_scores(plain_pass(bare, rollouts[0]), policy, rollouts[0], 1.0)
    assert_same(found[folder.name, "0"], truth)


def test_olora_on_weights_stored_transposed_is_refused(tmp_path: Path) -> None:
    base = small_gpt2(tmp_path / "base")
    options: dict[str, Any] = {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True}
    folder = new_adapter(base, tmp_path / "checkpoint-1", **options)
    adapter = changed(folder, init_lora_weights="olora")
    with pytest.raises(CheckpointError, match=r"attn\.c_proj is stored transposed"):
        resident(base, adapter, None)


def test_pissa_in_a_tied_head_is_refused(tmp_path: Path) -> None:
    for tied in (True, False):
        base = small_llama(tmp_path / f"base-{tied}", tied=tied)
        folder = new_adapter(base, tmp_path / f"checkpoint-{tied:d}", target_modules=["lm_head"])
        adapter = changed(folder, init_lora_weights="pissa")
        if tied:
            with pytest.raises(CheckpointError, match="lm_head shares its weight"):
                resident(base, adapter, None)
        else:
            assert resident(base, adapter, None).head_is_adapted


def test_an_alpha_of_zero_is_refused_with_pissa(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["q_proj"])
    adapter = changed(folder, init_lora_weights="pissa", lora_alpha=0)
    with pytest.raises(CheckpointError, match="has the scale 0"):
        resident(base, adapter, None)


def test_pissa_in_the_embedding_is_refused(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["embed_tokens"])
    adapter = changed(folder, init_lora_weights="pissa")
    with pytest.raises(CheckpointError, match="embed_tokens is no matrix"):
        resident(base, adapter, None)


# Trained biases.


def biased_llama(folder: Path) -> Path:
    return small_llama(folder, attention_bias=True, mlp_bias=True)


def biased(base: Path, folder: Path, bias: str, seed: int = 2, **options: Any) -> Path:
    targets = options.pop("target_modules", ["q_proj", "down_proj"])
    return new_adapter(base, folder, bias=bias, seed=seed, target_modules=targets, **options)


def moved_by_biases(base: Path, checkpoint: Path, bare: Any) -> list[str]:
    """Names of base biases in the file that are not the base's own."""
    tensors = load_file(checkpoint / "adapter_model.safetensors")
    own = dict(bare.named_parameters())
    names = {k.removeprefix(PREFIX).replace(".base_layer", ""): k for k in tensors}
    return [n for n, k in names.items() if n in own and not torch.equal(own[n], tensors[k])]


@pytest.mark.parametrize(("bias", "count"), [("lora_only", 4), ("all", 14)])
def test_trained_biases_are_the_adapters_and_the_reference_has_the_bases_own(
    tmp_path: Path, bias: str, count: int
) -> None:
    base = biased_llama(tmp_path / "base")
    folder = biased(base, tmp_path / "checkpoint-1", bias)
    bare = AutoModelForCausalLM.from_pretrained(base)
    assert len(moved_by_biases(base, folder, bare)) == count
    rollouts = random_rollouts(19)
    truth = plain(base, folder, rollouts)
    for identity, replayed in one(base, folder, rollouts).items():
        assert_same(replayed, truth[identity])


def test_trained_biases_do_not_mix_and_leave_the_base_as_it_was(tmp_path: Path) -> None:
    base = biased_llama(tmp_path / "base")
    folders = [
        biased(base, tmp_path / "checkpoint-1", "all", seed=1),
        biased(base, tmp_path / "checkpoint-2", "lora_only", seed=2),
        biased(base, tmp_path / "checkpoint-3", "all", seed=3, target_modules=["k_proj"]),
        biased(base, tmp_path / "checkpoint-4", "none", seed=4),
    ]
    rollouts = random_rollouts(19)
    model = load(base, *folders)
    before = {n: p.clone() for n, p in model.base.named_parameters() if n.endswith(".bias")}
    found = scored(model, rollouts, [f.name for f in folders])
    for folder in folders:
        truth = plain(base, folder, rollouts)
        for r in rollouts:
            assert_same(found[folder.name, r.id], truth[r.id])
    after = dict(model.base.named_parameters())
    assert all(torch.equal(after[n], before[n]) for n in before)


def test_biases_are_put_back_when_a_pass_fails(tmp_path: Path) -> None:
    base = biased_llama(tmp_path / "base")
    folder = biased(base, tmp_path / "checkpoint-1", "all")
    model = load(base, folder)
    before = {n: p.clone() for n, p in model.base.named_parameters() if n.endswith(".bias")}

    def fail() -> None:
        with model.using(folder.name):
            changed = dict(model.base.named_parameters())
            assert not all(torch.equal(changed[n], before[n]) for n in before)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    after = dict(model.base.named_parameters())
    assert all(torch.equal(after[n], before[n]) for n in before)


def test_a_trained_bias_of_the_head_counts_as_adapted(tmp_path: Path) -> None:
    base = biased_llama(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    head = torch.nn.Linear(16, 19)
    model.lm_head = head
    adapted = AdaptedModel(model)
    folder = biased(base, tmp_path / "checkpoint-1", "all")
    adapter = read_adapter(Checkpoint(name=folder.name, step=None, path=folder))
    adapter.tensors[f"{PREFIX}lm_head.bias"] = np.ones(19, np.float32)
    adapted.add(adapter)
    assert adapted.head_is_adapted
    with torch.no_grad(), adapted.using(folder.name):
        under = adapted.head(torch.zeros(1, 16))
    with torch.no_grad(), adapted.using(None):
        off = adapted.head(torch.zeros(1, 16))
    assert torch.equal(under, torch.ones(1, 19))
    assert torch.equal(off[0], head.bias)


def test_biases_that_are_missing_or_misshapen_are_refused(tmp_path: Path) -> None:
    base = biased_llama(tmp_path / "base")
    folder = biased(base, tmp_path / "checkpoint-1", "lora_only")
    for spoil, says in (
        (lambda t, k: t.pop(k), r"layers\.0\.self_attn\.q_proj\.bias was not saved"),
        (lambda t, k: t.update({k: t[k][1:]}), r"q_proj\.bias has shape \[15\], .* \[16\]"),
    ):
        adapter = changed(folder)
        (key,) = [k for k in adapter.tensors if "layers.0.self_attn.q_proj" in k and "bias" in k]
        spoil(adapter.tensors, key)
        with pytest.raises(CheckpointError, match=says):
            resident(base, adapter, None)
    with pytest.raises(CheckpointError, match="bias='some' is not known"):
        resident(base, changed(folder, bias="some"), None)


# The base's own embedding and head in an adapter's file.


def with_base_layers(base: Path, folder: Path, **options: Any) -> Path:
    """An adapter as a trainer saves it that leaves PEFT its choice."""
    special_adapter(base, folder, **options)
    names = load_file(folder / "adapter_model.safetensors")
    assert any(".base_layer." in name for name in names)
    return folder


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`")
@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")
def test_what_peft_saves_of_the_base_is_the_bases_own(
    tmp_path: Path, target: str, tied: bool
) -> None:
    base = small_llama(tmp_path / "base", tied=tied)
    folder = with_base_layers(
        base, tmp_path / "checkpoint-3", init_lora_weights=True, target_modules=["q_proj", target]
    )
    rollouts = random_rollouts(19)
    truth = plain(base, folder, rollouts)
    for identity, replayed in one(base, folder, rollouts).items():
        assert_same(replayed, truth[identity])


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`")
def test_what_pissa_left_of_a_head_is_not_taken_for_it(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    options: dict[str, Any] = {"target_modules": ["q_proj", "lm_head"]}
    folder = with_base_layers(base, tmp_path / "checkpoint-3", init_lora_weights="pissa", **options)
    rollouts = random_rollouts(19)
    bare = AutoModelForCausalLM.from_pretrained(base).double().eval()
    policy = summed(base, folder, tmp_path / "start-of-checkpoint-3")
    for identity, replayed in one(base, folder, rollouts).items():
        r = next(r for r in rollouts if r.id == identity)
        assert_same(replayed, plain_scores(plain_pass(bare, r), plain_pass(policy, r), r, 1.0))


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`")
def test_a_head_of_another_base_is_refused(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = with_base_layers(
        base, tmp_path / "checkpoint-3", init_lora_weights=True, target_modules=["lm_head"]
    )
    weights = folder / "adapter_model.safetensors"
    saved = load_file(weights)
    key = f"{PREFIX}lm_head.base_layer.weight"
    for changed_to, says in (
        (saved[key] + 0.1, "its lm_head is not this base's"),
        (torch.cat([saved[key], saved[key][:2]]), "had 21 tokens, and this one has 19"),
    ):
        save_file(saved | {key: changed_to}, weights)
        with pytest.raises(CheckpointError, match=says) as caught:
            load(base, folder)
        assert "--base" in caught.value.hint
    save_file(saved | {key: saved[key].bfloat16()}, weights)
    assert load(base, folder).head_is_adapted


def test_an_embedding_that_was_resized_is_refused(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["q_proj"])
    weights = folder / "adapter_model.safetensors"
    more = {f"{PREFIX}{n}.weight": torch.ones(23, 16) for n in ("model.embed_tokens", "lm_head")}
    save_file(load_file(weights) | more, weights)
    with pytest.raises(CheckpointError, match="had 23 tokens, and this one has 19"):
        load(base, folder)
