"""Reads the log for the demo's picture: committed records of the topics that it is made of, from their beginning."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from aiokafka import TopicPartition

from headrace_schemas.codec import decode
from headrace_schemas.events import Event
from headrace_streams.kafka import clients
from headrace_streams.settings import Settings

TOPICS = ("examples", "rejections", "batches", "runs", "outcomes", "releases.history")
WAIT_MS = 250


async def follow(settings: Settings) -> AsyncGenerator[list[Event], None]:
    """What has come since the last time, at least four times a second; an empty list when nothing has. Never ends by itself."""
    counts = await clients.partition_counts(settings, TOPICS)
    partitions = [TopicPartition(clients.full_name(settings, topic), n) for topic, count in counts.items() for n in range(count)]
    async with clients.connected(clients.consumer(settings)) as consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        while True:
            found = await consumer.getmany(timeout_ms=WAIT_MS)
            yield [decode(record.value, record.headers) for records in found.values() for record in records]
