"""The log as replay reads it, on a real Kafka. Knows the reader and offsets, nothing of what is in a record."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from headrace_lake.log import LogRecord
from headrace_schemas.topology import CHANGELOGS
from headrace_streams.kafka.reader import Reader
from headrace_streams.settings import Settings

_CHANGELOGS = frozenset(topic.name for topic in CHANGELOGS)


class KafkaLog(Reader):
    """Committed records of a deployment's topics. First offsets are asked once: a log that replay reads only grows."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._starts: dict[str, dict[int, int]] = {}

    async def start(self, topic: str, partition: int) -> int:
        """The first offset that is still there."""
        if topic not in self._starts:
            self._starts[topic] = {number: span.begin for number, span in (await self.spans(topic)).items()}
        return self._starts[topic][partition]

    async def read(self, topic: str, partition: int, start: int = 0, end: int | None = None) -> AsyncGenerator[LogRecord, None]:
        """The records of a partition from `start` up to `end`, as `Reader.read_partition`. A changelog whose input
        somebody has grown may lack a partition, as nothing was folded there: it is empty."""
        if topic in _CHANGELOGS and partition >= await self.partitions(topic):
            return
        async with aclosing(self.read_partition(topic, partition, start, end)) as records:
            async for found in records:
                yield LogRecord(topic, partition, found.offset, found.timestamp, found.key, found.value, tuple(found.headers))

    async def records_at(self, topic: str, partition: int, offsets: Sequence[int]) -> AsyncGenerator[LogRecord, None]:
        """As `Reader.read_at`."""
        async with aclosing(self.read_at(topic, partition, offsets)) as records:
            async for found in records:
                yield LogRecord(topic, partition, found.offset, found.timestamp, found.key, found.value, tuple(found.headers))
