"""Tokens as a reader can look at them: bytes joined to characters, nothing left invisible.

A tokenizer writes its pieces in a form of its own: byte-level BPE a character a byte, SentencePiece
a bar for a space and `<0xE4>` for a byte that is a part of a character. What a model sampled is
hostile besides: marks that turn the direction of a line, that take no width, or that end it.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

#: Characters of a token or a text that are shown; of the rest only the number.
SHOWN = 160
#: Stands where the character was shown at the token before, which has its first byte.
GOES_ON = "…"
_NAMED = {"\n": "↵", "\t": "→"}
_SPACE = "·"
_BAR = "\u2581"  # SentencePiece's space
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
#: Read as they are written, even among pieces whose characters stand for bytes.
_AS_WRITTEN = ("special", "template")
#: Without a width though not control characters: fillers, a joiner, variation selectors, a blank.
_BLANK = frozenset(
    chr(code)
    for code in (
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    )
)
_MARKS_IN_A_ROW = 3  # accents heaped on one letter would hide the lines above it


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some characters; `mark` where they stand for ones that would not be seen."""

    text: str
    mark: bool = False


def byte_alphabet() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte, and the byte.

    A byte that Latin-1 prints stands for itself; the others follow from U+0100 on, in order.
    """
    table: dict[str, int] = {}
    for byte in range(256):
        printed = chr(byte).isprintable() and not chr(byte).isspace()
        table[chr(byte) if printed else chr(256 + sum(c > "\xff" for c in table))] = byte
    return table


_ALPHABET = byte_alphabet()


def is_byte_level(pieces: Sequence[str], classes: Sequence[str | None]) -> bool:
    """Whether these pieces are of byte-level BPE, as far as they tell.

    They are if all ordinary ones are written in its alphabet, where a space or a bar cannot
    occur, and their bytes are for the most part text. Pure ASCII reads the same either way.
    """
    ordinary = {
        p for p, c in zip(pieces, classes, strict=True) if c not in _AS_WRITTEN and p is not None
    }
    raw = [bytes(_ALPHABET[c] for c in p) for p in ordinary if all(c in _ALPHABET for c in p)]
    foreign = len(ordinary) - len(raw)
    beyond = [b for b in raw if not b.isascii() or b[:1].isspace()]
    if not beyond or foreign > len(ordinary) // 50:  # added words may be written otherwise
        return False
    if any(b[:1].isspace() for b in beyond):
        return True
    whole = sum("\N{REPLACEMENT CHARACTER}" not in b.decode("utf-8", "replace") for b in beyond)
    return whole * 2 > len(beyond)


def joined(
    pieces: Sequence[str], classes: Sequence[str | None], *, byte_level: bool
) -> list[tuple[str, bool]]:
    """Each piece's text, and whether it begins within a character of the one before.

    A character belongs to the piece that has its first byte. A byte that is part of no character
    becomes the lone surrogate U+DC80 + its low bits, as Python's `surrogateescape` has it.

    Args:
        pieces: In order, as the tokenizer writes them.
        classes: Of each piece, as in tokens.parquet.
        byte_level: Whether ordinary pieces are written a character a byte.
    """
    out = [("", False)] * len(pieces)
    run: list[tuple[int, bytes]] = []
    for place, (piece, kind) in enumerate(zip(pieces, classes, strict=True)):
        raw = None if kind in _AS_WRITTEN else _bytes(piece, byte_level)
        if raw is not None:
            run.append((place, raw))
            continue
        _decode(run, out)
        run = []
        bars = not byte_level and kind not in _AS_WRITTEN
        out[place] = (piece.replace(_BAR, " ") if bars else piece, False)
    _decode(run, out)
    return out


def _bytes(piece: str, byte_level: bool) -> bytes | None:
    """What a piece stands for; None if it is text."""
    if byte_level:
        found = [_ALPHABET.get(character) for character in piece]
        return None if None in found else bytes(b for b in found if b is not None)
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else None


def _decode(run: Sequence[tuple[int, bytes]], out: list[tuple[str, bool]]) -> None:
    """Give the characters of neighbouring pieces to those that have their first bytes."""
    owners = [place for place, raw in run for _ in raw]
    texts: dict[int, list[str]] = {place: [] for place, _ in run}
    within = set()
    at = 0
    for character in b"".join(raw for _, raw in run).decode("utf-8", "surrogateescape"):
        size = len(character.encode("utf-8", "surrogateescape"))
        texts[owners[at]].append(character)
        within |= set(owners[at + 1 : at + size]) - {owners[at]}
        at += size
    for place, characters in texts.items():
        out[place] = ("".join(characters), place in within)


def visible(text: str, *, most: int = SHOWN, line_breaks: bool = False) -> tuple[Part, ...]:
    """The text in parts, with a mark for everything that would not be seen.

    `↵`, `→` and, at the edges, `·` for a newline, a tab and a space; `<0xE4>` for a byte that is
    no character; the code point, as `U+202E`, for whatever else has no width, moves what follows
    it, or is no character. Of a long text the beginning, and how long it is.

    Args:
        text: As `joined` gives it, or any other.
        most: How many of its characters are shown.
        line_breaks: Leave newlines and the spaces at the edges as they are.
    """
    head = text[:most]
    leading = len(head) - len(head.lstrip(" "))
    trailing = len(head.rstrip(" "))
    parts: list[tuple[str, bool]] = []
    heaped = 0
    if head and _is_accent(head[0]):  # the accent would sit on what stands before the token
        parts.append(("◌", True))
    for place, character in enumerate(head):
        heaped = heaped + 1 if _is_accent(character) else 0
        edge = character == " " and not leading <= place < trailing
        if line_breaks and character in " \n":
            shown, mark = character, False
        elif edge:
            shown, mark = _SPACE, True
        elif heaped > _MARKS_IN_A_ROW or not _is_seen(character):
            shown, mark = _NAMED.get(character) or _code(character), True
        else:
            shown, mark = character, False
        if parts and parts[-1][1] == mark:
            parts[-1] = (parts[-1][0] + shown, mark)
        else:
            parts.append((shown, mark))
    if len(text) > most:
        parts.append((f"… ({len(text):,} characters)", True))
    return tuple(Part(text=shown, mark=mark) for shown, mark in parts)


def plain(text: str, *, most: int = SHOWN, line_breaks: bool = False) -> str:
    """`visible` as one string."""
    return "".join(p.text for p in visible(text, most=most, line_breaks=line_breaks))


def _is_accent(character: str) -> bool:
    return unicodedata.combining(character) != 0 or unicodedata.category(character) == "Me"


def _is_seen(character: str) -> bool:
    return character == " " or (character.isprintable() and character not in _BLANK)


def _code(character: str) -> str:
    code = ord(character)
    return f"<0x{code - 0xDC00:02X}>" if 0xDC80 <= code <= 0xDCFF else f"U+{code:04X}"
