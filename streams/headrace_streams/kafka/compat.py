"""What aiokafka has no public door for, each thing once: so a new version of it is checked here. Knows no topic and no event.

Header names: aiokafka takes them for UTF-8 and raises from deep within its fetcher where one is not. Brokers take any bytes, and
so do clients in languages whose strings are bytes: one such record would stop every consumer of its partition, for ever and
whatever stands behind it. `install` makes consumers read such a batch again with a question mark for each byte of the name that
is not ASCII; all other batches go the fast way. It changes a library for its whole process, so only processes of ours call it
(every command does, when it runs), never the door: an agent reads `releases` alone, which only we write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import ProducerClosed
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint

_SIZE_AT, _SIZE_END = 8, 12  # where a batch says how many bytes follow


class Batches:
    """What the fetcher asks of a partition's bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._start = data, 0
        self._records = MemoryRecords(data)
        self.has_next = self._records.has_next
        self.size_in_bytes = self._records.size_in_bytes

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        start = self._start
        size = int.from_bytes(self._data[start + _SIZE_AT : start + _SIZE_END], "big")
        self._start = start + _SIZE_END + size
        return _Batch(batch, self._data, start, self._start) if isinstance(batch, DefaultRecordBatch) else batch


class _Batch:
    """A batch of the current format; `data[start:end]` are its bytes."""

    __slots__ = ("_batch", "_data", "_end", "_start")

    def __init__(self, batch: Any, data: bytes, start: int, end: int) -> None:
        self._batch, self._data, self._start, self._end = batch, data, start, end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._batch
        except UnicodeDecodeError:  # from the first record on once more: the fetcher drops offsets that it has had
            yield from _mended(self._data[self._start : self._end])


def _mended(raw: bytes) -> Any:
    """The batch with readable header names. They keep their length, so nothing else moves."""
    batch = _DefaultRecordBatchPy(bytearray(raw))
    batch._maybe_uncompress()
    buffer, position = batch._buffer, batch._pos
    for _ in range(batch._num_records):
        length, position = decode_varint(buffer, position)
        following = position + length
        position += 1  # attributes
        for _ in ("timestamp", "offset"):
            position = decode_varint(buffer, position)[1]
        for _ in ("key", "value"):
            position = _behind(buffer, position)
        headers, position = decode_varint(buffer, position)
        for _ in range(headers):
            length, name = decode_varint(buffer, position)
            text = bytes(buffer[name : name + length])
            try:
                text.decode()
            except UnicodeDecodeError:
                buffer[name : name + length] = bytes(byte if byte < 0x80 else ord("?") for byte in text)
            position = _behind(buffer, name + length)
        position = following
    return batch


def _behind(buffer: Any, position: int) -> int:
    """Where the text with its length at `position` ends; a length of -1 is null."""
    length, position = decode_varint(buffer, position)
    return int(position + max(length, 0))


def install() -> None:
    """Header names of any bytes, for all consumers of this process; the fetcher has no other door."""
    fetcher.MemoryRecords = Batches


def in_transaction(producer: Any) -> bool:
    """Whether a transactional producer has begun a transaction and not ended it."""
    return bool(producer._txn_manager.is_in_transaction())


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


async def describe_topics(admin: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """`topic`, `error_code` and `partitions` of each; the public method lets brokers create what it asks for. KafkaError."""
    response = await admin._send_request(MetadataRequest(list(names), allow_auto_topic_creation=False))
    topics: list[dict[str, Any]] = response.to_object()["topics"]
    return topics


async def abandon(producer: Any) -> None:
    """Gives up what a producer has in flight, each with ProducerClosed: its `stop` would flush, for ever without a broker."""
    producer._message_accumulator.fail_all(ProducerClosed())
    await connection_of(producer).close()
