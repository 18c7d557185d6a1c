from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import READERS, Sample
from arca_diag.inputs.rollouts.census import find_source
from tests.inputs import SAMPLE, a_run, read_rollouts, write_jsonl
from tests.inputs.odd_values import is_clean_or_refused, samples_of, spoilt

INPUT = "system\nBe brief.\nuser\n2+2?\nassistant\n"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]


def line(number: int = 0, **given: Any) -> dict[str, Any]:
    """As verl 0.9 writes it; two neighbours are answers to one prompt."""
    plain = {
        "input": INPUT,
        "output": f"={number}",
        "gts": "4",
        "score": float(number % 2),
        "step": 12,
        "acc": True,
        "uid": f"a{number // 2}_b2_0_{number % 2}",
    }
    return plain | given


def dump(folder: Path, name: str = "12.jsonl", *lines: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / name, lines or [line(0), line(1)])
    return folder


def one(tmp_path: Path, **given: Any) -> Sample:
    samples, _, _ = samples_of(dump(tmp_path / "rollouts", "12.jsonl", line(**given)))
    return samples[0]


class TestWhatIsRead:
    def test_every_field(self, tmp_path):
        samples, notes, reader = samples_of(dump(tmp_path / "rollouts"))
        assert reader.name == "verl rollout data"
        assert samples == [
            Sample(
                id=f"12/{n}",
                place=f"12.jsonl:{n}",
                step=11,
                group_id="a0_b2@11",
                prompt=CHAT,
                completion=f"={n - 1}",
                guessed_prompt=True,
                reward=float(n - 1),
                prompt_text=INPUT,
                completion_text=f"={n - 1}",
            )
            for n in (1, 2)
        ]
        assert notes.step_source == "verl's step N: sampled after N - 1 of verl's steps"
        assert notes.group_source == "uid"
        assert notes.files == [str(tmp_path / "rollouts" / "12.jsonl")]

    def test_a_single_file_reads_as_the_folder_does(self, tmp_path):
        folder = dump(tmp_path / "rollouts")
        assert samples_of(folder / "12.jsonl")[0] == samples_of(folder)[0]

    def test_files_are_read_in_the_order_of_their_steps(self, tmp_path):
        folder = tmp_path / "rollouts"
        for step in (10, 9, 100):
            dump(folder, f"{step}.jsonl", line(step=step))
        (folder / "notes.jsonl").write_text("{}\n")
        assert [s.step for s in samples_of(folder)[0]] == [8, 9, 99]

    def test_an_empty_completion_is_left_out_and_counted(self, tmp_path):
        folder = dump(tmp_path / "rollouts", "1.jsonl", line(0, output=""), line(1))
        samples, notes, _ = samples_of(folder)
        assert [s.id for s in samples] == ["1/2"]
        assert dict(notes.left_out) == {"empty: no token to credit": 1}

    @pytest.mark.parametrize(
        "output",
        [
            "<tool_call>x</tool_call>\nuser\n<tool_response>4</tool_response>\nassistant\n4",
            "x<|im_end|>\n<|im_start|>tool\n4<|im_end|>\n<|im_start|>assistant\n4<|im_end|>",
        ],
    )
    def test_a_completion_with_turns_of_others_is_left_out(self, tmp_path, output):
        folder = dump(tmp_path / "rollouts", "1.jsonl", line(0, output=output), line(1))
        samples, notes, _ = samples_of(folder)
        assert [s.id for s in samples] == ["1/2"]
        assert sum(notes.left_out.values()) == 1

    def test_a_completion_that_says_user_is_none_of_these(self, tmp_path):
        assert one(tmp_path, output="user\nx").completion == "user\nx"


