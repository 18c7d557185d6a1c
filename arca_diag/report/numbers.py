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
    """A figure between 0 and 1 in two decimals without the leading zero: `.93`, `1.00`.

    What two decimals would show as nothing and is something has its first digit: `.004`.
    """
    if value is None:
        return figure(None)
    short = f"{value:.2f}"
    if value and float(short) == 0:
        short = f"{value:.1g}"
    return short.replace("0.", ".", 1)


def two_decimals(value: float | None) -> str:
    """The same where there is room for no more: `.00` may be a little more than 0."""
    return figure(None) if value is None else f"{value:.2f}".removeprefix("0")


def p_value(value: float | None) -> str:
    """A p-value with two significant digits: `.012`; `<.0001` is as good as any below it."""
    if value is None:
        return ""
    if value < 1e-4:
        return "<.0001"
    digits = max(2, 1 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}".removeprefix("0")
