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

from headrace_schemas.codec import encode
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.provenance import origin_without_input
from headrace_streams.runtime.session import Session
from headrace_streams.runtime.stage import Fold, Stage
from headrace_streams.runtime.status import TaskReport
from headrace_streams.runtime.step import Produced
from headrace_streams.settings import Settings

BATCH_RECORDS = 2000
BATCH_SECONDS = 0.05
BATCH_BYTES = 4 * 1024 * 1024  # of outputs and state, before a transaction is closed early
POLL_MS = 500
TICK_SECONDS = 60.0
OVERDUE_KEYS = 1000  # whose deadlines have passed, in one go
LOAD_CHUNK = 2000  # state values decoded before other tasks get a turn


class FoldTask:
    """`policy` is a policy body; `tick_seconds` the longest time between two looks at deadlines while there is input."""

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
        self._looked = time.monotonic()
        self._written = 0  # offset behind what was last written into the input

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
        runner.watch(int(self._tick_seconds * 1000))

    async def _poll_once(self) -> None:
        """One micro-batch, or one idle wait."""
        if not self._backlog:
            await self._fetch(POLL_MS)
        idle = not self._backlog
        if idle:
            await self._session.settle()
        else:
            await self._process()
        await self._let_time_pass(idle)

    async def _fetch(self, timeout_ms: int) -> None:
        """Bounded in bytes too (`compat.GIVEN_BYTES`, unpacked), and asked for only when nothing is left."""
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
        counters = dict(self._runner.counters)
        position = self._session.moved(next_offset=next_offset, now=self._runner.now, counters=counters)
        await self._session.commit(produced, changes, position)

    async def _let_time_pass(self, idle: bool) -> None:
        """Writes what the fold says of values whose deadline has passed into its own input: by the broker's clock while nothing
        comes in, by fold time while there is input, for what lies unread may move a deadline."""
        deadlines, runner = self._runner.deadlines, self._runner
        if deadlines is None or (not idle and time.monotonic() - self._looked < self._tick_seconds):
            return
        if deadlines.waiting:
            if self._session.position.next_offset < self._written:
                return
            deadlines.settle(runner.now)
        self._looked = time.monotonic()
        if deadlines.earliest is None:
            return
        now = max(runner.now, await self._session.broker_ms()) if idle else runner.now
        writes = runner.overdue(now, OVERDUE_KEYS)
        if not writes:
            return
        headers = origin_without_input(f"{runner.stage.name}.tick")
        input_ = runner.topic, runner.partition
        produced = [
            Produced(*input_, write.key.encode(), write.value if isinstance(write.value, bytes) else encode(write.value), headers)
            for write in writes
        ]
        ends = await self._session.commit(produced, {}, self._session.position)
        self._written = ends[input_]
