"""Which partition a key belongs to: murmur2, as Kafka's Java clients compute it, so that all writers agree with us."""

from __future__ import annotations

from aiokafka.partitioner import murmur2


def partition_for(key: bytes, count: int) -> int:
    """The partition of `key` among `count`: positive murmur2 hash modulo count."""
    return int((murmur2(key) & 0x7FFFFFFF) % count)
