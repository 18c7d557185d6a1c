import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts.record import hash_ids
from arca_diag.inputs.rollouts.tokenise import check_fits_model
from tests.inputs import Found, read_rollouts, record, rollout, write_jsonl, write_parquet

FULL = {
    "id": "a",
    "step": 7,
    "group_id": "g",
    "prompt_ids": [1, 4],
    "completion_ids": [5, 6, 2],
    "completion_mask": [True, False, True],
    "reward": 0.5,
    "advantage": [0.1, 0.2, 0.3],
    "sampling_logprobs": [-0.1, -0.2, -0.3],
    "trainer_logprobs": [-0.4, -0.5, -0.6],
    "entropies": [0.1, 0.2, 0.3],
    "finish_reason": "stop",
    "prompt_text": "0",
    "completion_text": "12",
    "ids_exact": False,
}


def read(path: Path, **how: Any) -> Found:
    return read_rollouts(path, **how)


def lines(tmp_path: Path, *content: Any) -> Path:
    return write_jsonl(tmp_path / "bad.jsonl", content)


def refused(path: Path, says: str | None = None, **how: Any) -> RolloutError:
    with pytest.raises(RolloutError, match=says) as caught:
        read(path, **how)
    return caught.value


def fault(tmp_path: Path, **given: Any) -> str:
    """What is said of one line among good ones; the message must name the file and the line."""
    path = lines(tmp_path, record(0), record(1), record(2), record(3, **given), record(4))
    message = str(refused(path))
    assert message.startswith("bad.jsonl:4: ")
    assert "\n" not in message
    return message.removeprefix("bad.jsonl:4: ")


class TestWhatIsRead:
    def test_every_field(self, tmp_path):
        found = read(lines(tmp_path, FULL)).rollouts[0]
        assert found == rollout(
            id="a",
            step=7,
            group_id="g",
            mask=(True, False, True),
            reward=0.5,
            advantage=(0.1, 0.2, 0.3),
            finish_reason="stop",
            prompt_text="0",
            completion_text="12",
            ids_exact=False,
            sampling_logprobs=(-0.1, -0.2, -0.3),
            trainer_logprobs=(-0.4, -0.5, -0.6),
            entropies=(0.1, 0.2, 0.3),
        )
        assert found.n_counted == 2

    def test_what_may_be_absent_has_its_default(self, tmp_path):
        found = read(lines(tmp_path, record(0))).rollouts[0]
        # It ends with the end token, so it was not cut off.
        assert found == rollout(id="r0", step=None, group_id=found.group_id, finish_reason="stop")
        assert found.ids_exact is True
        assert found.reward is found.advantage is found.entropies is None

    def test_null_is_absent(self, tmp_path):
        empty = {k: None for k in FULL if k not in ("id", "prompt_ids", "completion_ids")}
        with_null = read(lines(tmp_path, record(0, **empty))).rollouts
        assert with_null == read(lines(tmp_path, record(0))).rollouts

    def test_jsonl_and_parquet_read_equal(self, tmp_path):
        rows = [FULL, FULL | {"id": "b", "reward": -1.0, "step": 8}]
        as_lines = read(write_jsonl(tmp_path / "r.jsonl", rows))
        as_table = read(write_parquet(tmp_path / "r.parquet", rows))
        assert as_lines.rollouts == as_table.rollouts
        assert as_lines.source == "canonical JSONL or parquet: r.jsonl"
        assert as_table.source == "canonical JSONL or parquet: r.parquet"
        assert as_table.files == (str(tmp_path / "r.parquet"),)

    def test_a_table_with_gaps_reads_as_lines_without_the_fields(self, tmp_path):
        """Pandas turns integers with gaps into floats, and gaps into NaN."""
        gaps = (
            "step",
            "reward",
            "advantage",
            "completion_mask",
            "group_id",
            "ids_exact",
            "entropies",
        )
        sparse = {k: v for k, v in FULL.items() if k not in gaps}
        rows = [FULL | {"advantage": 0.5}, sparse | {"id": "b"}]
        as_table = read(write_parquet(tmp_path / "r.parquet", rows))
        assert as_table.rollouts == read(write_jsonl(tmp_path / "r.jsonl", rows)).rollouts
        assert as_table.rollouts[0].step == 7
        assert as_table.rollouts[1].step is None

    def test_blank_lines_and_a_byte_order_mark_are_nothing(self, tmp_path):
        path = lines(
            tmp_path, b"\xef\xbb\xbf" + json.dumps(record(0)).encode(), "", "  ", record(1)
        )
        assert [r.id for r in read(path).rollouts] == ["r0", "r1"]

    def test_a_last_line_without_an_end_is_read(self, tmp_path):
        path = lines(tmp_path, record(0), record(1))
        path.write_bytes(path.read_bytes().rstrip())
        assert len(read(path).rollouts) == 2

    def test_unknown_fields_are_counted_and_ignored(self, tmp_path):
        path = lines(tmp_path, record(0, logprobs=[1], zeta=1), record(1, zeta={"a": 1}))
        found = read(path)
        assert found.unknown_fields == {"logprobs": 1, "zeta": 2}
        assert len(found.rollouts) == 2

    def test_a_text_that_is_no_unicode_keeps_its_escape(self, tmp_path):
        path = lines(tmp_path, r'{"id": "\ud800", "prompt_ids": [1], "completion_ids": [2]}')
        assert read(path).rollouts[0].id == r"\ud800"

    def test_a_whole_number_may_be_written_as_a_float(self, tmp_path):
        assert read(lines(tmp_path, record(0, step=7.0))).rollouts[0].step == 7


