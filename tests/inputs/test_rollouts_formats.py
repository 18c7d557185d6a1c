"""What holds for every format: a file is one reader's alone, and its length costs no memory."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import READERS
from tests.conftest import ROOT
from tests.inputs import read_rollouts, record, recorded, trl_row, write_jsonl, write_parquet
from tests.inputs.odd_values import is_clean_or_refused, samples_of, spoilt
from tests.inputs.test_rollouts_ms_swift import batch
from tests.inputs.test_rollouts_nemo_rl import row as nemo_row
from tests.inputs.test_rollouts_open_instruct import row as open_instruct_row
from tests.inputs.test_rollouts_prime_rl import row as prime_row
from tests.inputs.test_rollouts_tinker import SUMMARY, request
from tests.inputs.test_rollouts_verifiers import episode
from tests.inputs.test_rollouts_verifiers_results import row as result_row
from tests.inputs.test_rollouts_verl import line

CANONICAL = "canonical JSONL or parquet"

#: A name of a file, what stands in it, and whose it is.
EXAMPLES: list[tuple[str, Any, str]] = [
    ("r.jsonl", record(0), CANONICAL),
    ("12.jsonl", record(0), CANONICAL),
    ("completions.jsonl", record(0), CANONICAL),
    ("sample.jsonl", record(0), CANONICAL),
    ("r.jsonl", "{", CANONICAL),
    ("r.parquet", record(0), CANONICAL),
    ("completions_00001.parquet", trl_row(0), "TRL completions"),
    ("completions_00001.parquet", recorded(0), "TRL completions"),
    ("renamed.parquet", trl_row(0), "TRL completions"),
    ("completions_all.parquet", record(0), CANONICAL),
    ("12.jsonl", line(), "verl rollout data"),
    ("renamed.jsonl", line(), "verl rollout data"),
    ("completions.jsonl", batch(), "ms-swift completions"),
    ("renamed.jsonl", batch(), "ms-swift completions"),
    ("sample.jsonl", request(), "Tinker samples"),
    ("train_rollout_summaries.jsonl", SUMMARY, "Tinker samples"),
    ("rank_0.jsonl", prime_row(), "prime-rl token export"),
    ("traces.jsonl", episode(), "verifiers traces"),
    ("results.jsonl", result_row(), "verifiers evaluation results"),
    ("train_data_step3.jsonl", nemo_row(), "NeMo-RL training data"),
    ("run_rollouts_000000.jsonl", open_instruct_row(), "open-instruct traces"),
]


def write(path: Path, content: Any) -> Path:
    if path.suffix == ".parquet":
        return write_parquet(path, [content])
    return write_jsonl(path, [content])


@pytest.mark.parametrize(("name", "content", "owner"), EXAMPLES)
def test_a_file_is_one_readers_alone(tmp_path, name, content, owner):
    path = write(tmp_path / name, content)
    assert [reader.name for reader in READERS if reader.sniff(path)] == [owner]


def test_a_folder_of_a_format_is_one_readers_alone(tmp_path):
    folders = [(n, c, o) for n, c, o in EXAMPLES if o != CANONICAL and not n.startswith("renamed")]
    assert {owner for *_, owner in folders} == {r.name for r in READERS} - {CANONICAL}
    for number, (name, content, owner) in enumerate(folders):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder / name, content)
        assert [reader.name for reader in READERS if reader.sniff(folder)] == [owner]


@pytest.mark.parametrize("name", ["r.jsonl", "r.parquet"])
def test_what_has_text_under_other_names_is_nobodys_and_says_how_to_read_it(tmp_path, name):
    path = write(tmp_path / name, {"id": "a", "question": "1+1", "answer": "2"})
    with pytest.raises(RolloutError, match="no rollout file that is known here") as caught:
        read_rollouts(path)
    assert "--columns prompt=...,completion=..." in caught.value.hint


@pytest.mark.parametrize("content", ["", "\n\n", "[1]", "nonsense", '{"a"', "{" * 100_000])
def test_no_reader_fails_on_a_look_at_anything(tmp_path, content):
    (tmp_path / "12.jsonl").write_text(content)
    (tmp_path / "12.parquet").write_text(content)
    for path in (tmp_path, tmp_path / "12.jsonl", tmp_path / "12.parquet", tmp_path / "none"):
        taken = [reader.name for reader in READERS if reader.sniff(path)]
        assert taken in ([], [CANONICAL])


def test_no_odd_value_in_a_canonical_file_is_more_than_a_fault(tmp_path):
    full = record(1, step=1, reward=0.5, advantage=[1.0, 2.0, 3.0], group_id="g", ids_exact=True)
    full |= {"sampling_logprobs": [-1.0, -1.0, -1.0], "finish_reason": "stop"}
    reader = samples_of(write_jsonl(tmp_path / "ok.jsonl", [full]))[2]
    read = 0
    for name, text in spoilt(full):
        path = write_jsonl(tmp_path / "r.jsonl", [record(2), text, record(3)])
        try:
            read += is_clean_or_refused(path, reader)
        except Exception as error:
            raise AssertionError(name) from error
    assert read > 20


_TEXT = 16_000  # characters a completion


def text_of(number: int) -> str:
    """Text that does not compress."""
    return random.Random(number).randbytes(_TEXT // 2).hex()


def long_jsonl(path: Path, size: int, of: Callable[[int], dict[str, Any]]) -> Path:
    with path.open("w") as handle:
        for number in range(size // _TEXT):
            handle.write(json.dumps(of(number)) + "\n")
    return path


def long_canonical(folder: Path, size: int) -> Path:
    return long_jsonl(
        folder / "r.jsonl", size, lambda n: record(n, step=n // 2, completion_text=text_of(n))
    )


def long_parquet(folder: Path, size: int) -> Path:
    """One row group, as trainers write it; its pages, which are read whole, are 1 MB or less."""
    rows = [
        record(n, step=n // 2, completion_text=text_of(n), reward=0.5) for n in range(size // _TEXT)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "r.parquet", write_batch_size=32)
    return folder / "r.parquet"


def long_verl(folder: Path, size: int) -> Path:
    (folder / "rollouts").mkdir()
    long_jsonl(folder / "rollouts" / "5.jsonl", size, lambda n: line(n, output=text_of(n)))
    return folder / "rollouts"


def long_ms_swift(folder: Path, size: int) -> Path:
    return long_jsonl(
        folder / "completions.jsonl",
        size,
        lambda n: batch(n, completion=[text_of(4 * n + i)[: _TEXT // 4] for i in range(4)]),
    )


def long_csv(folder: Path, size: int) -> Path:
    with (folder / "r.csv").open("w") as handle:
        handle.write("question,answer,at\n")
        handle.writelines(f"{n // 2},{text_of(n)},1\n" for n in range(size // _TEXT))
    return folder / "r.csv"


#: Reads a short file, then the long one: counts it, and loads two groups of it. Prints by how
#: much the process grew over the long one (KiB), and how many completions were seen and loaded.
MEASURE = """
import re, sys
from pathlib import Path
from arca_diag.inputs.rollouts import READERS, columns
from arca_diag.inputs.rollouts.census import find_source, load, take_census
from tests.inputs import a_run

