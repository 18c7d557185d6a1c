"""Reads files that nobody vouches for: within limits of size, depth and memory.

Whatever is in them, the outcome is plain data or a message. The limits lie far above what
trainers write; memory stays within a small multiple of the limit that an argument names.
"""

import json
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from arca_diag.errors import ArcaError
from arca_diag.inputs.pages import survey

_DEPTH = 200  # well below where code that walks a value runs out of stack
_MARKS = 2**23  # commas, colons and brackets: "[[],[]," takes thirty times its size once parsed
_CHUNK = 2**20  # bytes of an over-long line that are skipped at a time

_FOOTER = 16 * 2**20  # bytes
_LISTS_LIMIT = {"thrift_container_size_limit": 100_000}  # of any in a footer: columns, row groups
_COLUMNS = 1_000
_ROWS = 10_000_000
_ROW = 64 * 2**20  # bytes of one row once decoded, as of one line of JSON
_VALUE = 16  # bytes that any value counts for, beside its text
_BATCH = 16  # rows decoded at a time: each may repeat the longest text of a dictionary
_DICTIONARY = 16 * 2**20  # bytes; of a larger dictionary no text is unfolded
_GROUP = 4 * 2**30  # bytes of a column in one row group, whatever all rows may take
_PAGE = 2**28  # bytes of a page, likewise
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_TEXTS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
)


class _Fault(Exception):
    """What is wrong, in words that follow the name of a file or a line."""


def read_json(path: Path, *, limit: int = 16 * 2**20, error: type[ArcaError] = ArcaError) -> Any:
    """The value in a JSON file. It may be of any type, NaN and infinity among its numbers.

    Args:
        path: The file.
        limit: Bytes that it may have.
        error: What is raised.

    Raises:
        ArcaError: `error`: the file cannot be read, is too large, is not UTF-8 or not JSON, is
            nested more than 200 deep, or holds a number or a count of values beyond reason.
    """
    try:
        return _parsed(_content(path, limit, error))
    except _Fault as fault:
        raise error(f"{_named(path)}: {fault}") from None


def read_text(path: Path, *, limit: int = 2**20, error: type[ArcaError] = ArcaError) -> str:
    """The text in a file.

    Args:
        path: The file.
        limit: Bytes that it may have.
        error: What is raised.

    Raises:
        ArcaError: `error`: the file cannot be read, is too large, or is not UTF-8.
    """
    try:
        return _decoded(_content(path, limit, error))
    except _Fault as fault:
        raise error(f"{_named(path)}: {fault}") from None


def read_bytes(path: Path, *, limit: int, error: type[ArcaError] = ArcaError) -> bytes:
    """The content of a file.

    Args:
        path: The file.
        limit: Bytes that it may have.
        error: What is raised.

    Raises:
        ArcaError: `error`: the file cannot be read, or is too large.
    """
    try:
        return _content(path, limit, error)
    except _Fault as fault:
        raise error(f"{_named(path)}: {fault}") from None


