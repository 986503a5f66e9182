"""Our murmur2 is Kafka's."""

from __future__ import annotations

from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from headrace_streams.kafka.partitioner import murmur2, partition_for


@given(st.binary(max_size=80))
def test_hash_is_that_of_other_clients(key: bytes) -> None:
    assert murmur2(key) == reference(key) & 0xFFFFFFFF


@given(st.binary(max_size=80), st.integers(1, 1000))
def test_partition_is_the_positive_hash_modulo_count(key: bytes, count: int) -> None:
    assert partition_for(key, count) == (reference(key) & 0x7FFFFFFF) % count
