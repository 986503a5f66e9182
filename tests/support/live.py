"""Partition tasks on a real broker: publish inputs, run until they are read, and compare the log with the pure fold over it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from aiokafka import ConsumerRecord

from headrace_schemas.codec import decode
from headrace_schemas.events import Event, RulesActivated
from headrace_schemas.topology import changelog
from headrace_streams.kafka import admin, clients
from headrace_streams.kafka.reader import Reader
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.journal import POSITION_KEY, Position, decode_position
from headrace_streams.runtime.provenance import provenance_of
from headrace_streams.runtime.stage import DERIVED, FoldStage, Record
from headrace_streams.runtime.step import Produced, process
from headrace_streams.settings import Settings

Input = tuple[bytes | None, bytes | None]  # key, value


async def declare(settings: Settings, *stages: FoldStage) -> None:
    """The changelogs of stages that only tests know."""
    await admin.declare(settings, [changelog(stage.name, topic) for stage in stages for topic in stage.inputs])


async def lose_changelog(settings: Settings, stage: FoldStage, topic: str) -> None:
    """A changelog is deleted and declared anew; a broker deletes in its own time."""
    lost = changelog(stage.name, topic)
    await admin.delete(settings, [lost])

    async def gone() -> bool:
        try:
            await clients.partition_counts(settings, [lost.name])
        except clients.TopicMissing:
            return True
        return False

    await until(gone)
    await declare(settings, stage)


async def publish(
    settings: Settings, topic: str, partition: int, inputs: Iterable[Input], headers: Sequence[tuple[str, bytes]] = ()
) -> None:
    """Plain records, in order, all with the same headers."""
    async with clients.connected(clients.producer(settings)) as producer:
        sent = [
            await producer.send(
                clients.full_name(settings, topic), value=value, key=key, partition=partition, headers=list(headers)
            )
            for key, value in inputs
        ]
        await asyncio.gather(*sent)


async def read(settings: Settings, topic: str, partition: int) -> list[ConsumerRecord]:
    """All committed records of a partition."""
    return [record async for record in Reader(settings).read_partition(topic, partition)]


async def ended(settings: Settings, topic: str) -> None:
    """Waits until no transaction is open in a topic: a broker answers a commit before its markers are everywhere."""
    reader = Reader(settings)

    async def all_ended() -> bool:
        written, spans = await reader.written(topic), await reader.spans(topic)
        return all(spans[partition].end >= end for partition, end in written.items())

    await until(all_ended)


async def read_ended(settings: Settings, topic: str) -> list[ConsumerRecord]:
    """All records of a topic, one partition after the other, once no transaction is open in it."""
    await ended(settings, topic)
    return [record async for record in Reader(settings).read_topic(topic)]


async def position_of(settings: Settings, stage: str, topic: str, partition: int) -> Position:
    """The newest committed position record of a task."""
    found = [
        record for record in await read(settings, changelog(stage, topic).name, partition) if record.key == POSITION_KEY.encode()
    ]
    return decode_position(found[-1].value) if found else Position()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0, every: float = 0.1) -> None:
    """Waits for `condition`; AssertionError when it doesn't come true in time."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 (what is waited for is in another process, or on the broker)
            await asyncio.sleep(every)


async def run_until_read(task: FoldTask, seconds: float = 60.0) -> None:
    """Runs a task until it has no lag, then stops it. Raises what the task raises."""

    async def idle() -> bool:
        return running.done() or (task.describe().phase == "running" and task.describe().lag == 0)

    running = asyncio.create_task(task.run())
    try:
        await until(idle, seconds)
    finally:
        running.cancel()
        results = await asyncio.gather(running, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]


async def oracle(
    settings: Settings, stage: FoldStage, topic: str, partition: int, body: Mapping[str, Any], end: int | None = None
) -> tuple[list[Produced], dict[str, bytes], Position]:
    """What the pure fold makes of the recorded input up to offset `end`, switching policies where `rules` says so."""
    counts = await clients.partition_counts(settings, [*stage.outputs, "dead-letters"])
    rules = [event.data for event in map(_decoded, await read(settings, "rules", 0)) if isinstance(event, RulesActivated)]
    mine = [rule for rule in rules if (rule.stage, rule.topic, rule.partition) == (stage.name, topic, partition)]
    switches = {rule.from_offset: rule for rule in mine}
    fold = stage.newest(body)
    produced: list[Produced] = []
    state: dict[str, Any] = {}
    counters: dict[str, int] = {}
    now = offset = 0
    for message in await read(settings, topic, partition):
        if end is not None and message.offset >= end:
            break
        for start in sorted(start for start in switches if start <= message.offset):
            rule = switches.pop(start)
            fold = stage.build(rule.version, rule.body, rule.digest)
        now, offset = max(now, message.timestamp), message.offset
        record = Record(topic, partition, offset, message.timestamp, now, message.key, message.value, message.headers)
        done = process(stage.name, fold, state, record, counts, stage.versions[stage.version].provenance)
        produced += done.produced
        done.apply(state, counters)
    dumped = {key: fold.dump(key, value) for key, value in state.items() if not key.startswith(DERIVED)}
    return produced, dumped, Position(next_offset=offset + 1, now=now, counters=counters)


def _decoded(record: ConsumerRecord) -> Event:
    return decode(record.value, record.headers)


async def outputs_of(settings: Settings, stage: FoldStage, topic: str, partition: int) -> dict[tuple[str, int], list[Produced]]:
    """The live outputs of one task, per output partition in log order."""
    counts = await clients.partition_counts(settings, [*stage.outputs, "dead-letters"])
    found: dict[tuple[str, int], list[Produced]] = {}
    for name, count in counts.items():
        for part in range(count):
            for record in await read(settings, name, part):
                source = provenance_of(record.headers)
                if source is not None and source[:3] == (stage.name, topic, partition):
                    item = Produced(name, part, record.key, record.value, tuple(record.headers))
                    found.setdefault((name, part), []).append(item)
    return found


async def changelog_state(settings: Settings, stage: FoldStage, topic: str, partition: int) -> dict[str, bytes]:
    """A task's state as its changelog has it, without the position."""
    state: dict[str, bytes] = {}
    for record in await read(settings, changelog(stage.name, topic).name, partition):
        key = record.key.decode(errors="surrogateescape")
        if record.value is None:
            state.pop(key, None)
        else:
            state[key] = record.value
    state.pop(POSITION_KEY, None)
    return state


async def assert_exact(
    settings: Settings, stage: FoldStage, topic: str, partitions: Sequence[int], body: Mapping[str, Any]
) -> Position:
    """Outputs, order, state and counters of each partition's task are the pure fold's. Returns the last one's position."""
    position = Position()
    for partition in partitions:
        produced, state, expected = await oracle(settings, stage, topic, partition, body)
        by_partition: dict[tuple[str, int], list[Produced]] = {}
        for item in produced:
            by_partition.setdefault((item.topic, item.partition), []).append(item)
        assert await outputs_of(settings, stage, topic, partition) == by_partition
        assert await changelog_state(settings, stage, topic, partition) == state
        position = await position_of(settings, stage.name, topic, partition)
        assert position.counters == expected.counters
        assert position.now == expected.now
        assert position.next_offset >= expected.next_offset
    return position
