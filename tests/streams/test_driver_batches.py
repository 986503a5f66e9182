"""The partition task against a log in memory: wherever micro-batches end and whenever it dies, the log is the pure fold's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, OffsetOutOfRangeError, TopicAuthorizationFailedError
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from headrace_streams.kafka import clients
from headrace_streams.runtime import fold_runner, fold_task, micro_batch, session
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.journal import Position, Refused, Transport
from headrace_streams.runtime.stage import Headers, Record, RuleVersion, Step
from headrace_streams.runtime.step import Produced, process
from headrace_streams.settings import Settings
from support.counting import COUNTING, CountingFold

COUNTS = {"signals": 1, "rejections": 3, "dead-letters": 2, "rules": 1}


class Message(NamedTuple):
    """What the task reads of a ConsumerRecord."""

    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class Died(Exception):
    """The end of a run: everything is read."""


class World:
    """The durable side: what was committed. `fates` says of each commit: fine, or died before or after it took effect; `turns`
    how many turns of the loop it takes, while the task goes on."""

    def __init__(self, messages: list[Message], chunks: list[int], fates: list[str], turns: list[int]) -> None:
        self.messages, self.chunks, self.fates, self.turns = messages, chunks, fates, turns
        self.produced: list[Produced] = []
        self.state: dict[str, bytes] = {}
        self.position: Position | None = None

    def journal(self, *_: Any) -> FakeJournal:
        return FakeJournal(self)

    def consumer(self, *_: Any, **__: Any) -> FakeConsumer:
        return FakeConsumer(self)

    def fetcher(self, consumer: FakeConsumer, tp: TopicPartition, position: int) -> FakeFetcher:
        return FakeFetcher(self, position)

    def reader(self, *_: Any) -> FakeReader:
        return FakeReader(self)

    def stands_in(self, patch: pytest.MonkeyPatch) -> None:
        """For all that a session asks of Kafka."""
        patch.setattr(session, "Journal", self.journal)
        patch.setattr(session, "Reader", self.reader)
        patch.setattr(session, "PartitionFetcher", self.fetcher)
        patch.setattr(clients, "consumer", self.consumer)


class FakeJournal:
    def __init__(self, world: World) -> None:
        self.world = world
        self.state: dict[str, bytes] = {}
        self.position: Position | None = None
        self.restored_records = 0
        self.unchecked = None
        self.partitions = COUNTS
        self.flight: asyncio.Task[Mapping[tuple[str, int], int]] | None = None

    def writes_to(self, topics: Iterable[str]) -> None:
        """This stage reads no topic of keys, and writes none."""

    async def open(self) -> None:
        self.state, self.position = dict(self.world.state), self.world.position

    def launch(self, produced: Iterable[Produced], changes: Mapping[str, bytes | None], position: Position) -> None:
        assert self.flight is None
        self.flight = asyncio.create_task(self._commit(list(produced), dict(changes), position))

    async def check(self) -> None:
        pass

    def checked(self) -> None:
        pass

    async def landed(self) -> Mapping[tuple[str, int], int]:
        if self.flight is None:
            return {}
        try:
            return await asyncio.shield(self.flight)
        finally:
            self.flight = None

    async def _commit(
        self, produced: Iterable[Produced], changes: Mapping[str, bytes | None], position: Position
    ) -> Mapping[tuple[str, int], int]:
        for _ in range(self.world.turns.pop() if self.world.turns else 0):
            await asyncio.sleep(0)
        fate = self.world.fates.pop() if self.world.fates else "fine"
        if fate == "before":
            raise Transport("died before")
        self.world.produced += produced
        for key, value in changes.items():
            if value is None:
                self.world.state.pop(key, None)
            else:
                self.world.state[key] = value
        self.world.position = self.position = position
        if fate == "after":
            raise Transport("died after")
        return {}

    async def close(self) -> None:
        if self.flight is not None:
            await asyncio.wait({self.flight})
            self.flight.exception()


class FakeReader:
    def __init__(self, world: World) -> None:
        self.world = world

    async def read_topic(self, topic: str) -> AsyncGenerator[Produced, None]:
        for item in self.world.produced:
            if item.topic == topic:
                yield item


class FakeConsumer:
    def __init__(self, world: World) -> None:
        self.world = world
        self._client = self

    async def add_topic(self, topic: str) -> None:
        pass

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 0)

    async def end_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, self.world.messages[-1].offset + 1)


class FakeFetcher:
    left, end = False, None

    def __init__(self, world: World, position: int) -> None:
        self.world, self.position = world, position

    def prefetch(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def fetch(self, timeout_ms: int, max_records: int) -> list[Message]:
        rest = [message for message in self.world.messages if message.offset >= self.position]
        if not rest:
            if self.world.position is not None and self.world.position.next_offset >= self.position:
                raise Died
            await asyncio.sleep(0.001)
            return []
        size = self.world.chunks.pop() if self.world.chunks else 3
        got = rest[:size]
        if got:
            self.position = got[-1].offset + 1
        return got


@st.composite
def logs(draw: st.DrawFn) -> list[Message]:
    size = draw(st.integers(1, 30))
    offset = 0
    messages = []
    for _ in range(size):
        offset += draw(st.sampled_from([1, 1, 1, 2]))  # transaction markers take up offsets
        key, value = draw(st.sampled_from([b"a", b"b", b"c"])), draw(st.sampled_from([b"x", b"x", b"x", b"explode"]))
        messages.append(Message(offset, 1_790_000_000_000 + draw(st.integers(-50, 50)), key, value))
    return messages


def test_what_was_loaded_is_held_once() -> None:
    state: dict[str, Any] = {"a": b"1"}
    task = FoldTask(COUNTING, {"step": 1}, "signals", 0, Settings())
    asyncio.run(task._load(state))
    assert task._runner.state is state
    assert state == {"a": 1}


def oracle(messages: list[Message]) -> tuple[list[Produced], dict[str, Any], dict[str, int], int]:
    fold = COUNTING.newest({"step": 1})
    produced: list[Produced] = []
    state: dict[str, Any] = {}
    counters: dict[str, int] = {}
    now = 0
    for message in messages:
        now = max(now, message.timestamp)
        record = Record("signals", 0, message.offset, message.timestamp, now, message.key, message.value, message.headers)
        done = process("counting", fold, state, record, COUNTS)
        produced += done.produced
        state.update(done.changes)
        for name, count in done.counters.items():
            counters[name] = counters.get(name, 0) + count
    return produced, state, counters, now


@given(
    logs(),
    st.lists(st.integers(0, 9)),
    st.lists(st.sampled_from(["fine", "fine", "before", "after"])),
    st.lists(st.integers(0, 30)),
    st.integers(1, 5),
    st.integers(1, 5),
)
@settings(max_examples=150, deadline=None)
def test_borders_and_deaths_do_not_show(
    messages: list[Message], chunks: list[int], fates: list[str], turns: list[int], batch: int, behind: int
) -> None:
    world = World(messages, chunks, fates, turns)

    async def run() -> None:
        while True:
            try:
                await FoldTask(COUNTING, {"step": 1}, "signals", 0, Settings()).run()
            except Transport:
                continue
            except Died:
                return

    with pytest.MonkeyPatch.context() as patch:
        world.stands_in(patch)
        patch.setattr(fold_task, "BEHIND_RECORDS", behind)
        patch.setattr(fold_task, "BATCH_RECORDS", batch)
        patch.setattr(micro_batch, "BATCH_RECORDS", batch)
        patch.setattr(fold_task, "LINGER_SECONDS", 0)
        patch.setattr(fold_task, "AHEAD_SECONDS", 0)
        asyncio.run(run())
    produced, state, counters, now = oracle(messages)
    assert [item for item in world.produced if item.topic != "rules"] == produced
    assert world.state == {key: str(value).encode() for key, value in state.items()}
    assert world.position is not None
    assert (world.position.counters, world.position.now) == (counters, now)
    assert world.position.next_offset == messages[-1].offset + 1
    assert sum(item.topic == "rules" for item in world.produced) == 1
    assert counters["in"] == counters.get("counted", 0) + counters.get("dead", 0)


@given(logs(), st.lists(st.integers(1, 9)), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_a_fold_is_shown_each_record_once_before_its_turn(
    messages: list[Message], chunks: list[int], batch: int, ahead: int
) -> None:
    shown: list[bytes] = []
    turns: list[bool] = []

    class Watching(CountingFold):
        def look_ahead(self, records: Sequence[tuple[bytes, Headers]]) -> None:
            assert 0 < len(records) <= ahead
            shown.extend(value for value, _ in records)

        def step(self, state: Mapping[str, Any], record: Record) -> Step:
            turns.append(shown[len(turns)] == record.value)
            return super().step(state, record)

    world, stage = World(messages, chunks, [], []), replace(COUNTING, versions={1: RuleVersion(Watching)})
    with pytest.MonkeyPatch.context() as patch:
        world.stands_in(patch)
        patch.setattr(fold_runner, "AHEAD_RECORDS", ahead)
        patch.setattr(fold_task, "BATCH_RECORDS", batch)
        patch.setattr(micro_batch, "BATCH_RECORDS", batch)
        patch.setattr(fold_task, "LINGER_SECONDS", 0)
        with pytest.raises(Died):
            asyncio.run(FoldTask(stage, {"step": 1}, "signals", 0, Settings()).run())
    assert turns == [True] * len(messages)
    assert shown == [message.value for message in messages]


@pytest.mark.parametrize(
    ("error", "end", "says"),
    [
        (OffsetOutOfRangeError({TopicPartition("signals", 0): 0}), Refused, "position 0 is outside the log"),
        (TopicAuthorizationFailedError({"signals"}), Refused, "the broker does not allow it .TopicAuthorizationFailed"),
        (KafkaConnectionError(), Transport, "KafkaConnectionError"),
        (OSError(24, "Too many open files"), Transport, "Too many open files"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_reading_its_input_ends_in(
    monkeypatch: pytest.MonkeyPatch, error: Exception, end: type[Exception], says: str
) -> None:
    world = World([Message(0, 1_790_000_000_000, b"a", b"x")], [], [], [])

    async def gone(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(FakeFetcher, "fetch", gone)
    world.stands_in(monkeypatch)
    with pytest.raises(end, match=f"^counting/signals/0: .*{says}"):
        asyncio.run(FoldTask(COUNTING, {"step": 1}, "signals", 0, Settings()).run())
