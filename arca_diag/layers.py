"""Where in the network the residual arises: a row a checkpoint and layer, beside the adapter's own.

Evidence, and no verdict: a layer's residual is what all adapted layers up to it have moved, carried
on and changed by the base.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from arca_diag.diagnostics.uncertainty import cluster_mean
from arca_diag.inputs.updates import LayerUpdate, Updates
from arca_diag.replay.scores import LayerResiduals

LAYERS = pa.schema(
    [
        ("checkpoint", pa.string()),
        ("checkpoint_step", pa.int64()),
        ("layer", pa.int32()),
        ("residual_mean", pa.float64()),
        ("residual_low", pa.float64()),
        ("residual_high", pa.float64()),
        ("relative_residual_mean", pa.float64()),
        ("update_norm", pa.float64()),
        ("n_clusters", pa.int32()),
        ("n_tokens", pa.int32()),
    ]
)


def layer_table(
    found: Iterable[LayerResiduals],
    updates: Updates,
    steps: Mapping[str, int | None],
    *,
    decoder: str,
    embedding: str,
) -> pd.DataFrame:
    r"""Put the tokens of each layer together.

    `residual_mean` is \|h_{adapted} - h_{ref}\|_2 of the layer's output in its own units, over
    tokens, then completions, then prompts, with a 95% interval over prompts;
    `relative_residual_mean` is the same of its quotient by \|h_{ref}\|_2, null where that is 0.
    `update_norm` is the root of the summed squares of the Frobenius norms of the LoRA updates
    within the layer (see `inputs.updates`): 0 where there are none, null where one is undefined.

    Args:
        found: As from `replay.layers.layer_residuals`; numbered as there.
        updates: Checkpoint name -> the updates of its adapter.
        steps: Checkpoint name -> its step.
        decoder: Name of the list of decoder layers in the base.
        embedding: Name of the embedding in the base.
    """
    rows = pd.DataFrame(
        {
            "checkpoint": one.checkpoint,
            "layer": one.layer,
            "cluster": one.rollout.cluster,
            "residual": one.residual.mean(),
            "relative": _quotient(one.residual, one.ref_norm).mean(),
            "tokens": len(one.residual),
        }
        for one in found
    )
    if rows.empty:
        return pd.DataFrame(columns=LAYERS.names)
    out = []
    for checkpoint, step in steps.items():
        at = rows[rows["checkpoint"] == checkpoint]
        norms = _update_norms(updates[checkpoint], decoder, embedding)
        for layer in sorted(at["layer"].unique().tolist()):
            part = at[at["layer"] == layer]
            clusters = part["cluster"].to_numpy(object)
            residual = cluster_mean(part["residual"].to_numpy(float), clusters)
            relative = cluster_mean(part["relative"].to_numpy(float), clusters)
            out.append(
                {
                    "checkpoint": checkpoint,
                    "checkpoint_step": step,
                    "layer": layer,
                    "residual_mean": residual.value,
                    "residual_low": residual.low,
                    "residual_high": residual.high,
                    "relative_residual_mean": relative.value,
                    "update_norm": norms.get(layer, 0.0),
                    "n_clusters": residual.n_clusters,
                    "n_tokens": part["tokens"].sum(),
                }
            )
    return pd.DataFrame(out).astype({"checkpoint_step": "Int64"})


def _quotient(residual: np.ndarray, ref_norm: np.ndarray) -> np.ndarray:
    return np.divide(residual, ref_norm, out=np.full_like(residual, np.nan), where=ref_norm > 0)


def _update_norms(updates: Sequence[LayerUpdate], decoder: str, embedding: str) -> dict[int, float]:
    """Layer, -1 for the embedding -> norm of all that the adapter has in it."""
    parts: dict[int, list[float]] = {}
    for update in updates:
        name = update.layer.name
        inside = re.match(rf"{re.escape(decoder)}\.(\d+)\.", name)
        if inside:
            parts.setdefault(int(inside[1]), []).append(update.norm)
        elif name == embedding:
            parts.setdefault(-1, []).append(update.norm)
    return {layer: math.hypot(*norms) for layer, norms in parts.items()}