class TestDefaultGroup:
    def test_it_is_the_prompt_at_a_step(self, tmp_path):
        path = lines(
            tmp_path,
            record(0, step=1),
            record(1, step=1),
            record(2, step=1),  # another prompt
            record(3, step=2, prompt_ids=record(0)["prompt_ids"]),  # another step
            record(4, prompt_ids=record(0)["prompt_ids"]),  # no step
        )
        first, second, *others = (r.group_id for r in read(path).rollouts)
        assert first == second
        assert len({first, *others}) == 4

    def test_a_given_group_counts_before_it(self, tmp_path):
        path = lines(tmp_path, record(0, group_id="x"), record(9, group_id="x"))
        assert {r.group_id for r in read(path).rollouts} == {"x"}

    def test_a_name_that_recurs_at_another_step_is_another_group(self, tmp_path):
        """Some name a group after its prompt alone."""
        at = [1, 1, 2, None, 2, 1]
        path = lines(tmp_path, *(record(n, group_id="q", step=s) for n, s in enumerate(at)))
        names = [r.group_id for r in read(path).rollouts]
        assert names == ["q", "q", "q@2", "q@unknown", "q@2", "q"]

    def test_of_such_groups_a_bad_line_drops_its_own(self, tmp_path):
        rows = [record(n, group_id="q", step=n // 2) for n in range(4)]
        path = lines(tmp_path, *rows, record(9, group_id="q", step=1, reward="high"))
        assert [r.id for r in read(path, skip_bad_lines=True).rollouts] == ["r0", "r1"]

    def test_an_empty_name_is_a_name(self, tmp_path):
        assert read(lines(tmp_path, record(0, group_id=""))).rollouts[0].group_id == ""


class TestFaultsOfALine:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"id": None}, "id is missing"),
            ({"id": 5}, "id must be str, found int"),
            ({"prompt_ids": None}, "prompt_ids is missing"),
            ({"prompt_ids": "12"}, "prompt_ids must be list, found str"),
            ({"prompt_ids": []}, "prompt_ids is empty"),
            ({"prompt_ids": [1.5]}, "prompt_ids must hold integers only"),
            ({"prompt_ids": [True]}, "prompt_ids must hold integers only"),
            ({"prompt_ids": [None]}, "prompt_ids must hold integers only"),
            ({"prompt_ids": [[1]]}, "prompt_ids must hold integers only"),
            ({"prompt_ids": [2**63]}, "prompt_ids holds a number that is no token id"),
            ({"completion_ids": [-1]}, "completion_ids holds a number that is no token id"),
            ({"completion_ids": [10**400, 2]}, "completion_ids holds a number that is no token id"),
            ({"completion_ids": None}, "completion_ids is missing"),
            ({"completion_ids": []}, "completion_ids is empty"),
            ({"completion_ids": {"0": 5}}, "completion_ids must be list, found dict"),
            ({"step": "7"}, "step must be int, found str"),
            ({"step": 7.5}, "step must be int, found float"),
            ({"step": True}, "step must be int, found bool"),
            ({"step": -1}, "step must be >= 0, found -1"),
            ({"step": math.inf}, "step must be int, found float"),
            ({"group_id": 5}, "group_id must be str, found int"),
            ({"finish_reason": 5}, "finish_reason must be str, found int"),
            ({"prompt_text": ["x"]}, "prompt_text must be str, found list"),
            ({"completion_text": {}}, "completion_text must be str, found dict"),
            ({"ids_exact": 1}, "ids_exact must be bool, found int"),
            ({"completion_mask": [1, 2, 0]}, "completion_mask must hold true and false only"),
            ({"reward": "high"}, "reward must be a finite number, found 'high'"),
            ({"reward": True}, "reward must be a finite number, found True"),
            ({"reward": math.nan}, "reward must be a finite number, found nan"),
            ({"reward": -math.inf}, "reward must be a finite number, found -inf"),
            ({"reward": [1]}, "reward must be a finite number"),
            ({"advantage": math.nan}, "advantage must be a finite number, found nan"),
            ({"advantage": [0.1, math.nan, 0.3]}, "advantage must hold finite numbers"),
            ({"advantage": [0.1, None, 0.3]}, "advantage must hold finite numbers only"),
            ({"advantage": [0.1]}, "advantage must have one entry a completion token, 3: 1"),
            ({"advantage": []}, "advantage must have one entry a completion token, 3: 0"),
        ],
        ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
    )
    def test_it_is_named_with_file_and_line(self, tmp_path, given, says):
        assert says in fault(tmp_path, **given)

    @pytest.mark.parametrize(
        "key", ["completion_mask", "sampling_logprobs", "trainer_logprobs", "entropies"]
    )
    @pytest.mark.parametrize("value", [[True, True], [True] * 4, [], "text", 5, {}], ids=repr)
    def test_what_is_per_token_has_the_completions_length(self, tmp_path, key, value):
        found = len(value) if isinstance(value, list) else type(value).__name__
        message = fault(tmp_path, **{key: value})
        assert message == f"{key} must have one entry a completion token, 3: {found}"

    @pytest.mark.parametrize("key", ["reward", "advantage", "step"])
    def test_a_number_beyond_any_float_is_a_fault_and_no_bug(self, tmp_path, key):
        assert key in fault(tmp_path, **{key: 10**400})

    @pytest.mark.parametrize("step", [2**63, 1e300])
    def test_a_step_that_no_table_can_hold_is_a_fault(self, tmp_path, step):
        assert "step" in fault(tmp_path, step=step)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('{"id": "a"', "not valid JSON"),
            ("nonsense", "not valid JSON"),
            (b"\xff\xfe\xff", "not UTF-8 text"),
            (b"\x00", "not valid JSON"),
            ('{"id": ' + "1" * 5000 + "}", "a number of thousands of digits"),
            ("[1, 2]", "not a JSON object"),
            ("null", "not a JSON object"),
            ('"text"', "not a JSON object"),
            ("[" * 100_000 + "]" * 100_000, "nested more than 200 deep"),
            ('{"a": ' * 100_000 + "1" + "}" * 100_000, "nested more than 200 deep"),
        ],
        ids=lambda value: repr(value[:12]),
    )
    def test_a_line_that_is_no_record(self, tmp_path, text, says):
        path = lines(tmp_path, record(0), "", record(1), text, record(2))
        assert str(refused(path)).startswith(f"bad.jsonl:4: {says}")

    def test_a_repeated_id_names_the_place_of_the_first(self, tmp_path):
        path = lines(tmp_path, record(0), record(1), record(2, id="r0"))
        assert str(refused(path)) == "bad.jsonl:3: id 'r0' was used before, at bad.jsonl:1"

    def test_a_row_of_a_table_is_named_by_its_number(self, tmp_path):
        rows = [record(0, reward=0.5), record(1, reward=math.inf)]
        path = write_parquet(tmp_path / "bad.parquet", rows)
        assert str(refused(path)).startswith("bad.parquet:2: reward must be a finite number")