class TestSteps:
    def test_the_file_name_tells_the_step_where_the_line_does_not(self, tmp_path):
        assert one(tmp_path, step=None).step == 11

    def test_the_line_counts_before_the_file_name(self, tmp_path):
        assert one(tmp_path, step=3).step == 2

    def test_another_name_and_no_step_is_an_unknown_step(self, tmp_path):
        path = write_jsonl(tmp_path / "some.jsonl", [line(step=None)])
        samples, notes, _ = samples_of(path)
        assert samples[0].step is None
        assert samples[0].group_id == "a0_b2@unknown"
        assert notes.step_source == ""

    @pytest.mark.parametrize("name", ["val", "validation_data", "run-val", "Validation"])
    def test_a_validation_was_sampled_after_its_step(self, tmp_path, name):
        samples, notes, _ = samples_of(dump(tmp_path / name))
        assert {s.step for s in samples} == {12}
        assert "validation" in notes.step_source

    @pytest.mark.parametrize("name", ["values", "interval_data", "rollouts"])
    def test_a_like_name_is_no_validation(self, tmp_path, name):
        assert {s.step for s in samples_of(dump(tmp_path / name))[0]} == {11}

    def test_a_file_of_step_0_gives_a_validation_away(self, tmp_path):
        dump(tmp_path / "dumps", "0.jsonl", line(step=0))
        folder = dump(tmp_path / "dumps", "10.jsonl", line(step=10))
        assert [s.step for s in samples_of(folder)[0]] == [0, 10]


class TestGroups:
    def test_uid_names_the_prompt_of_a_step(self, tmp_path):
        lines = [line(n) for n in range(4)] + [line(0, step=13)]
        folder = dump(tmp_path / "rollouts", "12.jsonl", *lines)
        groups = [s.group_id for s in samples_of(folder)[0]]
        assert groups == ["a0_b2@11", "a0_b2@11", "a1_b2@11", "a1_b2@11", "a0_b2@12"]

    def test_a_uid_of_another_kind_is_the_group(self, tmp_path):
        assert one(tmp_path, uid="7f-03_x").group_id == "7f-03_x@11"

    def test_without_uid_it_is_the_same_input_at_the_same_step(self, tmp_path):
        lines = [
            line(0, uid=None),
            line(1, uid=None),
            line(2, uid=None, input="user\n?\nassistant\n"),
            line(3, uid=None, step=13),
        ]
        samples, notes, _ = samples_of(dump(tmp_path / "rollouts", "12.jsonl", *lines))
        first, second, *others = (s.group_id for s in samples)
        assert first == second
        assert len({first, *others}) == 3
        assert notes.group_source == "the same input at the same step"


class TestPrompts:
    @pytest.mark.parametrize(
        ("text", "chat"),
        [
            ("user\nhi\nassistant\n", [("user", "hi")]),
            ("user\nhi\nassistant", [("user", "hi")]),
            ("user\n\nassistant\n", [("user", "")]),
            ("user\na\n\nb\n\nassistant\n", [("user", "a\n\nb\n")]),
            ("user\nthe user said\nassistant\n", [("user", "the user said")]),
            ("user\nhi\nassistant\n<think>\n", [("user", "hi")]),
            ("user\nhi\nassistant\n<think>\n\n</think>\n\n", [("user", "hi")]),
            (
                "system\nS\nuser\na\nassistant\nb\nuser\nc\nassistant\n",
                [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")],
            ),
        ],
    )
    def test_role_words_alone_on_their_line_make_a_chat(self, tmp_path, text, chat):
        sample = one(tmp_path, input=text)
        assert sample.prompt == [{"role": role, "content": content} for role, content in chat]
        assert (sample.rendered, sample.guessed_prompt) == (False, True)

    @pytest.mark.parametrize(
        "text",
        [
            "2+2=",
            "user\n\nhiassistant\n\n",  # Llama 3: the role stands on no line of its own
            "user\nhi\nassistant\nSure",  # no answer is awaited
            "user\nhi",
            "assistant\n",
            "system\nS\nassistant\n",
            "user\na\nuser\nb\nassistant\n",
            "Be kind\nuser\nhi\nassistant\n",
            "user\nhi\nsystem\nS\nuser\nhi\nassistant\n",
        ],
    )
    def test_else_the_text_stands_for_itself(self, tmp_path, text):
        sample = one(tmp_path, input=text)
        assert sample.prompt == text
        assert (sample.rendered, sample.guessed_prompt) == (False, True)

    @pytest.mark.parametrize(
        "text",
        [
            "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
            "<\uff5cUser\uff5c>2+2?<\uff5cAssistant\uff5c>",
            "<start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n",
        ],
    )
    def test_special_tokens_that_show_leave_nothing_to_guess(self, tmp_path, text):
        sample = one(tmp_path, input=text)
        assert sample.prompt == text
        assert (sample.rendered, sample.guessed_prompt) == (True, False)

    def test_the_runs_template_renders_the_guessed_chat(self, tmp_path):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(SAMPLE), local_files_only=True)
        tokenizer.chat_template = (
            "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}>{% endif %}"
        )
        folder = dump(tmp_path / "rollouts", "1.jsonl", line(input="user\n1+2\nassistant\n"))
        rollout = read_rollouts(folder, tokenizer).rollouts[0]
        assert rollout.prompt_ids == (1, 5, 14, 6, 18)  # BOS, 1, +, 2, >
        assert rollout.guessed_prompt is True
        assert rollout.ids_exact is False


