"""Records of a batch as columns: where in its bytes key, value and last header of each lie. Knows their layout, no client.

An object for each record, its key, its value and its headers is half of what reading costs whoever wants a million of them.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import NamedTuple

from aiokafka.record.util import decode_varint

PADDING = bytes(10)  # behind the records: the client's reader of numbers looks as far beyond what it is given


# Where a record's key, value and last header's value begin and end; a key or a value that ends before it begins is null.
RecordBounds = tuple[int, int, int, int, int, int]  # no NamedTuple: a name costs each record 0.3 us


class RecordColumns(NamedTuple):
    """Records that follow each other, in `data`; of their headers all but the value of the last are alike."""

    data: bytes
    offsets: list[int]
    times: list[int]
    bounds: list[RecordBounds]

    @property
    def offset(self) -> int:
        """Of the last record: the client's fetcher goes on behind it."""
        return self.offsets[-1]

    def within(self, start: int, end: int | None) -> RecordColumns:
        """Those at offsets [start, end)."""
        first = bisect_left(self.offsets, start)
        last = len(self.offsets) if end is None else bisect_left(self.offsets, end)
        if last - first == len(self.offsets):
            return self
        return RecordColumns(self.data, self.offsets[first:last], self.times[first:last], self.bounds[first:last])


def headers_head(*headers: tuple[str, bytes], last: str) -> bytes:
    """How the headers of a record begin that are `headers` and then one named `last`, up to the length of its value."""
    parts = [part for name, value in headers for part in (name.encode(), value)]
    return bytes([2 * (len(headers) + 1)]) + b"".join(bytes([2 * len(part)]) + part for part in (*parts, last.encode()))


def columns_of(
    data: bytes, count: int, head: bytes, base_offset: int, first_time: int, append_time: int | None
) -> RecordColumns | None:
    """The `count` records in `data`, each behind its length, with PADDING behind the last. `head`: how the headers of each begin
    (`headers_head`); `append_time` is the time of each where the broker gave it. None where one is laid out otherwise, has other
    headers, or offsets do not rise: then each is to be looked at by itself."""
    offsets: list[int] = []
    times: list[int] = []
    bounds: list[RecordBounds] = []
    size, at, long = len(data) - len(PADDING), 0, len(head)
    try:
        for _ in range(count):
            length, at = decode_varint(data, at)
            end = at + length
            delta, at = decode_varint(data, at + 1)
            offset, at = decode_varint(data, at)
            key_size, key = decode_varint(data, at)
            key_end = key + key_size
            if key_end > size:
                return None
            value_size, value = decode_varint(data, key_end if key_size >= 0 else key)
            value_end = value + value_size
            headers = value_end if value_size >= 0 else value
            if headers + long >= end or end > size or not data.startswith(head, headers):
                return None
            header_size, header = decode_varint(data, headers + long)
            if header_size < 0 or header + header_size != end:
                return None
            offsets.append(base_offset + offset)
            times.append(first_time + delta if append_time is None else append_time)
            bounds.append((key, key_end, value, value_end, header, end))
            at = end
    except ValueError:  # a number without end
        return None
    if not all(one < other for one, other in pairwise(offsets)):
        return None
    return RecordColumns(data, offsets, times, bounds)
