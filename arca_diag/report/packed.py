"""Figures of a page in three characters each: a heat-map of ten checkpoints has half a million.

Three significant digits, as everywhere in a report, and a power of ten.
"""

import string
from collections.abc import Sequence

import numpy as np

#: 64 characters that JSON and HTML leave alone; a figure is three of them, highest first.
DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
#: The lowest power of ten; sharpened credit reaches far down. The highest is 90.
LOWEST = -200
_POWERS = 291  # 900 mantissas each, below 64 ** 3
_UNDEFINED, _ZERO, _FIRST = 0, 1, 2


def pack(row: Sequence[float | None]) -> str | list[float | None]:
    """A row of figures as one string; as numbers if one is negative, or beyond those powers.

    Args:
        row: Finite numbers; None where undefined.
    """
    values = np.array([np.nan if v is None else v for v in row], dtype=float)
    codes = np.full(len(values), _ZERO)
    codes[np.isnan(values)] = _UNDEFINED
    above = values > 0
    power = np.floor(np.log10(values, where=above, out=np.zeros(len(values))))
    digits = np.rint(values / 10.0 ** (power - 2), where=above, out=np.zeros(len(values)))
    # Rounded up to the next power; or the logarithm was off by one.
    for off, shift in ((digits >= 1000, 1), (above & (digits < 100), -1)):
        power[off] += shift
        digits[off] = np.rint(values[off] / 10.0 ** (power[off] - 2))
    place = power - LOWEST
    if (values < 0).any() or (above & ((place < 0) | (place >= _POWERS))).any():
        return [None if v is None else float(f"{v:.3g}") for v in row]
    codes[above] = _FIRST + (place * 900 + digits - 100)[above].astype(int)
    letters = np.array(list(DIGITS))
    triples = np.stack([letters[codes // 4096], letters[codes // 64 % 64], letters[codes % 64]])
    return "".join(triples.T.ravel().tolist())
