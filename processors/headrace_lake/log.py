"""The log as verify, rebuild and status read it: committed records, changelogs, activations of rules. Knows no client.

`KafkaLog` is a log on a broker; tests have one in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import NamedTuple, Protocol

from msgspec import UNSET

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
FARTHER = 8  # times as many are looked through next


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
    newest = await _newest(log, changelog(stage, topic).name, partition, within)
    return {key: value for key, value in newest.items() if value is not None}


async def watched_of(
    log: Log, stage: str, topic: str, partition: int, within: str, position: Position | None, start: int, end: int
) -> dict[str, bytes]:
    """The state values that a task's fold watches, whose keys begin with `within`. A task writes each again in its turn and says
    in its position how many there are: its changelog, of offsets [start, end), is read back until they are found; whole, where
    the position was written before tasks did so."""
    wanted = None if position is None or position.watched is UNSET else position.watched
    newest: dict[str, bytes | None] = {}
    async with aclosing(_from_the_end(log, changelog(stage, topic).name, partition, within, start, end)) as portions:
        async for portion in portions:
            newest = portion | newest
            if sum(value is not None for value in newest.values()) == wanted:
                break
    return {key: value for key, value in newest.items() if value is not None}


async def position_of(log: Log, stage: str, topic: str, partition: int, start: int, end: int) -> Position | None:
    """A task's position record; None where there is none. Every transaction writes it, so it lies near the end of its changelog,
    which holds offsets [start, end): it is read from there back, until it is found."""
    async with aclosing(_from_the_end(log, changelog(stage, topic).name, partition, POSITION_KEY, start, end)) as portions:
        async for newest in portions:
            if (found := newest.get(POSITION_KEY)) is not None:
                return decode_position(found)
    return None


async def _from_the_end(
    log: Log, name: str, partition: int, within: str, start: int, end: int
) -> AsyncGenerator[dict[str, bytes | None], None]:
    """The newest value (None: deleted) of each key that begins with `within`, portion by portion, the last first; each portion is
    larger than the one behind it."""
    count = POSITION_WITHIN
    while start < end:
        first = max(start, end - count)
        yield await _newest(log, name, partition, within, first, end)
        end, count = first, count * FARTHER


async def _newest(
    log: Log, name: str, partition: int, within: str, start: int = 0, end: int | None = None
) -> dict[str, bytes | None]:
    """Of offsets [start, end) of a changelog."""
    newest: dict[str, bytes | None] = {}
    prefix = within.encode()
    async for record in log.read(name, partition, start, end):
        if (record.key or b"").startswith(prefix):
            newest[(record.key or b"").decode(errors="surrogateescape")] = record.value
    return newest


async def events_of(
    log: Log, topic: str, *, key: str | None = None, kinds: Sequence[type[Event]] = ()
) -> AsyncGenerator[Event, None]:
    """The events of a topic, or of the partition of `key`, all or those of some `kinds`; what somebody else put there is skipped,
    and what nobody can open any more, where sealed records are opened."""
    async with aclosing(told_events_of(log, topic, key=key, kinds=kinds)) as events:
        async for event, gone in events:
            if not gone:
                yield event


async def told_events_of(
    log: Log, topic: str, *, key: str | None = None, kinds: Sequence[type[Event]] = ()
) -> AsyncGenerator[tuple[Event, bool], None]:
    """As `events_of`, with those that nobody can open any more, and whether it is one. Of some `kinds` records are decoded that
    may be one alone."""
    tags = [str(kind.__struct_config__.tag).encode() for kind in kinds]
    count = await log.partitions(topic)
    for partition in range(count) if key is None else [partition_for(key.encode(), count)]:
        async for record in log.read(topic, partition):
            if tags and not any(tag in (record.value or b"") for tag in tags):
                continue
            event = decode_or_none(record.value, record.headers)
            if event is not None and (not kinds or isinstance(event, tuple(kinds))):
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
