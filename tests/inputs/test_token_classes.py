"""What kind of token each id is, as tokenizers write them."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from arca_diag.inputs.token_classes import TOKEN_CLASSES, classes_of, token_class, token_classes
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("piece", "wanted"),
    [
        ("hello", "word"),
        ("\u2581hello", "word"),
        ("\u00e9", "word"),
        ("x1", "word"),
        ("\u4f60\u597d", "word"),
        ("\u093f", "word"),  # a vowel sign
        ("7", "digit"),
        (" 42", "digit"),
        ("\u25812", "digit"),
        (".", "punctuation"),
        ("\u2581(", "punctuation"),
        ("==>", "punctuation"),
        (").\n }", "punctuation"),
        ("\u2014", "punctuation"),
        ("\u00a7", "punctuation"),
        ("\u2581\u2581", "whitespace"),
        ("\n\n", "whitespace"),
        ("<0x0A>", "whitespace"),
        ("<0x41>", "word"),
        ("<0x2e>", "punctuation"),
        ("<0xE2>", "unknown"),
        ("", "unknown"),
        ("[/INST]", "word"),
    ],
)
def test_a_piece_is_read_without_the_marks_of_its_spaces(piece, wanted):
    assert token_class(piece) == wanted
    assert wanted in TOKEN_CLASSES


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("hello", "word"),
        (" hello", "word"),
        (" \u00e9t\u00e9", "word"),
        ("\u4f60", "word"),
        (" 42", "digit"),
        (" (", "punctuation"),
        (" \u2014", "punctuation"),
        ("\u3002", "punctuation"),
        (";\n\n }", "punctuation"),
        (" \u00d7", "punctuation"),
        ("\U0001f600", "punctuation"),
        ("\n\t ", "whitespace"),
        ("\u00a0", "whitespace"),
        ("<0x0A>", "word"),
    ],
)
def test_a_byte_level_piece_is_what_its_bytes_spell(text, wanted):
    """Written as the `tokenizers` library writes it."""
    writer = ByteLevel(add_prefix_space=False, use_regex=False)
    ((piece, _),) = writer.pre_tokenize_str(text)
    assert token_class(piece, byte_level=True) == wanted


def test_every_byte_is_written_as_the_library_writes_it():
    """Two bytes a letter: U+0080 to U+07FF hold every continuation byte."""
    writer = ByteLevel(add_prefix_space=False, use_regex=False)
    for code in (*range(0x80), *range(0xA0, 0x800)):
        ((piece, _),) = writer.pre_tokenize_str(chr(code))
        assert token_class(piece, byte_level=True) == token_class(chr(code)), hex(code)


def test_what_is_added_is_written_as_it_reads_in_a_byte_level_vocabulary_too():
    dash = "\u00e2\u0122\u0136"
    assert token_classes([dash, dash, "\u0120a"], set(), added={1})[:2] == ["punctuation", "word"]


def test_a_part_of_a_character_has_no_class():
    writer = ByteLevel(add_prefix_space=False, use_regex=False)
    ((dash, _),) = writer.pre_tokenize_str("\u2014")
    assert token_class(dash[:2], byte_level=True) == "unknown"


def test_a_vocabulary_is_byte_level_where_its_spaces_are():
    dash = "\u00e2\u0122\u0136"  # how byte-level BPE writes it
    letters = "\u00e9\u00e8"
    assert token_classes([dash, "\u0120a"], set(), set())[0] == "punctuation"
    assert token_classes([dash, "\u2581a"], set(), set())[0] == "word"
    assert token_classes([letters, "\u2581a"], set(), set())[0] == "word"


def test_control_tokens_come_before_tags_and_tags_before_what_they_read_like():
    pieces = ["<eos>", "<think>", "7", "[/INST]"]
    found = token_classes(pieces, special={0}, added={0, 1})
    assert found == ["special", "template", "digit", "word"]


def test_what_is_added_is_of_the_template_only_if_it_is_a_word_in_brackets_or_bars():
    pieces = ["<|User|>", "</tool_call>", "[INST]", "   ", "\n\n", "12", "...", "lora", "\u0120a"]
    found = token_classes(pieces, special=set(), added=set(range(8)))
    assert found[:3] == ["template"] * 3
    assert found[3:8] == ["whitespace", "whitespace", "digit", "punctuation", "word"]


def test_tokens_flagged_special_and_other_ends_are_special_and_tags_are_not():
    raw = Tokenizer(BPE({"a": 0, "<eos>": 1, "<|turn|>": 2, "<think>": 3, "b": 4}, []))
    raw.add_special_tokens(["<eos>", "<|turn|>"])
    raw.add_tokens(["<think>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>")
    pieces = tokenizer.convert_ids_to_tokens(list(range(5)))
    found = classes_of(tokenizer, pieces, ends={4})
    assert found == ["word", "special", "special", "template", "special"]


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
