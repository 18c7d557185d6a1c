import math
import re

import pytest

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import READERS, sequence
from arca_diag.inputs.rollouts.lines import files_in, in_order, is_lines_of, json_lines
from arca_diag.inputs.rollouts.peek import first_fields
from arca_diag.inputs.rollouts.record import Fault, Notes
from tests.inputs import record, write_jsonl
from tests.inputs.test_rollouts_nemo_rl import row as nemo_row
from tests.inputs.test_rollouts_open_instruct import row as open_instruct_row
from tests.inputs.test_rollouts_prime_rl import row as prime_row
from tests.inputs.test_rollouts_verifiers import episode
from tests.inputs.test_rollouts_verifiers_results import row as result_row


class TestJsonLines:
    def test_objects_come_with_their_line(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"b": 2}')
        assert list(json_lines(path)) == [(1, {"a": 1}), (4, {"b": 2})]

    def test_a_file_that_cannot_be_opened_is_the_users_to_mend(self, tmp_path):
        with pytest.raises(RolloutError, match=r"none\.jsonl cannot be read: No such file"):
            list(json_lines(tmp_path / "none.jsonl"))


class TestFirstFields:
    def keys(self, tmp_path, text):
        (tmp_path / "a.jsonl").write_text(text)
        return first_fields(tmp_path / "a.jsonl").keys()

    def test_only_those_of_the_first_object_itself(self, tmp_path):
        text = r'{"a": {"in": 1}, "b\"": ["c", {"d": "e"}], "f" : "}{\"g\":"}' + '\n{"h": 1}'
        assert self.keys(tmp_path, text) == {"a", 'b"', "f"}

    @pytest.mark.parametrize("text", ["", "[1]", '"a": 1', "\x00", '[{"a": 1}]'])
    def test_what_is_no_object_has_none(self, tmp_path, text):
        assert self.keys(tmp_path, text) == set()

    def test_a_text_beyond_the_head_is_not_read_as_json(self, tmp_path):
        text = '{"a": "' + '\\", \\"z\\": ' * 5000 + '"}'
        assert self.keys(tmp_path, text) == {"a"}

    @pytest.mark.timeout(5)
    def test_hostile_quotes_take_no_time(self, tmp_path):
        for more in range(10):
            assert self.keys(tmp_path, '{"a": "' + "x" * more + '\\"' * 10**5) == {"a"}


FORMATS = {
    "canonical JSONL or parquet": record(0),
    "prime-rl token export": prime_row(),
    "verifiers traces": episode(),
    "verifiers evaluation results": result_row(),
    "NeMo-RL training data": nemo_row(),
    "open-instruct traces": open_instruct_row(),
}
NAMES = (
    "any.jsonl",
    "rank_0.jsonl",
    "traces.jsonl",
    "results.jsonl",
    "train_data_step3.jsonl",
    "run_rollouts_000000.jsonl",
)


class TestWhichFormat:
    @pytest.mark.parametrize("name", [n for n in FORMATS if not n.startswith("canonical")])
    def test_a_file_of_a_trainer_is_taken_by_its_reader_whatever_its_name(self, tmp_path, name):
        path = write_jsonl(tmp_path / "any.jsonl", [FORMATS[name]])
        # The canonical reader, the last, takes what is left.
        assert [r.name for r in READERS[:-1] if r.sniff(path)] == [name]

    @pytest.mark.parametrize("file", NAMES)
    def test_canonical_rollouts_are_taken_by_no_other(self, tmp_path, file):
        path = write_jsonl(tmp_path / file, [FORMATS["canonical JSONL or parquet"]])
        assert [r.name for r in READERS if r.sniff(path)] == ["canonical JSONL or parquet"]

    @pytest.mark.parametrize(
        ("folder", "file", "name"),
        [
            ("token_exports", "step_1/rank_0.jsonl", "prime-rl token export"),
            ("rollouts", "step_1/train/all/traces.jsonl", "verifiers traces"),
            ("rollouts", "step_1/eval/all/traces.jsonl", "verifiers traces"),
            ("any", "results.jsonl", "verifiers evaluation results"),
            ("logs", "exp_001/train_data_step3.jsonl", "NeMo-RL training data"),
            ("rollouts", "run_rollouts_000000.jsonl", "open-instruct traces"),
        ],
    )
    def test_a_folder_is_taken_by_one_reader(self, tmp_path, folder, file, name):
        path = tmp_path / folder / file
        path.parent.mkdir(parents=True)
        write_jsonl(path, [FORMATS[name]])
        assert [r.name for r in READERS if r.sniff(tmp_path / folder)] == [name]
        assert [r.name for r in READERS if r.sniff(tmp_path)] in ([], [name])

    def test_a_name_does_not_make_a_file_of_another_suffix(self, tmp_path):
        path = write_jsonl(tmp_path / "a.json", [{"a": 1}])
        assert not is_lines_of(path, frozenset({"a"}), re.compile(".*"))


class TestFiles:
    def test_numbers_are_in_order(self):
        names = ["step_10/rank_1", "step_9/rank_10", "step_9/rank_9", "step_10"]
        assert sorted(names, key=in_order) == [
            "step_9/rank_9",
            "step_9/rank_10",
            "step_10",
            "step_10/rank_1",
        ]

    def test_a_link_out_of_the_folder_is_a_fault(self, tmp_path):
        outside = write_jsonl(tmp_path / "secret.jsonl", [record(0)])
        folder = tmp_path / "in"
        folder.mkdir()
        write_jsonl(folder / "a.jsonl", [record(0)])
        (folder / "b.jsonl").symlink_to(outside)
        (folder / "c.jsonl").symlink_to(folder / "a.jsonl")
        notes = Notes()
        assert [p.name for p in files_in(folder, "*.jsonl", notes)] == ["a.jsonl", "c.jsonl"]
        assert notes.faults == ["b.jsonl: a link to outside of the folder"]


class TestSplit:
    def test_turns_between_stay_and_do_not_count(self):
        found = sequence.split([1, 2, 3, 4, 5, 6], [False, True, False, True, False, False])
        assert found == sequence.Split((1,), (2, 3, 4), (True, False, True), start=1)
        assert repr(found.logged([9, 1.0, 2.0, 3.0, 9, 9])) == "(1.0, nan, 3.0)"
        assert found.logged(None) is None

    def test_no_token_that_counts_is_no_completion(self):
        assert sequence.split([1, 2], [False, False]) is None
        assert sequence.split([1, 2], [False, True], [False, False]) is None

    def test_the_first_token_follows_nothing(self):
        with pytest.raises(Fault, match="nothing to follow"):
            sequence.split([1, 2], [True, True])

    def test_an_advantage_that_is_missing_is_not_zero(self):
        found = sequence.split([1, 2, 3, 4], [False, True, False, True])
        assert repr(found.credit([math.nan, 0.0, math.nan, 2.0])) == "(0.0, nan, 2.0)"
        assert found.credit([0.0, 0.0, 0.0, math.nan]) is None
        assert found.credit(None) is None
        with pytest.raises(Fault, match="finite"):
            found.credit([0.0, 0.0, 0.0, math.inf])
