"""What aiokafka has no public door for, each thing once: so a new version of it is checked here. Knows no topic and no event.

How batches are read: aiokafka unpacks a batch at once, however large it becomes, and raises from deep within its fetcher at
header names that are no UTF-8, at a wrong checksum and at whatever else is odd about a batch: one such batch would stop every
consumer of its partition, for ever and whatever stands behind it. `install` makes consumers read batches by `unpacking.py`, and
hand out what is read in portions. It changes a library for its whole process, so only processes of ours call it (every command
does, when it runs), never the door: an agent reads `releases` alone, which only we write.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import cramjam
from aiokafka import TopicPartition
from aiokafka.conn import CloseReason, create_conn
from aiokafka.consumer import fetcher
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    NodeNotReadyError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    for_code,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.admin import DescribeAclsRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords

from headrace_schemas.root_error import HeadraceError
from headrace_schemas.topics import MIB
from headrace_streams.kafka.record_columns import RecordColumns
from headrace_streams.kafka.unpacking import RecordRun, header_of, unpack, unpack_columns, unpack_runs, unread

GIVEN_BYTES = 2 * MIB  # unpacked, of a partition, that one fetch gives out, and at most one record more
_HEADER_BYTES = 96  # of a header as an object
_SIGHTINGS = 3  # of a wrong checksum until it is what lies on the broker and not what the way did to it
_SIZE_AT, _SIZE_END = 8, 12  # where a batch says how many bytes follow
_damaged: dict[int, int] = {}  # how often a batch with a wrong checksum was seen


class DamagedBatch(HeadraceError, CorruptRecordException):  # type: ignore[misc]
    """A batch with a wrong checksum, seen for the first time or the second: reading it again may mend that."""


class Batches:
    """What the fetcher asks of a partition's bytes. `given` counts the unpacked bytes of what was handed out; `head`: records are
    wanted as columns (`unpack_columns`); `in_runs`: as RecordRun (`unpack_runs`)."""

    head: bytes | None = None
    in_runs = False

    def __init__(self, data: bytes) -> None:
        self._data, self._start = data, 0
        self._records = MemoryRecords(data)
        self.has_next = self._records.has_next
        self.size_in_bytes = self._records.size_in_bytes
        self.given = 0

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        start = self._start
        size = int.from_bytes(self._data[start + _SIZE_AT : start + _SIZE_END], "big")
        self._start = start + _SIZE_END + size
        if not isinstance(batch, DefaultRecordBatch):
            return batch
        return _Batch(batch, memoryview(self._data)[start : self._start], self)

    def spent(self, size: int) -> None:
        self.given += size


class _Batch:
    """A batch of the current format; `raw` are its bytes."""

    __slots__ = ("_batch", "_batches", "_raw", "_wrong")

    def __init__(self, batch: Any, raw: memoryview, batches: Batches) -> None:
        self._batch, self._raw, self._batches, self._wrong = batch, raw, batches, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def validate_crc(self) -> bool:
        """True as well for a batch that stays wrong: then its offsets are given out, and nothing of what stands in it."""
        if self._batch.validate_crc():
            return True
        if len(_damaged) > 1000:
            _damaged.clear()
        seen = hash(bytes(self._raw))
        _damaged[seen] = _damaged.get(seen, 0) + 1
        if _damaged[seen] < _SIGHTINGS:
            raise DamagedBatch(f"the batch at offset {self._batch.base_offset} has a wrong checksum")
        self._wrong = True
        return True

    @property
    def is_control_batch(self) -> bool:
        return not self._wrong and self._batch.is_control_batch

    @property
    def is_transactional(self) -> bool:
        return not self._wrong and self._batch.is_transactional

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        if not self._wrong and self._batches.head is not None:
            return unpack_columns(self._raw, self._batches.head, self._batches.spent)
        if not self._wrong:
            return (unpack_runs if self._batches.in_runs else unpack)(self._raw, self._batches.spent)
        header = header_of(self._raw)
        whole = header.last_offset - header.base_offset + 1 == header.records
        offsets = range(header.base_offset, (header.last_offset if whole else header.base_offset) + 1)
        return unread(header, offsets, "corrupt", "batch: its checksum is wrong (not carried)")


class PartitionRuns(fetcher.PartitionRecords):  # type: ignore[misc]
    """Committed records of an answer of which nothing was given out yet, as the reader of a batch made them: the client makes
    an object more of each, and hands it on one by one, which is half of what reading a small record costs."""

    def __init__(self, partition: TopicPartition, data: bytes, aborted: Any, offset: int) -> None:
        batches = Batches(data)
        batches.in_runs = True
        self.empty = not batches.has_next()
        super().__init__(partition, batches, aborted, offset, None, None, True, fetcher.READ_COMMITTED)
        self._rest: Sequence[Any] = ()
        self._from = offset

    def _consumer_record(self, tp: TopicPartition, record: Any) -> Any:
        return record

    @property
    def position(self) -> int:
        """Of the next record to be given out, or behind the markers that follow the last."""
        return int(self._rest[0].offset) if self._rest else int(self.next_fetch_offset)

    def portion(self, given: list[Any], most: int) -> bool:
        """As the function of that name."""
        batches = self._records
        end = batches.given + GIVEN_BYTES
        while True:
            if not self._rest:
                read: Any = next(self, None)
                if read is None:
                    return True
                records: Sequence[Any] = read.records if type(read) is RecordRun else (read,)
                behind = records[0].offset >= self._from
                self._rest = records if behind else [one for one in records if one.offset >= self._from]
                batches.given += _HEADER_BYTES * sum([len(one.headers) for one in records])
            room = most - len(given)
            given += self._rest[:room]
            self._rest = self._rest[room:]
            if len(given) >= most or batches.given >= end:
                return False


def portion(partition_records: Any, given: list[Any], max_records: int | None) -> bool:
    """Adds the next records of an answer to `given`: at most `max_records`, and about GIVEN_BYTES. Whether these were the last;
    raises DamagedBatch behind what it has added."""
    records = partition_records._records
    end = getattr(records, "given", 0) + GIVEN_BYTES
    for record in partition_records:
        given.append(record)
        if record.headers:
            records.given += _HEADER_BYTES * len(record.headers)
        if records.given >= end or (max_records is not None and len(given) >= max_records):
            return False
    return True


class PortionedResult(fetcher.FetchResult):  # type: ignore[misc]
    """What was fetched of a partition, given out by bytes and not by number of records alone."""

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        given: list[Any] = []
        records = self._partition_records
        if (head := _head.get()) is not None and records._records.head is None:
            records._records.head = head
            records._consumer_record = partial(_placed, records, records._consumer_record)
        drained = portion(records, given, max_records)
        self._update_position()
        if drained:
            self._partition_records = None
        return given


async def getmany(consumer: Any, *partitions: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
    """As the consumer's own, about GIVEN_BYTES of each partition; a batch with a wrong checksum is read again, and given out as
    unread records when it stays so. Raises KafkaError."""
    try:
        fetched: dict[TopicPartition, list[Any]] = await consumer.getmany(*partitions, timeout_ms=timeout_ms)
    except DamagedBatch:
        return {}
    return fetched


_head: ContextVar[bytes | None] = ContextVar("head", default=None)


class PartitionColumns(NamedTuple):
    """Columns of records in the place of a record, as the client hands them out."""

    topic: str
    partition: int
    columns: RecordColumns

    @property
    def headers(self) -> tuple[()]:
        return ()

    @property
    def offset(self) -> int:
        """Of the first."""
        return self.columns.offsets[0]

    def before(self, end: int) -> PartitionColumns:
        """Those at offsets below `end`."""
        return self._replace(columns=self.columns.within(0, end))


def _placed(records: Any, ordinary: Any, tp: TopicPartition, read: Any) -> Any:
    """What the fetcher makes of what was read: of columns those records that are not before where it stands."""
    if not isinstance(read, RecordColumns):
        return ordinary(tp, read)
    return PartitionColumns(tp.topic, tp.partition, read.within(records.next_fetch_offset, None))


async def getcolumns(consumer: Any, head: bytes, *, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
    """As `getmany`, with PartitionColumns for many records at once whose headers begin with `head`. A consumer is asked so
    always, or never."""
    token = _head.set(head)
    try:
        return await getmany(consumer, timeout_ms=timeout_ms)
    finally:
        _head.reset(token)


def install() -> None:
    """Bounded reading of whatever a batch holds, for all consumers of this process; the fetcher has no other door."""
    fetcher.MemoryRecords = Batches
    fetcher.FetchResult = PortionedResult


def drop_lost_errors(loop: asyncio.AbstractEventLoop) -> None:
    """What a task of aiokafka ended with, after whoever waited for it had given up, is nobody's: asyncio would print a traceback
    for each, whenever a broker is away. All else goes where it went."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not (isinstance(context.get("exception"), KafkaError) and "never retrieved" in context["message"]):
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


