"""Record batches byte by byte, good and bad, in every codec. Knows the format of Kafka's documentation, no code of ours."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable, Sequence

import cramjam
import lz4.frame
from aiokafka.codec import snappy_encode, zstd_encode
from aiokafka.record.util import calc_crc32c

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4, "raw snappy": 2}
Header = tuple[bytes, bytes | None]


def varint(number: int) -> bytes:
    """Zigzag."""
    number = number << 1 ^ number >> 63
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def text(value: bytes | None) -> bytes:
    return varint(-1) if value is None else varint(len(value)) + value


def record(offset: int, key: bytes | None, value: bytes | None, headers: Sequence[Header] = ()) -> bytes:
    """One record as it stands in a batch."""
    body = b"\0" + varint(0) + varint(offset) + text(key) + text(value) + varint(len(headers))
    body += b"".join(text(name) + text(content) for name, content in headers)
    return varint(len(body)) + body


def packed(codec: str, data: bytes) -> bytes:
    match codec:
        case "gzip":
            return gzip.compress(data, 6)
        case "snappy":
            return bytes(snappy_encode(data))
        case "raw snappy":
            return bytes(cramjam.snappy.compress_raw(data))
        case "lz4":
            return bytes(lz4.frame.compress(data, block_linked=False))
        case "zstd":
            return bytes(zstd_encode(data))
    return data


def batch(codec: str, data: bytes, count: int, *, base: int = 0, last: int | None = None, append_time: int = 7) -> bytes:
    """A batch of `data`, packed already, that says it holds `count` records. `append_time` 0: as a client sends it."""
    attributes = CODECS[codec] | (0x08 if append_time else 0)
    last = count - 1 if last is None else last
    behind = struct.pack(">hiqqqhii", attributes, last, append_time, append_time, -1, -1, -1, count) + data
    return struct.pack(">qiibI", base, len(behind) + 9, 0, 2, calc_crc32c(behind)) + behind


def batch_of(codec: str, records: Iterable[bytes], *, base: int = 0, append_time: int = 7) -> bytes:
    """A good batch."""
    listed = list(records)
    return batch(codec, packed(codec, b"".join(listed)), len(listed), base=base, append_time=append_time)
