"""Where every stage stands, read from the log alone: lag and counters. Works with no worker running; knows no fold."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from msgspec import Struct

from headrace_lake.kafka_log import KafkaLog
from headrace_lake.log import Log, position_of, watched_of
from headrace_schemas.topology import DEAD, RECORDS, StageTopology, changelog
from headrace_streams.runtime.journal import Position

EXACT_LAG = 100  # up to here the records behind a lag are counted one by one


class TaskStatus(Struct, frozen=True):
    """One partition of a stage's input. `lag` is the committed records to come: exact when few, else counted in offsets, among
    which are transaction markers. `waited_seconds`: for how long the first of them has been there, None without a lag. `position`
    None: it never ran. `kept`: the offsets of its changelog."""

    stage: str
    topic: str
    partition: int
    next_offset: int
    lag: int
    waited_seconds: float | None
    position: Position | None
    kept: tuple[int, int] = (0, 0)

    @property
    def counters(self) -> dict[str, int]:
        return {} if self.position is None else self.position.counters


class StageStatus(Struct, frozen=True):
    """A stage over all its partitions. `accounted`: every input record is in exactly one counter."""

    stage: str
    lag: int
    records: int
    counters: dict[str, int]
    accounted: bool


async def task_statuses(log: KafkaLog, stages: Sequence[StageTopology], now_ms: int) -> list[TaskStatus]:
    """Every task of `stages`, whether it runs or not, at `now_ms` (since the epoch)."""
    statuses = []
    inputs = {topic for stage in stages for topic in stage.inputs}
    spans = await log.offsets(sorted(inputs))  # before those of changelogs: a task that goes on meanwhile has no lag for it
    kept = await log.offsets(changelog(stage.name, topic).name for stage in stages for topic in stage.inputs)
    for stage in stages:
        for topic in stage.inputs:
            for partition in range(await log.partitions(topic)):
                span = spans[topic, partition]
                begin, end = kept.get((changelog(stage.name, topic).name, partition), (0, 0))  # one that has grown lacks some
                position = await position_of(log, stage.name, topic, partition, begin, end)
                next_offset = span.begin if position is None else position.next_offset
                lag = max(0, span.end - next_offset)
                first: int | None = None
                if 0 < lag <= EXACT_LAG:
                    times = [record.timestamp async for record in log.read(topic, partition, next_offset, span.end)]
                    lag, first = len(times), times[0] if times else None
                elif lag:
                    first = await _first(log, topic, partition, next_offset)
                waited = None if first is None else max(0, now_ms - first) / 1000
                statuses.append(TaskStatus(stage.name, topic, partition, next_offset, lag, waited, position, (begin, end)))
    return statuses


async def watched_values(
    log: Log, tasks: Iterable[TaskStatus], stage: str, within: str
) -> AsyncGenerator[dict[str, bytes], None]:
    """Of each task of a stage the state values that its fold watches, as of when the task was asked where it stands, one task
    after the other. `within`: how their keys begin."""
    for task in tasks:
        if task.stage == stage:
            yield await watched_of(log, stage, task.topic, task.partition, within, task.position, *task.kept)


async def _first(log: KafkaLog, topic: str, partition: int, start: int) -> int | None:
    """Append time of the first record from `start` on."""
    async with aclosing(log.read(topic, partition, start)) as records:
        async for record in records:
            return record.timestamp
    return None


def stage_status(stage: StageTopology, tasks: Sequence[TaskStatus]) -> StageStatus:
    """The sum over the stage's tasks among `tasks`."""
    counters: dict[str, int] = dict.fromkeys((*stage.counters, DEAD), 0)
    records = lag = 0
    for task in tasks:
        if task.stage != stage.name:
            continue
        lag += task.lag
        records += task.counters.get(RECORDS, 0)
        for name, count in task.counters.items():
            if name != RECORDS:
                counters[name] = counters.get(name, 0) + count
    accounted = records == sum(count for name, count in counters.items() if not stage.is_tally(name))
    return StageStatus(stage.name, lag, records, counters, accounted)
