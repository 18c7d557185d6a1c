"""Which device and which precision a replay runs in."""

import torch

from arca_diag.errors import ConfigError

#: Padded tokens a batch, by kind of device: fixed, so that the plan depends on rollouts alone.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384, "mps": 8192}


def resolve(dtype: str, device: str) -> tuple[str, str]:
    """Turn `auto` into a choice: the best device at hand; float32 on a CPU, else bfloat16.

    float32 where it is affordable, because in bfloat16 a small residual drowns in rounding.

    Returns:
        Names of the dtype and of the kind of device.

    Raises:
        ConfigError: The device is not there, or cannot do the dtype.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(kind for kind, present in there.items() if present)
    if not there[device]:
        raise ConfigError(
            f"--device {device}: PyTorch finds none on this machine",
            hint="use --device cpu, or install a PyTorch build for this device",
        )
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    if dtype == "float64" and device == "mps":
        raise ConfigError("--dtype float64: MPS does not have it", hint="use --device cpu")
    return dtype, device
