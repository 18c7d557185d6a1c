"""The base of a run with every adapter that fits it: what a scan replays with."""

import dataclasses

import torch

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.gathered import Inputs
from arca_diag.inputs.models import load_model
from arca_diag.replay.adapted import AdaptedModel


def load_adapted(inputs: Inputs, dtype: str, device: str) -> tuple[AdaptedModel, Inputs]:
    """The base with every adapter that fits it resident, and the inputs that are left.

    Args:
        inputs: Of the scan.
        dtype: Precision of the model.
        device: Kind of device; `SPREAD` lays the model out over all there are.

    Raises:
        ArcaError: The base cannot be loaded, or an adapter does not fit that was named, or none
            fits, or the reference does not fit.
    """
    model = AdaptedModel(load_model(inputs.base, getattr(torch, dtype), device))
    fitting, unreadable = [], dict(inputs.unreadable)
    for adapter in inputs.adapters:
        try:
            model.add(adapter, initial=inputs.reference.initial.get(adapter.checkpoint.name))
        except CheckpointError as error:
            if adapter.checkpoint in inputs.insist:
                raise
            unreadable[adapter.checkpoint] = error
        else:
            fitting.append(adapter)
    if not fitting:
        raise next(iter(unreadable.values()))
    try:
        model.refer(inputs.reference, [a.checkpoint.name for a in fitting])
    except CheckpointError as error:
        raise ArcaError(
            f"the reference adapter cannot be used: {error}",
            hint="choose another with --reference, for example --reference base",
        ) from error
    if inputs.reference_base:
        other = inputs.reference_base
        model.refer_to_model(load_model(other, getattr(torch, dtype), device), other.sha256())
    return model, dataclasses.replace(inputs, adapters=tuple(fitting), unreadable=unreadable)
