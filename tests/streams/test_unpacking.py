"""Batches within limits: what is in them is read as ever, what is too large or broken is a record that says so. No broker."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.codec import lz4_encode
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record._crecords import default_records
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_schemas.topics import MIB
from headrace_streams.kafka import compat
from headrace_streams.kafka.batch_stream import HEADERS_LIMIT, RECORD_BYTES, UNPACKED_BYTES
from headrace_streams.kafka.compat import Batches, DamagedBatch
from headrace_streams.kafka.unpacking import UnreadValue, header_of, unpack
from support.batches import CODECS, batch, batch_of, packed, record, varint

TP = TopicPartition("t", 0)
all_codecs = pytest.mark.parametrize("codec", CODECS)


def told(record: Any) -> tuple[Any, ...]:
    value = record.value.message if isinstance(record.value, UnreadValue) else record.value
    return record.offset, record.timestamp, record.key, value, list(record.headers)


def fetched(data: bytes, reader: Any = Batches) -> Iterator[Any]:
    """As the fetcher of a consumer goes through a partition's bytes."""
    return iter(PartitionRecords(TP, reader(data), [], 0, None, None, True, 1))


texts = st.none() | st.binary(max_size=40)
headers = st.lists(st.tuples(st.text(max_size=5).map(str.encode), texts), max_size=3)
records = st.lists(st.tuples(texts, texts | st.binary(min_size=2500, max_size=2600), headers), min_size=1, max_size=20)


@all_codecs
@settings(max_examples=25)
@given(rows=records)
def test_what_is_in_a_batch_is_read_as_aiokafka_reads_it(codec: str, rows: list[tuple[Any, Any, Any]]) -> None:
    data = batch_of(codec, [record(offset, *row) for offset, row in enumerate(rows)])
    assert [told(item) for item in fetched(data)] == [told(item) for item in fetched(data, MemoryRecords)]


@all_codecs
def test_more_than_a_portion_is_read_record_by_record(codec: str) -> None:
    rows = [record(offset, b"k", bytes([offset % 256]) * 30_000) for offset in range(40)]
    found = [told(item) for item in unpack(batch_of(codec, rows))]
    assert found == [(offset, 7, b"k", bytes([offset % 256]) * 30_000, []) for offset in range(40)]


@all_codecs
def test_a_record_over_the_limit_is_one_that_says_so_and_those_around_it_get_through(codec: str) -> None:
    large = record(1, b"key", bytes(RECORD_BYTES + 1))
    found = list(unpack(batch_of(codec, [record(0, b"a", b"x"), large, record(2, b"b", b"y")])))
    assert [(item.offset, item.key) for item in found] == [(0, b"a"), (1, b"key"), (2, b"b")]
    value = found[1].value
    assert isinstance(value, UnreadValue)
    assert value.code == "over_limit"
    assert (
        value.message == f"record: {9 * MIB + 1} bytes, at most 1048576 are allowed (record of {9 * MIB + 4} bytes not carried)"
    )
    assert (found[0].value, found[2].value) == (b"x", b"y")


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_a_bomb_is_not_unpacked_beyond_the_limit_and_costs_little_memory(codec: str) -> None:
    rows = [record(0, b"a", b"x"), record(1, None, bytes(100 * MIB)), record(2, b"b", b"y")]
    bomb = batch_of(codec, rows)
    assert len(bomb) < MIB
    del rows
    tracemalloc.start()
    found = list(unpack(bomb))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(item.value) for item in found] == [bytes, UnreadValue, UnreadValue]
    assert "104857600 bytes" in found[1].value.message
    assert found[2].value.message == "batch: unpacks to more than the 67108864 bytes that are allowed (not carried)"
    assert peak < 8 * MIB


def test_many_valid_records_beyond_the_limit_are_a_record_each_that_says_so() -> None:
    def read() -> Iterator[tuple[int, bool]]:
        return ((item.offset, isinstance(item.value, UnreadValue)) for item in unpack(many))

    many = batch_of("zstd", [record(offset, b"k", bytes(MIB)) for offset in range(100)])
    tracemalloc.start()
    found = list(read())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [offset for offset, _ in found] == list(range(100))
    assert [unread for _, unread in found] == [False] * 63 + [True] * 37
    assert peak < 8 * MIB


