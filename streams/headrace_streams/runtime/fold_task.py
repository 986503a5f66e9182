"""The live driver of a fold: one stage over one input partition, exactly. Knows the clock's ticks, decides nothing itself.

Micro-batches: fetch, fold record by record, commit outputs, state and position as one transaction. After any error the task is
over; its successor reads from the changelog what was committed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from aiokafka import ConsumerRecord

from headrace_schemas import derived
from headrace_schemas.codec import encode
from headrace_schemas.events import ClockTicked, make
from headrace_schemas.ids import derive_id
from headrace_schemas.times import rfc3339
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.session import Session, now_ms
from headrace_streams.runtime.stage import Fold, Stage
from headrace_streams.runtime.status import TaskReport
from headrace_streams.runtime.step import Produced, provenance_without_input
from headrace_streams.settings import Settings

BATCH_RECORDS = 2000
BATCH_SECONDS = 0.05
BATCH_BYTES = 8 * 1024 * 1024  # of outputs and state, before a transaction is closed early
POLL_MS = 500
TICK_SECONDS = 60.0
LOAD_CHUNK = 2000  # state values decoded before other tasks get a turn


class FoldTask:
    """`policy` is a policy body; `tick_seconds` the least time between two ticks of an idle partition."""

    def __init__(
        self,
        stage: Stage[Fold],
        policy: Mapping[str, Any],
        topic: str,
        partition: int,
        settings: Settings,
        *,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        self._session = Session(settings, stage, policy, topic, partition)
        self._runner = FoldRunner(stage, topic, partition, {})
        self._runner.activate_newest(policy)
        self._tick_seconds = tick_seconds
        self._backlog: deque[ConsumerRecord] = deque()
        self._phase = "starting"
        self._active = self._ticked = time.monotonic()

    @property
    def label(self) -> str:
        """stage/topic/partition"""
        return self._session.label

    async def run(self) -> None:
        """Until cancelled; a transaction that is under way ends first. Raises Refused (somebody has to look), Fenced,
        ProducerLost or Transport (start another task)."""
        try:
            self._phase = "restoring"
            async with self._session.held() as state:
                await self._load(state)
                await self._session.begin()
                self._phase = "running"
                while True:
                    await self._poll_once()
        finally:
            self._phase = "stopped"

    def describe(self) -> TaskReport:
        """Where it stands."""
        position = self._session.position
        return TaskReport(
            stage=self._runner.stage.name,
            topic=self._runner.topic,
            partition=self._runner.partition,
            phase=self._phase,
            next_offset=position.next_offset,
            lag=self._session.lag() if self._phase == "running" else None,
            now=position.now,
            state_keys=len(self._runner.state),
            counters=dict(position.counters),
        )

    @property
    def progress(self) -> int | None:
        """The next offset to read, for monitoring; None before there is one."""
        return self._session.position.next_offset if self._phase == "running" else None

    async def _load(self, state: dict[str, bytes]) -> None:
        runner = self._runner
        assert runner.fold is not None
        for number, (key, value) in enumerate(state.items(), 1):
            try:
                runner.state[key] = runner.fold.load(key, value)
            except Exception as error:  # whatever a decoder says of it: trying again would read the same bytes
                raise self._session.unreadable(key, error) from error
            if number % LOAD_CHUNK == 0:
                await asyncio.sleep(0)
        runner.derive()
        position = self._session.position
        runner.counters, runner.now, runner.partitions = dict(position.counters), position.now, self._session.partitions

    async def _poll_once(self) -> None:
        """One micro-batch, or one idle wait."""
        if not self._backlog:
            await self._fetch(POLL_MS)
        if self._backlog:
            await self._process()
        else:
            await self._session.settle()
        await self._tick()

    async def _fetch(self, timeout_ms: int) -> None:
        self._backlog.extend(await self._session.fetch(timeout_ms, BATCH_RECORDS))

    async def _process(self) -> None:
        """Folds what is there until the batch is large or old enough, then commits."""
        produced: list[Produced] = []
        changes: dict[str, bytes | None] = {}
        records = size = 0
        deadline = time.monotonic() + BATCH_SECONDS
        while True:
            message = self._backlog.popleft()
            processed = self._runner.run(message)
            for data in processed.dumped.values():
                size += len(data or b"")
            produced += processed.produced
            changes.update(processed.dumped)
            for item in processed.produced:
                size += len(item.value)
            records += 1
            if records >= BATCH_RECORDS or size >= BATCH_BYTES or time.monotonic() >= deadline:
                break
            if not self._backlog:
                await self._fetch(0)
                if not self._backlog:
                    break
        next_offset = message.offset + 1 if self._backlog else await self._session.next_offset()
        self._active = time.monotonic()
        counters = dict(self._runner.counters)
        position = self._session.moved(next_offset=next_offset, now=self._runner.now, counters=counters)
        await self._session.commit(produced, changes, position)

    async def _tick(self) -> None:
        """Lets time pass for a fold that waits for it while nothing comes in: a record like any other, so that replay sees it."""
        clock = time.monotonic()
        if self._backlog or clock - max(self._active, self._ticked) < self._tick_seconds:
            return
        self._ticked = clock
        assert self._runner.fold is not None
        buckets = self._runner.fold.tick_due(self._runner.state)
        if not buckets:
            return
        now = now_ms()
        headers = provenance_without_input(f"{self._runner.stage.name}.tick")
        topic, partition = self._runner.topic, self._runner.partition
        ticks = [Produced(topic, partition, key.encode(), self._tick_value(key, now), headers) for key in buckets]
        await self._session.commit(ticks, {}, self._session.position)

    def _tick_value(self, bucket: str, now: int) -> bytes:
        name, topic, partition = self._runner.stage.name, self._runner.topic, self._runner.partition
        event = make(
            ClockTicked,
            derived.Tick(bucket=bucket, time=rfc3339(now)),
            id=derive_id("tick", name, topic, partition, bucket, now),
            writer=name,
            time_ms=now,
        )
        return encode(event)
