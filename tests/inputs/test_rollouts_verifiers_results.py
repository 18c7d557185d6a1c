from typing import Any

import pytest
from transformers import AutoTokenizer

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import READERS, verifiers_results
from arca_diag.inputs.rollouts.record import Notes, Sample
from tests.inputs import SAMPLE, a_run, read_rollouts, write_jsonl
from tests.inputs.hostile import check_broken_lines, check_every_damage, damaged

SEVERAL = "several turns, whose tokens the text does not tell apart"


def row(**given: Any) -> dict[str, Any]:
    plain = {
        "example_id": 7,
        "prompt": [{"role": "user", "content": "1+1>"}],
        "completion": [{"role": "assistant", "content": "2"}],
        "answer": "2",
        "reward": 1.0,
        "timing": {},
        "is_completed": True,
        "is_truncated": False,
        "metrics": {"correct": 1.0},
    }
    return plain | given


def samples(path, notes=None):
    return list(verifiers_results.read(path, a_run(), notes or Notes()))


class TestWhatIsRead:
    def test_a_row(self, tmp_path):
        notes = Notes()
        assert samples(write_jsonl(tmp_path / "results.jsonl", [row()]), notes) == [
            Sample(
                id="1",
                place="results.jsonl:1",
                step=None,
                group_id="7",
                prompt=[{"role": "user", "content": "1+1>"}],
                completion="2",
                reward=1.0,
                finish_reason="stop",
                prompt_text="1+1>",
                completion_text="2",
            )
        ]
        assert notes.step_source == ""
        assert notes.group_source == "the example's number"

    @pytest.mark.parametrize(("cut", "reason"), [(True, "length"), (False, "stop"), (None, None)])
    def test_whether_it_was_cut_off(self, tmp_path, cut, reason):
        (found,) = samples(write_jsonl(tmp_path / "results.jsonl", [row(is_truncated=cut)]))
        assert found.finish_reason == reason

    def test_the_example_is_the_group(self, tmp_path):
        rows = [row(), row(example_id=8), row(example_id="7"), row(example_id="x")]
        found = samples(write_jsonl(tmp_path / "results.jsonl", rows))
        assert [s.group_id for s in found] == ["7", "8", "7", "x"]

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ({"completion": [{"role": "assistant", "content": "2"}] * 2}, SEVERAL),
            ({"completion": [{"role": "tool", "content": "2"}]}, SEVERAL),
            (
                {"completion": [{"role": "assistant", "content": "2", "tool_calls": [{}]}]},
                SEVERAL,
            ),
            ({"completion": [{"role": "assistant", "content": None}]}, SEVERAL),
            (
                {"prompt": [{"role": "user", "content": [{"type": "image_url"}]}]},
                "a prompt with more than text in it",
            ),
            ({"error": "TimeoutError"}, "the rollout failed"),
        ],
        ids=str,
    )
    def test_what_text_cannot_tell_is_left_out(self, tmp_path, given, reason):
        notes = Notes()
        path = write_jsonl(tmp_path / "results.jsonl", [row(**given), row()])
        assert [s.id for s in samples(path, notes)] == ["2"]
        assert notes.left_out == {reason: 1}

    @pytest.mark.parametrize("empty", ["", []])
    def test_an_empty_completion_has_no_token(self, tmp_path, empty):
        assert samples(write_jsonl(tmp_path / "results.jsonl", [row(completion=empty)])) == []

    def test_text_and_folder(self, tmp_path):
        """Environments of plain completions hold texts; the tokenizer is the sample run's."""
        write_jsonl(tmp_path / "results.jsonl", [row(prompt="1+1>", completion="=2")])
        found = read_rollouts(tmp_path, AutoTokenizer.from_pretrained(SAMPLE))
        (one,) = found.rollouts
        assert one.completion_ids == (15, 6)
        assert one.ids_exact is False
        assert found.source == f"verifiers evaluation results: {tmp_path.name}"

    def test_a_run_is_never_searched_for_them(self):
        (reader,) = (r for r in READERS if r.read is verifiers_results.read)
        assert reader.places == ()


class TestFaults:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"example_id": None}, "example_id is missing"),
            ({"example_id": [1]}, "example_id must be int"),
            ({"prompt": []}, "prompt must be a text or a list"),
            ({"completion": [1]}, "completion must be a text or a list"),
            ({"is_truncated": "no"}, "is_truncated must be bool"),
        ],
        ids=str,
    )
    def test_they_are_named(self, tmp_path, given, says):
        path = write_jsonl(tmp_path / "results.jsonl", [row(), row(**given)])
        with pytest.raises(RolloutError, match=rf"^results\.jsonl:2: {says}"):
            read_rollouts(path)

    @pytest.mark.slow
    def test_every_damage_is_refused_or_read(self, tmp_path):
        tokenizer = AutoTokenizer.from_pretrained(SAMPLE)
        refused, read = check_every_damage(
            tmp_path / "results.jsonl", row(prompt="1+1>", completion="=2"), tokenizer
        )
        assert refused > 40
        assert read > 100
        # A chat needs the run's template; here there is none, and only the reader is asked.
        for number, found in enumerate(_all_chats(tmp_path), start=1):
            assert isinstance(found.prompt, str | list), number
        check_broken_lines(tmp_path / "results.jsonl", row(prompt="1+1>", completion="=2"))


def _all_chats(tmp_path):
    lines = [changed for _, changed in damaged(row())]
    notes = Notes()
    found = samples(write_jsonl(tmp_path / "all.jsonl", lines), notes)
    assert notes.n_faults > 40
    assert len(found) > 50
    return found
