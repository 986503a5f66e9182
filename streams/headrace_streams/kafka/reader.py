"""Committed records of a deployment's topics: by partition, by topic, by key, as events, as they come. Decides nothing.

Topics are short names. Who stops before the end closes what it reads from (`aclosing`), or its connection leaks. Aborted records
and transaction markers take up offsets but are not yielded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from headrace_schemas.cloudevents import Headers
from headrace_schemas.codec import DecodeError, decode
from headrace_schemas.events import Event
from headrace_schemas.topology import LATER
from headrace_streams.kafka import clients, compat
from headrace_streams.kafka.clients import BrokerUnavailable, TopicMissing
from headrace_streams.kafka.compat import PartitionColumns
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.settings import Settings

__all__ = ["KafkaRecord", "OffsetOutOfRangeError", "Reader", "Span", "TopicPartition", "decode_or_none", "event_of"]

POLL_MS = 500
NEAR = 200  # offsets between two wanted records that are read over instead of sought
NEAR_BYTES = 256 * 1024
PROGRESS_MS = 200


class Span(NamedTuple):
    """Offsets of a partition: `begin` is the first that is kept, `end` the first that committed readers don't see yet."""

    begin: int
    end: int


class Fetched(NamedTuple):
    """Records of several partitions as they came, or PartitionColumns of them, and the next offset of every partition."""

    records: list[ConsumerRecord | PartitionColumns]
    positions: dict[tuple[str, int], int]


KafkaRecord = ConsumerRecord  # what readers yield, for those that do not import the client


def decode_or_none(value: bytes | None, headers: Headers = ()) -> Event | None:
    """An event; None for what somebody else put there: no junk may keep people from what is on the log."""
    try:
        return decode(value, headers)
    except DecodeError:
        return None


def event_of(record: ConsumerRecord) -> Event | None:
    """The event in a record, or None as `decode_or_none`."""
    return decode_or_none(record.value, record.headers)