def test_headers_without_end_are_counted_before_they_are_made() -> None:
    many = record(1, b"k", b"v", [(b"", None)] * (HEADERS_LIMIT + 1))
    most = record(2, b"k", b"v", [(b"", None)] * HEADERS_LIMIT)
    found = list(unpack(batch_of("none", [record(0, b"a", b"x"), many, most, record(3, b"b", b"y")])))
    assert [item.offset for item in found] == [0, 1, 2, 3]
    assert found[1].value.message == "headers: 1001, at most 1000 are allowed (record of 2 bytes not carried)"
    assert [len(item.headers) for item in found] == [0, 0, 1000, 0]
    million = batch_of("zstd", [record(0, b"k", b"v", [(b"", b"")] * 1_000_000)])
    tracemalloc.start()
    [only] = unpack(million)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(only.value, UnreadValue)
    assert peak < 8 * MIB


BAD_PAYLOADS = {
    "a length below zero": lambda data: varint(-5) + data,
    "a length without end": lambda data: b"\xff" * 20 + data,
    "a length beyond the end": lambda data: varint(100_000) + data,
    "an offset twice": lambda data: record(0, b"k", b"v") + data,
    "an offset too far": lambda data: record(0, b"k", b"v") + record(2, b"k", b"v"),
    "nothing": lambda data: b"",
    "half a record": lambda data: data[:4],
}


@all_codecs
@pytest.mark.parametrize("bad", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS)
def test_a_batch_whose_records_cannot_be_read_is_a_record_for_each_offset(codec: str, bad: Any) -> None:
    good = b"".join(record(offset, b"k", b"v") for offset in range(3))
    found = list(unpack(batch(codec, packed(codec, bad(good)), 3)))
    assert [item.offset for item in found] == [0, 1, 2]
    unread = [item.value for item in found if isinstance(item.value, UnreadValue)]
    assert unread
    assert {value.code for value in unread} == {"corrupt"}


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "none"])
@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-12], lambda data: b"\xff\xff\xff\xff" + data, lambda data: b"", lambda data: data[:9] + data]
)
def test_bytes_that_cannot_be_unpacked_are_a_record_for_each_offset(codec: str, spoil: Any) -> None:
    good = packed(codec, b"".join(record(offset, b"k", bytes(50)) for offset in range(3)))
    found = list(unpack(batch(codec, spoil(good), 3)))
    assert [item.offset for item in found] == [0, 1, 2]
    assert isinstance(found[2].value, UnreadValue)
    assert found[2].value.code == "corrupt"


def test_offsets_that_compaction_left_out_are_not_made_up() -> None:
    data = b"".join(record(offset, b"k", b"v") for offset in (0, 3, 5))
    assert [(item.offset, item.value) for item in unpack(batch("none", data, 3, last=8))] == [(0, b"v"), (3, b"v"), (5, b"v")]


def test_a_record_that_is_broken_inside_costs_itself_alone() -> None:
    broken = b"\0" + varint(0) + varint(1) + varint(-1) + varint(500) + b"abc"
    data = record(0, b"a", b"x") + varint(len(broken)) + broken + record(2, b"b", b"y")
    found = list(unpack(batch("zstd", packed("zstd", data), 3)))
    assert [item.value for item in found] == [b"x", b"", b"y"]
    assert found[1].value.code == "corrupt"


def test_a_codec_that_there_is_not_is_a_record_for_each_offset() -> None:
    data = bytearray(batch("none", b"whatever", 2))
    data[22] |= 7
    assert [item.value.message for item in unpack(bytes(data))] == [
        "batch: packed by codec 7, which there is not (not carried)"
    ] * 2


def test_a_snappy_block_is_unpacked_whole_or_not_at_all() -> None:
    large = batch_of("raw snappy", [record(0, b"a", b"x"), record(1, None, bytes(17 * MIB))])
    assert [item.value.code for item in unpack(large)] == ["over_limit"] * 2
    boastful = varint(2**30) + packed("raw snappy", record(0, b"a", b"x"))[1:]
    [item] = unpack(batch("raw snappy", boastful, 1))
    assert "bytes of snappy that say they are" in item.value.message


def test_frames_without_end_are_not_followed() -> None:
    empty = gzip.compress(b"")
    data = packed("gzip", record(0, b"k", b"v")) + empty * 20_000
    assert [item.value for item in unpack(batch("gzip", data, 1))] == [b"v"]
    [item] = unpack(batch("gzip", empty * 20_000 + data, 1))
    assert item.value.message == "batch: packed in more than 10000 frames (not carried)"


def test_several_frames_are_one_payload() -> None:
    for codec in ("gzip", "lz4", "zstd"):
        data = packed(codec, record(0, b"k", b"v")) + packed(codec, record(1, b"k", b"w"))
        assert [item.value for item in unpack(batch(codec, data, 2))] == [b"v", b"w"]


