"""What a batch's compressed bytes unpack to, in small portions, however much it is. Knows the codecs of Kafka, no batch.

The client's own functions unpack all at once: 400 MiB of zeros are 13 KB of zstd.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import cramjam
import lz4.frame

from headrace_schemas.root_error import HeadraceError
from headrace_schemas.topics import MIB

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PORTION = 256 * 1024
_FEED = 64 * 1024  # packed bytes at a time: what is left of them behind a frame is copied
_FRAMES = 10_000  # in one batch; writers make one
_SNAPPY_BLOCK = 16 * MIB  # unpacked: it can only be unpacked whole
_SNAPPY_RATIO = 32  # the format reaches 21
_XERIAL = bytes([0x82]) + b"SNAPPY\x00" + b"\x00\x00\x00\x01\x00\x00\x00\x01"
_NONE, _GZIP, _SNAPPY, _LZ4, _ZSTD = range(5)
_UNREADABLE = (zlib.error, zstd.ZstdError, cramjam.DecompressionError, RuntimeError, ValueError, EOFError)


class BatchFault(HeadraceError):
    """Why the rest of a batch is not read: code and message of a dead letter."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class _Gunzip:
    """zlib's in the form of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data.lstrip(b"\0")  # padding, as gzip allows it

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(out) < max_length
        return out


_FRAMED: dict[int, Callable[[], Any]] = {
    _GZIP: _Gunzip,
    _LZ4: lz4.frame.LZ4FrameDecompressor,
    _ZSTD: zstd.ZstdDecompressor,
}


def portions(codec: int, packed: memoryview) -> Iterator[bytes | memoryview]:
    """What `packed` unpacks to, in portions that are small however well it is packed. BatchFault when it can't be unpacked."""
    try:
        if codec == _NONE:
            for start in range(0, len(packed), PORTION):
                yield packed[start : start + PORTION]
        elif codec == _SNAPPY:
            yield from map(_snappy, _snappy_blocks(bytes(packed)))
        elif codec in _FRAMED:
            yield from _unframed(_FRAMED[codec], packed)
        else:
            raise BatchFault("corrupt", f"batch: packed by codec {codec}, which there is not")
    except _UNREADABLE as error:
        raise BatchFault("corrupt", f"batch: can't be unpacked: {error}") from None


def _unframed(new: Callable[[], Any], packed: memoryview) -> Iterator[bytes]:
    decompressor, begun, frames = new(), False, 0
    for start in range(0, len(packed), _FEED):
        data = bytes(packed[start : start + _FEED])
        while data or not decompressor.needs_input:
            out = decompressor.decompress(data, PORTION)
            begun = True
            if out:
                yield out
            data = b""
            if decompressor.eof:
                data, begun, frames = decompressor.unused_data or b"", False, frames + 1
                decompressor = new()
                if frames > _FRAMES:
                    raise BatchFault("corrupt", f"batch: packed in more than {_FRAMES} frames")
    if begun:
        raise BatchFault("corrupt", "batch: ends within a frame")


def _snappy_blocks(packed: bytes) -> Iterator[bytes]:
    """One block (librdkafka), or many behind a header, each with its length (Java's xerial)."""
    if not packed.startswith(_XERIAL):
        yield packed
        return
    at = len(_XERIAL)
    while at < len(packed):
        size = int.from_bytes(packed[at : at + 4], "big", signed=True)
        at += 4
        if size < 0 or at + size > len(packed):
            raise BatchFault("corrupt", f"batch: a snappy block of {size} bytes where {len(packed) - at} are left")
        yield packed[at : at + size]
        at += size


def _snappy(block: bytes) -> bytes:
    size = cramjam.snappy.decompress_raw_len(block)
    if size > _SNAPPY_RATIO * len(block) + 64:
        raise BatchFault("corrupt", f"batch: {len(block)} bytes of snappy that say they are {size}")
    if size > _SNAPPY_BLOCK:
        raise BatchFault("over_limit", f"batch: a snappy block unpacks to {size} bytes, at most {_SNAPPY_BLOCK} are allowed")
    return bytes(cramjam.snappy.decompress_raw(block))
