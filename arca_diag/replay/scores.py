"""What a replay hands on: per-token numbers in float64 NumPy. No torch from here on."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from arca_diag.inputs.rollouts.record import Rollout

#: Replicas of a replay that show what rounding does: the same tokens, in another composition of
#: batches, or in float32 where the replay has less.
OTHER_BATCH, FLOAT32, FLOAT64 = "other-batch", "float32", "float64"


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One completion under one checkpoint and the reference, a number for every token of it.

    Attributes:
        rollout: The completion.
        checkpoint: Name of the checkpoint whose adapter was active.
        logprob: log pi_theta(y_t | y_<t, x), nats.
        entropy: Entropy of pi_theta at the predicting position, nats.
        ref_logprob: log pi_ref(y_t | y_<t, x), nats.
        ref_entropy: Entropy of pi_ref, nats.
        kl_exact: KL(pi_theta || pi_ref) over the full vocabulary, nats.
        residual: L2 norm of h_adapted - h_ref after the final norm.
        ref_norm: L2 norm of h_ref.
        shift: h_adapted - h_ref itself, where it was asked for; else None.
    """

    rollout: Rollout
    checkpoint: str
    logprob: Float[np.ndarray, " token"]
    entropy: Float[np.ndarray, " token"]
    ref_logprob: Float[np.ndarray, " token"]
    ref_entropy: Float[np.ndarray, " token"]
    kl_exact: Float[np.ndarray, " token"]
    residual: Float[np.ndarray, " token"]
    ref_norm: Float[np.ndarray, " token"]
    shift: Float[np.ndarray, "token hidden"] | None = None


@dataclass(frozen=True, kw_only=True)
class TokenGradients:
    """How strongly each counted token of a completion would move the adapter.

    Attributes:
        rollout: The completion.
        checkpoint: Name of the checkpoint whose adapter was active.
        position: Places of the counted tokens in the completion, from 0.
        gradient_norm: L2 norm of the gradient of log pi_theta(y_t | y_<t, x) by the adapter's LoRA
            parameters.
        output_factor: ||e_y - pi_theta||, the L2 norm of the same gradient by the logits (times
            the temperature), in [0, sqrt(2)].
    """

    rollout: Rollout
    checkpoint: str
    position: Int[np.ndarray, " counted"]
    gradient_norm: Float[np.ndarray, " counted"]
    output_factor: Float[np.ndarray, " counted"]


@dataclass(frozen=True, kw_only=True)
class LayerResiduals:
    """How far an adapter moves what one layer puts out, over some tokens of one completion.

    Attributes:
        rollout: The completion.
        checkpoint: Name of the checkpoint whose adapter was active.
        layer: Which decoder layer, from 0; -1 for what goes into the first (the embedding), and
            one more than the last for the final norm's output, which the head reads.
        residual: L2 norm of h_adapted - h_ref of the layer's output.
        ref_norm: L2 norm of its h_ref.
    """

    rollout: Rollout
    checkpoint: str
    layer: int
    residual: Float[np.ndarray, " token"]
    ref_norm: Float[np.ndarray, " token"]