class TestManyFaults:
    def test_all_are_said_at_once(self, tmp_path):
        path = lines(tmp_path, record(0, step=-1), record(1), "{", record(3, id=None))
        message = str(refused(path))
        assert re.findall(r"bad\.jsonl:\d+", message) == [
            "bad.jsonl:1",
            "bad.jsonl:3",
            "bad.jsonl:4",
        ]

    @pytest.mark.parametrize(
        ("bad", "rest"), [(20, ""), (21, "... and 1 more"), (50, "... and 30 more")]
    )
    def test_up_to_twenty_and_a_count(self, tmp_path, bad, rest):
        message = str(refused(lines(tmp_path, *(["{"] * bad)))).splitlines()
        assert len([line for line in message if line.startswith("bad.jsonl:")]) == 20
        assert (message[20] if len(message) > 20 else "") == rest

    def test_the_way_out_is_named_until_it_was_taken(self, tmp_path):
        path = lines(tmp_path, record(0), record(1, reward="high"))
        assert "--skip-bad-lines" in refused(path).hint
        path = lines(tmp_path, record(0), "{")  # no group to drop can be read from it
        assert "--skip-bad-lines" not in refused(path).hint
        assert "--skip-bad-lines" not in refused(path, skip_bad_lines=True).hint


class TestSkippingBadLines:
    def records(self, groups: int) -> list[dict[str, Any]]:
        return [record(n, id=f"r{n}", group_id=f"g{n // 4}") for n in range(4 * groups)]

    def spoilt(self, tmp_path: Path, groups: int, *bad_groups: int) -> Path:
        rows = self.records(groups)
        for group in bad_groups:
            rows[4 * group + 2]["reward"] = "high"
        return lines(tmp_path, *rows)

    def test_the_whole_group_of_a_bad_line_goes(self, tmp_path):
        found = read(self.spoilt(tmp_path, 5, 3), skip_bad_lines=True)
        assert {r.group_id for r in found.rollouts} == {"g0", "g1", "g2", "g4"}
        assert found.lines_skipped == 4

    def test_members_before_and_after_the_bad_line_go_alike(self, tmp_path):
        rows = self.records(3)
        rows[4]["step"] = -1
        found = read(lines(tmp_path, *rows, record(99, group_id="g1")), skip_bad_lines=True)
        assert {r.group_id for r in found.rollouts} == {"g0", "g2"}
        assert found.lines_skipped == 5

    def test_several_bad_lines_of_one_group_are_one_group(self, tmp_path):
        rows = self.records(4)
        rows[4]["step"] = rows[5]["reward"] = rows[7]["id"] = []
        found = read(lines(tmp_path, *rows), skip_bad_lines=True)
        assert found.lines_skipped == 4
        assert len(found.rollouts) == 12

    def test_without_the_flag_nothing_is_skipped(self, tmp_path):
        refused(self.spoilt(tmp_path, 5, 3), r"bad\.jsonl:15: reward")

    @pytest.mark.parametrize(
        ("groups", "bad", "passes"),
        [
            (2, 1, True),
            (99, 1, True),
            (99, 2, False),
            (199, 2, False),
            (200, 2, True),
            (200, 3, False),
        ],
    )
    def test_at_most_one_in_a_hundred_but_one_in_any_case(self, tmp_path, groups, bad, passes):
        path = self.spoilt(tmp_path, groups, *range(bad))
        if passes:
            assert read(path, skip_bad_lines=True).lines_skipped == 4 * bad
        else:
            refused(path, rf"{bad} of {groups} groups have a bad line", skip_bad_lines=True)

    def test_the_group_of_a_bad_line_may_be_its_prompt_at_its_step(self, tmp_path):
        path = lines(
            tmp_path,
            record(0, step=1),
            record(1, step=1, reward="high"),
            record(2, step=1),
            record(4, step=2, prompt_ids=record(0)["prompt_ids"]),
        )
        found = read(path, skip_bad_lines=True)
        assert [r.id for r in found.rollouts] == ["r2", "r4"]

    @pytest.mark.parametrize(
        "unreadable",
        [
            "{",
            "[]",
            record(1, group_id=5),
            record(1, prompt_ids="x"),
            record(1, step="x"),
            record(1, prompt_ids=None),
        ],
        ids=str,
    )
    def test_a_line_whose_group_cannot_be_read_still_stops(self, tmp_path, unreadable):
        refused(lines(tmp_path, record(0), unreadable), r"^bad\.jsonl:2: ", skip_bad_lines=True)

    def test_a_repeated_id_drops_the_group_of_the_second(self, tmp_path):
        rows = self.records(3)
        rows[8]["id"] = "r0"
        found = read(lines(tmp_path, *rows), skip_bad_lines=True)
        assert {r.group_id for r in found.rollouts} == {"g0", "g1"}

    def test_when_every_group_goes_nothing_is_left_to_measure(self, tmp_path):
        refused(self.spoilt(tmp_path, 1, 0), "no rollout in it", skip_bad_lines=True)


