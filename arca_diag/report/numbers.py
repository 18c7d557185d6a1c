"""How every rendering writes a number: here alone, so that all say the same as report.json.

Three significant digits, a unit where there is one, and `n/a: reason` for what is undefined.
"""

import math


def figure(value: float | None, reason: str | None = None, unit: str = "") -> str:
    """A number with three significant digits: `0.923`, `12,300 nats`, `1.2e-05`.

    Args:
        value: Finite, or None where it is undefined.
        reason: Why it is undefined, where that is known.
        unit: Written after the number, a space between.
    """
    if value is None or not math.isfinite(value):
        return f"n/a: {reason}" if reason else "n/a"
    short = f"{value:.3g}"
    rounded = float(short)
    if 1e3 <= abs(rounded) < 1e9:
        short = f"{rounded:,.0f}"
    elif rounded == 0:
        short = "0"  # never -0
    return f"{short} {unit}" if unit else short


def with_limits(
    value: float | None,
    low: float | None,
    high: float | None,
    reason: str | None = None,
    unit: str = "",
) -> str:
    """A number with its limits: `0.923 (0.881 to 0.951)`; without them where they are unknown."""
    if value is None or low is None or high is None:
        return figure(value, reason, unit)
    return f"{figure(value)} ({figure(low)} to {figure(high)})" + (f" {unit}" if unit else "")


def percent(value: float | None, reason: str | None = None) -> str:
    """A share in whole percent: `93%`."""
    return figure(None, reason) if value is None else f"{value:.0%}"


def percent_with_limits(value: float | None, low: float | None, high: float | None) -> str:
    """A share with its limits over prompts: `93% (87 to 99)`."""
    if value is None or low is None or high is None:
        return percent(value)
    return f"{value:.0%} ({100 * low:.0f} to {100 * high:.0f})"


def unit_share(value: float | None) -> str:
    """A figure between 0 and 1 in two decimals without the leading zero: `.93`, `1.00`."""
    return "n/a" if value is None else f"{value:.2f}".removeprefix("0")
