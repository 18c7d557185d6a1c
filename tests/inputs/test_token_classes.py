"""What kind of token each id is, as tokenizers write them."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from arca_diag.inputs.token_classes import TOKEN_CLASSES, classes_of, token_class, token_classes
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("piece", "wanted"),
    [
        ("hello", "word"),
        ("\u0120hello", "word"),
        ("\u2581hello", "word"),
        ("\u00e9", "word"),
        ("x1", "word"),
        ("7", "digit"),
        ("\u012042", "digit"),
        (".", "punctuation"),
        ("\u2581(", "punctuation"),
        ("==>", "punctuation"),
        ("\u0120", "whitespace"),
        ("\u010a\u010a", "whitespace"),
        ("\u2581\u2581", "whitespace"),
        ("<0x0A>", "whitespace"),
        ("<0x41>", "word"),
        ("<0x2e>", "punctuation"),
        ("", "unknown"),
        ("[/INST]", "word"),
    ],
)
def test_a_piece_is_read_without_the_marks_of_its_spaces(piece, wanted):
    assert token_class(piece) == wanted
    assert wanted in TOKEN_CLASSES


def test_control_tokens_come_before_tags_and_tags_before_what_they_read_like():
    pieces = ["<eos>", "<think>", "7", "[/INST]"]
    found = token_classes(pieces, special={0}, added={0, 1})
    assert found == ["special", "template", "digit", "word"]


@pytest.mark.parametrize("run", ["tiny-addition", "smollm2-addition"])
def test_every_id_of_the_samples_tokenizers_has_a_class(run):
    folder = Path(ROOT / "sample_runs" / run)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    found = classes_of(tokenizer, pieces)
    assert len(found) == len(pieces)
    assert found[tokenizer.eos_token_id] == "special"
    (seven,) = (i for i, piece in enumerate(pieces) if piece == "7")
    assert found[seven] == "digit"
    assert set(found) <= set(TOKEN_CLASSES)
