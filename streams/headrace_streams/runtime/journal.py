"""The memory of a task: its fenced transactional producer, its changelog and its position in one. Knows Kafka, but no fold.

There is one Journal per (stage, input topic, partition). `open` takes the producer id first, which fences any predecessor and
settles its open transaction, and only then reads the changelog: nobody else can add to what was read. `launch` writes outputs,
changed state and the new position as one transaction, while its owner goes on. After any error a Journal is of no more use: close
it, open another.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any, NoReturn

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    KafkaError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    UnknownProducerId,
)
from msgspec import Struct

from headrace_schemas.root_error import HeadraceError
from headrace_schemas.topology import changelog
from headrace_streams.broker_clock import BrokerClock
from headrace_streams.kafka import clients, compat
from headrace_streams.runtime.step import Produced
from headrace_streams.settings import Settings

POSITION_KEY = "@position"
BATCH_BYTES = 1024 * 1024
ABORT_SECONDS = 2.0
FLUSH_SECONDS = 5.0
CLOSE_SECONDS = 5.0
APPEAR_SECONDS = 5.0
_LOG_APPEND_TIME = 1
_LOST = (InvalidProducerIdMapping, UnknownProducerId, OutOfOrderSequenceNumber, InvalidTxnState)


Ends = Mapping[tuple[str, int], int]  # offset behind the last record, by topic and partition


class JournalError(HeadraceError):
    """A journal can't go on; the message says which one and why."""


class Fenced(JournalError):
    """Another owner took this task's producer id: what was not committed never happened."""


class ProducerLost(JournalError):
    """The broker no longer knows this producer id (idle for too long, or its data is gone): open a new journal."""


class Transport(JournalError):
    """The broker did not take it: away, refusing, or too slow."""


class Refused(JournalError):
    """Going on would be wrong, and trying again would not help: somebody has to look. The message says what to do."""


class Rules(Struct, frozen=True):
    """Which rules a task goes by: the version in code and the digest of the policy body."""

    version: int
    digest: str


class Position(Struct, frozen=True, kw_only=True):
    """Where a task stands: every input record below `next_offset` is in `counters`. `now` is the fold's time in ms,
    `partitions` the count of the input topic that state and keys were laid out for."""

    next_offset: int = 0
    now: int = 0
    partitions: int = 0
    counters: dict[str, int] = {}
    rules: Rules | None = None
    state_version: int = 1  # of the state beside it: what its values mean


def encode_position(position: Position) -> bytes:
    return msgspec.json.encode(position)


def decode_position(value: bytes) -> Position:
    return msgspec.json.decode(value, type=Position)


