"""What kind of token each id of a vocabulary is, from how the tokenizer writes it."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

TOKEN_CLASSES = ("special", "template", "whitespace", "punctuation", "digit", "word", "unknown")

#: A byte, as tokenizers with a fallback to bytes write it.
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
#: How pieces that begin with a space are written: byte-level BPE, SentencePiece.
_BYTE_LEVEL_SPACE, _SENTENCE_PIECE_SPACE = "\u0120", "\u2581"


def _byte_alphabet() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte: itself, or if not printable another.

    Source: Radford et al. (2019), GPT-2, `bytes_to_unicode`.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in shown]
    return {chr(b): b for b in shown} | {chr(0x100 + n): b for n, b in enumerate(hidden)}


_ALPHABET = _byte_alphabet()


def token_class(piece: str, *, byte_level: bool = False) -> str:
    """The class of one ordinary piece of a vocabulary.

    In this order, white space in it left aside: `unknown` if there is no text, or only a part of a
    character; `whitespace` if nothing is left; `digit` if all is digits; `punctuation` if no
    letter and no digit is in it (signs and symbols too); else `word`.

    Args:
        piece: As the tokenizer writes it.
        byte_level: Whether each of its characters stands for a byte.
    """
    text = _text(piece, byte_level)
    if not text or "\N{REPLACEMENT CHARACTER}" in text:
        return "unknown"
    core = "".join(text.replace(_SENTENCE_PIECE_SPACE, " ").split())
    if not core:
        return "whitespace"
    if core.isdigit():
        return "digit"
    # A mark is part of a letter: the vowel signs of Indic scripts are.
    written = any(unicodedata.category(character)[0] in "LMN" for character in core)
    return "word" if written else "punctuation"


def token_classes(
    pieces: Sequence[str], special: Collection[int], added: Collection[int]
) -> list[str]:
    """The class of every id: `special`, then `template`, then as its piece reads.

    `template` is a word that was added to the vocabulary in brackets or bars: the role marks and
    tags of chat templates. A mark that is no token of its own is read piece by piece.

    Args:
        pieces: Token id -> its text as the tokenizer writes it.
        special: Ids of control tokens, the end of a text among them.
        added: Ids that were added to the vocabulary; they are written as they read.
    """
    byte_level = _is_byte_level(pieces)
    out = []
    for i, piece in enumerate(pieces):
        found = token_class(piece, byte_level=byte_level and i not in added)
        if i in special:
            found = "special"
        elif i in added and found == "word" and _is_bracketed(piece.strip()):
            found = "template"
        out.append(found)
    return out


def classes_of(tokenizer: Any, pieces: Sequence[str], ends: Collection[int] = ()) -> list[str]:
    """The class of every id of a tokenizer of transformers.

    Args:
        tokenizer: Whose special and added tokens count.
        pieces: Token id -> its text as the tokenizer writes it.
        ends: Other ids that end a completion.
    """
    added = tokenizer.added_tokens_decoder
    flagged = {i for i, token in added.items() if token.special}
    return token_classes(pieces, {*tokenizer.all_special_ids, *flagged, *ends}, set(added))


def _text(piece: str, byte_level: bool) -> str:
    """What a piece stands for; a replacement character where that is part of a character."""
    if byte_level and all(character in _ALPHABET for character in piece):
        raw = bytes(_ALPHABET[character] for character in piece)
    elif byte := _BYTE.fullmatch(piece):
        raw = bytes([int(byte[1], 16)])
    else:
        return piece
    return raw.decode("utf-8", errors="replace")


def _is_byte_level(pieces: Sequence[str]) -> bool:
    """Whether more pieces begin with the space of byte-level BPE than with SentencePiece's."""
    begins = [piece[:1] for piece in pieces]
    return begins.count(_BYTE_LEVEL_SPACE) > begins.count(_SENTENCE_PIECE_SPACE)


def _is_bracketed(word: str) -> bool:
    return not word[0].isalnum() and not word[-1].isalnum()
