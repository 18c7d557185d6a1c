"""What kind of token each id of a vocabulary is, from how the tokenizer writes it."""

import re
from collections.abc import Collection, Sequence
from typing import Any

TOKEN_CLASSES = ("special", "template", "whitespace", "punctuation", "digit", "word", "unknown")

#: Spaces, line ends and tabs as byte-level and SentencePiece tokenizers write them.
_BLANKS = " \t\r\n\u2581\u0120\u010a\u0109\u010d"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_class(piece: str) -> str:
    """The class of one ordinary piece of a vocabulary.

    In this order, spaces around it left aside: `unknown` if there is no text; `whitespace` if
    nothing is left; `digit` if all is digits; `punctuation` if no letter and no digit is in it;
    else `word`. A SentencePiece byte such as <0x0A> is the character that it stands for.
    """
    if byte := _BYTE.fullmatch(piece):
        piece = chr(int(byte[1], 16))
    if not piece:
        return "unknown"
    core = piece.strip(_BLANKS)
    if not core:
        return "whitespace"
    if core.isdigit():
        return "digit"
    return "word" if any(c.isalnum() for c in core) else "punctuation"


def token_classes(
    pieces: Sequence[str], special: Collection[int], added: Collection[int]
) -> list[str]:
    """The class of every id: `special`, then `template`, then as its piece reads.

    Args:
        pieces: Token id -> its text as the tokenizer writes it.
        special: Ids of control tokens, the end of a text among them.
        added: Ids that were added to the vocabulary: role marks and tags of chat templates.
    """
    return [
        "special" if i in special else "template" if i in added else token_class(piece)
        for i, piece in enumerate(pieces)
    ]


def classes_of(tokenizer: Any, pieces: Sequence[str]) -> list[str]:
    """The class of every id of a tokenizer of transformers."""
    return token_classes(
        pieces, set(tokenizer.all_special_ids), set(tokenizer.added_tokens_decoder)
    )
