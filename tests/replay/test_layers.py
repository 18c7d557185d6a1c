"""The residual of every layer against the hidden states that transformers itself gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.progress import Silent
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.layers import MOST_TOKENS, UnknownLayers, find_decoder, layer_residuals
from arca_diag.replay.scores import LayerResiduals
from tests.replay.test_forward import (
    load,
    new_adapter,
    plain_models,
    random_rollouts,
    rollout,
    sampled,
    scored,
    small_llama,
)
from tests.replay.test_gradients import family_run, resident
from tests.replay.test_variants import small_moe


def found(model: AdaptedModel, name: str, rollouts: list[Rollout]) -> list[LayerResiduals]:
    return list(layer_residuals(model, {name: tuple(rollouts)}, Silent()))


def hidden_states(model: Any, rollout: Rollout) -> list[torch.Tensor]:
    """Of the embedding, of each layer but the last, and of the final norm: what there is."""
    ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    first = len(rollout.prompt_ids)
    return [state[0, first - 1 : -1] for state in states]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("family", ["tiny", "qwen3", "gemma2", "gpt2"])
def test_layers_are_those_of_transformers_own_hidden_states(
    family: str, tmp_path: Path, tiny_run: Path
) -> None:
    if family == "tiny":
        base, checkpoint = tiny_run / "base", tiny_run / "checkpoint-100"
        rollouts = sampled(tiny_run, 101)[::60]
    else:
        base, checkpoint = family_run(family, tmp_path)
        rollouts = random_rollouts(64)
    bare, adapted = plain_models(base, checkpoint, torch.float64)
    model = resident(base, checkpoint)
    count = model.base.config.num_hidden_layers
    by_place = {(f.rollout.id, f.layer): f for f in found(model, checkpoint.name, rollouts)}
    assert len(by_place) == len(rollouts) * (count + 2)
    for r in rollouts:
        on, off = hidden_states(adapted, r), hidden_states(bare, r)
        assert len(on) == count + 1
        # transformers gives the last layer's output after the final norm, not before it.
        for layer, place in [*((n - 1, n) for n in range(count)), (count, count)]:
            one = by_place[r.id, layer]
            gap = (on[place] - off[place]).norm(dim=1)
            np.testing.assert_allclose(one.residual, gap, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(one.ref_norm, off[place].norm(dim=1), rtol=1e-9)
    moved = [by_place[rollouts[0].id, layer].residual.max() for layer in range(-1, count + 1)]
    assert moved[0] == 0  # nothing is adapted before the first layer
    assert min(moved[1:]) > 1e-3


def test_the_last_layer_is_what_the_final_norm_reads(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    checkpoint = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["down_proj"])
    model = load(base, checkpoint)
    model.base.model.norm = nn.Identity()
    last, normed = found(model, "checkpoint-1", random_rollouts(19, count=1))[-2:]
    assert (last.layer, normed.layer) == (1, 2)
    np.testing.assert_array_equal(last.residual, normed.residual)
    np.testing.assert_array_equal(last.ref_norm, normed.ref_norm)
    assert last.residual.min() > 1e-3


def test_after_the_final_norm_it_is_the_replays_residual(tiny_run: Path) -> None:
    path = tiny_run / "checkpoint-20"
    model = load(tiny_run / "base", path)
    rollouts = sampled(tiny_run, 21)[::16]
    replayed = scored(model, rollouts, [path.name])
    for one in found(model, path.name, rollouts):
        if one.layer == model.base.config.num_hidden_layers:
            truth = replayed[path.name, one.rollout.id]
            np.testing.assert_allclose(one.residual, truth.residual, rtol=1e-9)
            np.testing.assert_allclose(one.ref_norm, truth.ref_norm, rtol=1e-9)


def test_an_adapter_in_one_layer_moves_nothing_before_it(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base", layers=4)
    checkpoint = new_adapter(
        base, tmp_path / "checkpoint-1", target_modules=["down_proj"], layers_to_transform=[2]
    )
    for one in found(load(base, checkpoint), "checkpoint-1", random_rollouts(19)):
        assert one.residual.any() == (one.layer >= 2)


def test_lora_in_the_embedding_shows_before_the_first_layer(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    checkpoint = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["embed_tokens"])
    embedding = found(load(base, checkpoint), "checkpoint-1", random_rollouts(19, count=1))[0]
    assert embedding.layer == -1
    assert embedding.residual.min() > 1e-3


def test_another_base_as_reference_is_listened_to_in_its_own_layers(tmp_path: Path) -> None:
    base, other = small_llama(tmp_path / "base"), small_llama(tmp_path / "other")
    checkpoint = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["down_proj"])
    model = load(base, checkpoint)
    another = AutoModelForCausalLM.from_pretrained(other).double().eval()
    another.model.embed_tokens.weight.data += 1
    model.refer_to_model(another)
    embedding = found(model, "checkpoint-1", random_rollouts(19, count=1))[0]
    np.testing.assert_allclose(embedding.residual, 4.0)  # 16 components, each one farther


def test_a_reference_of_another_depth_cannot_be_compared(tmp_path: Path) -> None:
    base, other = small_llama(tmp_path / "base"), small_llama(tmp_path / "other", layers=3)
    checkpoint = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["down_proj"])
    model = load(base, checkpoint)
    model.refer_to_model(AutoModelForCausalLM.from_pretrained(other).double().eval())
    with pytest.raises(UnknownLayers, match="the reference has 3 layers, and the policy 2"):
        found(model, "checkpoint-1", random_rollouts(19, count=1))


def test_only_counted_tokens_and_not_too_many_of_them(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    checkpoint = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["down_proj"])
    model = load(base, checkpoint)
    ids = np.random.default_rng(0).integers(19, size=2 * MOST_TOKENS + 50).tolist()
    whole = rollout("a", [1, 2], ids)
    masked = Rollout(
        id="b",
        step=None,
        group_id="g",
        prompt_ids=(1, 2),
        completion_ids=whole.completion_ids,
        mask=tuple(place in (3, 40, 41) for place in range(len(ids))),
    )
    replayed = scored(model, [whole], ["checkpoint-1"], batch_tokens=4096)["checkpoint-1", "a"]
    *_, some = found(model, "checkpoint-1", [masked])
    np.testing.assert_allclose(some.residual, replayed.residual[[3, 40, 41]], rtol=1e-9)
    *_, many = found(model, "checkpoint-1", [whole])
    assert len(many.residual) == MOST_TOKENS
    np.testing.assert_allclose(
        many.residual[[0, -1]], replayed.residual[[0, len(ids) - 1]], rtol=1e-9
    )


# Which modules are the layers.


def test_experts_as_many_as_layers_are_not_taken_for_them(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(small_moe(tmp_path / "base"))
    for layer in model.model.layers:
        layer.mlp.more = nn.ModuleList(nn.Linear(2, 2) for _ in model.model.layers)
    decoder = find_decoder(model)
    assert decoder.name == "model.layers"
    assert decoder.layers == tuple(model.model.layers)


def tiny_llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=19,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    )


def test_two_lists_that_fit_are_not_chosen_from() -> None:
    model = tiny_llama()
    model.encoder = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    with pytest.raises(UnknownLayers, match=r"2 hidden layers and 2 lists \(model.layers, encoder"):
        find_decoder(model)


def test_no_list_that_fits_is_not_replaced_by_another() -> None:
    model = tiny_llama()
    model.config.num_hidden_layers = 3
    with pytest.raises(UnknownLayers, match="LlamaForCausalLM has 3 hidden layers and no list"):
        find_decoder(model)


def test_a_layer_that_runs_twice_is_no_place_in_the_network(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    checkpoint = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["down_proj"])
    model = load(base, checkpoint)
    layers = model.base.model.layers
    layers[1].register_forward_pre_hook(lambda _m, args: (layers[0](args[0]),))
    layers[0].forward = lambda hidden_states, **_: hidden_states
    with pytest.raises(UnknownLayers, match="a decoder layer runs more than once"):
        found(model, "checkpoint-1", random_rollouts(19, count=1))


def test_a_layer_that_gives_no_state_a_position_is_said_to(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    checkpoint = new_adapter(base, tmp_path / "checkpoint-1", target_modules=["down_proj"])
    model = load(base, checkpoint)
    layers = model.base.model.layers
    layers[0].register_forward_hook(lambda _m, _a, out: out[..., :1], prepend=True)
    layers[1].register_forward_pre_hook(lambda _m, args: (args[0].repeat(1, 1, 16),))
    with pytest.raises(UnknownLayers, match="do not each give one state a position"):
        found(model, "checkpoint-1", random_rollouts(19, count=1))


def test_no_hook_stays_behind(tiny_run: Path) -> None:
    model = load(tiny_run / "base", tiny_run / "checkpoint-20")
    found(model, "checkpoint-20", sampled(tiny_run, 21)[:1])
    for layer in find_decoder(model.base).layers:
        assert not layer._forward_hooks
        assert not layer._forward_pre_hooks