def test_a_wrong_checksum_is_read_again_and_then_a_record_for_each_offset() -> None:
    wrong = bytearray(batch_of("none", [record(offset, b"k", b"v") for offset in range(2)], base=5))
    wrong[-2] ^= 1
    good = batch_of("zstd", [record(offset, b"k", b"v") for offset in range(2)], base=7)
    for _ in range(2):
        with pytest.raises(DamagedBatch, match="the batch at offset 5 has a wrong checksum"):
            list(fetched(bytes(wrong) + good))
    found = list(fetched(bytes(wrong) + good))
    assert [item.offset for item in found] == [5, 6, 7, 8]
    assert [item.value for item in found] == [b"", b"", b"v", b"v"]
    assert found[0].value.message == "batch: its checksum is wrong (not carried)"


@given(st.binary(max_size=300), st.sampled_from(sorted(CODECS)), st.integers(0, 5))
def test_whatever_the_bytes_are_each_offset_comes_once_and_nothing_is_raised(data: bytes, codec: str, count: int) -> None:
    found = [item.offset for item in unpack(batch(codec, data, count, last=max(count - 1, 0)))]
    assert found == sorted(set(found))
    assert not found or found[-1] == max(count - 1, 0)


class Assignment:
    """What a fetch result asks of its consumer."""

    active = True
    paused = False

    def __init__(self) -> None:
        self.position = 0

    def state_value(self, tp: TopicPartition) -> Assignment:
        return self

    def consumed_to(self, offset: int) -> None:
        self.position = offset


@pytest.mark.parametrize(
    ("rows", "most"),
    [
        ([record(offset, b"k", bytes(MIB)) for offset in range(40)], 3),
        ([record(offset, b"k", b"v", [(b"", None)] * 999) for offset in range(2000)], 40),
    ],
    ids=["large values", "many headers"],
)
def test_one_call_gives_out_a_portion_whatever_the_number_of_records(rows: list[bytes], most: int) -> None:
    assignment, data = Assignment(), batch_of("zstd", rows)
    result = compat.PortionedResult(
        TP,
        assignment=assignment,
        partition_records=PartitionRecords(TP, Batches(data), [], 0, None, None, True, 1),
        backoff=0,
    )
    sizes, offsets = [], []
    while result.has_more():
        given = result.getall(2000)
        sizes.append(len(given))
        offsets += [item.offset for item in given]
        assert assignment.position == (offsets[-1] + 1)
    assert max(sizes) <= most
    assert offsets == list(range(len(rows)))


@all_codecs
@settings(max_examples=25)
@given(rows=records, odd=st.booleans(), start=st.integers(0, 25), most=st.integers(1, 8))
def test_a_partition_fetcher_reads_the_same_records_however_many_it_gives_out(
    codec: str, rows: list[tuple[Any, Any, Any]], odd: bool, start: int, most: int
) -> None:
    made = [record(number, *row) for number, row in enumerate(rows)]
    if odd:
        made[len(made) // 2] = record(len(made) // 2, b"k", b"", [(b"h", b"")] * (HEADERS_LIMIT + 1))
    data = batch_of(codec, made)
    expected = [told(one) for one in PartitionRecords(TP, Batches(data), [], start, None, None, True, 1)]
    reader = compat.PartitionRuns(TP, data, [], start)
    found: list[Any] = []
    last = False
    while not last:
        given_now: list[Any] = []
        last = reader.portion(given_now, most)
        assert len(given_now) == most or last
        found += given_now
        assert not given_now or reader.position > given_now[-1].offset
    assert [told(one) for one in found] == expected


def test_a_partition_fetcher_is_told_of_a_bomb_what_everybody_is_told() -> None:
    data = batch_of("zstd", [record(0, b"k", b"a"), record(1, None, bytes(UNPACKED_BYTES + MIB)), record(2, b"k", b"b")])
    expected = [told(one) for one in fetched(data)]
    found: list[Any] = []
    assert compat.PartitionRuns(TP, data, [], 0).portion(found, 10)
    assert [told(one) for one in found] == expected
    assert expected[1][3] != expected[2][3]


def test_a_packed_batch_gives_out_what_was_appended_and_leaves_the_library_as_it_was() -> None:
    producer = SimpleNamespace(_message_accumulator=SimpleNamespace(_batch_size=1 << 20))
    built = compat.PackedBatch(producer)
    values = [b'{"prompt":"select name from city where number = %d"}' % number for number in range(500)]
    for value in values:
        assert built.append(timestamp=None, key=b"k", value=value, headers=[("name", b"content")])
    data = bytes(built._build())
    assert built._build() == data
    assert header_of(data).codec == DefaultRecordBatch.CODEC_LZ4
    assert [record.value for record in unpack(data)] == values
    assert len(data) < sum(map(len, values)) / 2
    assert default_records.lz4_encode is lz4_encode
