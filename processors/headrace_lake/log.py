"""The log as verify, rebuild and status read it: committed records, changelogs, activations of rules. Knows no client.

`KafkaLog` is a log on a broker; tests have one in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import NamedTuple, Protocol

from headrace_schemas.derived import PositionSkip, RulesActivation
from headrace_schemas.events import Event, PositionSkipped, RulesActivated
from headrace_schemas.topology import changelog
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.reader import decode_or_none
from headrace_streams.runtime.fold_runner import AHEAD_BYTES, AHEAD_RECORDS, FoldRunner
from headrace_streams.runtime.journal import POSITION_KEY, Position, decode_position
from headrace_streams.runtime.sealing import is_erased
from headrace_streams.runtime.stage import Headers

POSITION_WITHIN = 500  # offsets before the end of a changelog where a position is looked for first: some transactions' worth


class LogRecord(NamedTuple):
    """A record as it lies on the log; `topic` is short, `timestamp` is the append time in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Log(Protocol):
    """What replay needs of a log. Reads committed records only."""

    async def partitions(self, topic: str) -> int: ...

    async def start(self, topic: str, partition: int) -> int:
        """The first offset that is still there."""
        ...

    def read(self, topic: str, partition: int, start: int = 0, end: int | None = None) -> AsyncGenerator[LogRecord, None]: ...

    def records_at(self, topic: str, partition: int, offsets: Sequence[int]) -> AsyncIterator[LogRecord]:
        """Those at `offsets` (ascending) of a partition; where there is none, nothing."""
        ...


async def partitions_of(log: Log, topics: Iterable[str]) -> dict[str, int]:
    """How many partitions each topic has, for whoever folds anew: what newer rules write has a place, though the log was declared
    before its topic was thought of."""
    return {topic: await log.partitions(topic) or 1 for topic in topics}


async def windows(records: AsyncIterator[LogRecord]) -> AsyncGenerator[list[LogRecord], None]:
    """Records as they come, as many at once as a task shows its fold."""
    window: list[LogRecord] = []
    size = 0
    async for record in records:
        added = len(record.value or b"")
        if len(window) == AHEAD_RECORDS or (window and size + added > AHEAD_BYTES):
            yield window
            window, size = [], 0
        window.append(record)
        size += added
    if window:
        yield window


async def shown_ahead(runner: FoldRunner, records: AsyncIterator[LogRecord]) -> AsyncGenerator[LogRecord, None]:
    """The records as they come, each window of them shown to the fold in force before it is given out."""
    async with aclosing(windows(records)) as listed:
        async for window in listed:
            if runner.fold is not None:
                runner.look_ahead(window)
            for record in window:
                yield record


async def changelog_of(log: Log, stage: str, topic: str, partition: int, *, within: str = "") -> dict[str, bytes]:
    """The newest value of each state key of a task, its position record included; of those that begin with `within`."""
    newest: dict[str, bytes] = {}
    prefix = within.encode()
    async for record in log.read(changelog(stage, topic).name, partition):
        if not (record.key or b"").startswith(prefix):
            continue
        key = (record.key or b"").decode(errors="surrogateescape")
        if record.value is None:
            newest.pop(key, None)
        else:
            newest[key] = record.value
    return newest


async def position_of(log: Log, stage: str, topic: str, partition: int, start: int, end: int) -> Position | None:
    """A task's position record; None where there is none. Every transaction writes it, so it lies near the end of its changelog,
    which holds offsets [start, end): it is read from there back, until it is found."""
    name, count = changelog(stage, topic).name, POSITION_WITHIN
    while start < end:
        first = max(start, end - count)
        found: bytes | None = None
        async for record in log.read(name, partition, first, end):
            if record.key == POSITION_KEY.encode():
                found = record.value
        if found is not None:
            return decode_position(found)
        end, count = first, count * 8
    return None


async def events_of(log: Log, topic: str, *, key: str | None = None) -> AsyncGenerator[Event, None]:
    """The events of a topic, or of the partition of `key`; what somebody else put there is skipped, and what nobody can open any
    more, where sealed records are opened."""
    async for event, erased in told_events_of(log, topic, key=key):
        if not erased:
            yield event


async def told_events_of(log: Log, topic: str, *, key: str | None = None) -> AsyncGenerator[tuple[Event, bool], None]:
    """As `events_of`, with those that nobody can open any more, and whether it is one."""
    count = await log.partitions(topic)
    for partition in range(count) if key is None else [partition_for(key.encode(), count)]:
        async for record in log.read(topic, partition):
            if (event := decode_or_none(record.value, record.headers)) is not None:
                yield event, is_erased(record.value)


class TaskRules(NamedTuple):
    """What stands on `rules` of a task: policies that were in force, by first offset, and what people told it to leave out."""

    activations: list[RulesActivation]
    skips: list[PositionSkip]

    def skipped(self, offset: int) -> bool:
        """Whether an input record was left out."""
        return any(skip.from_offset <= offset < skip.to_offset for skip in self.skips)


async def rules_of(log: Log) -> defaultdict[tuple[str, str, int], TaskRules]:
    """Per (stage, topic, partition)."""
    rules: defaultdict[tuple[str, str, int], TaskRules] = defaultdict(lambda: TaskRules([], []))
    async for event in events_of(log, "rules"):
        if isinstance(event, RulesActivated):
            rules[event.data.stage, event.data.topic, event.data.partition].activations.append(event.data)
        elif isinstance(event, PositionSkipped):
            rules[event.data.stage, event.data.topic, event.data.partition].skips.append(event.data)
    for task in rules.values():
        task.activations.sort(key=lambda activation: activation.from_offset)
    return rules
