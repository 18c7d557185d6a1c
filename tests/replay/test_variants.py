"""Kinds that look unlike plain LoRA in the file and are replayed all the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, VeloraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from arca_diag.inputs.adapters import Adapter
from arca_diag.replay.convert import plain_config
from tests.replay.test_convert import changed
from tests.replay.test_forward import (
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

VARIANTS: dict[str, dict[str, Any]] = {
    "MiCA": {"target_modules": ["q_proj", "down_proj"], "init_lora_weights": "mica"},
    "VeLoRA": {"target_modules": ["down_proj"], "velora_config": VeloraConfig(num_groups=2)},
    "all but": {"target_modules": "all-linear", "exclude_modules": ["up_proj", "v_proj"]},
    "by a pattern": {"target_modules": r".*layers\.1\..*_proj"},
    "with dropout": {"target_modules": ["down_proj"], "lora_dropout": 0.5},
}
TYING: dict[str, dict[str, Any]] = {
    "an embedding of its own": {"modules_to_save": ["embed_tokens"]},
    "LoRA in the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_is_replayed_as_peft_applies_it(tmp_path: Path, kind: str) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-7", **VARIANTS[kind])
    if kind == "VeLoRA":
        names = load_file(folder / "adapter_model.safetensors")
        assert any(".lora_velora_embed" in name for name in names)
    bare = AutoModelForCausalLM.from_pretrained(base).double().eval()
    # Loaded in float32, because PEFT takes MiCA's start from no other base.
    under = AutoModelForCausalLM.from_pretrained(base)
    policy = PeftModel.from_pretrained(under, folder).double().eval()
    rollouts = random_rollouts(19)
    found = one(base, folder, rollouts, batch_tokens=40)
    for r in rollouts:
        truth = plain_scores(plain_pass(bare, r), plain_pass(policy, r), r, 1.0)
        assert_same(found[r.id], truth, rtol=1e-9, atol=1e-9)
        assert found[r.id].residual.max() > 1e-3


@pytest.mark.parametrize("kind", TYING)
def test_head_and_embedding_that_peft_was_told_to_tie(tmp_path: Path, kind: str) -> None:
    base = small_llama(tmp_path / "base", tied=True)
    options = {"target_modules": ["q_proj"], "ensure_weight_tying": True} | TYING[kind]
    folder = new_adapter(base, tmp_path / "checkpoint-7", **options)
    rollouts = random_rollouts(19)
    truth = plain(base, folder, rollouts)
    for identity, replayed in one(base, folder, rollouts).items():
        assert_same(replayed, truth[identity], rtol=1e-9, atol=1e-9)


def small_moe(folder: Path) -> Path:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=19,
        hidden_size=16,
        intermediate_size=24,
        moe_intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    # The grouped product over experts knows no float64.
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"experts_implementation": "eager"}))
    return folder


def expert_adapter(base: Path, folder: Path, seed: int, parameters: list[str]) -> Path:
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        lora_alpha=4,
        target_modules=["q_proj"],
        target_parameters=[f"mlp.experts.{name}" for name in parameters],
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def test_experts_that_are_one_parameter(tmp_path: Path) -> None:
    base = small_moe(tmp_path / "base")
    folders = [
        expert_adapter(base, tmp_path / "checkpoint-1", 1, ["gate_up_proj"]),
        expert_adapter(base, tmp_path / "checkpoint-2", 2, ["gate_up_proj"]),
    ]
    rollouts = random_rollouts(19)
    found = scored(load(base, *folders), rollouts, [f.name for f in folders], batch_tokens=40)
    for folder in folders:
        truth = plain(base, folder, rollouts)
        for r in rollouts:
            assert_same(found[folder.name, r.id], truth[r.id], rtol=1e-9, atol=1e-9)


def test_nothing_of_a_configuration_but_its_shape_reaches_peft(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["q_proj"])
    odd: Adapter = changed(
        folder,
        megatron_config={"a": 1},
        megatron_core="os",
        runtime_config={"ephemeral_gpu_offload": True},
        auto_mapping={"parent_library": "os"},
        bias="all",
        nobody_knows=5,
    )
    config = plain_config(odd)
    assert config.megatron_config is None
    assert config.megatron_core == "megatron.core"
    assert config.auto_mapping is None
    assert not config.runtime_config.ephemeral_gpu_offload
    assert (config.r, config.lora_alpha, config.bias) == (3, 6, "none")
