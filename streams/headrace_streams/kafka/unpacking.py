"""Record batches (format v2) unpacked within limits: portion by portion, record by record. Knows format and codecs, no client.

What a batch says of itself (sizes, counts) is never taken for room to reserve. A record that is over the limits, lies beyond what
a batch may unpack to, or can't be read, is given out as a record all the same, with an UnreadValue in the place of its value:
each offset is accounted for, and the good records around it get through.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch

from headrace_schemas.json_limits import RECORD_LIMIT
from headrace_streams.kafka.batch_stream import HEADERS_LIMIT, RECORD_BYTES, BatchStream, nullable, ordinary, varint
from headrace_streams.kafka.decompression import BatchFault, portions
from headrace_streams.kafka.record_columns import PADDING, RecordColumns, columns_of

_KEY_BYTES = 4096  # of a key that is given out without its value
_AT_ONCE = 4096  # records of a batch that is not packed, which are read where they lie: as objects they are 200 bytes more each
_LETTER_BYTES = 1024  # that a record which is not read counts for: it becomes a dead letter

_HEADER = struct.Struct(">qiibIhiqqqhii")  # up to the number of records, which stands last
_ATTRIBUTES_AT, _COUNT_AT = 21, 57
_CODEC, _LOG_APPEND_TIME = 0x07, 0x08
_BROKEN = (UnicodeDecodeError, CorruptRecordException, ValueError, IndexError)  # what the client's reader raises


class UnreadValue(bytes):
    """Stands for the value of a record that was not read, and is empty: `code` and `message` say why, as a dead letter does."""

    code: str
    message: str

    def __new__(cls, code: str, message: str) -> UnreadValue:
        made = super().__new__(cls)
        made.code, made.message = code, message
        return made


class RecordRun(NamedTuple):
    """Records that follow each other, in the place of a record."""

    records: Sequence[Any]

    @property
    def offset(self) -> int:
        """Of the last."""
        return int(self.records[-1].offset)


class BatchHeader(NamedTuple):
    """What a batch says of itself."""

    base_offset: int
    last_offset: int
    codec: int
    log_append_time: bool
    first_timestamp: int
    max_timestamp: int
    records: int


class UnpackedRecord(NamedTuple):
    """A record as the client's fetcher expects it."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    checksum: None = None


def header_of(batch: bytes | memoryview) -> BatchHeader:
    """The header of a batch. struct.error when it is shorter than one."""
    base, _, _, _, _, attributes, last, first, newest, _, _, _, count = _HEADER.unpack_from(batch)
    return BatchHeader(base, base + max(last, 0), attributes & _CODEC, bool(attributes & _LOG_APPEND_TIME), first, newest, count)


def unread(header: BatchHeader, offsets: range, code: str, message: str, key: bytes | None = b"") -> Iterator[UnpackedRecord]:
    """A record for each of `offsets` that says why it was not read; without its key where that is not known either."""
    for offset in offsets:
        yield UnpackedRecord(offset, _time(header, 0), int(header.log_append_time), key, UnreadValue(code, message), ())


def unpack(batch: bytes | memoryview, spent: Callable[[int], None] = lambda size: None) -> Iterator[Any]:
    """The records of a batch whose checksum is right, in order. `spent` hears of unpacked bytes before they are given out.

    Raises nothing for what the batch holds."""
    header = header_of(batch)
    return _checked(header, _runs(header, batch, spent), spent)


def unpack_runs(batch: bytes | memoryview, spent: Callable[[int], None] = lambda size: None) -> Iterator[Any]:
    """As `unpack`, but as many records at once as RecordRun as are unpacked at once; others one by one, and each as soon as it is
    read: what comes behind it may be the end of the batch."""
    header = header_of(batch)
    last = None if _is_dense(header) else header.last_offset

    def runs() -> Iterator[Iterable[Any]]:
        for records in _runs(header, batch, spent):
            yield [RecordRun(records)] if isinstance(records, list) and _follow(records, last) else records

    return _checked(header, runs(), spent)


