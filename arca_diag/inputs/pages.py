"""Counts what the pages of a parquet column stand for, without decoding one.

A parquet decoder goes by the header of each page, and a footer that says otherwise does not
stop it: one page of a hundred bytes can hold a row of two billion numbers. pyarrow shows footers
only, so the headers are read here. They are structs of Thrift's compact protocol.

Source:
    https://parquet.apache.org/docs/file-format/ and
    https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from dataclasses import dataclass
from typing import Any, BinaryIO

_WINDOWS = (2**12, 2**16, 2**20)  # bytes read for a header, which may hold two long values
_NESTING = 4  # structs within a header: the page's own, then its statistics
# Fields of a page header.
_TYPE, _UNCOMPRESSED, _COMPRESSED = 1, 2, 3
# Per type of page: the field with its own header, and therein the field with the encoding.
_DATA = {0: (5, 2), 3: (8, 4)}
_INDEX, _DICTIONARY = 1, 2
_VALUES = 1
_DELTA_BYTE_ARRAY = 7


@dataclass(frozen=True, kw_only=True)
class Pages:
    """What the pages of one column chunk claim, which is what a decoder believes.

    Attributes:
        values: Values, absent ones included.
        size: Bytes once decompressed.
        largest: Bytes of the largest page once decompressed.
        dictionary: Bytes of the largest page of a dictionary, whose values pages of data repeat.
        unfolds: Whether text is stored as changes to the text before, so that the size of
            the pages says nothing of the size of the text.
    """

    values: int
    size: int
    largest: int
    dictionary: int
    unfolds: bool


def survey(handle: BinaryIO, start: int, length: int) -> Pages:
    """Go from header to header through `length` bytes of pages.

    Raises:
        ValueError: What is there is no row of pages.
    """
    values, sizes, dictionary, unfolds = 0, [0], 0, False
    at, end = start, start + length
    while at < end:
        header, taken = _header(handle, at)
        kind, packed, size = (header.get(i) for i in (_TYPE, _COMPRESSED, _UNCOMPRESSED))
        if not isinstance(packed, int) or not isinstance(size, int) or min(packed, size) < 0:
            raise ValueError("a page without a size")
        if kind in _DATA:
            own, encoding = _DATA[kind]
            detail = header.get(own)
            detail = detail if isinstance(detail, dict) else {}
            count = detail.get(_VALUES)
            if not isinstance(count, int) or count < 0:
                raise ValueError("a page without a count of values")
            values += count
            unfolds |= detail.get(encoding) == _DELTA_BYTE_ARRAY
        elif kind == _DICTIONARY:
            dictionary = max(dictionary, size)
        elif kind != _INDEX:
            raise ValueError(f"a page of an unknown type {kind}")
        sizes.append(size)
        at += taken + packed
    return Pages(
        values=values,
        size=sum(sizes),
        largest=max(sizes),
        dictionary=dictionary,
        unfolds=unfolds,
    )


def _header(handle: BinaryIO, at: int) -> tuple[dict[int, Any], int]:
    """The fields of the header at a place in the file, and how many bytes it has."""
    for window in _WINDOWS:
        handle.seek(at)
        compact = _Compact(handle.read(window))
        try:
            return compact.struct(_NESTING), compact.at
        except IndexError:
            continue
    raise ValueError("a page header that does not end")


class _Compact:
    """Structs of integers, texts and structs; IndexError where the data ends before they do."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def struct(self, nesting: int) -> dict[int, Any]:
        if nesting == 0:
            raise ValueError("a page header of structs within structs")
        fields: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            field = field + step if step else self._integer()
            fields[field] = self._value(kind, nesting)
        return fields

    def _value(self, kind: int, nesting: int) -> Any:
        if kind in (1, 2):  # a truth value is in its type
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 8:
            length = self._varint()
            self.at += length
            if self.at > len(self.data):
                raise IndexError
            return None
        if kind == 12:
            return self.struct(nesting - 1)
        raise ValueError(f"a page header with a field of type {kind}")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _integer(self) -> int:
        raw = self._varint()
        return (raw >> 1) ^ -(raw & 1)

    def _varint(self) -> int:
        result = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            result |= (byte & 127) << shift
            if byte < 128:
                return result
        raise ValueError("a page header with a number without an end")