class TestWhereItLies:
    @pytest.mark.parametrize("name", ["rollouts", "rollout_data", "rollout"])
    def test_a_rollout_folder_of_the_run_is_found(self, tmp_path, name):
        folder = dump(tmp_path.resolve() / name)
        dump(tmp_path / "val_data")
        source = find_source(None, a_run(root=tmp_path.resolve()))
        assert source is not None
        assert source.path == folder

    @pytest.mark.parametrize("name", ["val", "validation", "validation_data"])
    def test_a_validation_folder_is_not(self, tmp_path, name):
        dump(tmp_path.resolve() / name)
        assert find_source(None, a_run(root=tmp_path.resolve())) is None

    @pytest.mark.parametrize(
        "record", [{}, {"input": 5, "output": "x"}, {"input": "x", "output": ["x"]}, {"a": 1}]
    )
    def test_other_jsonl_named_by_a_number_is_not_verls(self, tmp_path, record):
        write_jsonl(tmp_path / "3.jsonl", [record])
        taken = {reader.name for reader in READERS if reader.sniff(tmp_path / "3.jsonl")}
        assert "verl rollout data" not in taken

    def test_a_prompt_longer_than_what_is_looked_at_is_still_verls(self, tmp_path):
        text = "user\n" + "x" * 200_000 + "\nassistant\n"
        folder = dump(tmp_path / "rollouts", "12.jsonl", line(input=text))
        assert samples_of(folder)[0][0].prompt_text == text


class TestFaults:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"input": None}, "input is missing"),
            ({"input": ""}, "input is empty"),
            ({"input": ["x"]}, "input must be str, found list"),
            ({"output": None}, "output is missing"),
            ({"output": 4}, "output must be str, found int"),
            ({"score": "1"}, "score must be a finite number, found '1'"),
            ({"score": float("nan")}, "score must be a finite number, found nan"),
            ({"step": -1}, "step must be >= 0, found -1"),
            ({"step": "12"}, "step must be int, found str"),
            ({"uid": 5}, "uid must be str, found int"),
        ],
    )
    def test_it_is_named_with_file_and_line(self, tmp_path, given, says):
        folder = dump(tmp_path / "rollouts", "12.jsonl", line(0), line(1, **given), line(2))
        with pytest.raises(RolloutError) as caught:
            read_rollouts(folder)
        assert str(caught.value) == f"12.jsonl:2: {says}"

    def test_a_bad_line_drops_its_group_and_no_other(self, tmp_path):
        lines = [line(n) for n in range(4)]
        lines[1]["score"] = "high"
        folder = dump(tmp_path / "rollouts", "12.jsonl", *lines)
        _, notes, _ = samples_of(folder)
        assert notes.bad_groups == {"a0_b2@11"}

    def test_without_an_input_the_group_is_unknown(self, tmp_path):
        folder = dump(tmp_path / "rollouts", "1.jsonl", line(0), line(1, uid=None, input=None))
        assert samples_of(folder)[1].groupless == 1

    def test_no_odd_value_is_more_than_a_fault(self, tmp_path):
        _, _, reader = samples_of(dump(tmp_path / "ok", "12.jsonl", line()))
        read = 0
        for name, text in spoilt(line(0)):
            folder = dump(tmp_path / "rollouts", "12.jsonl", line(2), text, line(3))
            try:
                read += is_clean_or_refused(folder, reader)
            except Exception as error:
                raise AssertionError(name) from error
        assert read > 20

    def test_a_prompt_of_blanks_takes_no_time(self, tmp_path):
        text = "user\nhi\nassistant\n" + " " * 300_000 + "x"
        assert one(tmp_path, input=text).prompt == text
