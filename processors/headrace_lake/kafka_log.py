"""The log as replay reads it, on a real Kafka. Knows clients and offsets, nothing of what is in a record."""

from __future__ import annotations

from collections.abc import AsyncIterator

from headrace_lake.verify import LogRecord
from headrace_streams.kafka import clients
from headrace_streams.settings import Settings


class KafkaLog:
    """Committed records of a deployment's topics. Counts and first offsets are asked once: a log that replay reads only grows."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._counts: dict[str, int] = {}
        self._starts: dict[tuple[str, int], int] = {}

    async def partitions(self, topic: str) -> int:
        if topic not in self._counts:
            self._counts |= await clients.partition_counts(self.settings, [topic])
        return self._counts[topic]

    async def start(self, topic: str, partition: int) -> int:
        if (topic, partition) not in self._starts:
            spans = await clients.offsets(self.settings, [topic])
            self._starts |= {place: span.begin for place, span in spans.items()}
        return self._starts[topic, partition]

    async def read(self, topic: str, partition: int, start: int = 0, end: int | None = None) -> AsyncIterator[LogRecord]:
        async for found in clients.read_partition(self.settings, topic, partition, start, end):
            yield LogRecord(topic, partition, found.offset, found.timestamp, found.key, found.value, tuple(found.headers))
