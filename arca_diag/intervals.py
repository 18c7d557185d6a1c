"""Figures with limits, and the difference of two of them. Nothing heavy: the gate imports it."""

import math
from typing import NamedTuple


class Interval(NamedTuple):
    """A figure and its 95% limits, in the figure's unit; an exact one is its own limits."""

    value: float
    low: float
    high: float


def difference(after: Interval, before: Interval) -> Interval:
    r"""`after` less `before` of two independent figures, with limits from each one's own.

    With a in (l_a, u_a) and b in (l_b, u_b), the limits are

        a - b - \sqrt{(a - l_a)^2 + (u_b - b)^2},   a - b + \sqrt{(u_a - a)^2 + (b - l_b)^2}:

    each side's own distance to its limit, added in squares, so that limits which are skewed or
    clipped stay so. Figures of the same prompts are correlated, which makes these limits wider
    than they need be, never narrower, as long as they go up and down together.

    Args:
        after: In any unit.
        before: In the same unit.

    Returns:
        In that unit; NaN where a value or limit is.

    Source:
        Zou & Donner (2008), Statistics in Medicine 27:1693-1702.

    >>> difference(Interval(5.0, 2.0, 9.0), Interval(1.0, -2.0, 5.0))
    Interval(value=4.0, low=-1.0, high=9.0)
    """
    value = after.value - before.value
    below = math.hypot(after.value - after.low, before.high - before.value)
    above = math.hypot(after.high - after.value, before.value - before.low)
    return Interval(value, value - below, value + above)
