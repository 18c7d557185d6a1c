import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import PreTrainedTokenizerFast

from arca_diag.config import resolve
from arca_diag.errors import ConfigError, RolloutError
from arca_diag.inputs.gather import gather
from arca_diag.inputs.rollouts import Sample
from arca_diag.inputs.rollouts.census import find_source, take_census
from arca_diag.inputs.rollouts.columns import FIELDS, parse_columns, reader
from arca_diag.inputs.runs import find_run
from tests.inputs import SAMPLE, a_run, write_jsonl, write_parquet
from tests.inputs.odd_values import is_clean_or_refused, samples_of, spoilt

WITH_IDS = parse_columns(
    "id=name,step=update,group_id=problem,prompt_ids=q,completion_ids=a,completion_mask=keep,"
    "reward=score,advantage=adv,finish_reason=why,sampling_logprobs=lp,"
    "prompt=question,completion=answer"
)
WITH_TEXT = parse_columns("prompt=question,completion=answer,reward=score,step=update")

ROW: dict[str, Any] = {
    "name": "r1",
    "update": 7,
    "problem": "p1",
    "q": [1, 4],
    "a": [5, 6, 2],
    "keep": [True, False, True],
    "score": 0.5,
    "adv": [0.1, 0.2, 0.3],
    "why": "stop",
    "lp": [-0.1, -0.2, -0.3],
    "question": "0",
    "answer": "12",
    "other": "ignored",
}

FULL = Sample(
    id="r1",
    place="",
    step=7,
    group_id="p1",
    prompt=(1, 4),
    completion=(5, 6, 2),
    mask=(True, False, True),
    reward=0.5,
    advantage=(0.1, 0.2, 0.3),
    finish_reason="stop",
    prompt_text="0",
    completion_text="12",
    sampling_logprobs=(-0.1, -0.2, -0.3),
)


