"""Segments of the lake: records of one partition as a Parquet file, written once, read back exactly. Knows no manifest, no Kafka.

A record is its columns: coordinates, append time, key and value as text, who wrote it (`origin`), and the ids that lineage goes
along, read out of the value so that a search looks at one narrow column. What is no text, and headers that are not the two that
stages write, stand in `odd` (msgpack), so that every record comes back byte for byte. A value that is no event has no
`event_type`; its text is kept in `odd` alone, so that nothing that reads JSON meets it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pyarrow
import pyarrow.parquet

from headrace_lake.log import LogRecord
from headrace_lake.segment import COLUMNS, IDS, Segment
from headrace_schemas.cloudevents import STRUCTURED, structured
from headrace_schemas.errors import DecodeError
from headrace_streams import durable_file
from headrace_streams.adapter_files import file_sha256
from headrace_streams.kafka.record_columns import RecordColumns, headers_head
from headrace_streams.runtime.provenance import ORIGIN, Headers, provenance_of

GROUP_BYTES = 4 * 1024 * 1024  # of values in one row group: what a reader holds of a file at once
_RECORD_BYTES = 400  # of a record in columns, beside its key and value

_ARROW = {"VARCHAR": pyarrow.string(), "INTEGER": pyarrow.int32(), "BIGINT": pyarrow.int64(), "BLOB": pyarrow.binary()}
_ARROW |= {"TIMESTAMP_MS": pyarrow.timestamp("ms"), "VARCHAR[]": pyarrow.list_(pyarrow.string())}
_text, _int = pyarrow.string(), pyarrow.int64()
SCHEMA = pyarrow.schema([(name, _ARROW[kind]) for name, kind in COLUMNS.items()])
HEAD = headers_head(STRUCTURED, last=ORIGIN)  # how the headers begin of what stages write
# Sought one at a time, and almost another in each record: a row group says by a filter that it has not the one that is asked for.
# A key is one of them, or a bucket, where it is not a foreign id, a session or a place.
_SOUGHT = ("event_id", "interaction_id", "example_id", "data_subject")
_RARE = "event_type"  # of some types, such as what people ask for, there are few, and most row groups have none
_KINDS = 32
_KEYED = ("refs", "sessions", "dead-letters")
_FALSE = 0.03  # of the row groups that have it not, those that are read all the same
_REPEATED = ["topic", "origin", "event_type", "source", "bucket", "batch_id", "run_id", "version_id"]


class _Member(msgspec.Struct, gc=False):
    example_id: str


class _Data(msgspec.Struct, gc=False):
    revision: int | None = None
    interaction_id: str | None = None
    example_id: str | None = None
    batch_id: str | None = None
    run_id: str | None = None
    version_id: str | None = None
    evaluation_id: str | None = None
    release_id: str | None = None
    bucket: str | None = None
    data_subject: str | None = None
    members: list[_Member] | None = None
    test_pool: list[_Member] | None = None
    validation_pool: list[_Member] | None = None
    rehearsal: list[_Member] | None = None
    prompts: list[_Member] | None = None
    prompt_id: str | None = None


class _Event(msgspec.Struct, gc=False):
    type: str | None
    id: str | None
    source: str | None
    data: _Data
    time: str | None = None


_POOLS = ("members", "test_pool", "validation_pool", "rehearsal", "prompts")
_DECODER = msgspec.json.Decoder(_Event)
_NOTHING = _Event(type=None, id=None, source=None, data=_Data())


class SegmentColumns:
    """Records of one partition on their way into a segment. `bytes` is about what they take in memory; `raw_bytes` of keys and
    values. Keys and values stay in the bytes that they came in until the columns are made."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic, self.partition = topic, partition
        self.bytes = self.raw_bytes = 0
        self._parts: list[bytes] = []
        self._size = 0  # of the parts
        self._offsets: list[int] = []
        self._times: list[int] = []
        self._keys = _Slices()
        self._values = _Slices()
        self._origins: list[str | None] = []
        self._events: list[_Event] = []
        self._odds: dict[int, bytes] = {}  # by number of the record

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, offset: int, time_ms: int, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """The next record of the partition, as it lies on the log."""
        origin: str | None = None
        odd: dict[str, Any] = {}
        plain = len(headers) == 2 and headers[0] == STRUCTURED and headers[1][0] == ORIGIN
        if plain and (written := headers[1][1]) is not None and written.isascii():
            origin = written.decode()
        else:
            odd["headers"] = [list(header) for header in headers]
            if (source := provenance_of(headers)) is not None:
                origin = "/".join(map(str, source))
        event = _event(value, () if plain else headers)
        size = len(key or b"") + len(value or b"")
        if event is _NOTHING and value is not None:
            odd["value"], value = value, None
        if key is not None and not _is_text(key):
            odd["key"], key = key, None
        if odd:
            self._odds[len(self)] = msgspec.msgpack.encode(odd)
        middle, end = len(key or b""), len(key or b"") + len(value or b"")
        self._keys.add(self._size, [0, -1 if key is None else middle])
        self._values.add(self._size, [middle, -1 if value is None else end])
        self._offsets.append(offset)
        self._times.append(time_ms)
        self._origins.append(origin)
        self._events.append(event)
        self.raw_bytes += size
        self.bytes += size - end
        self._took((key or b"") + (value or b""), 1)

    def add_columns(self, columns: RecordColumns) -> None:
        """The next records of the partition, whose headers are HEAD and an origin."""
        data, first = columns.data, len(self)
        keys: list[int] = []
        values: list[int] = []
        for number, (key, key_end, value, value_end, header, header_end) in enumerate(columns.bounds, first):
            raw, name, written = data[value:value_end], data[key:key_end], data[header:header_end]
            odd: dict[str, Any] = {} if written.isascii() else {"headers": [list(STRUCTURED), [ORIGIN, written]]}
            self.raw_bytes += len(raw) + len(name)
            event = _NOTHING if value > value_end else _event(raw, ())
            if event is _NOTHING and value <= value_end:
                odd["value"], value_end = raw, value - 1
            if not name.isascii() and not _is_text(name):
                odd["key"], key_end = name, key - 1
            if odd:
                self._odds[number] = msgspec.msgpack.encode(odd)
            self._origins.append(None if "headers" in odd else written.decode())
            self._events.append(event)
            keys += (key, key_end)
            values += (value, value_end)
        self._keys.add(self._size, keys)
        self._values.add(self._size, values)
        self._offsets += columns.offsets
        self._times += columns.times
        self._took(data, len(columns.offsets))

    def _took(self, part: bytes, records: int) -> None:
        """Records whose texts lie in `part`."""
        self._parts.append(part)
        self._size += len(part)
        self.bytes += len(part) + _RECORD_BYTES * records

    def table(self) -> pyarrow.Table:
        events, count = self._events, len(self._events)
        data = [event.data for event in events]
        raw = pyarrow.py_buffer(b"".join(self._parts))
        pools = [[getattr(one, name) for one in data] for name in _POOLS]
        lists = [_example_ids(*named) for named in zip(*pools, strict=True)] if any(map(any, pools)) else None
        columns: dict[str, Any] = {
            "topic": pyarrow.repeat(self.topic, count),
            "partition": pyarrow.repeat(pyarrow.scalar(self.partition, pyarrow.int32()), count),
            "log_offset": self._offsets,
            "appended_at": pyarrow.array(self._times, _int).cast(pyarrow.timestamp("ms")),
            "key": self._keys.of(raw),
            "value": self._values.of(raw),
            "origin": self._origins,
            "odd": [self._odds.get(number) for number in range(count)] if self._odds else pyarrow.nulls(count, pyarrow.binary()),
            "event_type": [event.type for event in events],
            "event_id": [event.id for event in events],
            "source": [event.source for event in events],
            "event_time": [event.time for event in events],
            "example_ids": lists or pyarrow.nulls(count, SCHEMA.field("example_ids").type),
        }
        columns |= {name: [getattr(one, name) for one in data] for name in ("revision", *IDS)}
        # Batches and withdrawals name a drawn prompt where they name an example.
        columns["example_id"] = [one.example_id or one.prompt_id for one in data]
        return pyarrow.Table.from_arrays([_array(columns[field.name], field) for field in SCHEMA], schema=SCHEMA)