def producer_id(producer: Any) -> int:
    """The id that brokers know a started transactional producer by."""
    return int(producer._txn_manager.producer_id)


def producer_epoch(producer: Any) -> int:
    """The epoch that a started transactional producer was given."""
    return int(producer._txn_manager.producer_epoch)


async def empty_transaction(producer: Any, partitions: Iterable[TopicPartition], *, committed: bool) -> None:
    """A transaction without a record: its marker in each of these partitions, which need not have been written to."""
    await producer.begin_transaction()
    for partition in partitions:
        producer._txn_manager.maybe_add_partition_to_txn(partition)
    await (producer.commit_transaction() if committed else producer.abort_transaction())


class ConnectionLost(HeadraceError, OutOfOrderSequenceNumber):  # type: ignore[misc]
    """A transaction can't begin. Of this kind because aiokafka's sender passes few kinds on as they are, and this is one."""


class ConnectionWatch:
    """Sets `lost` when a producer loses a connection or its coordinator; while it is set, no partition is added to a transaction
    (ConnectionLost). aiokafka would ask that again of a broker which has just started and perhaps has not ended the last one."""

    def __init__(self, producer: Any) -> None:
        self.lost = False
        client, sender = producer.client, producer._sender
        closed, dead, add = client._on_connection_closed, sender._coordinator_dead, sender._do_add_partitions_to_txn

        def on_closed(connection: Any, reason: Any) -> None:
            if reason not in (CloseReason.SHUTDOWN, CloseReason.IDLE_DROP):
                self.lost = True
            closed(connection, reason)

        def on_dead(kind: Any) -> None:
            self.lost = True
            dead(kind)

        async def guarded(partitions: Any) -> Any:
            self.check()
            return await add(partitions)

        client._on_connection_closed, sender._coordinator_dead = on_closed, on_dead
        sender._do_add_partitions_to_txn = guarded

    def check(self) -> None:
        """Raises ConnectionLost."""
        if self.lost:
            raise ConnectionLost("the connection to the broker broke")


