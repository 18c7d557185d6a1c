"""Replay against the plainest forward there is: one completion, no padding, no tiles."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.adapters import read_adapter
from arca_diag.inputs.base import Base
from arca_diag.inputs.models import load_model
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.runs import Checkpoint
from arca_diag.progress import Silent
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Work, plan
from arca_diag.replay.forward import replay
from arca_diag.replay.scores import Replayed

COLUMNS = (
    "logprob",
    "entropy",
    "ref_logprob",
    "ref_entropy",
    "kl_exact",
    "residual",
    "ref_norm",
)
EOS = 2


# The truth: transformers and PEFT as anybody would use them.


@dataclass
class Plain:
    """Logits and last hidden states at the positions that predict one completion."""

    logits: torch.Tensor
    hidden: torch.Tensor


def plain_pass(model: Any, rollout: Rollout) -> Plain:
    ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
    with torch.no_grad():
        out = model(input_ids=ids, output_hidden_states=True)
    first = len(rollout.prompt_ids)
    return Plain(out.logits[0, first - 1 : -1], out.hidden_states[-1][0, first - 1 : -1])


def plain_scores(
    reference: Plain, policy: Plain, rollout: Rollout, temperature: float
) -> dict[str, np.ndarray]:
    """The seven columns, in the precision of the passes."""
    targets = torch.tensor(rollout.completion_ids)[:, None]
    log_policy = torch.log_softmax(policy.logits / temperature, dim=-1)
    log_reference = torch.log_softmax(reference.logits / temperature, dim=-1)
    columns = {
        "logprob": log_policy.gather(1, targets)[:, 0],
        "entropy": -(log_policy.exp() * log_policy).sum(1),
        "ref_logprob": log_reference.gather(1, targets)[:, 0],
        "ref_entropy": -(log_reference.exp() * log_reference).sum(1),
        "kl_exact": (log_policy.exp() * (log_policy - log_reference)).sum(1),
        "residual": (policy.hidden - reference.hidden).norm(dim=1),
        "ref_norm": reference.hidden.norm(dim=1),
    }
    return {name: values.double().numpy() for name, values in columns.items()}


def plain_models(base: Path, checkpoint: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The base, and the base with the adapter: two models that share nothing."""
    bare = AutoModelForCausalLM.from_pretrained(base).to(dtype)
    under = AutoModelForCausalLM.from_pretrained(base).to(dtype)
    # PEFT keeps LoRA weights in float32 unless told, and would round a float64 pass to it.
    adapted = PeftModel.from_pretrained(under, checkpoint).to(dtype)
    return bare.eval(), adapted.eval()


def plain(
    base: Path,
    checkpoint: Path,
    rollouts: Sequence[Rollout],
    *,
    dtype: torch.dtype = torch.float64,
    temperature: float = 1.0,
) -> dict[str, dict[str, np.ndarray]]:
    bare, adapted = plain_models(base, checkpoint, dtype)
    return {
        r.id: plain_scores(plain_pass(bare, r), plain_pass(adapted, r), r, temperature)
        for r in rollouts
    }


# What is under test.


def load(base: Path, *checkpoints: Path, dtype: torch.dtype = torch.float64) -> AdaptedModel:
    found = Base(name="base", folder=base, gguf_file=None, revision=None)
    model = AdaptedModel(load_model(found, dtype, "cpu"))
    for path in checkpoints:
        model.add(read_adapter(Checkpoint(name=path.name, step=None, path=path)))
    return model


def scored(
    model: AdaptedModel,
    rollouts: Sequence[Rollout],
    checkpoints: Sequence[str],
    *,
    temperature: float = 1.0,
    batch_tokens: int = 512,
) -> dict[tuple[str, str], Replayed]:
    work = [Work(rollout=r, checkpoints=tuple(checkpoints)) for r in rollouts]
    found = replay(model, plan(work, batch_tokens), temperature=temperature, progress=Silent())
    return {(r.checkpoint, r.rollout.id): r for r in found}


