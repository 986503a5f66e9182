"""Appends single records to a deployment's topics: keyed partitions, acknowledged. Knows topics and bytes, no event's meaning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from headrace_schemas.codec import encode
from headrace_schemas.events import Event
from headrace_schemas.topics import route
from headrace_streams.kafka import clients
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.settings import Settings


class Publisher:
    """`send` puts a record on the partition of its key, as every writer of ours does. Made by `publishing`."""

    def __init__(self, settings: Settings, producer: Any, counts: dict[str, int]) -> None:
        self._settings, self._producer, self._counts = settings, producer, counts

    async def send(self, topic: str, key: str, value: bytes) -> asyncio.Future[Any]:
        """Hands a record to the producer; the future is its acknowledgement."""
        name, raw = clients.full_name(self._settings, topic), key.encode()
        sent: asyncio.Future[Any] = await self._producer.send(
            name, value, key=raw, partition=partition_for(raw, self._counts[topic])
        )
        return sent


@asynccontextmanager
async def publishing(settings: Settings, *topics: str, **options: Any) -> AsyncIterator[Publisher]:
    """A connected Publisher for `topics` (short names). `options` go to the producer. TopicMissing, BrokerUnavailable."""
    counts = await clients.partition_counts(settings, topics)
    async with clients.connected(clients.producer(settings, **options)) as producer:
        yield Publisher(settings, producer, counts)


async def publish(settings: Settings, event: Event) -> None:
    """Appends one event where the table of topics says that it belongs, and waits for the acknowledgement."""
    topic, key = route(event)
    async with publishing(settings, topic) as publisher:
        try:
            async with asyncio.timeout(clients.DEADLINE):
                await (await publisher.send(topic, key, encode(event)))
        except TimeoutError:
            raise clients.BrokerUnavailable(f"{settings.bootstrap} did not acknowledge within {clients.DEADLINE:g} s") from None
