"""Architectures that differ in head, caps, scales or layer layout, against their own forward."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from arca_diag.inputs.adapters import read_adapter
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.runs import Checkpoint
from arca_diag.progress import Silent
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Work, plan
from arca_diag.replay.forward import replay

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PROJECTIONS = ["q_proj", "v_proj", "down_proj"]
FAMILIES = {
    "qwen2": (SMALL, PROJECTIONS),
    "qwen3": (SMALL | {"head_dim": 8, "tie_word_embeddings": True}, PROJECTIONS),
    "gemma2": (SMALL | {"head_dim": 8, "final_logit_softcapping": 5.0}, PROJECTIONS),
    "granite": (SMALL | {"logits_scaling": 3.0}, PROJECTIONS),
    "cohere": (SMALL | {"logit_scale": 0.3}, PROJECTIONS),
    "gpt2": (
        {
            "vocab_size": 64,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        ["c_attn"],
    ),
}
SEQUENCES = (
    ([1, 2, 3], [4, 5, 6, 7]),
    ([1, 2, 3], [9, 4]),
    ([9, 8], [7, 6, 5, 4, 3, 2]),
)
TEMPERATURE = 0.7


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("share", [False, True], ids=["plain", "shared"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_scored_as_its_own_forward_scores(
    family: str, share: bool, tmp_path: Path
) -> None:
    fields, targets = FAMILIES[family]
    config = AutoConfig.for_model(family, **fields)
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config).eval()
    weights = {name: value.clone() for name, value in plain.state_dict().items()}
    lora = LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM")
    adapted = get_peft_model(plain, lora).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2)
    folder = tmp_path / "checkpoint-1"
    adapted.save_pretrained(folder)

    base = AutoModelForCausalLM.from_config(config).eval()
    base.load_state_dict(weights)
    model = AdaptedModel(base)
    model.add(read_adapter(Checkpoint(name="checkpoint-1", step=1, path=folder)))
    work = [
        Work(
            rollout=Rollout(
                id=str(number),
                step=0,
                group_id="g",
                prompt_ids=tuple(prompt),
                completion_ids=tuple(completion),
                mask=(True,) * len(completion),
            ),
            checkpoints=("checkpoint-1",),
        )
        for number, (prompt, completion) in enumerate(SEQUENCES)
    ]
    batches = plan(work, 100, share=share)
    assert any(not b.chains for b in batches) is share
    found = list(replay(model, batches, temperature=TEMPERATURE, progress=Silent()))
    assert len(found) == len(SEQUENCES)
    for one in found:
        prompt, completion = SEQUENCES[int(one.rollout.id)]
        ids = torch.tensor([prompt + completion])
        places = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
        with torch.inference_mode():
            on = adapted(input_ids=ids).logits[0, places].double()
            with adapted.disable_adapter():
                off = adapted(input_ids=ids).logits[0, places].double()
        on, off = ((z / TEMPERATURE).log_softmax(-1) for z in (on, off))
        chosen = on[torch.arange(len(completion)), completion]
        kl = (on.exp() * (on - off)).sum(-1)
        assert kl.mean() > 1e-4  # the adapter moves something
        np.testing.assert_allclose(one.logprob, chosen.numpy(), atol=2e-6)
        np.testing.assert_allclose(one.kl_exact, kl.numpy(), atol=2e-6)