class TestFaultsOfAFile:
    def test_an_empty_file(self, tmp_path):
        refused(lines(tmp_path), r"bad\.jsonl: no rollout in it")

    def test_a_table_without_rows(self, tmp_path):
        schema = pa.schema([("id", pa.string()), ("prompt_ids", pa.list_(pa.int64()))])
        pa.parquet.write_table(schema.empty_table(), tmp_path / "r.parquet")
        refused(tmp_path / "r.parquet", r"r\.parquet: no rollout in it")

    @pytest.mark.parametrize("content", [b"", b"PAR1 is not all", b"\x00" * 500], ids=len)
    def test_a_corrupt_table(self, tmp_path, content):
        (tmp_path / "r.parquet").write_bytes(content)
        refused(tmp_path / "r.parquet", r"r\.parquet: not a readable parquet file")

    def test_a_truncated_table(self, tmp_path):
        path = write_parquet(tmp_path / "r.parquet", [record(n) for n in range(50)])
        path.write_bytes(path.read_bytes()[:-40])
        refused(path, "not a readable parquet file")

    def test_no_such_path(self, tmp_path):
        refused(tmp_path / "none.jsonl", r"--rollouts .*none\.jsonl: no such path")

    @pytest.mark.parametrize("name", ["rollouts.json", "rollouts.txt", "rollouts"])
    def test_an_unknown_kind_of_file_says_which_are_known(self, tmp_path, name):
        (tmp_path / name).write_text("{}")
        error = refused(tmp_path / name, "no rollout file that is known here")
        assert "JSONL" in error.hint
        assert "TRL" in error.hint

    def test_a_run_without_rollouts_says_how_to_have_them(self):
        with pytest.raises(RolloutError, match=r"run: no rollouts") as caught:
            read_rollouts(None)
        assert "log_completions=True" in caught.value.hint
        assert "arca_diag.trl.recorder()" in caught.value.hint
        assert "--rollouts" in caught.value.hint

    def test_a_completions_folder_with_nothing_in_it_says_the_same(self, tmp_path):
        with pytest.raises(RolloutError) as caught:
            read_rollouts(None, root=tmp_path)
        assert "log_completions=True" in caught.value.hint