def _follow(records: Sequence[Any], last: int | None) -> bool:
    """Whether there are some, and the offset of each follows that of the one before, up to `last` at most."""
    if not records:
        return False
    first = records[0].offset
    return [record.offset for record in records] == list(range(first, first + len(records))) and (
        last is None or first + len(records) - 1 <= last
    )


def unpack_columns(batch: bytes | memoryview, head: bytes, spent: Callable[[int], None] = lambda size: None) -> Iterator[Any]:
    """As `unpack`, but many records at once as RecordColumns, whose headers begin with `head`; others one by one."""
    header = header_of(batch)
    return _checked(header, _column_runs(header, batch, head, spent), spent)


def _checked(header: BatchHeader, runs: Iterator[Iterable[Any]], spent: Callable[[int], None]) -> Iterator[Any]:
    """What `runs` give, as long as offsets follow each other; for what is left behind the first fault, records that say so."""
    expected, last = header.base_offset, header.last_offset
    dense = _is_dense(header)
    try:
        for records in runs:
            for record in records:
                if type(record) is RecordRun:
                    offset = record.records[0].offset
                else:
                    offset = record.offsets[0] if type(record) is RecordColumns else record.offset
                if offset != expected and (dense or not expected < offset <= last):
                    raise BatchFault("corrupt", f"batch: offset {offset} stands where {expected} should")
                yield record
                expected = record.offset + 1
    except BatchFault as fault:
        for record in unread(header, range(expected, last + 1), fault.code, f"{fault.message} (not carried)"):
            spent(_LETTER_BYTES)
            yield record


def _is_dense(header: BatchHeader) -> bool:
    """Whether nothing was compacted away: offsets follow each other."""
    return header.last_offset - header.base_offset + 1 == header.records


def _runs(header: BatchHeader, batch: bytes | memoryview, spent: Callable[[int], None]) -> Iterator[Iterable[Any]]:
    """Runs of ordinary records, as aiokafka's fast reader reads them, and what stands out one by one."""
    body, whole = _HEADER.size, (len(batch), header.records)
    small = len(batch) - body < 2 * HEADERS_LIMIT  # nothing in it can stand out
    if header.codec == 0 and (small or (header.records <= _AT_ONCE and ordinary(batch, body, header.records) == whole)):
        with contextlib.suppress(*_BROKEN):
            records = list(DefaultRecordBatch(batch))
            spent(len(batch))
            yield records
            return
    for run, count in _stream(header, batch, spent, head=_plain_head(batch)):
        yield from _read(header, run, count) if count else [run]


def _column_runs(
    header: BatchHeader, batch: bytes | memoryview, head: bytes, spent: Callable[[int], None]
) -> Iterator[Iterable[Any]]:
    """The same as columns."""
    plain, dense = _plain_head(batch), _is_dense(header)
    times = header.first_timestamp, header.max_timestamp if header.log_append_time else None
    for run, count in _stream(header, batch, spent, padding=PADDING):
        columns = columns_of(run, count, head, header.base_offset, *times) if count else None
        if columns is not None and (
            columns.offset - columns.offsets[0] == count - 1 if dense else columns.offset <= header.last_offset
        ):
            yield [columns]
        elif count:
            yield from _read(header, plain + count.to_bytes(4, "big") + run[: -len(PADDING)], count)
        else:
            yield run


def _plain_head(batch: bytes | memoryview) -> bytes:
    """The header of an uncompressed batch of the same kind, up to the number of its records."""
    head = bytearray(batch[:_COUNT_AT])
    head[_ATTRIBUTES_AT + 1] &= ~_CODEC & 0xFF
    return bytes(head)


