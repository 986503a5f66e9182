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
from aiokafka.record.util import decode_varint

from headrace_schemas.json_limits import RECORD_LIMIT
from headrace_schemas.topics import MIB
from headrace_streams.kafka.decompression import BatchFault, portions

RECORD_BYTES = 9 * MIB  # of a record, unpacked: the largest of the topics table, and its headers
BATCH_BYTES = 64 * MIB  # that a batch may unpack to: 16 times what a topic for outsiders takes; bombs have ratios of thousands
HEADERS_LIMIT = 1_000  # of a record: two bytes on the wire are a hundred as objects
_KEY_BYTES = 4096  # of a key that is given out without its value
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
    expected, last = header.base_offset, header.last_offset
    whole = last - expected + 1 == header.records  # nothing was compacted away: offsets follow each other
    try:
        for records in _runs(header, batch, spent):
            for record in records:
                offset = record.offset
                if offset != expected and (whole or not expected < offset <= last):
                    raise BatchFault("corrupt", f"batch: offset {offset} stands where {expected} should")
                yield record
                expected = offset + 1
    except BatchFault as fault:
        for record in unread(header, range(expected, last + 1), fault.code, f"{fault.message} (not carried)"):
            spent(_LETTER_BYTES)
            yield record


def _runs(header: BatchHeader, batch: bytes | memoryview, spent: Callable[[int], None]) -> Iterator[Iterable[Any]]:
    """Runs of ordinary records, as aiokafka's fast reader reads them, and what stands out one by one."""
    if header.codec == 0 and len(batch) - _HEADER.size < 2 * HEADERS_LIMIT:  # nothing in it can stand out
        with contextlib.suppress(*_BROKEN):
            records = list(DefaultRecordBatch(bytes(batch)))
            spent(len(batch))
            yield records
            return
    stream = _Stream(portions(header.codec, memoryview(batch)[_HEADER.size :]))
    template = bytearray(batch[: _HEADER.size])
    template[_ATTRIBUTES_AT + 1] &= ~_CODEC & 0xFF
    ahead = header.records
    while ahead > 0:
        run, count = stream.run(ahead)
        if count:
            spent(len(run))
            template[_COUNT_AT : _COUNT_AT + 4] = count.to_bytes(4, "big")
            yield from _read(header, bytes(template) + run, count)
            ahead -= count
        elif not stream.read():
            yield _single(header, stream, spent)
            ahead -= 1


def _read(header: BatchHeader, data: bytes, count: int) -> Iterator[Iterable[Any]]:
    """An uncompressed batch of `count` records of known lengths: by the fast reader, from where it fails on by ours."""
    made: list[Any] = []
    try:
        made.extend(DefaultRecordBatch(data))
        yield made
    except _BROKEN:
        yield made  # which came before it
        position = _HEADER.size
        for number in range(count):
            length, position = _varint(data, position)
            if number >= len(made):
                yield [_parsed(header, data[position : position + length])]
            position += length


def _single(header: BatchHeader, stream: _Stream, spent: Callable[[int], None]) -> Iterator[UnpackedRecord]:
    """The next record, which is too large, has too many headers or reaches beyond the end."""
    length = stream.varint()
    if length < 0:
        raise BatchFault("corrupt", f"batch: a record of {length} bytes")
    if length <= RECORD_BYTES:
        spent(length)
        yield _parsed(header, stream.take(length))
        return
    end = stream.position + length
    stream.skip(1)
    stream.varint()  # time
    offset = header.base_offset + stream.varint()
    key = max(0, stream.varint())
    known = stream.take(key) if key <= _KEY_BYTES else b""
    stream.skip(key - len(known))
    value = max(0, stream.varint())
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
        delta, position = _varint(body, 1)
        offset_delta, position = _varint(body, position)
        offset = header.base_offset + offset_delta
        key, position = _nullable(body, position)
        value, position = _nullable(body, position)
        count, position = _varint(body, position)
        if count > HEADERS_LIMIT:
            size = len(key or b"") + len(value or b"")
            raise BatchFault(
                "over_limit", f"headers: {count}, at most {HEADERS_LIMIT} are allowed (record of {size} bytes not carried)"
            )
        headers: list[tuple[str, bytes | None]] = []
        for _ in range(count):
            name, position = _nullable(body, position)
            content, position = _nullable(body, position)
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


