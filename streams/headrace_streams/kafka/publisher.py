"""Appends records to a deployment's topics, one by one or all or none: keyed partitions, acknowledged. Knows topics and bytes, no
event's meaning.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata

from headrace_schemas.codec import encode
from headrace_schemas.events import E, Event, make
from headrace_schemas.root_error import FAILED, HeadraceError
from headrace_schemas.topics import route
from headrace_streams.kafka import clients
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.settings import Settings


class Publisher:
    """`send` puts a record on the partition of its key, as every writer of ours does. Made by `publishing`."""

    def __init__(self, settings: Settings, producer: Any, counts: dict[str, int]) -> None:
        self._settings, self._producer, self._counts = settings, producer, counts

    async def send(
        self,
        topic: str,
        key: str | bytes | None,
        value: bytes,
        *,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int | None = None,
    ) -> asyncio.Future[RecordMetadata]:
        """Hands a record to the producer, for `partition` where the topic has that, else for its key's; without a key for any.
        The future is its acknowledgement."""
        raw = key.encode() if isinstance(key, str) else key
        if partition is None or partition >= self._counts[topic]:
            partition = None if raw is None else partition_for(raw, self._counts[topic])
        name = clients.full_name(self._settings, topic)
        sent: asyncio.Future[RecordMetadata] = await self._producer.send(
            name, value, key=raw, partition=partition, headers=list(headers)
        )
        return sent


@asynccontextmanager
async def publishing(settings: Settings, *topics: str, **options: Any) -> AsyncIterator[Publisher]:
    """A connected Publisher for `topics` (short names). `options` go to the producer. TopicMissing, BrokerUnavailable."""
    counts = await clients.partition_counts(settings, topics)
    async with clients.connected(clients.producer(settings, **options)) as producer:
        yield Publisher(settings, producer, counts)


class TransactionFailed(HeadraceError):
    """Nothing of a transaction is on the log: somebody else took over its id, or a broker did not take it."""

    exit_code = FAILED


class AtomicPublisher(Publisher):
    """`send` within `transaction`: all of it is on the log, or nothing. Made by `publishing_atomically`."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """What is sent inside is committed at its end. TransactionFailed."""
        try:
            async with self._producer.transaction():
                yield
        except KafkaError as error:
            raise TransactionFailed(" ".join(f"{type(error).__name__}: {error}".split())) from error


@asynccontextmanager
async def publishing_atomically(settings: Settings, name: str, *topics: str) -> AsyncIterator[AtomicPublisher]:
    """A connected AtomicPublisher of the transactional id `{deployment}.{name}`; who had that is fenced, what it left open is
    aborted. TopicMissing, BrokerUnavailable."""
    counts = await clients.partition_counts(settings, topics)
    producer = clients.producer(settings, transactional_id=f"{settings.deployment}.{name}")
    async with clients.connected(producer):
        yield AtomicPublisher(settings, producer, counts)


def requested(kind: type[E], data: Any, id: str | None = None, source: str | None = None) -> E:
    """An event of ours with the time of now, and a new id unless it repeats an earlier request. `source`: who asks, where it is
    not a command."""
    event = make(kind, data, id=id or uuid.uuid4().hex, writer="command", time_ms=time.time_ns() // 1_000_000)
    return event if source is None else msgspec.structs.replace(event, source=source)


async def publish(settings: Settings, *events: Event) -> None:
    """Appends events where the table of topics says that they belong, each when the one before is acknowledged."""
    routed = [(*route(event), encode(event)) for event in events]
    if not routed:
        return
    async with publishing(settings, *dict.fromkeys(topic for topic, _, _ in routed)) as publisher:
        for topic, key, value in routed:
            try:
                async with asyncio.timeout(clients.DEADLINE):
                    await (await publisher.send(topic, key, value))
            except TimeoutError:
                raise clients.BrokerUnavailable(
                    f"{settings.bootstrap} did not acknowledge within {clients.DEADLINE:g} s"
                ) from None