named = columns.reader(columns.parse_columns("prompt=question,completion=answer,step=at"))

def scan(path):
    source = find_source(path, a_run(), (named,) if path.suffix == ".csv" else READERS)
    census = take_census(source, a_run(), skip_bad_lines=False)
    groups = sorted({e.group_id for e in census.entries})[:2]
    return len(census.entries), len(load(census, a_run(), groups))

def peak():
    # Not ru_maxrss: a process starts with its parent's.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

scan(Path(sys.argv[1]))
before = peak()
counted, loaded = scan(Path(sys.argv[2]))
print(peak() - before, counted, loaded)
"""

LONG = [long_canonical, long_parquet, long_verl, long_ms_swift, long_csv]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak")
@pytest.mark.parametrize(
    "size", [60_000_000, pytest.param(400_000_000, marks=pytest.mark.slow)], ids=["60MB", "400MB"]
)
@pytest.mark.parametrize("make", LONG, ids=lambda make: make.__name__)
@pytest.mark.slow
def test_a_file_of_any_length_is_read_in_little_memory(tmp_path, make, size):
    (tmp_path / "short").mkdir()
    (tmp_path / "long").mkdir()
    short, long = make(tmp_path / "short", 10_000_000), make(tmp_path / "long", size)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(short), str(long)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    grown, counted, loaded = map(int, done.stdout.split())
    per_line = 4 if make is long_ms_swift else 1
    assert counted == size // _TEXT * per_line
    assert 0 < loaded <= 8
    # Nothing but what tells one completion from another is kept of each.
    assert grown < 30_000 + counted
