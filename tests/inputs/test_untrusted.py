import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arca_diag.errors import ArcaError, RolloutError
from arca_diag.inputs import parquet
from arca_diag.inputs.parquet import parquet_rows
from arca_diag.inputs.untrusted import (
    check_inside,
    inside,
    json_lines,
    read_json,
    read_text,
)
from tests.inputs import SAMPLE, write_jsonl, write_parquet

DEEP = 100_000


def file(folder: Path, content: bytes | str, name: str = "run/f.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def peak(work: Any) -> tuple[Any, int]:
    """What a function returns, and the most bytes that Python held for it."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestAnyFile:
    @pytest.mark.parametrize("read", [read_json, read_text, json_lines, parquet_rows])
    def test_what_is_no_file_is_a_message(self, tmp_path, read):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "circle").symlink_to(tmp_path / "circle")
        names = {
            "none": "No such file",
            "pipe": "is not a regular file",
            "circle": "symbolic links",
            "a\0b": "null",
            "x" * 300: "too long",
        }
        for name, said in names.items():
            with pytest.raises(RolloutError, match=f"(?s){tmp_path.name}/.*{said}"):
                list(read(tmp_path / name, error=RolloutError))
        with pytest.raises(RolloutError, match="is not a regular file"):
            list(read(tmp_path, error=RolloutError))

    def test_a_device_is_not_read(self):
        with pytest.raises(ArcaError, match="/zero is not a regular file"):
            read_json(Path("/dev/zero"))


class TestJson:
    @pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "\u00e9"]}, [], "x", 7, None])
    def test_the_value_is_what_was_written(self, tmp_path, value):
        assert read_json(file(tmp_path, json.dumps(value))) == value

    def test_numbers_that_json_lacks_and_keys_given_twice(self, tmp_path):
        found = read_json(file(tmp_path, '\ufeff{"a": NaN, "b": -Infinity, "c": 1, "c": 2}'))
        assert np.isnan(found.pop("a"))
        assert found == {"b": -np.inf, "c": 2}

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "not valid JSON: Expecting value: line 1 column 1"),
            (b'{"a": 1,}', "not valid JSON: .* line 1 column 9"),
            (b'{"a": 1} x', "not valid JSON: Extra data"),
            (b'{"a": "\xff"}', "not UTF-8 text: byte 0xff at 7"),
            ('{"a": 1}'.encode("utf-16"), "not UTF-8 text"),
            (b"[" * DEEP, "nested more than 200 deep"),
            (b"[" * DEEP + b"]" * DEEP, "nested more than 200 deep"),
            (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "nested more than 200 deep"),
            (b"9" * 10**6, "a number of thousands of digits"),
            (b'{"a": -' + b"9" * 5000 + b"}", "a number of thousands of digits"),
            (b"[" + b"{}," * 2**22 + b"{}]", "more than 8,388,608 values"),
            (b'"' + b"x" * 16 * 2**20 + b'"', "larger than 16 MiB"),
        ],
        ids=lambda v: v[:12],
    )
    def test_what_is_wrong_is_a_message_with_the_place(self, tmp_path, content, said):
        with pytest.raises(RolloutError, match=f"^run/f.json: {said}"):
            read_json(file(tmp_path, content), error=RolloutError)

    def test_the_limit_on_nesting_is_where_it_is_said_to_be(self, tmp_path):
        value = read_json(file(tmp_path, "[" * 200 + "]" * 200))
        assert json.dumps(value) == "[" * 200 + "]" * 200
        for mixed in ("[" * 201 + "]" * 201, '{"a":[' * 100 + "{}" + "]}" * 100):
            with pytest.raises(ArcaError, match="nested more than 200 deep"):
                read_json(file(tmp_path, mixed))

    def test_a_long_list_of_lists_is_not_deep(self, tmp_path):
        assert read_json(file(tmp_path, "[" + "[]," * 999 + "[]]")) == [[]] * 1000

    def test_the_limit_on_size_is_exact_and_the_rest_is_not_read(self, tmp_path):
        path = file(tmp_path, '"' + "x" * 98 + '"')
        assert read_json(path, limit=100) == "x" * 98
        with pytest.raises(ArcaError, match="larger than"):
            read_json(path, limit=99)
        big = file(tmp_path, b"x" * 2**24)
        _, most = peak(lambda: self.refused(big))
        assert most < 2**20

    def refused(self, path: Path) -> None:
        with pytest.raises(ArcaError, match="larger than"):
            read_json(path, limit=1000)

    def test_text_is_read_within_its_limit(self, tmp_path):
        path = file(tmp_path, "\u00e9\r\n")
        assert read_text(path, limit=4) == "\u00e9\r\n"
        with pytest.raises(ArcaError, match="larger than"):
            read_text(path, limit=3)
        with pytest.raises(ArcaError, match="not UTF-8 text: byte 0xe9 at 1"):
            read_text(file(tmp_path, b"x\xe9"))


class TestJsonLines:
    def lines(self, tmp_path: Path, content: bytes, **given: Any) -> list[tuple[int, Any]]:
        return list(json_lines(file(tmp_path, content, "f.jsonl"), **given))

    def test_lines_keep_their_numbers_across_blank_ones(self, tmp_path):
        found = self.lines(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\n  \r\n{"b": NaN}\n{"c": 3}')
        assert found[0] == (1, {"a": 1})
        assert [number for number, _ in found] == [1, 4, 5]
        assert found[2] == (5, {"c": 3})

    def test_a_bad_line_is_a_text_and_the_next_is_read(self, tmp_path):
        bad = [b"[1]", b'"x"', b"null", b"{", b"\xff", b"[" * DEEP, b"9" * 10**6, b'{"a": 1} {}']
        good = b'{"ok": 1}'
        found = self.lines(tmp_path, b"\n".join(part for line in bad for part in (line, good)))
        assert [value for _, value in found[1::2]] == [{"ok": 1}] * len(bad)
        said = [value for _, value in found[::2]]
        starts = [
            "not a JSON object but list",
            "not a JSON object but str",
            "not a JSON object but NoneType",
            "not valid JSON: Expecting property name",
            "not UTF-8 text: byte 0xff at 0",
            "nested more than 200 deep",
            "a number of thousands of digits",
            "not valid JSON: Extra data",
        ]
        assert [text[: len(start)] for text, start in zip(said, starts, strict=True)] == starts

    def test_the_rest_of_an_over_long_line_is_no_line(self, tmp_path):
        line = b'{"a": "' + b"x" * 90 + b'"}\n'  # 100 bytes
        rest = b" " * 300 + b'{"not": "a line"}\n'
        found = self.lines(
            tmp_path, line + b" " + line + rest + b'{"b": 1}\n' + rest[:-1], limit=100
        )
        assert found == [
            (1, {"a": "x" * 90}),
            (2, f"longer than {100 / 2**20:g} MiB"),
            (3, f"longer than {100 / 2**20:g} MiB"),
            (4, {"b": 1}),
            (5, f"longer than {100 / 2**20:g} MiB"),
        ]

    def test_one_line_of_64_mib_takes_little_memory(self, tmp_path):
        path = tmp_path / "f.jsonl"
        with path.open("wb") as handle:
            handle.write(b'{"a": 1}\n')
            for _ in range(64):
                handle.write(b"x" * 2**20)
            handle.write(b'\n{"b": 2}\n')
        found, most = peak(lambda: list(json_lines(path, limit=2**20)))
        assert found == [(1, {"a": 1}), (2, "longer than 1 MiB"), (3, {"b": 2})]
        assert most < 6 * 2**20

    def test_many_lines_take_the_memory_of_one(self, tmp_path):
        path = write_jsonl(tmp_path / "f.jsonl", [{"text": "x" * 10_000}] * 2000)  # 20 MB
        count, most = peak(lambda: sum(1 for _ in json_lines(path)))
        assert count == 2000
        assert most < 2**20


class TestParquet:
    @pytest.mark.parametrize("batch", [1, 7, 256])
    def test_rows_are_those_that_were_written(self, tmp_path, monkeypatch, batch):
        monkeypatch.setattr(parquet, "_BATCH", batch)
        rows = [
            {
                "text": f"{i}" * (i % 50),
                "chat": [{"role": "user", "content": f"q{i % 3}" * 40}] * (i % 3),
                "ids": list(range(i % 5)) if i % 7 else None,
                "score": i / 3 if i % 4 else None,
                "flag": bool(i % 2),
                "raw": b"\xff" * (i % 2),
            }
            for i in range(300)
        ]
        for given in (
            {},
            {"row_group_size": 111},
            {"use_dictionary": False, "compression": "none"},
            {"dictionary_pagesize_limit": 100, "data_page_size": 1000, "compression": "zstd"},
            {"data_page_version": "2.0", "write_page_index": True},
        ):
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet", **given)
            assert list(parquet_rows(tmp_path / "f.parquet")) == rows

    def test_the_samples_tables_read_as_pyarrow_reads_them(self):
        for path in sorted(SAMPLE.glob("completions/*.parquet"))[:5]:
            assert list(parquet_rows(path)) == pq.read_table(path).to_pylist()

    @pytest.mark.parametrize("row_limit", [2**20, 300])
    def test_columns_of_other_kinds(self, tmp_path, monkeypatch, row_limit):
        """Under the lower limit a batch falls into portions of a row or two."""
        monkeypatch.setattr(parquet, "_ROW", row_limit)
        table = pa.table(
            {
                "map": pa.array([[("a", 1)], [("b", 2)]] * 20, pa.map_(pa.string(), pa.int64())),
                "category": pa.array(["x", "y"] * 20).dictionary_encode(),
                "large": pa.array(["y", None] * 20, pa.large_string()),
                "fixed": pa.array([b"ab", b"cd"] * 20, pa.binary(2)),
                "pair": pa.array([[1, 2], [3, 4]] * 20, pa.list_(pa.int64(), 2)),
                "none": pa.nulls(40),
                "a.b": pa.array([0.5, 0.25] * 20, pa.float32()),
            }
        )
        path = tmp_path / "f.parquet"
        pq.write_table(table, path)
        assert list(parquet_rows(path)) == table.to_pylist()
        assert list(parquet_rows(path, columns=["a.b"])) == [{"a.b": 0.5}, {"a.b": 0.25}] * 20

    def test_only_columns_that_are_asked_for_and_there(self, tmp_path):
        path = write_parquet(tmp_path / "f.parquet", [{"a": 1, "ab": {"c": 2}}])
        assert list(parquet_rows(path, columns={"ab", "other"})) == [{"ab": {"c": 2}}]
        with pytest.raises(ArcaError, match=r"f.parquet: without other; it has: a, ab"):
            list(parquet_rows(path, columns=["other"]))

    @pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.list_(pa.string())], ids=str)
    def test_a_table_without_rows(self, tmp_path, kind):
        pq.write_table(pa.table({"a": pa.array([], kind)}), tmp_path / "f.parquet")
        assert list(parquet_rows(tmp_path / "f.parquet")) == []

    def test_a_table_without_columns(self, tmp_path):
        pq.write_table(pa.table({}), tmp_path / "f.parquet")
        with pytest.raises(ArcaError, match="without any column; it has: none"):
            list(parquet_rows(tmp_path / "f.parquet"))

    def test_any_damage_is_a_message_or_other_values(self, tmp_path):
        path = tmp_path / "f.parquet"
        pq.write_table(pa.table({"a": ["x", "y"] * 50, "b": [[1], [2, 3]] * 50}), path)
        whole = path.read_bytes()
        refused = []
        for at in range(0, len(whole), 3):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            try:
                list(parquet_rows(path))
            except ArcaError as error:
                refused.append(str(error))
        assert len(refused) > 50
        assert all(text.startswith(f"{tmp_path.name}/f.parquet: ") for text in refused)
        assert max(map(len, refused)) < 700

    @pytest.mark.parametrize("left", [0, 3, 8, 200, -1, -20])
    def test_a_truncated_file(self, tmp_path, left):
        path = write_parquet(tmp_path / "f.parquet", [{"a": i} for i in range(100)])
        path.write_bytes(path.read_bytes()[:left])
        with pytest.raises(RolloutError, match=r"f.parquet: not a readable parquet file"):
            list(parquet_rows(path, error=RolloutError))

    def test_text_that_is_not_utf8(self, tmp_path):
        raw = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
        pq.write_table(pa.table({"a": raw}), tmp_path / "f.parquet")
        with pytest.raises(ArcaError, match="not a readable parquet file"):
            list(parquet_rows(tmp_path / "f.parquet"))

    def test_more_columns_or_rows_than_any_rollouts_have(self, tmp_path, monkeypatch):
        path = write_parquet(tmp_path / "f.parquet", [{"a": 1, "b": 2}] * 3)
        monkeypatch.setattr(parquet, "_ROWS", 2)
        with pytest.raises(ArcaError, match="3 rows, more than 2"):
            list(parquet_rows(path))
        monkeypatch.setattr(parquet, "_COLUMNS", 1)
        with pytest.raises(ArcaError, match="2 columns, more than 1"):
            list(parquet_rows(path))

    def test_a_schema_nested_without_end(self, tmp_path):
        kind = pa.int32()
        for _ in range(300):
            kind = pa.struct([("a", kind)])
        pq.write_table(
            pa.table({"x": pa.nulls(1, kind)}), tmp_path / "f.parquet", store_schema=False
        )
        with pytest.raises(ArcaError, match="nested"):
            list(parquet_rows(tmp_path / "f.parquet"))

    def test_a_footer_that_claims_to_be_huge(self, tmp_path):
        path = write_parquet(tmp_path / "f.parquet", [{"a": 1}])
        path.write_bytes(path.read_bytes()[:-8] + (2**25).to_bytes(4, "little") + b"PAR1")
        with pytest.raises(ArcaError, match="its footer is larger than 16 MiB"):
            list(parquet_rows(path))


LONG = "x" * 1_000_000


def repeated(count: int) -> pa.Array:
    """One long text, as often as you like at four bytes each; written, at next to none."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([LONG]))


def listed(values: pa.Array, rows: int = 1) -> pa.Array:
    """All values in the last of some rows."""
    return pa.ListArray.from_arrays(pa.array([0] * rows + [len(values)], pa.int32()), values)


def varint(number: int) -> bytes:
    """A positive integer as a parquet footer holds it."""
    number *= 2
    groups = []
    while number >= 128:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


class TestParquetBombs:
    """Small files that stand for a lot. Each is read by a process of its own."""

    def read(
        self, path: Path, column: pa.Array, limit: int = 2**32, **given: Any
    ) -> tuple[str, int]:
        pq.write_table(
            pa.table({"a": column}), path, compression="zstd", store_schema=False, **given
        )
        return self.outcome(path, limit)

    def outcome(self, path: Path, limit: int = 2**32) -> tuple[str, int]:
        """What the reading of a file ends with, and the rows that came before."""
        assert path.stat().st_size < 2**20
        code = (
            "import resource, sys; from pathlib import Path\n"
            "from arca_diag.inputs.parquet import ArcaError, parquet_rows\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "before, rows = peak(), 0\n"
            "try:\n"
            "    for row in parquet_rows(Path(sys.argv[1]), limit=int(sys.argv[2])): rows += 1\n"
            "except ArcaError as error: print(error)\n"
            "print(rows, (peak() - before) // 1024)"
        )
        started = time.monotonic()
        command = [sys.executable, "-c", code, path, str(limit)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-300:]
        assert time.monotonic() - started < 30
        *said, counts = done.stdout.splitlines()
        rows, mebibytes = map(int, counts.split())
        assert mebibytes < 700
        return "".join(said), rows

    def test_a_text_that_recurs_in_rows(self, tmp_path):
        said, rows = self.read(tmp_path / "f.parquet", repeated(10_000))
        assert said.endswith("its rows take more than 4096 MiB")
        assert 0 < rows < 4300  # those before the limit are good

    def test_a_text_that_recurs_within_a_row(self, tmp_path):
        said, rows = self.read(tmp_path / "f.parquet", listed(repeated(10_000), rows=3))
        assert said.endswith("its rows take more than 4096 MiB")
        assert rows == 0

    def test_a_row_over_the_limit_of_a_row(self, tmp_path):
        said, rows = self.read(tmp_path / "f.parquet", listed(repeated(100), rows=3))
        assert said.endswith("a row takes more than 64 MiB")
        assert rows == 2

    def test_numbers_without_end_in_a_row(self, tmp_path):
        numbers = pa.array(np.zeros(68_000_000, bool))
        said, rows = self.read(tmp_path / "f.parquet", listed(numbers), data_page_size=2**31 - 1)
        assert "column 'a.list.element' holds 68,000,000 values in one row group" in said
        assert rows == 0

    def test_a_footer_that_says_less_than_the_pages(self, tmp_path):
        path, count = tmp_path / "f.parquet", 68_000_000
        numbers = listed(pa.array(np.zeros(count, bool)))
        pq.write_table(
            pa.table({"a": numbers}),
            path,
            data_page_size=2**31 - 1,
            compression="zstd",
            write_statistics=False,
        )
        raw = path.read_bytes()
        start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
        true = varint(count)
        false = bytes([2 | 128, *[128] * (len(true) - 2), 0])  # 1, written as long
        assert true in raw[start:]
        path.write_bytes(raw[:start] + raw[start:].replace(true, false))
        assert pq.ParquetFile(path).metadata.row_group(0).column(0).num_values == 1
        said, rows = self.outcome(path)
        assert "holds 68,000,000 values in one row group" in said
        assert rows == 0

    def test_many_groups_that_are_each_within_the_limits(self, tmp_path):
        path = tmp_path / "f.parquet"
        group = pa.table({"a": listed(pa.array(np.zeros(4_000_000, bool)))})
        with pq.ParquetWriter(path, group.schema, compression="zstd") as writer:
            for _ in range(9):
                writer.write_table(group)
        said, rows = self.outcome(path, limit=2**29)
        assert said.endswith("its columns take more than 512 MiB")
        assert rows == 0

    def test_one_page_that_is_all_zeros(self, tmp_path):
        said, rows = self.read(
            tmp_path / "f.parquet", pa.array(["\0" * 17_000_000]), 2**28, use_dictionary=False
        )
        assert "bytes in one page" in said
        assert rows == 0

    def test_wide_values_that_recur(self, tmp_path):
        raw = pa.array([b"\0" * 1_000_000], pa.binary(1_000_000)).take(pa.array([0] * 100))
        said, rows = self.read(tmp_path / "f.parquet", raw, 2**28)
        assert "holds 100 values in one row group" in said
        assert rows == 0

    def test_texts_stored_as_changes(self, tmp_path):
        column = pa.array([LONG + str(i) for i in range(100)])
        said, rows = self.read(
            tmp_path / "f.parquet",
            column,
            use_dictionary=False,
            column_encoding={"a": "DELTA_BYTE_ARRAY"},
        )
        assert said.endswith("column 'a' is encoded as DELTA_BYTE_ARRAY")
        assert rows == 0


class TestInside:
    def test_links_are_followed_to_their_end(self, tmp_path):
        run, other = tmp_path / "run", tmp_path / "run-2"
        run.mkdir()
        other.mkdir()
        (run / "near").symlink_to("near.json")
        (run / "far").symlink_to(other / "f.json")
        (run / "folder").symlink_to(other)
        (run / "circle").symlink_to(run / "circle2")
        (run / "circle2").symlink_to(run / "circle")
        (tmp_path / "door").symlink_to(run)
        for good in (run, run / "x" / "y", run / "near", tmp_path / "door" / "x"):
            assert inside(good, run)
            assert inside(good, tmp_path / "door")
            check_inside(good, run)
        for bad in (
            tmp_path,
            other / "x",
            run / ".." / "x",
            run / "far",
            run / "folder" / "f.json",
            run / "a\0b",
        ):
            assert not inside(bad, run)
            with pytest.raises(RolloutError, match="leads out of run") as caught:
                check_inside(bad, run, error=RolloutError)
            assert caught.value.hint

    def test_a_circle_is_no_crash(self, tmp_path):
        (tmp_path / "circle").symlink_to(tmp_path / "circle")
        assert inside(tmp_path / "circle", tmp_path) in (True, False)