class TestFitsTheModel:
    def test_the_last_id_of_the_vocabulary_fits(self):
        check_fits_model([rollout(completion_ids=(21, 0, 2))], 22, 5)

    @pytest.mark.parametrize("where", ["prompt_ids", "completion_ids"])
    @pytest.mark.parametrize("token", [22, -1, 2**62])
    def test_one_outside_is_named(self, where, token):
        with pytest.raises(
            RolloutError, match=rf"rollout '?r0'?: token id {token} is outside .* vocabulary of 22"
        ) as caught:
            check_fits_model([rollout(**{where: (3, token, 2)})], 22, None)
        assert "--base" in caught.value.hint

    def test_a_sequence_longer_than_the_positions_is_named(self):
        check_fits_model([rollout()], 22, 5)
        with pytest.raises(RolloutError, match=r"rollout '?r0'?: 5 tokens, and .* has 4 positions"):
            check_fits_model([rollout()], 22, 4)

    def test_all_are_said_up_to_twenty(self):
        many = [rollout(n, completion_ids=(99,), mask=(True,)) for n in range(25)]
        with pytest.raises(RolloutError, match=r"r19'?: token id 99[^\n]*\n\.\.\. and 5 more$"):
            check_fits_model(many, 22, None)

    @pytest.mark.parametrize("hostile", ["x\n::error::pwned", "x\x1b[31m", "x\r::error::pwned"])
    def test_an_id_of_a_hostile_file_cannot_write_on_the_terminal(self, hostile):
        with pytest.raises(RolloutError) as caught:
            check_fits_model([rollout(id=hostile, completion_ids=(99,), mask=(True,))], 22, None)
        assert str(caught.value).isprintable()


class TestClusters:
    def test_a_cluster_is_the_prompt_whatever_the_group(self):
        assert rollout(group_id="a").cluster == rollout(group_id="b", step=9).cluster
        assert rollout(prompt_ids=(1, 4)).cluster != rollout(prompt_ids=(14,)).cluster

    def test_the_hash_of_ids_never_changes(self):
        assert hash_ids([1, 2, 3]) == hash_ids((1, 2, 3)) == "e2e2033ae7e19d68"