class PackedBatch(BatchBuilder):  # type: ignore[misc]
    """A batch of a transaction that is packed with LZ4 at its fast level; the library has level 9 only, which costs ten times as
    much, and packs all that a producer sends, or nothing.

    us of a signal of 2 KB on its way into a batch, and out of one: plain 1.0 and 2.4, so 3.9 and 3.0, with snappy 5.2 and 3.7,
    with zstd 8.8 and 4.2. A third of the bytes of real texts is left."""

    def __init__(self, producer: Any) -> None:
        super().__init__(producer._message_accumulator._batch_size, DefaultRecordBatch.CODEC_LZ4, is_transactional=True)

    def _build(self) -> Any:
        if self._buffer is not None:
            return self._buffer
        module = sys.modules[type(self._builder).__module__]
        before, module.lz4_encode = module.lz4_encode, _pack  # type: ignore[attr-defined]
        try:
            return super()._build()
        finally:
            module.lz4_encode = before  # type: ignore[attr-defined]


def _pack(data: Any) -> bytes:
    compressor = cramjam.lz4.Compressor(level=1, content_checksum=False, block_linked=False)  # linked blocks no broker reads
    compressor.compress(data)
    return bytes(compressor.finish())


def retrieve_errors(producer: Any) -> None:
    """Looks at what a closed producer's background work ended with, or asyncio would report it as lost."""
    unsent = [batch._drain_waiter for batches in producer._message_accumulator._batches.values() for batch in batches]
    for future in (producer._sender.sender_task, producer._txn_manager._transaction_waiter, *unsent):
        if future is not None and future.done() and not future.cancelled():
            future.exception()


