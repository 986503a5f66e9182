"""The live driver: one stage over one input partition, exactly. Knows the log and the clock's ticks, decides nothing itself.

Restore, check, activate the rules, seek; then micro-batches: fetch, fold record by record, commit outputs, state and position as
one transaction. After any error the task is over; its successor reads from the changelog what was committed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from headrace_schemas import derived
from headrace_schemas.canonical import digest
from headrace_schemas.codec import encode
from headrace_schemas.events import ClockTicked, RulesActivated
from headrace_schemas.ids import derive_id
from headrace_schemas.times import rfc3339
from headrace_schemas.topics import may_grow
from headrace_streams.kafka import clients
from headrace_streams.runtime.journal import Journal, Position, Refused, Rules, Transport, stop
from headrace_streams.runtime.stage import Record, Stage
from headrace_streams.runtime.step import Produced, process
from headrace_streams.settings import Settings

BATCH_RECORDS = 2000
BATCH_SECONDS = 0.05
BATCH_BYTES = 8 * 1024 * 1024  # of outputs and state, before a transaction is closed early
POLL_MS = 500
TICK_SECONDS = 60.0
SETTLE_SECONDS = 1.0  # idle time after which a position that moved over transaction markers only is committed too
LOAD_CHUNK = 2000  # state values decoded before other tasks get a turn


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class PartitionTask:
    """`policy` is the body that `stage.build` takes; `tick_seconds` the least time between two ticks of an idle partition."""

    def __init__(
        self,
        stage: Stage,
        policy: Mapping[str, Any],
        topic: str,
        partition: int,
        settings: Settings,
        *,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        if topic not in stage.inputs:
            raise ValueError(f"topic {topic!r} is no input of stage {stage.name!r}")
        self.label = f"{stage.name}/{topic}/{partition}"
        self._stage, self._topic, self._partition = stage, topic, partition
        self._settings, self._policy = settings, policy
        self._fold = stage.build(policy)
        self._tick_seconds = tick_seconds
        self._journal = Journal(settings, stage.name, topic, partition, (topic, *stage.outputs))
        self._tp = TopicPartition(clients.full_name(settings, topic), partition)
        self._consumer: Any = None
        self._state: dict[str, Any] = {}
        self._position = Position()
        self._backlog: deque[ConsumerRecord] = deque()
        self._phase = "starting"
        self._active = self._ticked = self._committed = time.monotonic()

    async def run(self) -> None:
        """Until cancelled; a transaction that is under way ends first. Raises Refused (somebody has to look), Fenced,
        ProducerLost or Transport (start another task)."""
        try:
            self._phase = "restoring"
            await self._journal.open()
            await self._restore()
            await self._activate_rules()
            await self._seek()
            self._phase = "running"
            while True:
                await self._turn()
        except OffsetOutOfRangeError as error:
            raise Refused(f"{self.label}: position {self._position.next_offset} is outside the log: {error}") from error
        except (KafkaError, OSError) as error:
            raise Transport(f"{self.label}: {error!r}") from error
        finally:
            self._phase = "stopping"
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                await stop(consumer)
            await self._journal.close()
            self._phase = "stopped"

    def describe(self) -> dict[str, Any]:
        """Where it stands: phase, next offset, lag (null until the first fetch), fold time in ms, counters."""
        return {
            "stage": self._stage.name,
            "topic": self._topic,
            "partition": self._partition,
            "phase": self._phase,
            "next_offset": self._position.next_offset,
            "lag": self._lag(),
            "now": self._position.now,
            "state_keys": len(self._state),
            "counters": dict(self._position.counters),
        }

    @property
    def progress(self) -> int | None:
        """The next offset to read, for monitoring; None before there is one."""
        return self._position.next_offset if self._phase == "running" else None

    def _lag(self) -> int | None:
        if self._phase != "running":
            return None
        end = self._consumer.last_stable_offset(self._tp)
        return None if end is None else max(0, end - self._position.next_offset)

    async def _restore(self) -> None:
        count = self._journal.partitions[self._topic]
        position = self._journal.position
        if position is not None and position.partitions != count:
            if not may_grow(self._topic) or count < position.partitions:
                raise Refused(
                    f"{self.label}: topic {self._tp.topic} has {count} partitions, its state was made with "
                    f"{position.partitions}: keys would meet elsewhere; restore the count or start another deployment"
                )
        elif position is None and count <= self._partition:
            raise Refused(f"{self.label}: topic {self._tp.topic} has only {count} partitions")
        raw, self._journal.state = self._journal.state, {}
        for number, (key, value) in enumerate(raw.items(), 1):
            self._state[key] = self._fold.load(key, value)
            if number % LOAD_CHUNK == 0:
                await asyncio.sleep(0)
        fresh = position or Position()
        self._position = _moved(fresh, partitions=count)

    async def _activate_rules(self) -> None:
        """The rules that hold from the next record on are in the log before the first output made with them."""
        rules = Rules(self._stage.version, digest(self._policy))
        if self._position.rules == rules:
            return
        offset = self._position.next_offset
        name, topic, partition = self._stage.name, self._topic, self._partition
        event = RulesActivated(
            specversion="1.0",
            id=derive_id("rules", name, topic, partition, offset, rules.version, rules.digest),
            source=f"headrace:{name}",
            time=rfc3339(_now_ms()),
            data=derived.Rules(
                stage=name,
                topic=topic,
                partition=partition,
                from_offset=offset,
                version=rules.version,
                digest=rules.digest,
                body=self._policy,
            ),
        )
        record = Produced("rules", 0, self.label.encode(), encode(event), _headers(f"{name}.rules"))
        await self._commit([record], {}, _moved(self._position, rules=rules))

    async def _seek(self) -> None:
        self._consumer = clients.consumer(self._settings, auto_offset_reset="none")
        await self._consumer.start()
        self._consumer.assign([self._tp])
        begin = (await self._consumer.beginning_offsets([self._tp]))[self._tp]
        end = (await self._consumer.end_offsets([self._tp]))[self._tp]
        position = self._position.next_offset
        if not begin <= position <= end:
            what = f"{begin - position} records were removed unread" if position < begin else "the log has lost its end"
            raise Refused(f"{self.label}: position {position} is outside the log of {self._tp.topic} [{begin}, {end}): {what}")
        self._consumer.seek(self._tp, position)

    async def _turn(self) -> None:
        """One micro-batch, or one idle wait."""
        if not self._backlog:
            await self._fetch(POLL_MS)
        if self._backlog:
            await self._process()
        elif time.monotonic() - self._committed >= SETTLE_SECONDS:
            # Transaction markers count as read, or retention would one day leave an idle position outside the log.
            position = await self._consumer.position(self._tp)
            if position > self._position.next_offset:
                await self._commit([], {}, _moved(self._position, next_offset=position))
        await self._tick()

    async def _fetch(self, timeout_ms: int) -> None:
        fetched = await self._consumer.getmany(self._tp, timeout_ms=timeout_ms, max_records=BATCH_RECORDS)
        self._backlog.extend(fetched.get(self._tp, ()))

    async def _process(self) -> None:
        """Folds what is there until the batch is large or old enough, then commits."""
        produced: list[Produced] = []
        changes: dict[str, bytes | None] = {}
        counters = dict(self._position.counters)
        now = self._position.now
        records = size = 0
        deadline = time.monotonic() + BATCH_SECONDS
        while True:
            message = self._backlog.popleft()
            now = max(now, message.timestamp)
            record = Record(
                self._topic,
                self._partition,
                message.offset,
                message.timestamp,
                now,
                message.key,
                message.value,
                message.headers,
            )
            done = process(self._stage.name, self._fold, self._state, record, self._journal.partitions)
            done.apply(self._state, counters)
            for data in done.dumped.values():
                size += len(data or b"")
            produced += done.produced
            changes.update(done.dumped)
            for item in done.produced:
                size += len(item.value)
            records += 1
            if records >= BATCH_RECORDS or size >= BATCH_BYTES or time.monotonic() >= deadline:
                break
            if not self._backlog:
                await self._fetch(0)
                if not self._backlog:
                    break
        next_offset = message.offset + 1 if self._backlog else await self._consumer.position(self._tp)
        self._active = time.monotonic()
        await self._commit(produced, changes, _moved(self._position, next_offset=next_offset, now=now, counters=counters))

    async def _tick(self) -> None:
        """Lets time pass for a fold that waits for it while nothing comes in: a record like any other, so that replay sees it."""
        clock = time.monotonic()
        if self._backlog or clock - max(self._active, self._ticked) < self._tick_seconds:
            return
        self._ticked = clock
        buckets = self._fold.tick_due(self._state)
        if not buckets:
            return
        now = _now_ms()
        headers = _headers(f"{self._stage.name}.tick")
        ticks = [Produced(self._topic, self._partition, key.encode(), self._tick_value(key, now), headers) for key in buckets]
        await self._commit(ticks, {}, self._position)

    def _tick_value(self, bucket: str, now: int) -> bytes:
        event = ClockTicked(
            specversion="1.0",
            id=derive_id("tick", self._stage.name, self._topic, self._partition, bucket, now),
            source=f"headrace:{self._stage.name}",
            time=rfc3339(now),
            data=derived.Tick(bucket=bucket, time=rfc3339(now)),
        )
        return encode(event)

    async def _commit(self, produced: list[Produced], changes: Mapping[str, bytes | None], position: Position) -> None:
        await self._journal.commit(produced, changes, position)
        self._position = position
        self._committed = time.monotonic()


def _headers(stage: str) -> tuple[tuple[str, bytes], ...]:
    """Provenance of a record that no input record made: who wrote it, and no coordinates."""
    return (("content-type", b"application/cloudevents+json"), ("headrace-stage", stage.encode()))


def _moved(position: Position, **changed: Any) -> Position:
    return msgspec.structs.replace(position, **changed)
