import json
import time
from typing import Any

import pytest

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.rehearsal import check_patterns, check_tokenizer
from tests.inputs import SAMPLE

NAMES = [f"model.layers.{n}.self_attn.q_proj" for n in range(40)]
#: As Unsloth writes it: four open stretches in a row, and no harm in it.
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:q_proj|k_proj|v_proj|o_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|k_proj)))"
)


def tokenizer(**changes: Any) -> str:
    """The sample's tokenizer.json with other parts."""
    return json.dumps(json.loads((SAMPLE / "tokenizer.json").read_text()) | changes)


def replacing(by: str, times: int) -> dict[str, Any]:
    """A step that puts a text in place of every `1`, several times over."""
    one = {"type": "Replace", "pattern": {"String": "1"}, "content": by}
    return {"type": "Sequence", "normalizers": [one] * times}


class TestPatterns:
    @pytest.mark.parametrize("target", [UNSLOTH, r".*\.(q_proj|v_proj)", "all-linear", "q_proj"])
    def test_those_that_trainers_write_pass(self, target):
        check_patterns({"target_modules": target}, NAMES, "c/adapter_config.json")

    def test_plain_names_need_no_process(self, monkeypatch):
        monkeypatch.setattr("arca_diag.inputs.rehearsal.run_child", None)
        config = {"target_modules": ["q_proj", "mlp.up_proj"], "rank_pattern": {"layers_1": 4}}
        check_patterns(config, NAMES, "c/adapter_config.json")

    @pytest.mark.parametrize(
        "config",
        [
            {"target_modules": "([a-z_.0-9]+)+X"},
            {"target_modules": ".*" * 12 + "X"},
            {"exclude_modules": "([a-z_.0-9]+)+X"},
            {"rank_pattern": {"([a-z_.0-9]+)+X": 4}},
            {"alpha_pattern": {"([a-z_.0-9]+)+X": 4}},
            {"modules_to_save": ["([a-z_.0-9]+)+X"]},
            {"layers_pattern": "([a-z_.0-9]+)+X"},
        ],
        ids=lambda config: f"{next(iter(config))}",
    )
    def test_one_that_takes_for_ever_is_named_soon(self, config, monkeypatch):
        monkeypatch.setattr("arca_diag.inputs.rehearsal._SECONDS", 1)
        began = time.monotonic()
        with pytest.raises(
            CheckpointError, match=r"^c/adapter_config\.json: a pattern .* not done within 1 s"
        ):
            check_patterns(config, NAMES, "c/adapter_config.json")
        assert time.monotonic() - began < 20

    def test_one_that_is_no_pattern_is_said(self):
        with pytest.raises(CheckpointError, match="unterminated subpattern"):
            check_patterns({"target_modules": "("}, NAMES, "c/adapter_config.json")

    @pytest.mark.parametrize("odd", [None, 7, {"a": [1]}, [None, 3], [["x"]]], ids=repr)
    def test_what_is_no_text_is_left_to_others(self, odd):
        check_patterns({"target_modules": odd}, NAMES, "c/adapter_config.json")


class TestTokenizers:
    def test_the_samples_passes(self):
        check_tokenizer(tokenizer(), "t", texts=["1+1=2", ""], ids=[[4, 5], []])

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"normalizer": replacing("1" * 100, 6)}, "the process ended early|not done within"),
            (
                {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
                "the process ended early",
            ),
            ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "out of vocabulary"),
            ({"model": 7}, "Exception"),
        ],
        ids=["letters that multiply", "a damaged table", "a damaged vocabulary", "none"],
    )
    def test_one_that_ends_the_process_is_a_message(self, changes, says):
        with pytest.raises(ArcaError, match=f"^t: the tokenizer cannot be used: .*({says})"):
            check_tokenizer(tokenizer(**changes), "t", texts=["1"])

    def test_a_library_that_panics_past_exception_is_a_message(self):
        split = {
            "type": "Split",
            "pattern": {"Regex": "(a+)+$"},
            "behavior": "Isolated",
            "invert": False,
        }
        with pytest.raises(ArcaError, match="PanicException"):
            check_tokenizer(tokenizer(pre_tokenizer=split), "t", texts=["a" * 40 + "!"])

    def test_tokens_that_multiply_when_they_are_decoded_are_found_without_a_text(self):
        one = {"type": "Replace", "pattern": {"String": "1"}, "content": "1" * 100}
        decoder = {"type": "Sequence", "decoders": [one] * 6}
        with pytest.raises(ArcaError, match="the tokenizer cannot be used"):
            check_tokenizer(tokenizer(decoder=decoder), "t")

    def test_half_a_character_is_a_message(self):
        with pytest.raises(ArcaError, match="the tokenizer cannot be used"):
            check_tokenizer(tokenizer(), "t", texts=["\ud83d"])
