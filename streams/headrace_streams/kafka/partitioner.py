"""Which partition a key belongs to: murmur2, as Kafka's Java clients compute it, so that all writers agree with us."""

from __future__ import annotations

import struct
from functools import lru_cache

_SEED = 0x9747B28C
_M = 0x5BD1E995
_32 = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """The 32-bit murmur2 hash with Kafka's seed, unsigned. A third cheaper than aiokafka's: it is computed for every output."""
    size = len(key)
    words = size >> 2
    value = _SEED ^ size
    for word in struct.unpack_from(f"<{words}I", key):
        word = word * _M & _32
        value = (value * _M ^ (word ^ word >> 24) * _M) & _32
    if size & 3:
        value = (value ^ int.from_bytes(key[words << 2 :], "little")) * _M & _32
    value = (value ^ value >> 13) * _M & _32
    return value ^ value >> 15


@lru_cache(maxsize=16_384)  # buckets always hit, and so does the feedback that soon follows its interaction
def partition_for(key: bytes, count: int) -> int:
    """The partition of `key` among `count`: positive murmur2 hash modulo count."""
    return (murmur2(key) & 0x7FFFFFFF) % count