def _stream(
    header: BatchHeader, batch: bytes | memoryview, spent: Callable[[int], None], head: bytes = b"", padding: bytes = b""
) -> Iterator[tuple[Any, int]]:
    """The bytes of ordinary records that follow each other, as `BatchStream.run` gives them, and their number; and, with 0, each
    record that stands out."""
    stream = BatchStream(portions(header.codec, memoryview(batch)[_HEADER.size :]))
    ahead = header.records
    while ahead > 0:
        run, count = stream.run(ahead, head, padding)
        if count:
            spent(len(run))
            yield run, count
            ahead -= count
        elif not stream.read():
            yield _single(header, stream, spent), 0
            ahead -= 1


def _read(header: BatchHeader, data: bytes, count: int) -> Iterator[Iterable[Any]]:
    """The `count` records of a batch that is not packed: by the fast reader, from where it fails on by ours."""
    made: list[Any] = []
    try:
        made.extend(DefaultRecordBatch(data))
        yield made
    except _BROKEN:
        yield made  # which came before it
        position = _HEADER.size
        for number in range(count):
            length, position = varint(data, position)
            if number >= len(made):
                yield [_parsed(header, data[position : position + length])]
            position += length


def _single(header: BatchHeader, stream: BatchStream, spent: Callable[[int], None]) -> Iterator[UnpackedRecord]:
    """The next record, which is too large, has too many headers or reaches beyond the end."""
    length = stream.number()
    if length < 0:
        raise BatchFault("corrupt", f"batch: a record of {length} bytes")
    if length <= RECORD_BYTES:
        spent(length)
        yield _parsed(header, stream.take(length))
        return
    end = stream.position + length
    stream.skip(1)
    stream.number()  # time
    offset = header.base_offset + stream.number()
    key = max(0, stream.number())
    known = stream.take(key) if key <= _KEY_BYTES else b""
    stream.skip(key - len(known))
    value = max(0, stream.number())
    if stream.position + value > end:
        raise BatchFault("corrupt", f"batch: a value of {value} bytes in a record of {length}")
    # as an event over the limit has always been refused: what is left of the length are the headers and their number
    size = key + value + max(0, end - stream.position - value - 1)
    message = f"record: {value} bytes, at most {RECORD_LIMIT} are allowed (record of {size} bytes not carried)"
    spent(_LETTER_BYTES)
    yield next(unread(header, range(offset, offset + 1), "over_limit", message, known))
    stream.skip(end - stream.position)


def _parsed(header: BatchHeader, body: bytes) -> UnpackedRecord:
    """A record from its bytes behind the length; where they can't be read, one that says so."""
    offset: int | None = None
    key: bytes | None = b""
    try:
        delta, position = varint(body, 1)
        offset_delta, position = varint(body, position)
        offset = header.base_offset + offset_delta
        key, position = nullable(body, position)
        value, position = nullable(body, position)
        count, position = varint(body, position)
        if count > HEADERS_LIMIT:
            size = len(key or b"") + len(value or b"")
            raise BatchFault(
                "over_limit", f"headers: {count}, at most {HEADERS_LIMIT} are allowed (record of {size} bytes not carried)"
            )
        headers: list[tuple[str, bytes | None]] = []
        for _ in range(count):
            name, position = nullable(body, position)
            content, position = nullable(body, position)
            if name is None:
                raise BatchFault("corrupt", "headers: one without a name (not carried)")
            headers.append((_name(name), content))
        if count < 0 or position != len(body):
            raise BatchFault("corrupt", f"record: {len(body)} bytes, {position} of them read (not carried)")
    except (BatchFault, IndexError) as error:
        if offset is None:
            raise BatchFault("corrupt", "record: its offset can't be read") from None
        code = error.code if isinstance(error, BatchFault) else "corrupt"
        return next(unread(header, range(offset, offset + 1), code, str(error), key))
    return UnpackedRecord(offset, _time(header, delta), int(header.log_append_time), key, value, headers)


def _name(raw: bytes) -> str:
    """A header's name. Brokers take any bytes: those that are no text become question marks."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return bytes(byte if byte < 0x80 else ord("?") for byte in raw).decode()


def _time(header: BatchHeader, delta: int) -> int:
    return header.max_timestamp if header.log_append_time else header.first_timestamp + delta
