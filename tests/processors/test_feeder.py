"""The feeder over a log in memory: a lake lets go what the log lets go while it follows, and markers keep no segments apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace_lake.compaction import compacted
from headrace_lake.feeder import Feeder
from headrace_lake.kafka_log import KafkaLog
from headrace_lake.lake_cli import _behind
from headrace_lake.manifest import LakeFolder, Place
from headrace_lake.segments import SegmentColumns, write_segment
from headrace_streams.kafka.reader import Fetched, Span
from headrace_streams.settings import Settings
from headrace_streams.testing import event

VALUE = event("headrace.record.rejected.v1", {"topic": "feedback"}, id="d")
PLACE = ("dead-letters", 0)


class KeptLog:
    """Two records of `dead-letters`; its retention has come to `begin`."""

    settings = Settings(deployment="memory")
    begin = 0

    async def offsets(self, topics: Iterable[str]) -> dict[Place, Span]:
        return {(topic, 0): Span(self.begin, 2) if topic == PLACE[0] else Span(0, 0) for topic in topics}

    async def spans(self, topic: str) -> dict[int, Span]:
        return {0: (await self.offsets([topic]))[topic, 0]}

    async def read_on(
        self, starts: Mapping[Place, int], ends: Mapping[Place, int] | None = None, *, poll_ms: int = 500, head: bytes = b""
    ) -> AsyncGenerator[Fetched, None]:
        record: dict[str, Any] = {"topic": "memory.dead-letters", "partition": 0, "key": None, "value": VALUE, "headers": ()}
        records: list[Any] = [SimpleNamespace(**record, offset=offset, timestamp=offset) for offset in range(2)]
        while True:
            yield Fetched(records, {**starts, PLACE: 2})
            records = []
            await asyncio.sleep(0.001)


def empty_lake(path: Path) -> LakeFolder:
    folder = LakeFolder(path)
    path.mkdir()
    folder.bound("memory", "in-memory")
    return folder


def test_a_lake_lets_go_what_the_log_lets_go_while_it_follows(tmp_path: Path) -> None:
    folder, log = empty_lake(tmp_path / "lake"), KeptLog()

    async def follow() -> None:
        feeder = Feeder(log, folder, folder.load(), every=0.01)  # type: ignore[arg-type]
        await feeder.prepare()
        async with asyncio.timeout(20), aclosing(feeder.feed()) as steps:
            async for _ in steps:
                if log.begin == 0 and folder.load().segments:
                    log.begin = 2
                elif log.begin and not folder.load().segments:
                    return

    asyncio.run(follow())
    assert (folder.load().offset(PLACE), list(folder.segments.iterdir())) == (2, [])


def test_what_the_log_let_go_before_the_lake_began_is_not_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = KeptLog()
    log.begin = 1
    monkeypatch.setattr(KafkaLog, "offsets", lambda _self, topics: log.offsets(topics))
    assert asyncio.run(_behind(KeptLog.settings, empty_lake(tmp_path / "lake").load())) == 1


def test_segments_between_which_only_markers_lie_become_one(tmp_path: Path) -> None:
    folder = empty_lake(tmp_path / "lake")
    segments = []
    for number in range(20):
        columns = SegmentColumns("signals", 0)
        columns.add(3 * number, number, None, VALUE, ())
        segments.append(write_segment(folder.segments, [columns.table()], 3 * number, 3 * number + 2))
    before = folder.load().moved({("signals", 0): 60}, segments)
    assert len(compacted(folder, before).segments) == 2 + 20 % 8
    [one] = compacted(folder, before, fully=True).segments
    assert (one.start, one.end, one.records) == (0, 59, 20)
