"""Reads parquet files that nobody vouches for: what they stand for is counted first."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from arca_diag.errors import ArcaError
from arca_diag.inputs.pages import survey
from arca_diag.inputs.untrusted import AGAIN, Fault, named, opened, size_of

_CHUNK = 2**20  # bytes that are read ahead
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
    with opened(path, error) as handle:
        try:
            for batch in _batches(handle, columns, limit):
                yield from batch
        except Fault as fault:
            raise error(f"{named(path)}: {fault}", hint=AGAIN) from None


def parquet_columns(path: Path, *, error: type[ArcaError] = ArcaError) -> list[str]:
    """Names of the columns of a parquet file, from its footer alone.

    Raises:
        ArcaError: `error`: the file cannot be read, or has no footer that can be.
    """
    with opened(path, error) as handle:
        try:
            return list(_footer(handle).schema_arrow.names)
        except Exception as fault:  # as when its rows are read
            raise error(f"{named(path)}: not a readable parquet file: {fault}"[:500]) from None


def _batches(
    handle: BinaryIO, columns: Collection[str] | None, limit: int
) -> Iterator[list[dict[str, Any]]]:
    """The rows, in portions of at most `_ROW` bytes."""
    try:
        file, names = _checked(handle, columns, limit)
        left = limit
        for group in range(file.metadata.num_row_groups):
            # Each by itself: Arrow cannot join the nested dictionaries of two.
            batches = file.iter_batches(
                _BATCH, row_groups=[group], columns=names, use_threads=False
            )
            for batch in batches:
                left -= _weight(batch.to_struct_array())
                if left < 0:
                    raise Fault(f"its rows take more than {size_of(limit)}")
                for portion in _portions(batch):
                    yield portion.to_pylist()
    except Fault:
        raise
    except Exception as fault:  # damage surfaces as whatever the decoder trips over
        raise Fault(f"not a readable parquet file: {fault}"[:500]) from None


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
            raise Fault(f"{found:,} {what}, more than {most:,}")
    there = plain.schema_arrow.names
    names = [name for name in there if columns is None or name in columns]
    if not names:
        wanted = "any column" if columns is None else " or ".join(columns)
        raise Fault(f"without {wanted}; it has: {', '.join(there) or 'none'}"[:500])

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
        raise Fault(f"its footer is larger than {size_of(_FOOTER)}")
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
                raise Fault(f"column {leaf.path!r:.100} is encoded as DELTA_BYTE_ARRAY")
            width = leaf.length if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" else 0
            decoded = pages.values * (_VALUE + width)
            if decoded > min(limit // 4, _GROUP) or pages.largest > min(limit // 16, _PAGE):
                raise Fault(
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
                raise Fault(f"its columns take more than {size_of(limit)}")
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
        raise Fault(f"a column of {kind}"[:200])
    if pa.types.is_dictionary(kind):
        if not any(is_kind(kind.value_type) for is_kind in _TEXTS):
            raise Fault(f"a column of {kind}"[:200])
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
        raise Fault(f"a row takes more than {size_of(_ROW)}")
    else:
        half = batch.num_rows // 2
        yield from _portions(batch.slice(0, half))
        yield from _portions(batch.slice(half))
