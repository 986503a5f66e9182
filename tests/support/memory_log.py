"""A log in memory that a pure live driver writes, for testing replay without a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from headrace_lake.log import LogRecord
from headrace_schemas.canonical import digest
from headrace_schemas.codec import encode
from headrace_schemas.derived import RulesActivation
from headrace_schemas.events import RulesActivated
from headrace_schemas.topology import changelog
from headrace_streams.runtime.journal import POSITION_KEY, Position, encode_position
from headrace_streams.runtime.stage import FoldStage, Record
from headrace_streams.runtime.step import Produced, process


class MemoryLog:
    """Topics as lists of records; every topic has `count` partitions, `rules` has one."""

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.records: dict[tuple[str, int], list[LogRecord]] = {}
        self.starts: dict[tuple[str, int], int] = {}
        self.time = 1_790_000_000_000

    async def partitions(self, topic: str) -> int:
        return 1 if topic == "rules" else self.count

    async def start(self, topic: str, partition: int) -> int:
        return self.starts.get((topic, partition), 0)

    async def read(self, topic: str, partition: int, start: int = 0, end: int | None = None) -> AsyncIterator[LogRecord]:
        for record in list(self.records.get((topic, partition), [])):
            if max(start, self.starts.get((topic, partition), 0)) <= record.offset and (end is None or record.offset < end):
                yield record

    def append(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]] = ()
    ) -> LogRecord:
        self.time += 7
        log = self.records.setdefault((topic, partition), [])
        record = LogRecord(topic, partition, log[-1].offset + 1 if log else 0, self.time, key, value, tuple(headers))
        log.append(record)
        return record

    def write(self, produced: Produced) -> None:
        self.append(produced.topic, produced.partition, produced.key, produced.value, produced.headers)

    def run(self, stage: FoldStage, body: Mapping[str, Any]) -> None:
        """What a live task of `stage` would do with all input there is."""
        counts = {topic: self.count for topic in (*stage.outputs, "dead-letters")}
        for topic in stage.inputs:
            for partition in range(self.count):
                self._run_partition(stage, body, topic, partition, counts)

    def _run_partition(
        self, stage: FoldStage, body: Mapping[str, Any], topic: str, partition: int, counts: Mapping[str, int]
    ) -> None:
        rules = RulesActivation(
            stage=stage.name,
            topic=topic,
            partition=partition,
            from_offset=0,
            version=stage.version,
            digest=digest(body),
            body=body,
        )
        event = RulesActivated(specversion="1.0", id="rules", source="headrace:test", data=rules)
        self.append("rules", 0, f"{stage.name}/{topic}/{partition}".encode(), encode(event))
        fold, state, counters, now, offset = stage.newest(body), {}, {}, 0, -1
        for found in self.records.get((topic, partition), []):
            now, offset = max(now, found.timestamp), found.offset
            record = Record(topic, partition, found.offset, found.timestamp, now, found.key, found.value, found.headers)
            done = process(stage.name, fold, state, record, counts)
            state = {key: value for key, value in {**state, **done.changes}.items() if value is not None}
            for name, count in done.counters.items():
                counters[name] = counters.get(name, 0) + count
            for produced in done.produced:
                self.write(produced)
        kept = changelog(stage.name, topic).name
        for key, value in state.items():
            self.append(kept, partition, key.encode(), fold.dump(key, value))
        position = Position(next_offset=offset + 1, now=now, partitions=self.count, counters=counters)
        self.append(kept, partition, POSITION_KEY.encode(), encode_position(position))
