"""Where every stage stands, read from the log alone: lag, boxes, buckets, what is served. Works with no worker running."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from headrace_lake.kafka_log import KafkaLog
from headrace_lake.verify import changelog_of
from headrace_schemas.codec import DecodeError, decode
from headrace_schemas.derived import Release
from headrace_schemas.events import ReleasePromoted, ReleaseRevoked, ReleaseRolledBack
from headrace_streams.kafka import clients
from headrace_streams.runtime.journal import POSITION_KEY, decode_position
from headrace_streams.runtime.stage import Stage

EXACT_LAG = 100  # up to here the records behind a lag are counted one by one


class TaskStatus(Struct, frozen=True):
    """One partition of a stage's input. `lag` is the committed records to come: exact when few, else counted in offsets, among
    which are transaction markers."""

    stage: str
    topic: str
    partition: int
    next_offset: int
    lag: int
    counters: dict[str, int]
    state: dict[str, bytes]


class StageStatus(Struct, frozen=True):
    """A stage over all its partitions. `accounted`: every input record is in exactly one box."""

    stage: str
    lag: int
    records: int
    boxes: dict[str, int]
    accounted: bool


async def task_statuses(log: KafkaLog, inputs: Sequence[tuple[str, str]]) -> list[TaskStatus]:
    """`inputs`: (stage, topic) pairs."""
    found = []
    for stage, topic in inputs:
        spans = await clients.offsets(log.settings, [topic])
        for partition in range(await log.partitions(topic)):
            state = await changelog_of(log, stage, topic, partition)
            raw = state.pop(POSITION_KEY, None)
            position = None if raw is None else decode_position(raw)
            span = spans[topic, partition]
            done = span.begin if position is None else position.next_offset
            counters = {} if position is None else dict(position.counters)
            lag = max(0, span.end - done)
            if 0 < lag <= EXACT_LAG:
                lag = sum([1 async for _ in log.read(topic, partition, done, span.end)])
            found.append(TaskStatus(stage, topic, partition, done, lag, counters, state))
    return found


def summed(stage: Stage, tasks: Sequence[TaskStatus]) -> StageStatus:
    boxes: dict[str, int] = dict.fromkeys((*stage.boxes, "dead"), 0)
    records = lag = 0
    for task in tasks:
        if task.stage != stage.name:
            continue
        lag += task.lag
        records += task.counters.get("in", 0)
        for box, count in task.counters.items():
            if box != "in":
                boxes[box] = boxes.get(box, 0) + count
    return StageStatus(stage.name, lag, records, boxes, records == sum(boxes.values()))


async def served(log: KafkaLog) -> dict[str, Release]:
    """Bucket -> the release that is served now."""
    found: dict[str, Release] = {}
    async for record in clients.read_topic(log.settings, "releases"):
        try:
            event = decode(record.value, tuple(record.headers))
        except DecodeError:
            continue  # a tombstone, or what somebody else put there
        if isinstance(event, ReleasePromoted | ReleaseRolledBack | ReleaseRevoked):
            found[event.data.bucket] = event.data
    return found
