"""Kinds of LoRA that are refused, with the reason, before any model is loaded."""

import pytest

from arca_diag.errors import CheckpointError
from arca_diag.inputs.adapters import open_adapter
from arca_diag.inputs.kinds import saved_start
from tests.inputs import write_adapter

#: Setting -> a value that turns it on, and what its refusal says.
VARIANTS = {
    "alora_invocation_tokens": ([5, 6], "from its invocation tokens on"),
    "arrow_config": ({"top_k": 2}, "mixture of adapters"),
    "kasa_config": ({"beta": 1e-4}, "cuts the smallest singular values"),
    "layer_replication": ([[0, 4], [2, 5]], "another depth"),
    "monteclora_config": ({"num_samples": 8}, "at random"),
    "use_bdlora": ({"nblocks": 2}, "block-diagonal"),
    "use_qalora": (True, "quantised base"),
}


def refusal(folder, **config) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_adapter(write_adapter(folder / "checkpoint-3", config))
    return caught.value


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_that_does_more_than_b_a_is_refused_by_what_it_does(tmp_path, name):
    value, says = VARIANTS[name]
    error = refusal(tmp_path, **{name: value})
    assert f"checkpoint-3: {name} is set" in str(error)
    assert says in str(error)
    assert "PiSSA" in error.hint


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("off", [None, False, [], {}])
def test_the_settings_of_a_variant_that_is_off_are_no_matter(tmp_path, name, off):
    open_adapter(write_adapter(tmp_path / "checkpoint-3", {name: off}))


@pytest.mark.parametrize("init", ["corda", "lora_ga", "loftq"])
def test_a_start_that_only_training_had_is_refused(tmp_path, init):
    error = refusal(tmp_path, init_lora_weights=init)
    assert f"init_lora_weights='{init}' rewrites the base" in str(error)
    assert "path_initial_model_for_weight_conversion" in error.hint


def test_a_start_that_nobody_knows_is_refused(tmp_path):
    error = refusal(tmp_path, init_lora_weights="brand_new" * 99)
    assert "is not known" in str(error)
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    "init", ["pissa", "olora", "OLoRA", "gaussian", "orthogonal", "eva", "mica", True, False, None]
)
def test_starts_that_are_known_pass(tmp_path, init):
    open_adapter(write_adapter(tmp_path / "checkpoint-3", {"init_lora_weights": init}))


@pytest.mark.parametrize("where", ["checkpoint-3", "."])
def test_fast_pissa_passes_where_its_start_was_saved(tmp_path, where):
    error = refusal(tmp_path, init_lora_weights="pissa_niter_4")
    assert "randomised decomposition" in str(error)
    assert "pissa_init/" in error.hint
    start = write_adapter(tmp_path / where / "pissa_init")
    made = write_adapter(tmp_path / "checkpoint-3", {"init_lora_weights": "pissa_niter_4"})
    open_adapter(made)
    assert saved_start(made.path) == start.path


@pytest.mark.parametrize(
    ("config", "passes"),
    [
        ({"auto_mapping": {"unsloth_fixed": True}}, False),
        ({"auto_mapping": {"unsloth_fixed": True}, "lora_B_layout": "grouped_by_expert"}, False),
        ({"auto_mapping": {"unsloth_fixed": True}, "lora_B_layout": "rank_major"}, True),
        ({"auto_mapping": None}, True),
        ({"auto_mapping": ["unsloth_fixed"]}, True),
    ],
    ids=str,
)
def test_experts_in_the_order_of_older_unsloth_are_refused(tmp_path, config, passes):
    experts = {"target_parameters": ["mlp.experts.down_proj"]}
    if passes:
        open_adapter(write_adapter(tmp_path / "checkpoint-3", config | experts))
    else:
        assert "B matrices of experts" in str(refusal(tmp_path, **config, **experts))
    open_adapter(write_adapter(tmp_path / "checkpoint-5", config))  # without experts no matter
