"""A task's changelog partition, read to its end or from where a transaction hangs. Writes nothing, knows no state value."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from aiokafka import ConsumerRecord, TopicPartition

from headrace_streams.kafka import clients, compat
from headrace_streams.runtime.errors import Transport
from headrace_streams.runtime.position import POSITION_KEY, Stamp, UnreadablePosition, decode_position
from headrace_streams.settings import Settings

STALL_SECONDS = 30.0  # without a record while it is read


class ChangelogReader:
    """One partition; `label` names the task in errors."""

    def __init__(self, settings: Settings, partition: TopicPartition, label: str) -> None:
        self._settings, self._partition, self._label = settings, partition, label

    async def records(
        self, *, start: int | None = None, uncommitted: bool = False, at_least: int = 0
    ) -> AsyncGenerator[list[ConsumerRecord], None]:
        """From offset `start` (None: the first) to the present end, which is waited for to reach `at_least`. Raises KafkaError,
        OSError, or Transport when nothing comes for STALL_SECONDS. Close it (`aclosing`) to stop earlier."""
        isolation = "read_uncommitted" if uncommitted else "read_committed"
        consumer = clients.consumer(self._settings, auto_offset_reset="earliest", isolation_level=isolation)
        tp = self._partition
        try:
            await consumer.start()
            consumer.assign([tp])
            if start is None:
                await consumer.seek_to_beginning(tp)
            else:
                consumer.seek(tp, start)
            end = max(at_least, (await consumer.end_offsets([tp]))[tp])
            reached, patience = -1, time.monotonic() + STALL_SECONDS
            while (position := await consumer.position(tp)) < end:
                if position > reached:
                    reached, patience = position, time.monotonic() + STALL_SECONDS
                elif time.monotonic() > patience:
                    raise Transport(f"{self._label}: {tp.topic}/{tp.partition} can be read to offset {reached} of {end} only")
                for records in (await compat.getmany(consumer, tp, timeout_ms=500)).values():
                    yield records
        finally:
            await clients.stop(consumer)

    async def goes_on(self, offset: int, at_ms: int) -> bool:
        """Whether this is a log that had all its records below `offset` by the broker's time `at_ms`, and still has those since.
        One that was made anew under the same name got its records later. Raises KafkaError, OSError."""
        consumer = clients.consumer(self._settings)
        tp = self._partition
        try:
            await consumer.start()
            consumer.assign([tp])
            later = (await consumer.offsets_for_times({tp: at_ms + 1}))[tp]
            first = (await consumer.beginning_offsets([tp]))[tp]
        finally:
            await clients.stop(consumer)
        return first <= offset and (later is None or later.offset >= offset)

    async def stamps(self, open_from: int | None) -> tuple[Stamp | None, Stamp | None]:
        """Of the last committed position; and of the last one behind `open_from`, where a transaction hangs."""
        return await self._last_stamp(), None if open_from is None else await self._last_stamp(open_from)

    async def _last_stamp(self, open_from: int | None = None) -> Stamp | None:
        position = None
        async with aclosing(self.records(start=open_from, uncommitted=open_from is not None)) as batches:
            async for records in batches:
                for record in records:
                    if record.key == POSITION_KEY.encode() and record.value is not None:
                        with suppress(UnreadablePosition):  # somebody else's
                            position = decode_position(record.value)
        return None if position is None else position.stamp
