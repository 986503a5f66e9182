"""Where a task stands is known from the end of its changelog: what lies before is read only as far as it has to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from headrace_lake.log import POSITION_WITHIN, LogRecord, events_of, position_of, watched_of
from headrace_schemas.events import Event, FeedbackRecorded
from headrace_schemas.topology import changelog
from headrace_streams.runtime.journal import POSITION_KEY, Position, encode_position
from support.memory_log import MemoryLog
from support.signals import feedback, interaction

NAME = changelog("reward", "signals").name


class CountingLog(MemoryLog):
    """Counts the records that are read."""

    read_records = 0

    async def read(self, topic: str, partition: int, start: int = 0, end: int | None = None) -> AsyncGenerator[LogRecord, None]:
        async for record in super().read(topic, partition, start, end):
            self.read_records += 1
            yield record


def filled(before: int, after: int, *, position: bool = True) -> CountingLog:
    log = CountingLog()
    if position:
        log.append(NAME, 0, POSITION_KEY.encode(), encode_position(Position(next_offset=1)))
    for number in range(before):
        log.append(NAME, 0, f"k{number}".encode(), b"state")
    if position:
        log.append(NAME, 0, POSITION_KEY.encode(), encode_position(Position(next_offset=7)))
    for number in range(after):
        log.append(NAME, 0, f"k{number}".encode(), b"state")
    return log


@pytest.mark.parametrize("after", [0, 1, POSITION_WITHIN - 1, POSITION_WITHIN, 5 * POSITION_WITHIN, 20 * POSITION_WITHIN])
def test_the_newest_position_is_found_wherever_it_lies(after: int) -> None:
    log = filled(100, after)
    found = asyncio.run(position_of(log, "reward", "signals", 0, 0, 102 + after))
    assert found is not None
    assert found.next_offset == 7


def test_a_long_changelog_is_not_read_for_its_position() -> None:
    log = filled(40_000, 10)
    found = asyncio.run(position_of(log, "reward", "signals", 0, 0, 40_012))
    assert found is not None
    assert log.read_records <= POSITION_WITHIN


def test_a_changelog_without_a_position_has_none_and_is_read_once() -> None:
    log = filled(6000, 0, position=False)
    assert asyncio.run(position_of(log, "reward", "signals", 0, 0, 6000)) is None
    assert log.read_records == 6000
    assert asyncio.run(position_of(log, "reward", "signals", 0, 0, 0)) is None


def watching(*changes: dict[str, bytes | None], filler: int, watched: int | None) -> tuple[CountingLog, Position, int]:
    """A changelog of transactions, `filler` other values in each, its position and its end."""
    log, position, count = CountingLog(), Position(), 0
    for number, change in enumerate(changes):
        values = {f"k{number}-{one}": b"state" for one in range(filler)}
        position = Position(next_offset=number) if watched is None else Position(next_offset=number, watched=watched)
        for key, value in {**values, **change, POSITION_KEY: encode_position(position)}.items():
            log.append(NAME, 0, key.encode(), value)
            count += 1
    return log, position, count


@pytest.mark.parametrize("filler", [1, 100, 2000])
def test_watched_values_are_the_newest_of_each_whether_or_not_they_lie_near_the_end(filler: int) -> None:
    changes: list[dict[str, bytes | None]] = [dict.fromkeys(("bucket:a", "bucket:b", "bucket:c"), b"1")]
    changes += [{"bucket:b": None}, {"bucket:a": b"2"}, {"bucket:c": b"2"}]
    log, position, end = watching(*changes, {}, {}, filler=filler, watched=2)
    found = asyncio.run(watched_of(log, "reward", "signals", 0, "bucket:", position, 0, end))
    assert found == {"bucket:a": b"2", "bucket:c": b"2"}


def test_a_long_changelog_is_not_read_for_watched_values_and_one_of_before_is() -> None:
    for watched in (2, None):
        log, position, end = watching({}, {}, {"bucket:a": b"1"}, {"bucket:b": b"1"}, filler=4000, watched=watched)
        found = asyncio.run(watched_of(log, "reward", "signals", 0, "bucket:", position, 0, end))
        assert found == {"bucket:a": b"1", "bucket:b": b"1"}
        assert (log.read_records < end / 2) == (watched is not None)


def test_of_a_task_that_watches_nothing_yet_only_the_end_is_read() -> None:
    log, position, end = watching({"k": b"1"}, filler=4000, watched=0)
    assert asyncio.run(watched_of(log, "reward", "signals", 0, "bucket:", position, 0, end)) == {}
    assert log.read_records <= POSITION_WITHIN


def test_events_of_some_kinds_are_of_these_whatever_others_say() -> None:
    log = MemoryLog()
    for value in (interaction("i-1", prompt="headrace.feedback.recorded.v1"), feedback("f-1"), interaction("i-2")):
        log.append("signals", 0, b"k", value)

    async def found(kinds: list[type[Event]]) -> list[Event]:
        return [event async for event in events_of(log, "signals", kinds=kinds)]

    assert [event.id for event in asyncio.run(found([FeedbackRecorded]))] == ["feedback-f-1"]
    assert len(asyncio.run(found([]))) == 3