class _Slices:
    """Where texts begin and end in some bytes, in order; null where one ends before it begins."""

    def __init__(self) -> None:
        self._bounds: list[Any] = []  # arrays

    def add(self, base: int, bounds: list[int]) -> None:
        """Of one text after the other, from `base` on, where it begins and ends."""
        self._bounds.append(numpy.array(bounds, numpy.int32) + base)

    def of(self, raw: pyarrow.Buffer) -> pyarrow.Array:
        """The texts as a column. What lies between them are texts of another one, of which every other is taken."""
        bounds = numpy.concatenate(self._bounds).astype(numpy.int32).reshape(-1, 2)
        null = bounds[:, 1] < bounds[:, 0]
        bounds[:, 1] = bounds.max(axis=1)
        parts = [None, pyarrow.py_buffer(bounds), raw]
        both = pyarrow.Array.from_buffers(pyarrow.binary(), bounds.size - 1, parts)
        return both.take(pyarrow.array(numpy.arange(0, bounds.size, 2), mask=null)).cast(_text)


def _example_ids(*pools: list[_Member] | None) -> list[str] | None:
    """Of a batch and of a run: what they name."""
    return [member.example_id for pool in pools for member in pool or ()] or None


def _array(column: Any, field: Any) -> Any:
    return column if isinstance(column, pyarrow.Array) else pyarrow.array(column, field.type)


