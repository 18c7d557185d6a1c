import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import Sample
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.rollouts.tokenise import to_rollouts
from tests.inputs import EOS, SAMPLE, a_run

PAD, BOS = 0, 1


def read(pad: int | None = PAD, bos: int = BOS, end: int = EOS, **given: Any) -> Rollout:
    """One sample of ids under a tokenizer with these special tokens."""
    plain: dict[str, Any] = {
        "id": "a",
        "place": "r.jsonl:1",
        "step": 0,
        "group_id": "g",
        "prompt": (BOS, 5),
        "completion": (6, EOS),
    }
    tokenizer = SimpleNamespace(pad_token_id=pad, bos_token_id=bos)
    sample = Sample(**plain | given)
    return to_rollouts([sample], tokenizer, frozenset({end}), a_run())[0]


class TestPadding:
    def test_what_stands_before_a_prompt_and_after_a_completion_is_dropped(self):
        found = read(
            prompt=(PAD, PAD, BOS, 5, PAD, 5),
            completion=(6, PAD, EOS, PAD, PAD),
            mask=(True, False, True, True, False),
            advantage=(0.1, 0.2, 0.3, 0.0, 0.0),
            sampling_logprobs=(-1.0, -2.0, -3.0, 0.0, 0.0),
            trainer_logprobs=(-1.5, -2.5, -3.5, 0.0, 0.0),
            entropies=(1.0, 2.0, 3.0, math.nan, math.nan),
        )
        assert found.prompt_ids == (BOS, 5, PAD, 5)
        assert found.completion_ids == (6, PAD, EOS)
        assert found.mask == (True, False, True)
        assert found.advantage == (0.1, 0.2, 0.3)
        assert found.sampling_logprobs == (-1.0, -2.0, -3.0)
        assert found.trainer_logprobs == (-1.5, -2.5, -3.5)
        assert found.entropies == (1.0, 2.0, 3.0)
        assert found.finish_reason == "stop"

    def test_the_end_that_also_pads_is_kept_once(self):
        assert read(pad=EOS, completion=(6, EOS, EOS, EOS)).completion_ids == (6, EOS)
        assert read(pad=EOS, completion=(6, EOS)).completion_ids == (6, EOS)
        assert read(pad=EOS, completion=(6, 7)).completion_ids == (6, 7)

    def test_the_beginning_that_also_pads_is_kept_once(self):
        assert read(pad=BOS, prompt=(BOS, BOS, BOS, 5)).prompt_ids == (BOS, 5)
        assert read(pad=BOS, prompt=(BOS, 5)).prompt_ids == (BOS, 5)
        assert read(pad=BOS, prompt=(5,)).prompt_ids == (5,)

    def test_without_a_padding_token_nothing_is_dropped(self):
        assert read(pad=None, prompt=(0, 0, 5)).prompt_ids == (0, 0, 5)

    def test_a_prompt_of_nothing_else_is_said(self):
        with pytest.raises(RolloutError, match=r"r\.jsonl:1: the prompt is nothing but padding"):
            read(prompt=(PAD, PAD))


class TestTemplatesWithADate:
    """Llama's writes today's date: prompts rendered now are not those of the training."""

    DATED = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"

    @pytest.mark.parametrize(("template", "guessed"), [(DATED, True), (PLAIN, False)])
    def test_a_chat_is_guessed_where_the_template_asks_for_the_date(self, template, guessed):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(SAMPLE / "base")
        tokenizer.chat_template = template
        chat = Sample(
            id="chat",
            place="",
            step=0,
            group_id="g",
            prompt=[{"role": "user", "content": "12+19>"}],
            completion=(6, EOS),
        )
        plain = dataclasses.replace(chat, id="ids", prompt=(BOS, 5))
        found = to_rollouts([chat, plain], tokenizer, frozenset({EOS}), a_run())
        assert [r.guessed_prompt for r in found] == [guessed, False]