def _varint(buffer: bytes | bytearray, position: int) -> tuple[int, int]:
    """A zigzag number and where it ends. IndexError at the end of `buffer`; BatchFault when it has more than 64 bits."""
    number = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number >> 1 ^ -(number & 1), position
        shift += 7
        if shift > 63:
            raise BatchFault("corrupt", "batch: a number without end")


def _nullable(body: bytes, position: int) -> tuple[bytes | None, int]:
    length, position = _varint(body, position)
    if length < 0:
        return None, position
    if position + length > len(body):
        raise IndexError(f"record: {length} bytes where {len(body) - position} are left (not carried)")
    return body[position : position + length], position + length


def _stands_out(buffer: bytes | bytearray, position: int, length: int) -> bool:
    """Whether a record has too many headers, or is none."""
    end = position + length
    try:
        position += 1
        for _ in ("time", "offset"):
            position = _varint(buffer, position)[1]
        for _ in ("key", "value"):
            size, position = _varint(buffer, position)
            position += max(size, 0)
            if position > end:
                return True
        return _varint(buffer, position)[0] > HEADERS_LIMIT
    except (IndexError, BatchFault):
        return True


class _Stream:
    """Unpacked bytes in order, of which only what is looked at is kept. `position` counts all that were taken."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._portions = source
        self._buffer = bytearray()
        self._at = 0
        self._unpacked = 0
        self.position = 0

    def read(self) -> bool:
        """One portion more, unless what is there begins with a record that `run` does not take."""
        try:
            length, at = _varint(self._buffer, self._at)
        except IndexError:
            return self._more()
        if not 0 <= length <= RECORD_BYTES or at + length <= len(self._buffer):
            return False
        return self._more()

    def run(self, most: int) -> tuple[bytes, int]:
        """The whole ordinary records that are here, at most `most`, and their number."""
        buffer, start = self._buffer, self._at
        at, count, size = start, 0, len(buffer)
        while count < most:
            try:  # the client's reader of numbers is four times as fast, and looks beyond the end
                length, position = decode_varint(buffer, at) if at <= size - 10 else _varint(buffer, at)
            except (IndexError, ValueError, BatchFault):
                break
            if length < 0 or length > RECORD_BYTES or position + length > size:
                break
            if length >= 2 * HEADERS_LIMIT and _stands_out(buffer, position, length):
                break
            at = position + length
            count += 1
        self._at = at
        self.position += at - start
        return bytes(memoryview(buffer)[start:at]), count

    def varint(self) -> int:
        while True:
            try:
                number, at = _varint(self._buffer, self._at)
            except IndexError:
                if not self._more():
                    raise BatchFault("corrupt", "batch: ends within a number") from None
            else:
                self.position += at - self._at
                self._at = at
                return number

    def take(self, size: int) -> bytes:
        """The next `size` bytes, which the caller has bounded."""
        while len(self._buffer) - self._at < size:
            if not self._more():
                raise BatchFault("corrupt", "batch: ends within a record")
        taken = bytes(memoryview(self._buffer)[self._at : self._at + size])
        self._at += size
        self.position += size
        return taken

    def skip(self, size: int) -> None:
        while size > (here := len(self._buffer) - self._at):
            size -= here
            self._at += here
            self.position += here
            if not self._more():
                raise BatchFault("corrupt", "batch: ends within a record")
        self._at += size
        self.position += size

    def _more(self) -> bool:
        portion = next(self._portions, None)
        if portion is None:
            return False
        self._unpacked += len(portion)
        if self._unpacked > BATCH_BYTES:
            raise BatchFault("over_limit", f"batch: unpacks to more than the {BATCH_BYTES} bytes that are allowed")
        del self._buffer[: self._at]
        self._at = 0
        self._buffer += portion
        return True