def json_lines(
    path: Path, *, limit: int = 64 * 2**20, error: type[ArcaError] = ArcaError
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The objects in a file of one JSON object a line, one at a time. Blank lines are passed over.

    Args:
        path: The file.
        limit: Bytes that a line may have, its end included.
        error: What is raised.

    Yields:
        The line's number, from 1, and its object; or a text that says what is wrong with it.

    Raises:
        ArcaError: `error`: the file cannot be read.
    """
    number = 0
    with _opened(path, error) as handle:
        while raw := handle.readline(limit + 1):
            number += 1
            if len(raw) > limit:
                while raw and not raw.endswith(b"\n"):
                    raw = handle.readline(_CHUNK)
                yield number, f"longer than {_size(limit)}"
            elif raw.strip():
                yield number, _object(raw)


def parquet_rows(
    path: Path,
    *,
    columns: Collection[str] | None = None,
    limit: int = 4 * 2**30,
    error: type[ArcaError] = ArcaError,
) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file as plain Python values, one at a time.

    A file of some kilobytes can stand for terabytes. So the pages, which are what gets decoded,
    are counted before the first is opened (what the footer says of them need not be true);
    text that can recur is decoded to places in a dictionary; and each batch is
    weighed before it is unfolded.

    Args:
        path: The file.
        columns: Names of the columns to read; those that the file lacks are left out. None
            reads all.
        limit: Bytes that all rows together may take: 16 a value, and the text. A single row
            may take 64 MiB of it.
        error: What is raised, also after rows have been yielded.

    Raises:
        ArcaError: `error`: the file cannot be read, is damaged, has none of the columns, or
            stands for more than the limits allow.
    """
    with _opened(path, error) as handle:
        try:
            for batch in _batches(handle, columns, limit):
                yield from batch
        except _Fault as fault:
            raise error(f"{_named(path)}: {fault}") from None


def parquet_columns(path: Path, *, error: type[ArcaError] = ArcaError) -> list[str]:
    """Names of the columns of a parquet file, from its footer alone.

    Raises:
        ArcaError: `error`: the file cannot be read, or has no footer that can be.
    """
    with _opened(path, error) as handle:
        try:
            return list(_footer(handle).schema_arrow.names)
        except Exception as fault:  # as when its rows are read
            raise error(f"{_named(path)}: not a readable parquet file: {fault}"[:500]) from None


def inside(path: Path, root: Path) -> bool:
    """Whether a path lies in a folder once every symbolic link on the way is followed.

    A folder that the Hugging Face cache holds is all links, to blobs/ beside its snapshots/:
    there that counts as inside.
    """
    try:
        real, home = path.resolve(), root.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, a zero byte in the name
        return False
    snapshots = next((p for p in (home, *home.parents) if p.parent.name == "snapshots"), None)
    places = [home] if snapshots is None else [home, snapshots.parent.parent / "blobs"]
    return any(real.is_relative_to(place) for place in places)


def check_inside(path: Path, root: Path, *, error: type[ArcaError] = ArcaError) -> None:
    """Refuse a path that leads out of a folder.

    Raises:
        ArcaError: `error`: it does, or cannot be followed.
    """
    if not inside(path, root):
        raise error(
            f"{_named(path)} leads out of {root.name}",
            hint="put the file itself in place of the link, if you trust it",
        )


def _named(path: Path) -> str:
    """The file with its folder: trainers give every checkpoint files of the same names."""
    return "/".join(path.parts[-2:])


def _size(count: int) -> str:
    return f"{count / 2**20:g} MiB"


def _opened(path: Path, error: type[ArcaError]) -> BinaryIO:
    try:
        # Opening a named pipe would wait for its other end for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise error(f"{_named(path)} is not a regular file")
        return path.open("rb")
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise error(f"{_named(path)} cannot be read: {reason}") from None


def _content(path: Path, limit: int, error: type[ArcaError]) -> bytes:
    with _opened(path, error) as handle:
        raw = handle.read(limit + 1)
    if len(raw) > limit:
        raise _Fault(f"larger than {_size(limit)}")
    return raw


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise _Fault(f"not UTF-8 text: byte {raw[fault.start]:#04x} at {fault.start}") from None


def _object(raw: bytes) -> dict[str, Any] | str:
    try:
        value = _parsed(raw)
    except _Fault as fault:
        return str(fault)
    return value if isinstance(value, dict) else f"not a JSON object but {type(value).__name__}"


def _parsed(raw: bytes) -> Any:
    text = _decoded(raw).removeprefix("\ufeff")
    opened = raw.count(b"[") + raw.count(b"{")
    if opened + raw.count(b",") + raw.count(b":") > _MARKS:
        raise _Fault(f"more than {_MARKS:,} values")
    try:
        value = json.loads(text)
    except RecursionError:
        raise _Fault(f"nested more than {_DEPTH} deep") from None
    except json.JSONDecodeError as fault:
        raise _Fault(f"not valid JSON: {fault}") from None
    except ValueError:
        raise _Fault("a number of thousands of digits") from None
    if opened > _DEPTH and _is_deep(value):
        raise _Fault(f"nested more than {_DEPTH} deep")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEPTH):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, dict | list)
        ]
    return bool(level)


def _batches(
    handle: BinaryIO, columns: Collection[str] | None, limit: int
) -> Iterator[list[dict[str, Any]]]:
    """The rows, in portions of at most `_ROW` bytes."""
    try:
        file, names = _checked(handle, columns, limit)
        left = limit
        for group in range(file.metadata.num_row_groups):
            # Each by itself: Arrow cannot join the nested dictionaries of two.
            for batch in file.iter_batches(_BATCH, row_groups=[group], columns=names):
                left -= _weight(batch.to_struct_array())
                if left < 0:
                    raise _Fault(f"its rows take more than {_size(limit)}")
                for portion in _portions(batch):
                    yield portion.to_pylist()
    except _Fault:
        raise
    except Exception as fault:  # damage surfaces as whatever the decoder trips over
        raise _Fault(f"not a readable parquet file: {fault}"[:500]) from None


