"""The fonts of a PDF, and what they can draw: DejaVu, which travels with matplotlib, and one more.

No font of the machine is used, so that a report looks the same wherever it is made.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import matplotlib
import typst
from fontTools.ttLib import TTCollection, TTFont, TTLibError

from arca_diag.errors import ArcaError

#: Text is set in the first two faces, the code and the pictures in the others.
_TEXT = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")
_OTHERS = (
    "DejaVuSans-Oblique.ttf",
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
)
FAMILY = "DejaVu Sans"
MONO = "DejaVu Sans Mono"
_MOST_BYTES = 200 * 2**20  # the largest CJK collections have a tenth of this


@dataclass(frozen=True, kw_only=True)
class FontSet:
    """The fonts of one document.

    Attributes:
        loaded: What typst sets with; of no use once `open_fonts` has ended.
        families: Names, in the order in which a character is looked for.
        drawable: Code points that at least one of the families has in every weight it is set in.
    """

    loaded: typst.Fonts
    families: tuple[str, ...]
    drawable: frozenset[int]


@contextmanager
def open_fonts(font: bytes | Path | None = None) -> Iterator[FontSet]:
    """The fonts to set a document with.

    Args:
        font: A font file (TTF, OTF or a collection of them) for what DejaVu lacks.

    Raises:
        ArcaError: The file cannot be read or is no font that can be used.
    """
    with TemporaryDirectory(prefix="arca-diag-fonts-") as name:
        folder = Path(name)
        own = _folder()
        for face in (*_TEXT, *_OTHERS):
            copyfile(own / face, folder / face)
        families: tuple[str, ...] = (FAMILY,)
        drawable = _own_characters()
        if font is not None:
            path, more = _take(font, folder)
            drawable |= more
            families = (FAMILY, _family(path, _load(folder), font))
        yield FontSet(loaded=_load(folder), families=families, drawable=drawable)


def _folder() -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _load(folder: Path) -> typst.Fonts:
    return typst.Fonts(
        include_system_fonts=False, include_embedded_fonts=False, font_paths=[str(folder)]
    )


@cache
def _own_characters() -> frozenset[int]:
    """What DejaVu has both upright and bold: text is set in either."""
    faces = []
    for face in _TEXT:
        with TTFont(_folder() / face, lazy=True) as opened:
            faces.append(frozenset(opened.getBestCmap()))
    return frozenset.intersection(*faces)


def _take(font: bytes | Path, folder: Path) -> tuple[Path, frozenset[int]]:
    """Put a file beside the others; where it lies then, and what its first face has."""
    name = str(font) if isinstance(font, Path) else "the font"
    try:
        data = _read(font) if isinstance(font, Path) else font
    except OSError as error:
        raise ArcaError(
            f"{name} cannot be read: {error.strerror}", hint="give a font file that can be read"
        ) from None
    collection = data[:4] == b"ttcf"
    path = folder / ("zz.ttc" if collection else "zz.ttf")
    path.write_bytes(data)
    file = io.BytesIO(data)
    try:
        face = TTCollection(file, lazy=True).fonts[0] if collection else TTFont(file, lazy=True)
        return path, frozenset(face.getBestCmap() or ())
    except Exception as error:  # a stranger's file: fontTools raises whatever it stumbles over
        why = str(error) if isinstance(error, TTLibError) else type(error).__name__
        raise _no_font(name, why) from None


def _read(font: Path) -> bytes:
    """The file, unless it is larger than any font: a device has no size and no end."""
    with font.open("rb") as handle:
        data = handle.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ArcaError(f"{font} is too large for a font", hint="give a font file")
    return data


def _family(path: Path, loaded: typst.Fonts, font: bytes | Path) -> str:
    """The name of the file's first face, as typst knows it."""
    faces = [f for f in loaded.fonts() if f.path is not None and Path(f.path).name == path.name]
    if not faces:
        name = str(font) if isinstance(font, Path) else "the font"
        raise _no_font(name, "it has no face that can be set")
    return min(faces, key=lambda f: f.index).family


def _no_font(name: str, why: str) -> ArcaError:
    return ArcaError(
        f"{name} is no font that can be used: {why}",
        hint="give a TrueType or OpenType font file (.ttf, .otf, .ttc) with the characters",
    )
