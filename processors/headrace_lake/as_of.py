"""A log as it was at a time: without what was appended later. Knows append times alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from headrace_lake.log import Log, LogRecord


class LogAsOf:
    """What `log` held at `time_ms` (since the epoch). Append times rise along a partition, so the first later one ends it."""

    def __init__(self, log: Log, time_ms: int) -> None:
        self._log, self._time_ms = log, time_ms

    async def partitions(self, topic: str) -> int:
        return await self._log.partitions(topic)

    async def start(self, topic: str, partition: int) -> int:
        return await self._log.start(topic, partition)

    async def read(self, topic: str, partition: int, start: int = 0, end: int | None = None) -> AsyncGenerator[LogRecord, None]:
        async with aclosing(self._log.read(topic, partition, start, end)) as records:
            async for record in records:
                if record.timestamp > self._time_ms:
                    return
                yield record

    async def records_at(self, topic: str, partition: int, offsets: Sequence[int]) -> AsyncGenerator[LogRecord, None]:
        async for record in self._log.records_at(topic, partition, offsets):
            if record.timestamp <= self._time_ms:
                yield record