def _checked(
    handle: BinaryIO, columns: Collection[str] | None, limit: int
) -> tuple[pq.ParquetFile, list[str]]:
    """The file and the names of the columns to read, once what it stands for is known."""
    plain = _footer(handle)
    metadata, schema = plain.metadata, plain.metadata.schema
    for what, found, most in (
        ("columns", metadata.num_columns, _COLUMNS),
        ("rows", metadata.num_rows, _ROWS),
    ):
        if found > most:
            raise _Fault(f"{found:,} {what}, more than {most:,}")
    there = plain.schema_arrow.names
    names = [name for name in there if columns is None or name in columns]
    if not names:
        wanted = "any column" if columns is None else " or ".join(columns)
        raise _Fault(f"without {wanted}; it has: {', '.join(there) or 'none'}"[:500])

    leaves = {
        i: schema.column(i)
        for i in range(metadata.num_columns)
        if any(f"{schema.column(i).path}.".startswith(f"{name}.") for name in names)
    }
    recurring = _check_pages(handle, metadata, leaves, limit)
    file = pq.ParquetFile(
        handle,
        metadata=metadata,
        read_dictionary=recurring,
        buffer_size=_CHUNK,
        pre_buffer=False,  # else the whole of a row group is held
        **_LISTS_LIMIT,
    )
    return file, names


def _footer(handle: BinaryIO) -> pq.ParquetFile:
    """The file as its footer describes it."""
    end = handle.seek(0, os.SEEK_END)
    handle.seek(max(0, end - 8))
    tail = handle.read(8)
    if tail[4:] == b"PAR1" and int.from_bytes(tail[:4], "little") > _FOOTER:
        raise _Fault(f"its footer is larger than {_size(_FOOTER)}")
    return pq.ParquetFile(handle, **_LISTS_LIMIT)


def _check_pages(handle: BinaryIO, metadata: Any, leaves: dict[int, Any], limit: int) -> list[str]:
    """Hold what the pages stand for to the limits: one of them may be all of one row.

    Returns:
        Columns of which a few bytes can stand for a long text, or a row for many texts. They
        are to be decoded to places in a dictionary, so that a text that recurs is held once;
        which holds all the texts of a row group, so it is not for plain columns.
    """
    size = unfolded = 0
    recurring = set()
    for group in range(metadata.num_row_groups):
        for index, leaf in leaves.items():
            chunk = metadata.row_group(group).column(index)
            if chunk.num_values == 0:  # no page of it is opened, and pyarrow names a false place
                continue
            starts = [chunk.data_page_offset]
            if chunk.has_dictionary_page and chunk.dictionary_page_offset > 0:
                starts.append(chunk.dictionary_page_offset)
            pages = survey(handle, min(starts), chunk.total_compressed_size)
            if pages.unfolds:
                raise _Fault(f"column {leaf.path!r:.100} is encoded as DELTA_BYTE_ARRAY")
            width = leaf.length if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" else 0
            decoded = pages.values * (_VALUE + width)
            if decoded > min(limit // 4, _GROUP) or pages.largest > min(limit // 16, _PAGE):
                raise _Fault(
                    f"column {leaf.path!r:.100} holds {pages.values:,} values in one row group "
                    f"and {pages.largest:,} bytes in one page"
                )
            if leaf.physical_type == "BYTE_ARRAY" and (
                leaf.max_repetition_level or pages.dictionary > _DICTIONARY
            ):
                recurring.add(leaf.path)
            size += pages.size
            unfolded += decoded
            if max(size, unfolded) > limit:
                raise _Fault(f"its columns take more than {_size(limit)}")
    return sorted(recurring)


def _weight(array: Any) -> int:
    """Bytes that the values of an Arrow array stand for: 16 each, and every text in full."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _weight(array.storage)
    if pa.types.is_struct(kind):
        return _VALUE * len(array) + sum(_weight(field) for field in array.flatten())
    if pa.types.is_map(kind):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        pairs = (side.slice(first, last - first) for side in (array.keys, array.items))
        return _VALUE * len(array) + sum(_weight(side) for side in pairs)
    if any(is_kind(kind) for is_kind in _LISTS):
        return _VALUE * len(array) + _weight(array.flatten())
    if pa.types.is_nested(kind):
        raise _Fault(f"a column of {kind}"[:200])
    if pa.types.is_dictionary(kind):
        if not any(is_kind(kind.value_type) for is_kind in _TEXTS):
            raise _Fault(f"a column of {kind}"[:200])
        lengths = pc.binary_length(array.dictionary).take(array.indices)
    elif any(is_kind(kind) for is_kind in _TEXTS):
        lengths = pc.binary_length(array)
    else:
        return _VALUE * len(array)
    return _VALUE * len(array) + int(pc.sum(lengths).as_py() or 0)


def _portions(batch: Any) -> Iterator[Any]:
    if _weight(batch.to_struct_array()) <= _ROW:
        yield batch
    elif batch.num_rows == 1:
        raise _Fault(f"a row takes more than {_size(_ROW)}")
    else:
        half = batch.num_rows // 2
        yield from _portions(batch.slice(0, half))
        yield from _portions(batch.slice(half))
