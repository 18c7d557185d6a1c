"""What no trainer writes: values of every wrong kind, for every field of a format."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import READERS, Reader, Sample
from arca_diag.inputs.rollouts.census import find_source, load, take_census
from arca_diag.inputs.rollouts.record import Notes
from tests.inputs import a_run

#: As they stand in a file; a reader must take each for a value of its field, or refuse it.
ODD = (
    "null",
    "true",
    "0",
    "-1",
    "7",
    "0.5",
    "NaN",
    "-Infinity",
    "1e308",
    "1" + "0" * 400,
    str(2**63),
    '""',
    '"text"',
    '"10"',
    r'"\ud800"',
    "[]",
    "[null]",
    "[[]]",
    "[{}]",
    '[""]',
    "[1, 2]",
    "[1, 2, 3, 4]",
    "[-1, 1e400, true]",
    "[1" + "0" * 400 + ", 1e308]",
    '["a", null]',
    r'["\ud800", "\ud800"]',
    '[{"role": "user"}, 5]',
    '[{"role": "assistant", "content": "x"}]',
    '[{"role": [], "content": {}}]',
    "{}",
    '{"tokens": [1]}',
    '{"iteration": "x", "role": {}}',
    "[" * 900 + "]" * 900,
    "[" * 100_000 + "]" * 100_000,
    '{"a": ' * 100_000 + "1" + "}" * 100_000,
)


def spoilt(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Lines in which one field is missing or has an odd value, each with a name for it."""
    for field in record:
        rest = {key: value for key, value in record.items() if key != field}
        yield f"{field} missing", json.dumps(rest)
        for value in ODD:
            # Spliced in at its place: a sniff may look at the first fields only.
            pairs = [
                f"{json.dumps(key)}: {value if key == field else json.dumps(own)}"
                for key, own in record.items()
            ]
            yield f"{field}={value:.20}", "{" + ", ".join(pairs) + "}"


def samples_of(
    path: Path, reader: Reader | None = None, **run: Any
) -> tuple[list[Sample], Notes, Reader]:
    """What the reader that takes `path` for its own (or the one given) makes of it."""
    described, notes = a_run(**run), Notes()
    source = find_source(path, described, READERS if reader is None else (reader,))
    assert source is not None
    return list(source.reader.read(path, described, notes)), notes, source.reader


def is_clean_or_refused(path: Path, reader: Reader, **run: Any) -> bool:
    """Count and load everything; True if something was read, and what was read is sound."""
    described = a_run(**run)
    try:
        source = find_source(path, described, (reader,))
        assert source is not None
        census = take_census(source, described, skip_bad_lines=False)
        loaded = load(census, described, {entry.group_id for entry in census.entries})
    except RolloutError as error:
        if len(str(error)) > 20_000:
            raise AssertionError("a message that nobody reads") from error
        return False
    for sample in loaded.values():
        assert sample.prompt
        assert sample.completion
        assert sample.reward is None or math.isfinite(sample.reward)
        assert sample.step is None or 0 <= sample.step < 2**63
        f"{sample.id}{sample.group_id}".encode()
        json.dumps([sample.prompt, sample.prompt_text, sample.completion_text]).encode()
    return True