class Reader:
    """Asks for the partition count of a topic once and keeps it; one that a deployment is too old to have has none until it is
    declared. Raises TopicMissing and BrokerUnavailable."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._counts: dict[str, int] = {}

    async def counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Partition counts by short name."""
        names = [clients.short_name(self.settings, topic) for topic in topics]
        missing = [name for name in names if name not in self._counts]
        found = await clients.partition_counts(self.settings, missing, absent=LATER) if missing else {}
        self._counts |= {name: count for name, count in found.items() if count}
        return {name: self._counts.get(name, 0) for name in names}

    async def partitions(self, topic: str) -> int:
        """The partition count of a topic."""
        name = clients.short_name(self.settings, topic)
        return (await self.counts([name]))[name]

    async def partition_of(self, topic: str, key: str) -> int:
        """The partition that our own writers put `key` into."""
        return partition_for(key.encode(), await self.partitions(topic))

    async def offsets(self, topics: Iterable[str]) -> dict[tuple[str, int], Span]:
        """The committed span of every partition of `topics` as of now, by (short name, partition)."""
        partitions = await self._partitions(topics)
        if not partitions:
            return {}
        async with clients.connected(clients.consumer(self.settings)) as consumer:
            consumer.assign(partitions)
            begins, ends = await _spans(consumer, partitions)
        return {(clients.short_name(self.settings, tp.topic), tp.partition): Span(begins[tp], ends[tp]) for tp in partitions}

    async def spans(self, topic: str) -> dict[int, Span]:
        """The committed span of every partition of a topic as of now."""
        return {partition: span for (_, partition), span in (await self.offsets([topic])).items()}

    async def written(self, topic: str) -> dict[int, int]:
        """The offset behind the last record of every partition of a topic, committed or not."""
        partitions = await self._partitions([topic])
        async with clients.connected(clients.consumer(self.settings, isolation_level="read_uncommitted")) as consumer:
            consumer.assign(partitions)
            _, ends = await _spans(consumer, partitions)
        return {tp.partition: end for tp, end in ends.items()}

    async def offsets_at(self, topics: Iterable[str], time_ms: int) -> dict[tuple[str, int], int]:
        """The first offset of every partition of `topics` whose record was appended at `time_ms` (since the epoch) or later, or
        the committed end where there is none, by (short name, partition)."""
        partitions = await self._partitions(topics)
        async with clients.connected(clients.consumer(self.settings)) as consumer:
            consumer.assign(partitions)
            _, ends = await _spans(consumer, partitions)
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, time_ms))
        first = {tp: ends[tp] if at is None else min(at.offset, ends[tp]) for tp, at in found.items()}
        return {(clients.short_name(self.settings, tp.topic), tp.partition): offset for tp, offset in first.items()}

    async def cluster_id(self) -> str:
        """The id that the brokers give their cluster; empty where they have none."""
        async with clients.connected(clients.admin(self.settings)) as client:
            return await compat.cluster_id(client)

    async def read_on(
        self,
        starts: Mapping[tuple[str, int], int],
        ends: Mapping[tuple[str, int], int] | None = None,
        *,
        poll_ms: int = POLL_MS,
        head: bytes | None = None,
    ) -> AsyncGenerator[Fetched, None]:
        """The records of partitions, by (short name, partition), from an offset each and up to one each, or for ever, with where
        each stands then: behind markers, too, and no further than its end. Yields nothing new now and then. With `head`, records
        whose headers begin so (`headers_head`) come as columns. Raises OffsetOutOfRangeError for a start that the log does not
        have."""
        places = {self._partition(topic, number): (topic, number) for topic, number in starts}
        limits = None if ends is None else {tp: ends[place] for tp, place in places.items()}
        async with clients.connected(clients.consumer(self.settings)) as consumer:
            consumer.assign(list(places))
            for tp, place in places.items():
                consumer.seek(tp, starts[place])
            async with aclosing(_records(consumer, limits, poll_ms, head)) as batches:
                async for records in batches:
                    positions = {place: await consumer.position(tp) for tp, place in places.items()}
                    if ends is not None:
                        positions = {
                            place: min(position, max(ends[place], starts[place])) for place, position in positions.items()
                        }
                    yield Fetched(records, positions)

    async def read_partition(
        self, topic: str, partition: int, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[ConsumerRecord, None]:
        """The records of a partition from offset `start` (or the first that is kept) up to `end`, then stops.

        `end` None: what is committed when reading begins."""
        if partition >= await self.partitions(topic):
            raise TopicMissing(f"{clients.full_name(self.settings, topic)} has no partition {partition}")
        tp = self._partition(topic, partition)
        async with clients.connected(clients.consumer(self.settings)) as consumer:
            consumer.assign([tp])
            begins, ends = await _spans(consumer, [tp])
            consumer.seek(tp, max(start, begins[tp]))
            async with aclosing(_records(consumer, {tp: ends[tp] if end is None else min(end, ends[tp])})) as batches:
                async for records in batches:
                    for record in records:
                        yield record

    async def read_at(self, topic: str, partition: int, offsets: Sequence[int]) -> AsyncGenerator[ConsumerRecord, None]:
        """The records at `offsets` (ascending) of a partition; where there is none, nothing. Near ones are read over, far ones
        sought."""
        span = (await self.spans(topic)).get(partition, Span(0, 0))
        ahead = [offset for offset in offsets if span.begin <= offset < span.end]
        if not ahead:  # of a partition that there is not, the consumer would end cancelled
            return
        tp, wanted, position = self._partition(topic, partition), set(ahead), -NEAR
        async with clients.connected(clients.consumer(self.settings, max_partition_fetch_bytes=NEAR_BYTES)) as consumer:
            consumer.assign([tp])
            while ahead:
                if not position <= ahead[0] < position + NEAR:
                    position = ahead[0]
                    consumer.seek(tp, position)
                async with aclosing(_records(consumer, {tp: ahead[-1] + 1})) as batches:
                    async for records in batches:
                        for record in records:
                            if record.offset in wanted:
                                yield record
                        position = await consumer.position(tp)
                        ahead = [offset for offset in ahead if offset >= position]
                        if ahead and ahead[0] >= position + NEAR:
                            break

    async def read_topic(self, topic: str) -> AsyncGenerator[ConsumerRecord, None]:
        """All records of a topic, one partition after the other, each in its order."""
        for partition in range(await self.partitions(topic)):
            async with aclosing(self.read_partition(topic, partition)) as records:
                async for record in records:
                    yield record

    async def events(self, topic: str, *, key: str | None = None, containing: bytes = b"") -> AsyncGenerator[Event, None]:
        """The events of a topic; what is none is skipped. `key`: only the partition of that key, which others share;
        `containing`: only those in whose bytes that stands."""
        source = self.read_topic(topic) if key is None else self.read_partition(topic, await self.partition_of(topic, key))
        async with aclosing(source) as records:
            async for record in records:
                if record.value is not None and containing in record.value and (event := event_of(record)) is not None:
                    yield event

    async def follow(
        self,
        *topics: str,
        partition: int | None = None,
        since: Literal["start", "end"] | int = "start",
        to_end: bool = False,
        poll_ms: int = POLL_MS,
    ) -> AsyncGenerator[list[ConsumerRecord], None]:
        """The records of topics (or of one partition of each) as they come: from the first, from now on, or from an append time
        in ms; with `to_end` only those that are committed now, else it never ends by itself.

        Yields an empty list first, once it knows where it begins, so that who asks a question can ask it then, and whenever
        nothing came for `poll_ms`. Close it (`aclosing`) to stop earlier."""
        counts = await self.counts(topics)
        listed = [
            self._partition(topic, number)
            for topic, count in counts.items()
            for number in (range(count) if partition is None else [partition])
        ]
        async with clients.connected(clients.consumer(self.settings, auto_offset_reset="earliest")) as consumer:
            consumer.assign(listed)
            begins, ends = await _spans(consumer, listed)
            starts = ends if since == "end" else begins
            if isinstance(since, int):
                found = await consumer.offsets_for_times(dict.fromkeys(listed, since))
                starts = {tp: ends[tp] if at is None else at.offset for tp, at in found.items()}
            for tp, offset in starts.items():
                consumer.seek(tp, offset)
            yield []
            async with aclosing(_records(consumer, ends if to_end else None, poll_ms)) as batches:
                async for records in batches:
                    yield records

    async def _partitions(self, topics: Iterable[str]) -> list[TopicPartition]:
        """All of `topics`."""
        counts = await self.counts(topics)
        return [self._partition(topic, number) for topic, count in counts.items() for number in range(count)]

    def _partition(self, topic: str, number: int) -> TopicPartition:
        return TopicPartition(clients.full_name(self.settings, topic), number)


async def _records(
    consumer: AIOKafkaConsumer,
    ends: Mapping[TopicPartition, int] | None,
    poll_ms: int = PROGRESS_MS,
    head: bytes | None = None,
) -> AsyncGenerator[list[Any], None]:
    """What comes from where the consumer stands up to `ends`, or for ever. BrokerUnavailable when an end is not reached because
    the broker stopped answering."""
    loop = asyncio.get_running_loop()
    patience = loop.time() + clients.DEADLINE
    positions = {tp: await consumer.position(tp) for tp in ends or ()}
    while ends is None or any(position < ends[tp] for tp, position in positions.items()):
        if head is None:
            fetched = await compat.getmany(consumer, timeout_ms=poll_ms)
        else:
            fetched = await compat.getcolumns(consumer, head, timeout_ms=poll_ms)
        records = [record for batch in fetched.values() for record in batch]
        if ends is None:
            yield records
            continue
        yield [
            record.before(end) if isinstance(record, PartitionColumns) else record
            for record in records
            if record.offset < (end := ends[TopicPartition(record.topic, record.partition)])
        ]
        before, positions = positions, {tp: await consumer.position(tp) for tp in ends}  # they move over markers too
        if positions != before:
            patience = loop.time() + clients.DEADLINE
        elif loop.time() > patience:
            tp = next(tp for tp, position in positions.items() if position < ends[tp])
            at = f"{tp.topic}/{tp.partition} stands at offset {positions[tp]} of {ends[tp]}"
            raise BrokerUnavailable(f"{at}: the broker stopped answering")


async def _spans(consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> tuple[dict[Any, int], dict[Any, int]]:
    try:
        async with asyncio.timeout(clients.DEADLINE):
            return await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    except (TimeoutError, KafkaError) as error:
        raise BrokerUnavailable(f"offsets of {partitions[0].topic} can't be read: {error or 'no reply'}") from error
