"""The table of layers: means over prompts, and which of the adapter's updates are in a layer."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.updates import Layer, LayerUpdate
from arca_diag.layers import LAYERS, layer_table
from arca_diag.replay.scores import LayerResiduals
from arca_diag.tables import to_parquet


def one(layer: int, prompt: int, residual: list[float], ref_norm: list[float]) -> LayerResiduals:
    rollout = Rollout(
        id=f"{prompt}/{len(residual)}",
        step=0,
        group_id="g",
        prompt_ids=(prompt,),
        completion_ids=(1,) * len(residual),
        mask=(True,) * len(residual),
    )
    return LayerResiduals(
        rollout=rollout,
        checkpoint="c",
        layer=layer,
        residual=np.array(residual),
        ref_norm=np.array(ref_norm),
    )


def update(name: str, norm: float) -> LayerUpdate:
    return LayerUpdate(layer=Layer(name=name, tensors=()), norm=norm)


def table(found: list[LayerResiduals], *updates: LayerUpdate) -> pd.DataFrame:
    return layer_table(
        found, {"c": updates}, {"c": 5}, decoder="model.layers", embedding="model.embed"
    )


def test_tokens_then_completions_then_prompts_are_averaged() -> None:
    found = table(
        [
            one(0, 1, [1.0, 3.0], [1.0, 2.0]),
            one(0, 1, [6.0], [2.0]),
            one(0, 2, [10.0], [4.0]),
            one(0, 3, [5.0, 5.0, 5.0], [5.0, 5.0, 5.0]),
        ]
    )
    (row,) = found.to_dict("records")
    prompts = np.array([(2.0 + 6.0) / 2, 10.0, 5.0])
    assert row["residual_mean"] == pytest.approx(prompts.mean())
    low, high = stats.t.interval(0.95, 2, prompts.mean(), stats.sem(prompts))
    assert (row["residual_low"], row["residual_high"]) == pytest.approx((low, high))
    assert row["relative_residual_mean"] == pytest.approx(np.mean([(1.25 + 3.0) / 2, 2.5, 1.0]))
    assert (row["n_clusters"], row["n_tokens"]) == (3, 7)
    assert (row["checkpoint"], row["checkpoint_step"], row["layer"]) == ("c", 5, 0)


def test_updates_are_summed_within_their_layer_and_by_its_whole_number() -> None:
    places = [one(layer, 1, [1.0], [1.0]) for layer in (12, -1, 2, 1)]
    found = table(
        places,
        update("model.layers.1.self_attn.q_proj", 3.0),
        update("model.layers.1.mlp.down_proj", 4.0),
        update("model.layers.12.mlp.down_proj", 7.0),
        update("model.embed", 0.5),
        update("lm_head", 99.0),
        update("other.model.layers.2.q_proj", 99.0),
    )
    assert found["layer"].tolist() == [-1, 1, 2, 12]
    assert found["update_norm"].tolist() == [0.5, 5.0, 0.0, 7.0]


def test_an_update_that_is_undefined_makes_its_layers_norm_null() -> None:
    found = table(
        [one(0, 1, [1.0], [1.0]), one(1, 1, [1.0], [1.0])],
        update("model.layers.0.q_proj", math.nan),
        update("model.layers.0.k_proj", 2.0),
        update("model.layers.1.k_proj", 2.0),
    )
    assert math.isnan(found["update_norm"][0])
    assert found["update_norm"][1] == 2.0


def test_a_state_of_norm_zero_has_no_relative_residual() -> None:
    (row,) = table([one(0, 1, [1.0, 1.0], [0.0, 2.0])]).to_dict("records")
    assert row["residual_mean"] == 1.0
    assert math.isnan(row["relative_residual_mean"])


def test_nothing_looked_at_is_an_empty_table_with_its_columns() -> None:
    assert list(table([]).columns) == LAYERS.names
    assert to_parquet(table([one(0, 1, [1.0], [1.0])]), LAYERS)
