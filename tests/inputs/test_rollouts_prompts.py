import pytest

from arca_diag.errors import RolloutError
from arca_diag.inputs import prompts
from arca_diag.inputs.prompts import read_prompts
from tests.inputs import write_jsonl

CHAT = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+2"}]


class TestLines:
    def test_a_line_of_text_is_a_prompt(self, tmp_path):
        path = tmp_path / "p.txt"
        # A line ends where an editor shows its end, and not at every separator of Unicode.
        path.write_bytes("\ufeff1+2>\r\n\n  \n3\u2028\x0b+4>".encode())
        found = read_prompts(path)
        assert [(p.id, p.prompt, p.prompt_text) for p in found] == [
            ("p1", "1+2>", "1+2>"),
            ("p4", "3\u2028\x0b+4>", "3\u2028\x0b+4>"),
        ]
        assert {(p.step, p.completion, p.rendered) for p in found} == {(None, (), False)}
        assert [p.group_id for p in found] == ["p1", "p4"]

    def test_one_with_a_templates_marks_is_rendered_already(self, tmp_path):
        (tmp_path / "p.txt").write_text("<|im_start|>user 1+2\n")
        assert read_prompts(tmp_path / "p.txt")[0].rendered

    @pytest.mark.parametrize(
        ("record", "prompt", "shown"),
        [
            ({"prompt": "1+2>"}, "1+2>", "1+2>"),
            ({"prompt_ids": [1, 5]}, (1, 5), ""),
            ({"prompt": CHAT, "answer": 3}, CHAT, "Add.\n1+2"),
            ({"messages": CHAT}, CHAT, "Add.\n1+2"),
        ],
        ids=str,
    )
    def test_what_an_object_may_hold(self, tmp_path, record, prompt, shown):
        (found,) = read_prompts(write_jsonl(tmp_path / "p.jsonl", [record]))
        assert (found.prompt, found.prompt_text) == (prompt, shown)


class TestFaults:
    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("{", "not valid JSON"),
            ('"1+2"', "not a JSON object"),
            ("[" * 100_000, "nested"),
            ({"question": "1+2"}, "no prompt: a text, a list of chat messages, or prompt_ids"),
            ({"prompt": ""}, "no prompt"),
            ({"prompt": 5}, "prompt must be a text, a chat or token ids, found int"),
            ({"prompt_ids": [-1]}, "prompt_ids holds a number that is no token id"),
            ({"prompt_ids": "12"}, "prompt_ids must be list"),
            ({"messages": [{"role": "user"}]}, "messages: message 1 must have role and content"),
            (
                {"prompt": [{"role": "user", "content": "a", "images": [1]}]},
                "prompt: message 1 holds more than text: images",
            ),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_a_line_is_named(self, tmp_path, line, says):
        path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a"}, "", line])
        with pytest.raises(RolloutError, match=r"p\.jsonl") as caught:
            read_prompts(path)
        assert str(caught.value).startswith(f"p.jsonl:3: {says}")

    def test_files_that_hold_none(self, tmp_path, monkeypatch):
        with pytest.raises(RolloutError, match="no such file"):
            read_prompts(tmp_path)
        path = tmp_path / "p.txt"
        path.write_text("\n \n")
        with pytest.raises(RolloutError, match=r"--prompts p.txt: no prompt in it"):
            read_prompts(path)
        path.write_bytes(b"\xff")
        with pytest.raises(RolloutError, match="not UTF-8"):
            read_prompts(path)
        monkeypatch.setattr(prompts, "_LIMIT", 3)
        path.write_text("1+2>")
        with pytest.raises(RolloutError, match="longer than 0 MB"):
            read_prompts(path)
