"""The live driver of a fold: one stage over one input partition, exactly. Knows the clock's ticks, decides nothing itself.

Micro-batches: fetch, fold record by record, commit outputs, state and position as one transaction. Where much is waiting, the
next batch is fetched and folded while that is under way, ahead of what is committed. After any error the task is over, and what
it folded ahead with it; its successor reads from the changelog what was committed.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from headrace_schemas.codec import encode
from headrace_schemas.topics import may_grow
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.journal import Ends
from headrace_streams.runtime.micro_batch import BATCH_RECORDS, MicroBatch
from headrace_streams.runtime.pace import Pace
from headrace_streams.runtime.provenance import origin_without_input
from headrace_streams.runtime.sealing import KeyMissing, is_sealed_state
from headrace_streams.runtime.session import Session
from headrace_streams.runtime.stage import Fold, Stage, StoredRecord
from headrace_streams.runtime.status import GAUGED_BUCKETS, TaskReport
from headrace_streams.runtime.step import SURROUNDINGS, Produced
from headrace_streams.runtime.task_keys import TaskKeys
from headrace_streams.settings import Settings

BATCH_SECONDS = 0.05
# While much is waiting, a record waits for those before it and not for its transaction, and each of these costs the same.
BEHIND_SECONDS = 0.25
LINGER_SECONDS = 0.005  # between two transactions, the least
# A step that takes longer than a transaction may would have the one under way given up, and at every new start again.
AHEAD_SECONDS = 3.0  # after its start a task does not fold ahead
FOLD_SECONDS = 0.01  # of folding before other tasks get a turn: batches folded in slices take turns, and all are late
BEHIND_RECORDS = 500  # of one fetch: there will be more
POLL_MS = 500
TICK_SECONDS = 60.0
OVERDUE_KEYS = 1000  # whose deadlines have passed, in one go
# A state that was just loaded will be there for long: the collector need not go through it again and again.
FROZEN_VALUES = 10_000
LOAD_CHUNK = 2000  # state values decoded before other tasks get a turn
_pace = Pace(time.time)  # of this process


class FoldTask:
    """`policy` is a policy body; `tick_seconds` the longest time between two looks at deadlines while there is input; one that
    found some is followed by another as soon as what was written of them is folded."""

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
        self._runner = FoldRunner(stage, topic, partition, {})
        self._runner.activate_newest(policy)
        self._keys = TaskKeys(settings, self._runner, self._commit_keys)
        self._session = Session(settings, stage, policy, topic, partition)
        self._tick_seconds = tick_seconds
        self._backlog: deque[StoredRecord] = deque()
        self._shown = 0  # records of the backlog that the fold has seen
        self._phase = "starting"
        self._began = self._looked = time.monotonic()
        self._pressing = False  # the last look at deadlines found some: there may be more
        self._written: int | None = 0  # offset behind what was last written into the input; None while that is under way
        self._behind = False  # the last fetch brought much
        self._on_beats = may_grow(topic)  # its input comes from outside
        self._gauged: dict[str, Any] = {}  # watched state values, the one that was written longest ago first

    @property
    def label(self) -> str:
        """stage/topic/partition"""
        return self._session.label

    async def run(self) -> None:
        """Until cancelled; a transaction that is under way ends first. Raises Refused (somebody has to look), Fenced,
        ProducerLost, Transport or SurroundingsFailed (start another task)."""
        try:
            self._phase = "restoring"
            self._session.writes_to(await self._keys.attach())
            async with self._session.held() as state:
                await self._keys.read_for(state)
                await self._load(state)
                await self._session.begin()
                await self._keys.begin()
                self._phase, self._began = "running", time.monotonic()
                while True:
                    await self._poll_once()
        finally:
            self._phase = "stopped"

    def describe(self) -> TaskReport:
        """Where it stands."""
        position, running = self._session.position, self._phase == "running"
        return TaskReport(
            stage=self._runner.stage.name,
            topic=self._runner.topic,
            partition=self._runner.partition,
            phase=self._phase,
            next_offset=position.next_offset,
            lag=self._session.lag() if running else None,
            lag_seconds=self._session.lag_seconds(self._backlog[0].timestamp if self._backlog else None) if running else None,
            now=position.now,
            state_keys=len(self._runner.state),
            counters=dict(position.counters),
            partitions=position.partitions,
            committed=self._session.committed_at,
            restore=self._session.restore,
            buckets=len(self._gauged),
            gauges=self._gauges(),
        )

    @property
    def progress(self) -> int | None:
        """The next offset to read, for monitoring; None before there is one."""
        return self._session.position.next_offset if self._phase == "running" else None

    def _gauges(self) -> dict[str, Mapping[str, float]]:
        """Of the first buckets by name: which they are must not change from one scrape to the next."""
        fold, keys = self._runner.fold, heapq.nsmallest(GAUGED_BUCKETS, self._gauged)
        return {} if fold is None else dict(fold.gauges(key, self._gauged[key]) for key in keys)

    def _note_gauged(self, keys: Iterable[str]) -> None:
        """Follows state values that are watched, so that telling of them costs nothing while records are folded."""
        fold = self._runner.fold
        if fold is None or not fold.gauged:
            return
        for key in keys:
            if key.startswith(fold.gauged):
                self._gauged.pop(key, None)
                if (value := self._runner.state.get(key)) is not None:
                    self._gauged[key] = value

    def _written_again(self) -> dict[str, bytes | None]:
        """The watched value that was written longest ago. So all of them lie within as many transactions as there are values, and
        whoever wants to know them need not read the changelog whole."""
        for key, value in self._gauged.items():
            self._gauged[key] = self._gauged.pop(key)
            return {key: self._runner.entry(key, value)}
        return {}

    async def _load(self, state: dict[str, Any]) -> None:
        """Takes `state` for its own, which is in changelog form as yet."""
        runner, fold, unchecked = self._runner, self._runner.fold, self._session.unchecked
        assert fold is not None
        keys = [
            key
            for key, value in state.items()
            if unchecked is None or not key.startswith(fold.as_bytes) or key in unchecked or is_sealed_state(value)
        ]
        for number, key in enumerate(keys, 1):
            try:
                state[key] = runner.load_value(key, state[key], unchecked=unchecked is None or key in unchecked)
            except (*SURROUNDINGS, KeyMissing):
                raise
            except Exception as error:  # whatever a decoder says of it: trying again would read the same bytes
                raise self._session.unreadable(key, error) from error
            if number % LOAD_CHUNK == 0:
                await asyncio.sleep(0)
        runner.state = state
        self._session.loaded()
        runner.derive()
        self._note_gauged(runner.state)
        position = self._session.position
        runner.counters, runner.now, runner.partitions = dict(position.counters), position.now, self._session.partitions
        runner.watch(int(self._tick_seconds * 1000))
        if len(runner.state) >= FROZEN_VALUES:
            gc.collect()
            gc.freeze()

    async def _poll_once(self) -> None:
        """One micro-batch, or one idle wait."""
        batch = await self._fold_ahead()
        if not batch.records:
            await self._session.settle()
            await self._keys.roll()
            await self._let_time_pass()
            return
        position = self._session.moved(
            next_offset=self._backlog[0].offset if self._backlog else self._session.next_offset,
            now=self._runner.now,
            counters=dict(self._runner.counters),
        )
        # What lies unread may move a deadline, so by fold time. A look every minute alone would expire 17 interactions a second.
        if self._pressing or time.monotonic() - self._looked >= self._tick_seconds:
            batch.produced += self._overdue(self._runner.now)
        self._note_gauged(batch.changes)
        if self._runner.fold is not None and self._runner.fold.gauged:
            position = msgspec.structs.replace(position, watched=len(self._gauged))
        changes = batch.changes | self._written_again()
        self._session.launch(batch.produced, changes, position, batch.append_times)

    async def _fold_ahead(self) -> MicroBatch:
        """What there is to fold, for the next transaction, which may begin when this returns. While much is waiting, it is folded
        while the batch before is being committed, until the batch is large. Else the input is asked once, when a transaction may
        begin: at each commit of each task that writes to it there is a little more. A batch without records: nothing came."""
        batch = MicroBatch()
        if not self._behind or time.monotonic() - self._began < AHEAD_SECONDS:
            await self._land()
            await asyncio.sleep(self._pause())
        while True:
            while self._backlog:
                self._fold_some(batch)
                if batch.full or (self._session.flight is not None and self._session.flight.done()):
                    await self._land()
                long = BEHIND_SECONDS if self._behind else BATCH_SECONDS
                if self._session.flight is None and (batch.full or time.monotonic() - batch.began >= long):
                    return batch
                await asyncio.sleep(0)
            if batch.records and not self._behind:
                await self._land()
                return batch
            nothing_to_commit = not batch.records and self._session.flight is None
            if not await self._fetch(POLL_MS if nothing_to_commit else 0):
                await self._land()
                return batch

    async def _fetch(self, wait_ms: int) -> int:
        """Adds what there is to the backlog, or comes in time; how many records that is."""
        asked = time.monotonic()
        records = await self._session.fetch(wait_ms, BATCH_RECORDS)
        if not self._on_beats and records and not self._session.left and time.monotonic() - asked > LINGER_SECONDS:
            await asyncio.sleep(LINGER_SECONDS)  # it was waited for: others commit on the same beat
            records += await self._session.fetch(0, BATCH_RECORDS)
        self._behind = self._session.left or len(records) >= BEHIND_RECORDS
        if self._behind:
            self._session.prefetch()
        if records:
            await self._keys.prepare(records)
        self._backlog.extend(records)
        return len(records)

    async def _commit_keys(self, produced: Sequence[Produced]) -> Ends:
        """A transaction of keys alone; what is under way ends first."""
        await self._land()
        return await self._session.commit(produced, {}, self._session.position)

    def _pause(self) -> float:
        """Seconds to wait for more input before the next transaction. Where that comes from other tasks: until the last one lies
        as far back as it took. A task is then at most half its time in transactions, and where they are slow its batches grow."""
        if self._on_beats:
            return _pace.until_beat()
        began, ended = self._session.last_flight
        return max(0.0, ended + min(BATCH_SECONDS, max(LINGER_SECONDS, ended - began)) - time.monotonic())

    def _fold_some(self, batch: MicroBatch) -> None:
        """Folds until others should have a turn."""
        until = time.monotonic() + FOLD_SECONDS
        while self._backlog and not batch.full and time.monotonic() < until:
            if not self._shown:
                self._shown = self._runner.look_ahead(self._backlog)
            self._shown -= self._runner.fold_into(batch, self._backlog, self._shown, until)

    async def _land(self) -> None:
        """Waits for the transaction under way, if there is one."""
        if self._session.flight is None:
            return
        ends = await self._session.landed()
        _pace.took(self._session.last_flight[1] - self._session.last_flight[0])
        if self._written is None:
            self._written = ends[self._runner.topic, self._runner.partition]

    async def _let_time_pass(self) -> None:
        """While nothing comes in, time passes by the broker's clock."""
        deadlines = self._runner.deadlines
        if deadlines is None or not (deadlines.waiting or deadlines.earliest is not None):
            return
        produced = self._overdue(max(self._runner.now, await self._session.broker_ms()))
        if produced:
            self._session.launch(produced, {}, self._session.position)
            await self._land()

    def _overdue(self, now: int) -> list[Produced]:
        """What the fold says of values whose deadline has passed at `now`, to be written into its own input. Nothing as long as
        what was written last is not folded."""
        self._looked = time.monotonic()
        runner = self._runner
        if runner.deadlines is None or self._written is None:
            return []
        if runner.deadlines.waiting:
            if self._session.position.next_offset < self._written:
                return []
            runner.deadlines.settle(runner.now)
        headers = origin_without_input(f"{runner.stage.name}.tick")
        produced = [
            Produced(
                runner.topic,
                runner.partition,
                write.key.encode(),
                write.value if isinstance(write.value, bytes) else encode(write.value),
                headers,
            )
            for write in runner.overdue(now, OVERDUE_KEYS)
        ]
        self._pressing = bool(produced)
        if produced:
            self._written = None
        return produced
