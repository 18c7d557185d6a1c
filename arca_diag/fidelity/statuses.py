"""What a difference between replay and log is called, and how large it may be by chance."""

import math
from typing import Literal

import numpy as np
from scipy import special

from arca_diag.results import Fidelity
from arca_diag.thresholds import Cuts

Status = Literal["pass", "warn", "fail"]
ORDER: tuple[Status, ...] = ("pass", "warn", "fail")
MEANING = {
    "pass": "the replay gives what the run logged",
    "warn": "the replay is a little off what the run logged",
    "fail": "the replay does not give what the run logged",
}


def status_of(gap: float, name: str, spread: float, cuts: Cuts) -> Status:
    """What a difference is, beyond what it may be by chance, by the cuts of its name."""
    if cuts.passed(f"fidelity-{name}-fail", gap - spread):
        return "fail"
    return "warn" if cuts.passed(f"fidelity-{name}-warn", gap - spread) else "pass"


def cannot(label: str, reason: str) -> Fidelity:
    """No judgement of this checkpoint, and why."""
    return Fidelity(checkpoint=label, status="cannot-tell", figures={}, reason=reason)


def half_width(values: np.ndarray, prompts: np.ndarray) -> float:
    """Half of the 95% interval of a token mean, from its spread over prompts.

    The mean is a ratio of two sums over prompts, so its residuals per prompt give its variance.
    Infinite below two prompts.
    """
    _, index = np.unique(prompts, return_inverse=True)
    count = int(index.max()) + 1
    if count < 2:
        return math.inf
    residuals = np.bincount(index, values - values.mean(), minlength=count)
    error = math.sqrt(count / (count - 1) * float(residuals @ residuals)) / len(values)
    return float(special.stdtrit(count - 1, 0.975)) * error