class Journal:
    """`state` (key -> bytes) and `position` are what `open` found; `state` is the opener's to take. `partitions` has the
    counts of the input topic, `outputs`, `rules` and `dead-letters` by short name; `clock` follows the broker's by what it
    acknowledges."""

    def __init__(self, settings: Settings, stage: str, topic: str, partition: int, outputs: Iterable[str] = ()) -> None:
        self.label = f"{stage}/{topic}/{partition}"
        self.state: dict[str, bytes] = {}
        self.position: Position | None = None
        self.partitions: dict[str, int] = {}
        self.restored_records = 0
        self._settings = settings
        self._topic, self._partition = topic, partition
        self._changelog = changelog(stage, topic).name
        self._outputs = sorted({topic, *outputs, "rules", "dead-letters"})
        self._transactional_id = f"{settings.deployment}.{stage}.{topic}.{partition}"
        self._producer: Any = None
        self.clock = BrokerClock()
        self.flight: asyncio.Task[Ends] | None = None  # the transaction under way

    async def open(self) -> None:
        """Fences any predecessor, then reads the changelog to its end. Raises Refused when a topic is missing, or Transport."""
        self._producer = clients.producer(
            self._settings,
            transactional_id=self._transactional_id,
            max_batch_size=BATCH_BYTES,
        )
        try:
            await self._producer.start()
            await self._count_partitions()
            await self._restore()
        except (KafkaError, OSError) as error:
            self._fail(error)

    def launch(self, produced: Iterable[Produced], changes: Mapping[str, bytes | None], position: Position) -> None:
        """Begins to write everything as one transaction, or nothing. One at a time: `landed` first."""
        assert self.flight is None, f"{self.label}: a transaction is under way"
        self.flight = asyncio.create_task(self._commit(produced, changes, position), name=f"{self.label} commit")

    async def landed(self) -> Ends:
        """The end of the transaction under way, if there is one: the offset behind what was written, by short topic name and
        partition. A cancelled caller leaves it going; `close` sees it to its end.

        Raises Fenced, ProducerLost or Transport; after that the outcome is known to the next `open` only."""
        if self.flight is None:
            return {}
        try:
            return await asyncio.shield(self.flight)
        finally:
            if self.flight.done():
                self.flight = None

    async def commit(self, produced: Iterable[Produced], changes: Mapping[str, bytes | None], position: Position) -> Ends:
        """Both, one after the other."""
        self.launch(produced, changes, position)
        return await self.landed()

    async def close(self) -> None:
        """Waits for the transaction under way, gives up one that does not end, and closes the connections; never raises and never
        waits long."""
        flight, self.flight = self.flight, None
        if flight is not None:
            await asyncio.wait({flight}, timeout=FLUSH_SECONDS)
            if not flight.done():
                flight.cancel()
            elif not flight.cancelled():
                flight.exception()  # seen: nobody goes on with this journal
        producer, self._producer = self._producer, None
        if producer is None:
            return
        if compat.in_transaction(producer):
            with contextlib.suppress(Exception):
                async with asyncio.timeout(ABORT_SECONDS):
                    await producer.abort_transaction()
        await stop(producer)
        compat.retrieve_errors(producer)  # what mattered of them has been raised

    async def _count_partitions(self) -> None:
        names = {topic: clients.full_name(self._settings, topic) for topic in (*self._outputs, self._changelog)}
        deadline = time.monotonic() + APPEAR_SECONDS
        while True:
            cluster = await self._producer.client.fetch_all_metadata()
            self.partitions = {topic: len(cluster.partitions_for_topic(name) or ()) for topic, name in names.items()}
            missing = [names[topic] for topic, count in self.partitions.items() if not count]
            if not missing:
                break
            if time.monotonic() > deadline:
                raise Refused(f"{self.label}: topic {missing[0]} is missing: run `headrace topics create`")
            await asyncio.sleep(0.2)  # a topic that was just created takes a moment to be seen
        kept = self.partitions.pop(self._changelog)
        if kept <= self._partition:
            raise Refused(
                f"{self.label}: topic {names[self._changelog]} has {kept} partitions, fewer than its input "
                f"{self._topic}: run `headrace topics create`"
            )
        for name in names.values():
            await self._producer.partitions_for(name)  # known before the first batch

    async def _restore(self) -> None:
        tp = TopicPartition(clients.full_name(self._settings, self._changelog), self._partition)
        consumer = clients.consumer(self._settings, auto_offset_reset="earliest")
        try:
            await consumer.start()
            consumer.assign([tp])
            await consumer.seek_to_beginning(tp)
            end = (await consumer.end_offsets([tp]))[tp]
            while await consumer.position(tp) < end:
                for records in (await compat.getmany(consumer, tp, timeout_ms=500)).values():
                    self.restored_records += len(records)
                    for record in records:
                        key = record.key.decode()
                        if record.value is None:
                            self.state.pop(key, None)
                        else:
                            self.state[key] = record.value
        finally:
            await stop(consumer)
        position = self.state.pop(POSITION_KEY, None)
        self.position = None if position is None else decode_position(position)

    async def _commit(self, produced: Iterable[Produced], changes: Mapping[str, bytes | None], position: Position) -> Ends:
        batches = _Batches(self._producer)
        for record in produced:
            name = clients.full_name(self._settings, record.topic)
            batches.add(name, record.partition, record.key, record.value, record.headers)
        name = clients.full_name(self._settings, self._changelog)
        for key, value in changes.items():
            batches.add(name, self._partition, key.encode(), value, ())
        batches.add(name, self._partition, POSITION_KEY.encode(), encode_position(position), ())
        try:
            await self._producer.begin_transaction()
            ends = await batches.send(self.clock)
            await self._producer.commit_transaction()
        except (KafkaError, OSError) as error:
            self._fail(error)
        self.position = position
        return {(clients.short_name(self._settings, topic), partition): end for (topic, partition), end in ends.items()}

    def _fail(self, error: BaseException) -> NoReturn:
        cause: BaseException | None = error
        while cause is not None:  # aiokafka wraps what ended its sender
            if isinstance(cause, ProducerFenced | InvalidProducerEpoch):
                raise Fenced(f"{self.label}: another owner has taken over {self._transactional_id}") from error
            if isinstance(cause, _LOST):
                raise ProducerLost(f"{self.label}: the broker has lost {self._transactional_id}: {cause!r}") from error
            cause = cause.__cause__
        raise Transport(f"{self.label}: {error!r}") from error


async def stop(client: Any) -> None:
    """Closes an aiokafka client in bounded time, whatever the broker does. Cancelled meanwhile, it ends cancelled.

    Not `asyncio.wait_for`: in Python 3.11 that swallows a cancellation which comes as its work ends, and the task then goes on
    and keeps fencing the rightful owner of its partition."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await clients.close(client)
    except Exception:  # a flush that can't end: what it would have sent is not committed and does not matter any more
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await compat.connection_of(client).close()


class _Batches:
    """Records of one transaction, packed per partition: `send` record by record costs 3.5 times as much."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._packed: dict[tuple[str, int], list[Any]] = {}

    def add(self, topic: str, partition: int, key: bytes, value: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> None:
        fields = {"key": key, "value": value, "timestamp": None, "headers": list(headers)}
        builders = self._packed.setdefault((topic, partition), [])
        if not builders or builders[-1].append(**fields) is None:
            builders.append(self._producer.create_batch())
            builders[-1].append(**fields)  # the first one fits, whatever its size

    async def send(self, clock: BrokerClock) -> dict[tuple[str, int], int]:
        """Submits all and waits for every acknowledgement, by which `clock` goes; the offset behind each partition's. The first
        failure is raised (committing would not notice it)."""
        sent, counts = [], []
        for round_ in zip_longest(*self._packed.values()):  # a partition's second batch waits for its first; the others need not
            for (topic, partition), batch in zip(self._packed, round_, strict=True):
                if batch is not None:
                    counts.append(batch.record_count())
                    sent.append(await self._producer.send_batch(batch, topic, partition=partition))
        ends: dict[tuple[str, int], int] = {}
        for count, result in zip(counts, await asyncio.gather(*sent, return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                raise result
            ends[result.topic, result.partition] = result.offset + count
            if result.timestamp_type == _LOG_APPEND_TIME:
                clock.heard(result.timestamp)
        return ends
