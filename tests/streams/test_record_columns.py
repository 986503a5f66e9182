"""Records read as columns are those that are read one by one, whatever a batch holds. No broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_schemas.cloudevents import STRUCTURED
from headrace_streams.kafka import compat
from headrace_streams.kafka.compat import Batches, PartitionColumns
from headrace_streams.kafka.record_columns import RecordColumns, headers_head
from headrace_streams.kafka.unpacking import UnreadValue, unpack, unpack_columns
from support.batches import CODECS, batch, batch_of, record

TP = TopicPartition("t", 0)
HEAD = headers_head(STRUCTURED, last="origin")
KIND = (STRUCTURED[0].encode(), STRUCTURED[1])
all_codecs = pytest.mark.parametrize("codec", CODECS)


def told(record: Any) -> tuple[Any, ...]:
    value = record.value.message if isinstance(record.value, UnreadValue) else record.value
    return record.offset, record.timestamp, record.key, value, list(record.headers)


def one_by_one(read: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    for item in read:
        if not isinstance(item, RecordColumns):
            yield told(item)
            continue
        data = item.data
        for offset, time, bounds in zip(item.offsets, item.times, item.bounds, strict=True):
            texts = [data[a:b] if a <= b else None for a, b in zip(bounds[::2], bounds[1::2], strict=True)]
            yield offset, time, *texts[:2], [STRUCTURED, ("origin", texts[2])]


texts = st.none() | st.binary(max_size=40) | st.binary(min_size=2500, max_size=2600)
plain = st.binary(max_size=90).map(lambda origin: [KIND, (b"origin", origin)])
others = st.lists(st.tuples(st.text(max_size=5).map(str.encode), st.none() | st.binary(max_size=5)), max_size=3)
records = st.lists(st.tuples(texts, texts, plain | plain | plain | others), min_size=1, max_size=20)


@all_codecs
@settings(max_examples=25)
@given(rows=records, append_time=st.sampled_from([0, 7]))
def test_what_comes_as_columns_is_what_comes_record_by_record(codec: str, rows: list[Any], append_time: int) -> None:
    data = batch_of(codec, [record(offset, *row) for offset, row in enumerate(rows)], append_time=append_time)
    assert list(one_by_one(unpack_columns(data, HEAD))) == [told(item) for item in unpack(data)]


@all_codecs
def test_records_with_the_headers_of_a_stage_come_many_at_once(codec: str) -> None:
    rows = [record(offset, b"k", b"v" * 3000, [KIND, (b"origin", b"o" * 70)]) for offset in range(50)]
    read = list(unpack_columns(batch_of(codec, rows), HEAD))  # snappy has blocks of 32 KiB
    assert {type(item) for item in read} == {RecordColumns}
    assert len(read) <= 5
    rows[20] = record(20, b"k", b"v", [KIND])
    assert len(list(unpack_columns(batch_of(codec, rows), HEAD))) >= 10


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "raw snappy"])  # which is unpacked at once
def test_behind_a_record_without_these_headers_others_come_many_at_once_again(codec: str) -> None:
    rows = [record(0, b"k", b"v", [KIND])]
    rows += [record(offset, b"k", b"v" * 3000, [KIND, (b"origin", b"o")]) for offset in range(1, 400)]
    read = list(unpack_columns(batch_of(codec, rows), HEAD))
    assert isinstance(read[-1], RecordColumns), "only the run that it is in is read one by one"


def test_offsets_that_compaction_left_out_are_not_made_up() -> None:
    rows = [record(offset, b"k", b"v", [KIND, (b"origin", b"o")]) for offset in (1, 4, 5)]
    [columns] = unpack_columns(batch("none", b"".join(rows), 3, base=10, last=9), HEAD)
    assert (columns.offsets, columns.offset) == ([11, 14, 15], 15)


@given(st.binary(max_size=300), st.sampled_from(sorted(CODECS)), st.integers(0, 5))
def test_of_whatever_bytes_the_same_is_read(data: bytes, codec: str, count: int) -> None:
    made = batch(codec, data, count, last=max(count - 1, 0))
    assert list(one_by_one(unpack_columns(made, HEAD))) == [told(item) for item in unpack(made)]


@given(rows=st.lists(st.tuples(texts, texts, plain), min_size=1, max_size=6), at=st.integers(0, 10**6), byte=st.integers(1, 255))
def test_of_a_batch_that_was_spoilt_the_same_is_read(rows: list[Any], at: int, byte: int) -> None:
    data = bytearray(b"".join(record(offset, *row) for offset, row in enumerate(rows)))
    data[at % len(data)] ^= byte
    made = batch("none", bytes(data), len(rows))
    assert list(one_by_one(unpack_columns(made, HEAD))) == [told(item) for item in unpack(made)]


class Consumer:
    """Gives out the bytes of a partition as aiokafka's does, from `position` on."""

    active, paused = True, False

    def __init__(self, data: bytes, position: int) -> None:
        self.position = position
        records = PartitionRecords(TP, Batches(data), [], position, None, None, True, 1)
        self._result = compat.PortionedResult(TP, assignment=self, partition_records=records, backoff=0)

    def state_value(self, tp: TopicPartition) -> Consumer:
        return self

    def consumed_to(self, offset: int) -> None:
        self.position = offset

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        return {TP: self._result.getall(100)} if self._result.has_more() else {}


def test_a_consumer_hands_out_columns_from_where_it_stands_and_records_to_others() -> None:
    rows = [record(offset, b"k", b"%d" % offset, [KIND, (b"origin", b"o")]) for offset in range(9)]
    data = batch_of("lz4", rows[:5]) + batch_of("none", [record(0, b"k", b"x")], base=5) + batch_of("zstd", rows[:3], base=6)
    consumer = Consumer(data, 3)
    given_ = asyncio.run(compat.getcolumns(consumer, HEAD, timeout_ms=0))[TP]
    assert [item.columns.offsets if isinstance(item, PartitionColumns) else item.offset for item in given_] == [
        [3, 4],
        5,
        [6, 7, 8],
    ]
    assert (consumer.position, given_[0].before(4).columns.offsets) == (9, [3])
    other = Consumer(data, 3)
    assert [item.offset for item in asyncio.run(compat.getmany(other, timeout_ms=0))[TP]] == [3, 4, 5, 6, 7, 8]
