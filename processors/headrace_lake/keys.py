"""The keyring as a log has it: for whoever reads sealed records again. Knows no client and folds nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from headrace_lake.log import Log, LogRecord
from headrace_streams.kafka.clients import NotAllowed
from headrace_streams.runtime.sealing import Sealing, owner_of
from headrace_streams.sealing import key_log
from headrace_streams.sealing.keyring import Keyring


async def sealing_of(log: Log) -> Sealing:
    """What opens the sealed records of a log. A deployment from before there were keys has no such topic, and nothing sealed; who
    may not read it opens nothing, which is told of at the first sealed record (KeyMissing)."""
    ring = Keyring()
    try:
        for partition in range(await log.partitions(key_log.TOPIC)):
            async with aclosing(log.read(key_log.TOPIC, partition)) as records:
                async for record in records:
                    key_log.apply(ring, record.value, record.headers)
    except NotAllowed:
        return Sealing(Keyring())
    return Sealing(ring)


class OpenedLog:
    """A log whose sealed records are opened, by the keys that `keys` has when the first one comes. Raises as `Sealing`."""

    def __init__(self, log: Log, keys: Log) -> None:
        self._log, self._keys = log, keys
        self._sealing: Sealing | None = None

    async def partitions(self, topic: str) -> int:
        return await self._log.partitions(topic)

    async def start(self, topic: str, partition: int) -> int:
        return await self._log.start(topic, partition)

    async def read(self, topic: str, partition: int, start: int = 0, end: int | None = None) -> AsyncGenerator[LogRecord, None]:
        async with aclosing(self._log.read(topic, partition, start, end)) as records:
            async for record in records:
                yield await self._opened(record)

    async def records_at(self, topic: str, partition: int, offsets: Sequence[int]) -> AsyncGenerator[LogRecord, None]:
        async for record in self._log.records_at(topic, partition, offsets):
            yield await self._opened(record)

    async def _opened(self, record: LogRecord) -> LogRecord:
        owner = owner_of(record.topic, record.headers)
        if owner is None or record.value is None:
            return record
        if self._sealing is None:
            self._sealing = await sealing_of(self._keys)
        return record._replace(value=self._sealing.opened(owner, record.value))