def _is_text(raw: bytes) -> bool:
    if raw.isascii():
        return True
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _event(value: bytes | None, headers: Headers) -> _Event:
    """What a value says, as far as columns need it; `_NOTHING` for one that is no event in structured mode."""
    if value is None:
        return _NOTHING
    try:
        if (not headers or structured(value, headers) is value) and _is_text(value):
            return _DECODER.decode(value)
    except (DecodeError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return _NOTHING


def write_segment(folder: Path, tables: Iterable[pyarrow.Table], start: int, end: int) -> Segment:
    """The segment of `tables`, which are not empty and whose offsets rise within [start, end). It is on disk, whole and under its
    name, when this returns; OSError, and nothing left, when it can't be."""
    temporary = folder / f".{os.getpid()}.writing"
    records = raw = 0
    first_ms = last_ms = 0
    topic, partition = "", 0
    try:
        with ExitStack() as stack:
            writer: Any = None
            for table in tables:
                size = _raw_bytes(table)
                rows = max(1, len(table) * GROUP_BYTES // max(size, GROUP_BYTES))
                if writer is None:
                    topic, partition = table["topic"][0].as_py(), table["partition"][0].as_py()
                    first_ms = table["appended_at"][0].cast(_int).as_py()
                    writer = stack.enter_context(_writer(temporary, topic, table, rows))
                last_ms = table["appended_at"][-1].cast(_int).as_py()
                records, raw = records + len(table), raw + size
                writer.write_table(table, row_group_size=rows)
        found, status = file_sha256(temporary), temporary.stat()
        segment = Segment(
            topic=topic,
            partition=partition,
            start=start,
            end=end,
            records=records,
            raw_bytes=raw,
            size_bytes=status.st_size,
            first_ms=first_ms,
            last_ms=last_ms,
            sha256=found,
            modified_ns=status.st_mtime_ns,
        )
        durable_file.replace(temporary, folder / segment.file)
        return segment
    finally:
        temporary.unlink(missing_ok=True)


def _writer(path: Path, topic: str, first: pyarrow.Table, rows: int) -> pyarrow.parquet.ParquetWriter:
    """For tables such as the `first`, of which a row group has about so many `rows`."""
    sought = [*_SOUGHT, *(("key",) if topic in _KEYED else ())]
    filters = {name: {"ndv": rows, "fpp": _FALSE} for name in sought if first[name].null_count < len(first)}
    filters[_RARE] = {"ndv": _KINDS, "fpp": _FALSE}
    return pyarrow.parquet.ParquetWriter(
        path, SCHEMA, compression="zstd", use_dictionary=_REPEATED, write_page_checksum=True, bloom_filter_options=filters
    )


def _raw_bytes(table: pyarrow.Table) -> int:
    lengths = (pyarrow.compute.sum(pyarrow.compute.binary_length(table[name])).as_py() for name in ("key", "value"))
    return sum(length or 0 for length in lengths)


def tables_of(path: Path) -> Iterator[pyarrow.Table]:
    """The row groups of a segment's file, one at a time."""
    with pyarrow.parquet.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number)


def records_of(path: Path, start: int, end: int) -> Iterator[LogRecord]:
    """The records of a segment's file at offsets [start, end), as they lay on the log."""
    with pyarrow.parquet.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            bounds = file.metadata.row_group(number).column(SCHEMA.get_field_index("log_offset")).statistics
            if bounds is not None and bounds.has_min_max and (bounds.max < start or bounds.min >= end):
                continue
            columns = ["topic", "partition", "log_offset", "appended_at", "key", "value", "origin", "odd"]
            table = file.read_row_group(number, columns=columns)
            for row in zip(*(_values(table[name]) for name in columns), strict=True):
                if start <= row[2] < end:
                    yield _record(*row)


def _values(column: Any) -> list[Any]:
    values: list[Any] = (column.cast(_int) if column.type == SCHEMA.field("appended_at").type else column).to_pylist()
    return values


def _record(
    topic: str, partition: int, offset: int, time: int, key: str | None, value: str | None, origin: str | None, odd: bytes | None
) -> LogRecord:
    rest: dict[str, Any] = {} if odd is None else msgspec.msgpack.decode(odd)
    headers = (
        tuple((name, content) for name, content in rest["headers"])
        if "headers" in rest
        else (STRUCTURED, (ORIGIN, (origin or "").encode()))
    )
    raw_key = rest["key"] if "key" in rest else None if key is None else key.encode()
    raw_value = rest["value"] if "value" in rest else None if value is None else value.encode()
    return LogRecord(topic, partition, offset, time, raw_key, raw_value, headers)
