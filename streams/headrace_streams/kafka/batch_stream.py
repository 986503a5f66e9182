"""The unpacked bytes of a batch, in order, of which only what is looked at is kept; and the limits of what may be in them.

Knows how records are framed and how numbers are written, nothing of what is in a record.
"""

from __future__ import annotations

from collections.abc import Iterator

from aiokafka.record.util import decode_varint

from headrace_schemas.topics import MIB
from headrace_streams.kafka.decompression import BatchFault

RECORD_BYTES = 9 * MIB  # of a record, unpacked: the largest of the topics table, and its headers
UNPACKED_BYTES = 64 * MIB  # of a batch: 16 times what a topic for outsiders takes; bombs have ratios of thousands
Buffer = bytes | bytearray | memoryview
HEADERS_LIMIT = 1_000  # of a record: two bytes on the wire are a hundred as objects


def varint(buffer: Buffer, position: int) -> tuple[int, int]:
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


def nullable(body: bytes, position: int) -> tuple[bytes | None, int]:
    """Bytes behind their length, or null, and where they end. IndexError when that is beyond the end."""
    length, position = varint(body, position)
    if length < 0:
        return None, position
    if position + length > len(body):
        raise IndexError(f"record: {length} bytes where {len(body) - position} are left (not carried)")
    return body[position : position + length], position + length


def stands_out(buffer: Buffer, position: int, length: int) -> bool:
    """Whether a record may have too many headers, or is none. Each takes two bytes, so most can't by their length."""
    end = position + length
    # up to here the client's reader of numbers, which looks beyond the end, may be used
    number = decode_varint if end <= len(buffer) - 10 else varint
    try:
        _, position = number(buffer, position + 1)  # time
        _, position = number(buffer, position)  # offset
        size, position = number(buffer, position)  # key
        position += max(size, 0)
        if position > end:
            return True
        size, position = number(buffer, position)  # value
        position += max(size, 0)
        return position > end or (end - position > 2 * HEADERS_LIMIT and number(buffer, position)[0] > HEADERS_LIMIT)
    except (IndexError, ValueError, BatchFault):
        return True


def ordinary(buffer: Buffer, position: int, most: int) -> tuple[int, int]:
    """Where the whole ordinary records from `position` on end, at most `most`, and their number."""
    count, size = 0, len(buffer)
    safe = size - 10
    while count < most:
        try:  # the client's reader of numbers is four times as fast, and looks beyond the end
            length, start = decode_varint(buffer, position) if position <= safe else varint(buffer, position)
        except (IndexError, ValueError, BatchFault):
            break
        if length < 0 or length > RECORD_BYTES or start + length > size:
            break
        if length >= 2 * HEADERS_LIMIT and stands_out(buffer, start, length):
            break
        position = start + length
        count += 1
    return position, count


class BatchStream:
    """Unpacked bytes in order, of which only what is looked at is kept. `position` counts all that were taken."""

    def __init__(self, source: Iterator[bytes | memoryview]) -> None:
        self._portions = source
        self._buffer = bytearray()
        self._at = 0
        self._unpacked = 0
        self.position = 0

    def read(self) -> bool:
        """One portion more, unless what is there begins with a record that `run` does not take."""
        try:
            length, at = varint(self._buffer, self._at)
        except IndexError:
            return self._more()
        if not 0 <= length <= RECORD_BYTES or at + length <= len(self._buffer):
            return False
        return self._more()

    def run(self, most: int, head: bytes = b"", padding: bytes = b"") -> tuple[bytes, int]:
        """The whole ordinary records that are here, at most `most`, with `padding` behind them, and their number. They are a
        batch where its header up to their number, `head`, is given: so they are copied once only."""
        buffer, start = self._buffer, self._at
        at, count = ordinary(buffer, start, most)
        self._at = at
        self.position += at - start
        number = count.to_bytes(4, "big") if head else b""
        return b"".join((head, number, memoryview(buffer)[start:at], padding)), count

    def number(self) -> int:
        while True:
            try:
                number, at = varint(self._buffer, self._at)
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
        if self._unpacked > UNPACKED_BYTES:
            raise BatchFault("over_limit", f"batch: unpacks to more than the {UNPACKED_BYTES} bytes that are allowed")
        del self._buffer[: self._at]
        self._at = 0
        self._buffer += portion
        return True
