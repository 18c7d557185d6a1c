"""Colours, markers and line widths of all pictures; colour is never the only sign."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.colors import ListedColormap

from arca_diag.signals import SIGNAL_NAMES

#: Text, axes and everything else that a page may draw in the colour of its own text.
INK = "#1b1b1f"
#: Text on a light and on a dark cell, whatever the page's ground; matplotlib does not write plain
#: black, and a page might give what is not written another colour.
ON_LIGHT, ON_DARK = "#000001", "#ffffff"
#: Opacity of what only guides the eye.
FAINT, BAND = 0.28, 0.07


@dataclass(frozen=True, kw_only=True)
class Sign:
    """How a signal is drawn, in every picture alike."""

    colour: str
    marker: str


#: Okabe and Ito's colours, their black in the page's own ink, with a marker each.
SIGNS = {
    name: Sign(colour=colour, marker=marker)
    for name, colour, marker in zip(
        SIGNAL_NAMES,
        ("#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#009E73", INK, "#56B4E9"),
        ("o", "s", "^", "D", "v", "P", "X"),
        strict=True,
    )
}

#: Low to high. The ends of viridis that a dark and a light page would swallow are left out.
SEQUENTIAL = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.18, 0.95, 256)))

_STYLE: dict[str, Any] = {
    "svg.hashsalt": "arca-diag",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,  # a token may hold dollar signs
    "text.color": INK,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "hatch.linewidth": 0.8,
    "hatch.color": INK,
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib as all pictures want it, whatever the user's own settings are.

    Text is measured with a font that has not every script; it is drawn with the reader's.
    """
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        settings.update(_STYLE)
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support", UserWarning)
        yield


def on(colour: tuple[float, ...]) -> str:
    """The colour of text that is read on a cell of this colour."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # where black and white stand out alike: (L + .05)^2 = .05 * 1.05
    return ON_LIGHT if luminance > 0.179 else ON_DARK


def _diverging(ends: tuple[str, str], middle: str) -> ListedColormap:
    """From one end over a middle to the other, in even steps of OKLab on either side."""
    low, centre, high = (_to_oklab(matplotlib.colors.to_rgb(c)) for c in (ends[0], middle, ends[1]))
    way = np.linspace(0, 1, 129)[:, None]
    lab = np.vstack([low + way * (centre - low), (centre + way * (high - centre))[1:]])
    return ListedColormap(_from_oklab(lab))


# Source of the matrices: Ottosson (2020), https://bottosson.github.io/posts/oklab/
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _to_oklab(rgb: tuple[float, float, float]) -> Float[np.ndarray, " 3"]:
    srgb = np.asarray(rgb)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return _TO_LAB @ np.cbrt(_TO_CONES @ linear)


def _from_oklab(lab: Float[np.ndarray, "colour 3"]) -> Float[np.ndarray, "colour 3"]:
    cones = np.linalg.solve(_TO_LAB, lab.T) ** 3
    linear = np.clip(np.linalg.solve(_TO_CONES, cones).T, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


#: Below zero, zero, above zero: blue, grey and orange, told apart by every kind of sight.
DIVERGING = _diverging(("#1f5fa8", "#b4560a"), "#dcdcdc")