def connection_of(client: Any) -> Any:
    """The connections under a consumer, producer or admin client."""
    return client.client if hasattr(client, "client") else client._client


def has_left_for_good(consumer: Any) -> bool:
    """Whether a group member's coordination has died: it will never join again by itself."""
    return bool(consumer._coordinator._coordination_task.done())


def servers(client: Any) -> str:
    """The brokers that a client was told of, `host:port[,…]` in any order; it need not be started."""
    return ",".join(f"{host}:{port}" for host, port, _family in connection_of(client).hosts)


async def connection_error(client: Any) -> tuple[str, BaseException] | None:
    """(host:port, what went wrong) of a new connection of `client`'s kind to the first of its brokers that takes none; None when
    all do. The library itself only logs what a first connection ended with."""
    inner = connection_of(client)
    for host, port, _family in inner.hosts:
        try:
            connection = await create_conn(
                host,
                port,
                client_id=inner._client_id,
                request_timeout_ms=inner._request_timeout_ms,
                ssl_context=inner._ssl_context,
                security_protocol=inner._security_protocol,
                sasl_mechanism=inner._sasl_mechanism,
                sasl_plain_username=inner._sasl_plain_username,
                sasl_plain_password=inner._sasl_plain_password,
            )
            try:
                await connection.send(MetadataRequest([]))
            finally:
                connection.close()
        except Exception as error:
            return f"{host}:{port}", error
    return None


def identity(client: Any) -> tuple[str, str | None, bool]:
    """How a client comes: its security protocol, its user name, and whether it shows a certificate."""
    inner = connection_of(client)
    return inner._security_protocol, inner._sasl_plain_username, getattr(inner._ssl_context, "shows_certificate", False)


async def describe_topics(admin: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """`topic`, `error_code` and `partitions` of each; the public method lets brokers create what it asks for. KafkaError."""
    response = await admin._send_request(MetadataRequest(list(names), allow_auto_topic_creation=False))
    topics: list[dict[str, Any]] = response.to_object()["topics"]
    return topics


async def cluster_id(client: Any) -> str:
    """Which cluster a started client talks to; empty where brokers have no such name. KafkaError."""
    inner = connection_of(client)
    node = inner.get_random_node()
    if node is None or not await inner.ready(node):
        raise NodeNotReadyError("no broker to ask")
    response = await inner.send(node, MetadataRequest([]))
    return str(response.to_object().get("cluster_id") or "")


async def acl_error(admin: Any) -> type[KafkaError]:
    """What a broker says to the question for its ACLs: NoError, SecurityDisabled, or that we may not ask."""
    anything, anybody = 1, None
    response = await admin._send_request(DescribeAclsRequest(anything, None, anything, anybody, None, anything, anything))
    error: type[KafkaError] = for_code(response.error_code)
    return error


async def abandon(producer: Any) -> None:
    """Gives up what a producer has in flight, each with ProducerClosed: its `stop` would flush, for ever without a broker."""
    producer._message_accumulator.fail_all(ProducerClosed())
    await connection_of(producer).close()