def one(
    base: Path, checkpoint: Path, rollouts: Sequence[Rollout], **options: Any
) -> dict[str, Replayed]:
    """Replay under one checkpoint, by rollout id."""
    dtype = options.pop("dtype", torch.float64)
    found = scored(load(base, checkpoint, dtype=dtype), rollouts, [checkpoint.name], **options)
    return {identity: replayed for (_, identity), replayed in found.items()}


def assert_same(found: Replayed, expected: Any, *, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    for name in COLUMNS:
        wanted = expected[name] if isinstance(expected, dict) else getattr(expected, name)
        np.testing.assert_allclose(
            getattr(found, name), wanted, rtol=rtol, atol=atol, err_msg=f"{found.rollout.id} {name}"
        )


# Rollouts and adapters to try it on.


def sampled(run: Path, number: int) -> list[Rollout]:
    """A completions file of the tiny sample, read without the package's readers."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(run / "base")
    table = pd.read_parquet(run / "completions" / f"completions_{number:05}.parquet")
    return [
        rollout(f"{number}/{row}", tokenizer(prompt)["input_ids"], ids)
        for row, (prompt, ids) in enumerate(
            zip(table["prompt"], table["arca_completion_ids"], strict=True)
        )
    ]


def rollout(identity: str, prompt: Sequence[int], completion: Sequence[int]) -> Rollout:
    ids = tuple(int(i) for i in completion)
    return Rollout(
        id=identity,
        step=None,
        group_id="g",
        prompt_ids=tuple(prompt),
        completion_ids=ids,
        mask=(True,) * len(ids),
    )


def random_rollouts(vocabulary: int, count: int = 5) -> list[Rollout]:
    rng = np.random.default_rng(0)
    return [
        rollout(
            str(i),
            rng.integers(vocabulary, size=rng.integers(1, 7)).tolist(),
            rng.integers(vocabulary, size=rng.integers(1, 12)).tolist(),
        )
        for i in range(count)
    ]


def small_llama(
    folder: Path, *, layers: int = 2, width: int = 16, tied: bool = False, **settings: Any
) -> Path:
    """A base of random weights, biases included, saved in float32."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=19,
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.5,
        **settings,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder


def new_adapter(base: Path, folder: Path, **options: Any) -> Path:
    """A LoRA adapter with random weights on both sides, as PEFT saves it."""
    seed = options.pop("seed", 2)
    settings = {"r": 3, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | options
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
            if "magnitude" in name:
                parameter.data = parameter.data.abs() + 1
        elif parameter.requires_grad:  # modules, tokens and biases that are trained whole
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def rewrite(checkpoint: Path, change: Any) -> None:
    """Change the tensors of a saved adapter."""
    path = checkpoint / "adapter_model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path)


# Against the plain forward.


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("step", [2, 100])
def test_in_float64_every_number_is_the_plain_forwards(
    tiny_run: Path, step: int, temperature: float
) -> None:
    rollouts = sampled(tiny_run, step + 1)[::13]
    checkpoint = tiny_run / f"checkpoint-{step}"
    found = one(tiny_run / "base", checkpoint, rollouts, temperature=temperature)
    truth = plain(tiny_run / "base", checkpoint, rollouts, temperature=temperature)
    assert found.keys() == truth.keys()
    assert len(found) == 10
    for identity in found:
        assert_same(found[identity], truth[identity], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_in_float32_scores_are_within_2e5_nats_and_residuals_within_5e5_of_the_norm(
    tiny_run: Path, temperature: float
) -> None:
    rollouts = sampled(tiny_run, 101)[::6]
    checkpoint = tiny_run / "checkpoint-100"
    options: dict[str, Any] = {"temperature": temperature, "dtype": torch.float32}
    found = one(tiny_run / "base", checkpoint, rollouts, **options)
    truth = plain(tiny_run / "base", checkpoint, rollouts, **options)
    for identity, replayed in found.items():
        for name in ("logprob", "entropy", "ref_logprob", "ref_entropy", "kl_exact"):
            gap = np.abs(getattr(replayed, name) - truth[identity][name])
            assert gap.max() <= 2e-5, name
        gap = np.abs(replayed.residual - truth[identity]["residual"])
        assert (gap / truth[identity]["ref_norm"]).max() <= 5e-5


def test_merged_weights_give_the_same_log_probabilities(tiny_run: Path) -> None:
    rollouts = sampled(tiny_run, 21)[:8]
    checkpoint = tiny_run / "checkpoint-20"
    _, adapted = plain_models(tiny_run / "base", checkpoint, torch.float64)
    merged = adapted.merge_and_unload()
    found = one(tiny_run / "base", checkpoint, rollouts)
    for r in rollouts:
        logp = torch.log_softmax(plain_pass(merged, r).logits, dim=-1)
        expected = logp[range(len(r.completion_ids)), list(r.completion_ids)]
        np.testing.assert_allclose(found[r.id].logprob, expected, rtol=0, atol=1e-9)


def test_replayed_entropy_is_what_trl_logged_for_the_same_completions(tiny_run: Path) -> None:
    history = json.loads((tiny_run / "trainer_state.json").read_text())["log_history"]
    logged = {row["step"]: row["entropy"] for row in history if "entropy" in row}
    for step in (2, 20, 100):
        checkpoint = tiny_run / f"checkpoint-{step}"
        found = one(tiny_run / "base", checkpoint, sampled(tiny_run, step + 1), dtype=torch.float32)
        tokens = np.concatenate([r.entropy for r in found.values()])
        assert tokens.mean() == pytest.approx(logged[step + 1], abs=1e-4)
        # The policy of that step and no other: the reference's entropy is not what was logged.
        before = np.concatenate([r.ref_entropy for r in found.values()])
        assert abs(before.mean() - logged[step + 1]) > 1e-3


# Exact cases.


def test_an_adapter_with_b_zero_moves_nothing_at_all(tiny_run: Path, tmp_path: Path) -> None:
    base = tiny_run / "base"
    folder = new_adapter(base, tmp_path / "checkpoint-0", target_modules=["q_proj", "down_proj"])
    rewrite(folder, lambda t: {k: 0 * v if ".lora_B." in k else v for k, v in t.items()})
    rollouts = sampled(tiny_run, 1)[:20]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        found = one(base, folder, rollouts, dtype=dtype, batch_tokens=200)
        for replayed in found.values():
            assert not replayed.residual.any()
            assert not replayed.kl_exact.any()
            np.testing.assert_array_equal(replayed.logprob, replayed.ref_logprob)
            np.testing.assert_array_equal(replayed.entropy, replayed.ref_entropy)


@pytest.mark.parametrize(("rank_stabilised", "scale"), [(False, 6 / 3), (True, 6 / math.sqrt(3))])
def test_the_residual_of_one_linear_layer_is_scale_times_b_a_x_through_the_norm(
    tmp_path: Path, rank_stabilised: bool, scale: float
) -> None:
    base = small_llama(tmp_path / "base", layers=1)
    weights = load_file(base / "model.safetensors")
    block = "model.layers.0."
    # Attention and the layer's own output say nothing: what is left is the adapter's.
    weights[f"{block}self_attn.o_proj.weight"].zero_()
    weights[f"{block}mlp.down_proj.weight"].zero_()
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    folder = new_adapter(
        base, tmp_path / "checkpoint-1", target_modules=["down_proj"], use_rslora=rank_stabilised
    )
    lora = load_file(folder / "adapter_model.safetensors")
    (a,) = (v.double().numpy() for k, v in lora.items() if ".lora_A." in k)
    (b,) = (v.double().numpy() for k, v in lora.items() if ".lora_B." in k)
    w = {k: v.double().numpy() for k, v in weights.items()}

    def normed(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return gain * x / np.sqrt((x**2).mean() + 1e-6)

    r = rollout("only", [3, 4], [5, 6, 7])
    (found,) = one(base, folder, [r]).values()
    for place, token in enumerate([4, 5, 6]):  # the tokens that predict 5, 6 and 7
        stream = w["model.embed_tokens.weight"][token]
        x = normed(stream, w[f"{block}post_attention_layernorm.weight"])
        gate, up = w[f"{block}mlp.gate_proj.weight"] @ x, w[f"{block}mlp.up_proj.weight"] @ x
        inner = gate / (1 + np.exp(-gate)) * up
        last = w["model.norm.weight"]
        before = normed(stream, last)
        after = normed(stream + scale * b @ (a @ inner), last)
        # To 1e-6, because transformers' Llama norms go through float32 whatever the model is in.
        assert found.residual[place] == pytest.approx(np.linalg.norm(after - before), rel=1e-6)
        assert found.ref_norm[place] == pytest.approx(np.linalg.norm(before), rel=1e-6)
        logits = w["lm_head.weight"] @ after
        logp = logits - np.log(np.exp(logits).sum())
        assert found.logprob[place] == pytest.approx(logp[5 + place], rel=1e-6)


def test_the_first_completion_token_and_the_closing_eos_are_scored_the_prompt_is_not(
    tiny_run: Path,
) -> None:
    r = next(r for r in sampled(tiny_run, 21) if r.completion_ids[-1] == EOS)
    checkpoint = tiny_run / "checkpoint-20"
    found = one(tiny_run / "base", checkpoint, [r])[r.id]
    assert len(found.logprob) == len(r.completion_ids)

    _, adapted = plain_models(tiny_run / "base", checkpoint, torch.float64)
    ids = torch.tensor([r.prompt_ids + r.completion_ids])
    with torch.no_grad():
        logp = torch.log_softmax(adapted(ids).logits[0], dim=-1)
    first = logp[len(r.prompt_ids) - 1, r.completion_ids[0]]
    closing = logp[-2, EOS]
    assert found.logprob[0] == pytest.approx(float(first), abs=1e-9)
    assert found.logprob[-1] == pytest.approx(float(closing), abs=1e-9)


# What must not matter.


@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_padding_on_either_side_gives_what_the_replay_gives(tiny_run: Path, side: str) -> None:
    rollouts = sampled(tiny_run, 21)[:6]
    if side == "none":
        length = len(rollouts[0].completion_ids)
        rollouts = [r for r in sampled(tiny_run, 21) if len(r.completion_ids) == length][:4]
    checkpoint = tiny_run / "checkpoint-20"
    found = one(tiny_run / "base", checkpoint, rollouts)

    _, adapted = plain_models(tiny_run / "base", checkpoint, torch.float64)
    width = max(len(r.prompt_ids + r.completion_ids) for r in rollouts)
    rows, attend = [], []
    for r in rollouts:
        ids = list(r.prompt_ids + r.completion_ids)
        spare = width - len(ids)
        left, right = (spare, 0) if side == "left" else (0, spare)
        rows.append([7] * left + ids + [7] * right)
        attend.append([0] * left + [1] * len(ids) + [0] * right)
    mask = torch.tensor(attend)
    with torch.no_grad():
        # Rotary positions must not count the padding on the left.
        out = adapted(
            torch.tensor(rows),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        )
    logp = torch.log_softmax(out.logits, dim=-1)
    for row, r in enumerate(rollouts):
        end = width if side == "left" else len(r.prompt_ids + r.completion_ids)
        first = end - len(r.completion_ids)
        expected = logp[row, range(first - 1, end - 1), list(r.completion_ids)]
        np.testing.assert_allclose(found[r.id].logprob, expected, rtol=0, atol=1e-9)


def test_budget_batch_mates_and_order_move_nothing(tiny_run: Path) -> None:
    rollouts = sampled(tiny_run, 21)[:12]
    model = load(tiny_run / "base", tiny_run / "checkpoint-20")
    truth = scored(model, rollouts, ["checkpoint-20"], batch_tokens=1)
    shuffled = [rollouts[i] for i in np.random.default_rng(3).permutation(12)]
    variants = [
        scored(model, rollouts, ["checkpoint-20"], batch_tokens=100_000),
        scored(model, shuffled, ["checkpoint-20"], batch_tokens=130),
        scored(model, rollouts[::2], ["checkpoint-20"], batch_tokens=97),
    ]
    for found in variants:
        for key, replayed in found.items():
            assert_same(replayed, truth[key], rtol=1e-9, atol=1e-9)


def test_tokens_after_a_position_never_move_it(tiny_run: Path) -> None:
    whole = sampled(tiny_run, 21)[0]
    start = rollout("start", whole.prompt_ids, whole.completion_ids[:5])
    found = one(tiny_run / "base", tiny_run / "checkpoint-20", [whole, start])
    for name in COLUMNS:
        np.testing.assert_allclose(
            getattr(found["start"], name), getattr(found[whole.id], name)[:5], rtol=1e-9, atol=1e-9
        )


def test_several_resident_adapters_give_what_each_gives_alone(tiny_run: Path) -> None:
    rollouts = sampled(tiny_run, 21)[:6]
    folders = [tiny_run / f"checkpoint-{step}" for step in (2, 20, 100)]
    names = [f.name for f in folders]
    together = scored(load(tiny_run / "base", *folders), rollouts, names)
    for folder in folders:
        for identity, alone in one(tiny_run / "base", folder, rollouts).items():
            assert_same(together[folder.name, identity], alone, rtol=1e-12, atol=1e-12)
    a, b = (together[name, rollouts[0].id].logprob for name in ("checkpoint-2", "checkpoint-100"))
    assert np.abs(a - b).max() > 0.01


def test_adapters_that_come_between_replays_change_no_other(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    rollouts = random_rollouts(19, count=2)
    kinds: list[dict[str, Any]] = [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["norm"]},
        {"target_modules": ["k_proj"], "trainable_token_indices": [3, 11]},
    ]
    model, names, truth = load(base), [], {}
    for number, kind in enumerate(kinds):
        name = f"checkpoint-{number}"
        folder = new_adapter(base, tmp_path / name, seed=number, **kind)
        model.add(read_adapter(Checkpoint(name=name, step=None, path=folder)))
        names.append(name)
        truth[name] = plain(base, folder, rollouts)
        for order in (names, [name, *names[:-1]]):  # what was active is not the first each time
            found = scored(model, rollouts, order)
            for n in names:
                for r in rollouts:
                    assert_same(found[n, r.id], truth[n][r.id])


def test_an_adapter_that_was_refused_leaves_the_others_alone(
    tiny_run: Path, tmp_path: Path
) -> None:
    rollouts = sampled(tiny_run, 21)[:4]
    good = tiny_run / "checkpoint-20"
    bad = new_adapter(tiny_run / "base", tmp_path / "checkpoint-3", target_modules=["q_proj"])
    rewrite(bad, lambda t: dict(list(t.items())[:-1]))
    for bad_first in (True, False):
        model = load(tiny_run / "base", *(() if bad_first else (good,)))
        with pytest.raises(CheckpointError, match="checkpoint-3"):
            model.add(read_adapter(Checkpoint(name=bad.name, step=None, path=bad)))
        if bad_first:
            model.add(read_adapter(Checkpoint(name=good.name, step=None, path=good)))
        found = scored(model, rollouts, [good.name])
        for identity, alone in one(tiny_run / "base", good, rollouts).items():
            assert_same(found[good.name, identity], alone, rtol=1e-12, atol=1e-12)


def test_two_replays_are_equal_bit_for_bit(tiny_run: Path) -> None:
    rollouts = sampled(tiny_run, 21)[:16]
    checkpoint = tiny_run / "checkpoint-20"
    first, second = (
        one(tiny_run / "base", checkpoint, rollouts, dtype=torch.float32) for _ in range(2)
    )
    assert first.keys() == second.keys()
    for identity in first:
        for name in COLUMNS:
            np.testing.assert_array_equal(
                getattr(first[identity], name), getattr(second[identity], name)
            )


def test_bfloat16_passes_are_scored_in_float32_at_least(tiny_run: Path) -> None:
    rollouts = sampled(tiny_run, 21)[:4]
    found = one(tiny_run / "base", tiny_run / "checkpoint-20", rollouts, dtype=torch.bfloat16)
    for replayed in found.values():
        # bfloat16 log-probabilities would be multiples of 2^-8 or coarser wherever they exceed 1.
        large = replayed.logprob[replayed.logprob < -1]
        assert ((large * 2**8) % 1 != 0).any() or not len(large)
        as_bfloat16 = torch.tensor(replayed.entropy).bfloat16().double().numpy()
        assert (as_bfloat16 != replayed.entropy).any()


# Kinds of adapters.


KINDS = {
    "rank-stabilised": {"target_modules": ["q_proj", "up_proj"], "use_rslora": True},
    "rank and alpha by layer": {
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"up_proj": 20},
    },
    "DoRA": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "in the head": {"target_modules": ["q_proj", "lm_head"]},
    "in the head alone": {"target_modules": ["lm_head"]},
    "in the embedding": {"target_modules": ["v_proj", "embed_tokens"]},
    "with a head of its own": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "with rows of the embedding": {
        "target_modules": ["q_proj"],
        "trainable_token_indices": [3, 11, 5],
    },
    "with an embedding of its own": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
    },
    "with norms of its own": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "with a bias in B": {"target_modules": ["q_proj", "lm_head"], "lora_bias": True},
    "gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal", "r": 4},
    "never initialised": {"target_modules": ["q_proj"], "init_lora_weights": False},
    "DoRA with rank and alpha by layer": {
        "target_modules": ["q_proj", "up_proj"],
        "use_dora": True,
        "use_rslora": True,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"up_proj": 20},
    },
    "in some layers": {"target_modules": ["o_proj"], "layers_to_transform": [1]},
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed but the targeted layer")
@pytest.mark.filterwarnings("ignore:.*have invalid shape")  # PEFT takes a bias in B for a shard
def test_every_kind_of_lora_is_replayed_as_peft_applies_it(
    tmp_path: Path, kind: str, tied: bool
) -> None:
    base = small_llama(tmp_path / "base", tied=tied)
    folder = new_adapter(base, tmp_path / "checkpoint-7", **KINDS[kind])
    rollouts = random_rollouts(19)
    found = one(base, folder, rollouts, batch_tokens=40)
    truth = plain(base, folder, rollouts)
    moved = False
    for identity, replayed in found.items():
        assert_same(replayed, truth[identity], rtol=1e-9, atol=1e-9)
        moved |= bool((np.abs(replayed.logprob - replayed.ref_logprob) > 0.01).any())
    assert moved


def head_really_differs(base: Path, checkpoint: Path) -> bool:
    """Whether one and the same state gives other logits through the adapted model's head."""
    bare, adapted = plain_models(base, checkpoint, torch.float64)
    states = torch.randn(5, 16, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        heads = [m.get_output_embeddings()(states) for m in (bare, adapted)]
    return not torch.equal(*heads)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({"target_modules": ["q_proj"]}, (False, False)),
        ({"target_modules": ["lm_head"]}, (True, True)),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, (True, True)),
        ({"target_modules": ["embed_tokens"]}, (False, False)),
        ({"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, (False, True)),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, (False, False)),
        ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, (False, False)),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [3, 11]}, (False, True)),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`:UserWarning")
def test_the_head_is_known_to_be_adapted_wherever_it_is(
    tmp_path: Path, kind: dict[str, Any], expected: tuple[bool, bool], tied: bool
) -> None:
    base = small_llama(tmp_path / "base", tied=tied)
    folder = new_adapter(base, tmp_path / "checkpoint-7", **kind)
    assert load(base, folder).head_is_adapted is expected[tied]
    assert head_really_differs(base, folder) is expected[tied]


@pytest.mark.parametrize("name", ["qwen2.5-lora", "lora_", "model", "layers.0"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / name, target_modules=["q_proj"])
    rollouts = random_rollouts(19, count=2)
    truth = plain(base, folder, rollouts)
    for identity, replayed in one(base, folder, rollouts).items():
        assert_same(replayed, truth[identity])


def test_tokens_and_modules_of_one_adapter_do_not_mix_with_others(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base", tied=True)
    kinds = {
        "checkpoint-1": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 11]},
        "checkpoint-2": {"target_modules": ["k_proj"], "trainable_token_indices": [11, 4]},
    }
    others = {
        "checkpoint-3": {"target_modules": ["q_proj"], "modules_to_save": ["norm", "lm_head"]},
        "checkpoint-4": {"target_modules": ["k_proj"], "use_dora": True},
    }
    check_together(base, tmp_path, kinds)
    check_together(base, tmp_path, others)


def check_together(base: Path, tmp_path: Path, kinds: dict[str, dict[str, Any]]) -> None:
    folders = [
        new_adapter(base, tmp_path / name, seed=i, **kind)
        for i, (name, kind) in enumerate(kinds.items())
    ]
    rollouts = random_rollouts(19)
    together = scored(load(base, *folders), rollouts, list(kinds))
    for folder in folders:
        truth = plain(base, folder, rollouts)
        for r in rollouts:
            assert_same(together[folder.name, r.id], truth[r.id])


def test_an_adapter_in_the_head_alone_moves_probabilities_and_no_hidden_state(
    tmp_path: Path,
) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-7", target_modules=["lm_head"])
    for replayed in one(base, folder, random_rollouts(19)).values():
        assert not replayed.residual.any()
        assert replayed.kl_exact.min() > 0


def test_adapters_in_the_head_do_not_mix_with_others(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    head = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["lm_head"])
    body = new_adapter(base, tmp_path / "checkpoint-2", target_modules=["q_proj"])
    rollouts = random_rollouts(19)
    together = scored(load(base, head, body), rollouts, [head.name, body.name])
    for folder in (head, body):
        truth = plain(base, folder, rollouts)
        for r in rollouts:
            assert_same(together[folder.name, r.id], truth[r.id], rtol=1e-8, atol=1e-8)


# Adapters and bases that do not belong together.


def test_an_adapter_for_more_layers_is_refused_by_name_and_shape(tmp_path: Path) -> None:
    deep = small_llama(tmp_path / "deep", layers=3)
    shallow = small_llama(tmp_path / "shallow", layers=2)
    folder = new_adapter(deep, tmp_path / "checkpoint-1", target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match="made for another base") as caught:
        load(shallow, folder)
    message = str(caught.value)
    assert "checkpoint-1" in message
    assert "layers.2.self_attn.q_proj.lora_A.weight" in message
    assert "[3, 16]" in message


def test_an_adapter_for_fewer_layers_is_refused_by_name_and_shape(tmp_path: Path) -> None:
    deep = small_llama(tmp_path / "deep", layers=3)
    shallow = small_llama(tmp_path / "shallow", layers=2)
    folder = new_adapter(shallow, tmp_path / "checkpoint-1", target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match="made for another base") as caught:
        load(deep, folder)
    message = str(caught.value)
    assert "layers.2.self_attn.q_proj.lora_A.weight" in message
    assert "[3, 16]" in message


def test_an_adapter_for_another_width_is_refused_by_name_and_both_shapes(tmp_path: Path) -> None:
    wide = small_llama(tmp_path / "wide", width=32)
    narrow = small_llama(tmp_path / "narrow", width=16)
    folder = new_adapter(wide, tmp_path / "checkpoint-1", target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match="made for another base") as caught:
        load(narrow, folder)
    message = str(caught.value)
    assert "layers.0.self_attn.q_proj.lora_A.weight" in message
    assert "[3, 32]" in message
    assert "[16, 16]" in message


def test_an_adapter_whose_output_is_too_wide_is_refused(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["q_proj"])
    rewrite(
        folder,
        lambda t: {
            k: torch.cat([v, v]) if "1" in k and ".lora_B." in k else v for k, v in t.items()
        },
    )
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.q_proj\.lora_B.*\[32, 3\]"):
        load(base, folder)


def test_keys_without_pefts_prefix_are_replayed_and_not_silently_inert(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["down_proj"])
    rollouts = random_rollouts(19)
    truth = plain(base, folder, rollouts)
    rewrite(folder, lambda t: {k.removeprefix("base_model.model."): v for k, v in t.items()})
    for identity, replayed in one(base, folder, rollouts).items():
        assert_same(replayed, truth[identity])
        assert replayed.residual.min() > 0


def test_a_configuration_that_names_other_layers_is_refused(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["q_proj", "k_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    for targets, said in (
        (["q_proj"], "finds no place"),
        (["q_proj", "k_proj", "v_proj"], "wants"),
    ):
        config["target_modules"] = targets
        (folder / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=said):
            load(base, folder)


# Heads that are not known here.


class _Shifted(LlamaForCausalLM):
    """A head with a twist that only its own forward knows."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 1.5
        return out


def test_a_model_whose_forward_does_something_unknown_is_refused(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["q_proj"])
    model = AdaptedModel(_Shifted.from_pretrained(base).eval())
    model.add(read_adapter(Checkpoint(name=folder.name, step=1, path=folder)))
    with pytest.raises(ArcaError, match="_Shifted computes its logits"):
        scored(model, random_rollouts(19), [folder.name])


@pytest.mark.parametrize(
    ("setting", "logits"),
    [
        ("logit_scale", lambda z: z * 0.5),
        ("logits_scaling", lambda z: z / 4),
        ("final_logit_softcapping", lambda z: torch.tanh(z / 2) * 2),
    ],
)
def test_known_scalings_and_caps_are_applied(tmp_path: Path, setting: str, logits: Any) -> None:
    values = {"logit_scale": 0.5, "logits_scaling": 4.0, "final_logit_softcapping": 2.0}
    base = small_llama(tmp_path / "base")
    folder = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["q_proj"])
    model = load(base, folder)
    bare, _ = plain_models(base, folder, torch.float64)
    (r, *_) = random_rollouts(19)
    plain_logits = plain_pass(bare, r).logits
    ids = torch.tensor([r.prompt_ids + r.completion_ids])
    setattr(model.base.config, setting, values[setting])
    with torch.no_grad(), model.using(None):
        hidden = model.hidden(ids, torch.ones_like(ids, dtype=torch.bool))[0]
        ours = model.head(hidden)[len(r.prompt_ids) - 1 : -1]
    torch.testing.assert_close(ours, logits(plain_logits), rtol=1e-9, atol=1e-9)


def test_nothing_is_replayed_without_an_adapter(tmp_path: Path) -> None:
    model = load(small_llama(tmp_path / "base"))
    with pytest.raises(ValueError, match="no adapter"):
        scored(model, random_rollouts(19), ["checkpoint-1"])


def test_progress_hears_of_every_token_of_every_pass(tiny_run: Path) -> None:
    heard: list[int] = []

    class Listener(Silent):
        def start(self, total: int, unit: str) -> None:
            assert unit == "tokens"
            heard.append(-total)

        def advance(self, done: int) -> None:
            heard.append(done)

    rollouts = sampled(tiny_run, 21)[:5]
    folders = [tiny_run / f"checkpoint-{step}" for step in (2, 20)]
    work = [Work(rollout=r, checkpoints=tuple(f.name for f in folders)) for r in rollouts]
    model = load(tiny_run / "base", *folders)
    list(replay(model, plan(work, 90), temperature=1.0, progress=Listener()))
    real = sum(len(r.prompt_ids + r.completion_ids) - 1 for r in rollouts)  # the last predicts none
    assert heard[0] == -3 * real
    assert sum(heard) == 0