def text_row(number: int = 0, **given: Any) -> dict[str, Any]:
    plain = {"question": "1+1>", "answer": f"={number}", "score": 1.0, "update": 3}
    return plain | given


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As pandas writes it; lists as JSON."""
    cells = [
        {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows
    ]
    pd.DataFrame(cells).to_csv(path, index=False)
    return path


WRITERS = {"r.jsonl": write_jsonl, "r.parquet": write_parquet, "r.csv": write_csv}


def read(path: Path, mapping: dict[str, str]) -> list[Sample]:
    return samples_of(path, reader(mapping))[0]


def one(tmp_path: Path, mapping: dict[str, str] | None = None, **given: Any) -> Sample:
    path = write_jsonl(tmp_path / "r.jsonl", [text_row(0, **given)])
    return read(path, WITH_TEXT if mapping is None else mapping)[0]


def refused(path: Path, mapping: dict[str, str], **how: Any) -> RolloutError:
    source = find_source(path, a_run(), (reader(mapping),))
    assert source is not None
    with pytest.raises(RolloutError) as caught:
        take_census(source, a_run(), skip_bad_lines=False)
    return caught.value


class TestTheOption:
    def test_fields_and_columns(self):
        assert parse_columns(" prompt = question , completion=my answer") == {
            "prompt": "question",
            "completion": "my answer",
        }
        assert parse_columns("prompt_ids=a,completion_ids=a=b") == {
            "prompt_ids": "a",
            "completion_ids": "a=b",
        }

    @pytest.mark.parametrize(
        ("text", "says", "do"),
        [
            ("promt=a,completion=b", "unknown field 'promt'", "did you mean prompt?"),
            ("prompt=a,completion=b,xyz=c", "unknown field 'xyz'", "there are: id, step"),
            ("prompt=a", "no completion", "completion_ids=COLUMN"),
            ("completion=b,reward=c", "no prompt", "prompt_ids=COLUMN"),
            ("prompt=a,completion=b,prompt=c", "prompt is given twice", "one column"),
            ("prompt=a,completion", "'completion' is not FIELD=COLUMN", "for example"),
            ("prompt=a,completion=", "'completion=' is not FIELD=COLUMN", "for example"),
            ("prompt=a,,completion=b", "'' is not FIELD=COLUMN", "for example"),
            ("", "'' is not FIELD=COLUMN", "for example"),
        ],
    )
    def test_what_is_wrong_is_said_with_what_to_do(self, text, says, do):
        with pytest.raises(ConfigError) as caught:
            parse_columns(text)
        assert str(caught.value) == f"--columns: {says}"
        assert do in caught.value.hint

    @pytest.mark.parametrize("columns", ["prompt=a,completion=b", "nonsense"])
    def test_it_needs_a_file(self, columns):
        config = resolve({"run": SAMPLE, "columns": columns}, environ={})
        with pytest.raises(ConfigError, match="no file is given") as caught:
            gather(config, find_run(SAMPLE), frozenset())
        assert "--rollouts" in caught.value.hint

    def test_with_it_no_other_reader_is_asked(self):
        config = resolve(
            {
                "run": SAMPLE,
                "columns": "prompt=a,completion=b",
                "rollouts": SAMPLE / "completions",
            },
            environ={},
        )
        with pytest.raises(RolloutError, match="no rollout file that is known here"):
            gather(config, find_run(SAMPLE), frozenset())


@pytest.mark.parametrize("name", WRITERS)
class TestEveryKindOfFile:
    def test_every_field(self, tmp_path, name):
        path = WRITERS[name](tmp_path / name, [ROW])
        (found,) = read(path, WITH_IDS)
        assert found.place == f"{name}:1"
        for field in FULL.__slots__:
            if field != "place":
                assert getattr(found, field) == getattr(FULL, field), field

    def test_text_and_what_is_absent(self, tmp_path, name):
        path = WRITERS[name](tmp_path / name, [text_row(0), text_row(1)])
        samples, notes, _ = samples_of(path, reader(WITH_TEXT))
        assert samples == [
            Sample(
                id=f"{name}:{n + 1}",
                place=f"{name}:{n + 1}",
                step=3,
                group_id=samples[0].group_id,
                prompt="1+1>",
                completion=f"={n}",
                reward=1.0,
                prompt_text="1+1>",
                completion_text=f"={n}",
            )
            for n in (0, 1)
        ]
        assert notes.step_source == "column update"
        assert notes.group_source == "the same prompt at the same step"
        assert notes.files == [str(path)]

    def test_gaps_are_nothing(self, tmp_path, name):
        rows = [text_row(0), text_row(1, score=None, update=None)]
        first, second = read(WRITERS[name](tmp_path / name, rows), WITH_TEXT)
        assert (first.reward, first.step) == (1.0, 3)
        assert (second.reward, second.step) == (None, None)

    def test_numbers_name_as_well(self, tmp_path, name):
        mapping = WITH_TEXT | {"id": "n", "group_id": "g"}
        rows = [text_row(0, n=5, g=1), text_row(1, n=6, g=1)]
        samples = read(WRITERS[name](tmp_path / name, rows), mapping)
        assert [(s.id, s.group_id) for s in samples] == [("5", "1"), ("6", "1")]

    def test_texts_keep_lines_quotes_and_commas(self, tmp_path, name):
        text = 'a "b",\n\n c, [1, 2]\n'
        rows = [text_row(0, question=text, answer=text)]
        (found,) = read(WRITERS[name](tmp_path / name, rows), WITH_TEXT)
        assert (found.prompt, found.completion) == (text, text)

    def test_chats_are_chats(self, tmp_path, name):
        chat = [{"role": "user", "content": "1+1"}]
        answer = [{"role": "assistant", "content": "=2"}]
        rows = [text_row(0, question=chat, answer=answer)]
        (found,) = read(WRITERS[name](tmp_path / name, rows), WITH_TEXT)
        assert found.prompt == chat
        assert found.completion == "=2"
        assert (found.prompt_text, found.completion_text) == ("1+1", "=2")

    def test_an_empty_answer_is_left_out_and_counted(self, tmp_path, name):
        path = WRITERS[name](tmp_path / name, [text_row(0, answer=""), text_row(1)])
        samples, notes, _ = samples_of(path, reader(WITH_TEXT))
        assert [s.completion for s in samples] == ["=1"]
        assert dict(notes.left_out) == {"empty: no token to credit": 1}

    def test_a_column_that_is_not_there_is_named_with_the_nearest(self, tmp_path, name):
        path = WRITERS[name](tmp_path / name, [text_row(0)])
        error = refused(path, {"prompt": "questoin", "completion": "answer"})
        assert str(error) == f"{name}: no column 'questoin' in it"
        assert error.hint == "did you mean question?"
        error = refused(path, WITH_TEXT | {"reward": "zzz"})
        assert str(error) == f"{name}: no column 'zzz' in it"
        assert error.hint == "there are: question, answer, score, update"

    def test_faults_carry_the_row(self, tmp_path, name):
        rows = [text_row(0), text_row(1, update=-1), text_row(2)]
        error = refused(WRITERS[name](tmp_path / name, rows), WITH_TEXT)
        assert str(error) == f"{name}:2: step must be >= 0, found -1"


class TestPrompts:
    def test_ids_under_the_name_of_a_text_are_ids(self, tmp_path):
        found = one(tmp_path, question=[1, 4], answer=[5, 2])
        assert (found.prompt, found.completion) == ((1, 4), (5, 2))
        assert (found.prompt_text, found.completion_text) == ("", "")

    def test_a_csv_text_that_looks_like_ids_is_a_text(self, tmp_path):
        path = write_csv(tmp_path / "r.csv", [text_row(0, question="[1, 2]", answer="[3]")])
        (found,) = read(path, WITH_TEXT)
        assert (found.prompt, found.completion) == ("[1, 2]", "[3]")

    def test_a_text_with_a_templates_tokens_gets_nothing_added(self, tmp_path):
        assert one(tmp_path, question="<|im_start|>user\n1<|im_end|>").rendered is True
        assert one(tmp_path, question="1+1>").rendered is False

    def test_a_plain_text_is_tokenised_as_a_trainer_would(self, tmp_path):
        from arca_diag.inputs.rollouts.tokenise import to_rollouts

        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(SAMPLE), local_files_only=True)
        (rollout,) = to_rollouts([one(tmp_path)], tokenizer, frozenset({2}), a_run())
        assert rollout.prompt_ids == (1, 5, 14, 5, 18)  # BOS, 1, +, 1, >
        assert rollout.completion_ids == (15, 4)
        assert rollout.ids_exact is False

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"question": None}, "prompt is missing"),
            ({"question": ""}, "prompt is empty"),
            ({"question": 5}, "prompt must be a text, a chat or token ids, found int"),
            ({"question": []}, "prompt must be a text, a chat or token ids, found list"),
            ({"question": ["x"]}, "prompt must hold integers only"),
            (
                {"question": [{"role": "user"}]},
                "prompt: message 1 must have role and content, both text",
            ),
            (
                {"question": [{"role": "user", "content": "x", "tool_calls": [{}]}]},
                "prompt: message 1 holds more than text: tool_calls",
            ),
            ({"answer": None}, "completion is missing"),
            ({"answer": 5}, "completion must be a text, a chat or token ids, found int"),
            (
                {"answer": [{"role": "user", "content": "x"}]},
                "completion must be one message of the assistant where it is a chat",
            ),
            (
                {"answer": [{"role": "assistant", "content": "x"}] * 2},
                "completion must be one message of the assistant where it is a chat",
            ),
            ({"score": math.nan}, "reward must be a finite number, found nan"),
            ({"score": [1]}, "reward must be a finite number, found list"),
        ],
    )
    def test_faults(self, tmp_path, given, says):
        path = write_jsonl(tmp_path / "r.jsonl", [text_row(0), text_row(1, **given), text_row(2)])
        assert str(refused(path, WITH_TEXT)) == f"r.jsonl:2: {says}"

    @pytest.mark.parametrize("field", ["completion_mask", "sampling_logprobs", "advantage"])
    def test_one_a_token_needs_ids(self, tmp_path, field):
        path = write_jsonl(tmp_path / "r.jsonl", [text_row(0, extra=[1, 1])])
        error = refused(path, WITH_TEXT | {field: "extra"})
        assert (
            str(error) == f"r.jsonl:1: {field} is one a token, and the completion is text: "
            "give its ids"
        )


class TestDamagedFiles:
    @pytest.mark.parametrize(
        ("cell", "says"),
        [
            ("high", "reward must be a number or a list such as [1, 2], found 'high'"),
            ("[" * 100_000, "reward is nested too deeply"),
            ("1" * 5000, "reward must be a number"),
            ("NaN", "reward must be a finite number, found nan"),
        ],
        ids=lambda v: v[:12],
    )
    def test_a_cell_of_a_csv_file(self, tmp_path, cell, says):
        path = write_csv(tmp_path / "r.csv", [text_row(0), text_row(1, score=cell)])
        assert str(refused(path, WITH_TEXT)).startswith(f"r.csv:2: {says}")

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "not a readable CSV file"),
            (b"question,answer\na,b\na,b,c\n", "not a readable CSV file"),
            (b"question,answer\na,b,c\n", "rows have more cells than the heading"),
            (b"question,answer\n\xff\xfe,b\n", "not a readable CSV file"),
            (b'question,answer\n"a,b\n', "not a readable CSV file"),
            (b"question,answer\na\n", "no rollout in it (1 left out: empty"),
            (b"\x00\x01\x02\na\n", "no column 'answer' in it"),
        ],
        ids=repr,
    )
    def test_a_csv_file(self, tmp_path, content, says):
        (tmp_path / "r.csv").write_bytes(content)
        error = refused(tmp_path / "r.csv", {"prompt": "question", "completion": "answer"})
        assert says in str(error)

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"\x00" * 500], ids=len)
    def test_a_parquet_file(self, tmp_path, content):
        (tmp_path / "r.parquet").write_bytes(content)
        assert "not a readable parquet file" in str(refused(tmp_path / "r.parquet", WITH_TEXT))

    def test_a_csv_file_with_a_heading_alone(self, tmp_path):
        (tmp_path / "r.csv").write_text("question,answer,score,update\n")
        assert "no rollout in it" in str(refused(tmp_path / "r.csv", WITH_TEXT))

    @pytest.mark.parametrize("mapping", [WITH_IDS, WITH_TEXT], ids=["ids", "text"])
    def test_no_odd_value_is_more_than_a_fault(self, tmp_path, mapping):
        row = ROW | text_row()
        taken, read = reader(mapping), 0
        for name, text in spoilt(row):
            path = write_jsonl(tmp_path / "r.jsonl", [row | {"name": "a"}, text])
            try:
                read += is_clean_or_refused(path, taken)
            except Exception as error:
                raise AssertionError(name) from error
        assert read > 20

    def test_nor_in_a_csv_file(self, tmp_path):
        taken, read = reader(WITH_IDS), 0
        odd = [text for _, text in spoilt({"x": 1})]
        cells = [text.removeprefix('{"x": ').removesuffix("}") for text in odd]
        for column in ROW:
            for cell in cells:
                path = write_csv(tmp_path / "r.csv", [ROW | {"name": "a"}, ROW | {column: cell}])
                try:
                    read += is_clean_or_refused(path, taken)
                except Exception as error:
                    raise AssertionError((column, cell[:40])) from error
        assert read > 20


def test_every_field_can_be_named():
    assert set(FIELDS) == set(parse_columns(",".join(f"{f}=x" for f in FIELDS)))
