"""A log in memory that a pure live driver writes, for testing replay without a broker."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from headrace_lake.log import LogRecord
from headrace_schemas.canonical import digest
from headrace_schemas.codec import encode
from headrace_schemas.derived import RulesActivation
from headrace_schemas.events import RulesActivated
from headrace_schemas.topics import key_of
from headrace_schemas.topology import changelog
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.journal import POSITION_KEY, Position, Rules, decode_position, encode_position
from headrace_streams.runtime.provenance import origin_without_input
from headrace_streams.runtime.sealing import Sealing
from headrace_streams.runtime.stage import FoldStage, Record
from headrace_streams.runtime.step import Produced
from headrace_streams.sealing.issuing import WRITER, erasures, issued
from headrace_streams.sealing.keyring import Keyring


class MemoryLog:
    """Topics as lists of records; every topic has `count` partitions, `rules` has one."""

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.records: dict[tuple[str, int], list[LogRecord]] = {}
        self.starts: dict[tuple[str, int], int] = {}
        self.time = 1_790_000_000_000
        self.ring = Keyring()

    async def partitions(self, topic: str) -> int:
        return 1 if topic in ("rules", "keys") else self.count

    async def start(self, topic: str, partition: int) -> int:
        return self.starts.get((topic, partition), 0)

    async def read(self, topic: str, partition: int, start: int = 0, end: int | None = None) -> AsyncGenerator[LogRecord, None]:
        for record in list(self.records.get((topic, partition), [])):
            if max(start, self.starts.get((topic, partition), 0)) <= record.offset and (end is None or record.offset < end):
                yield record

    async def records_at(self, topic: str, partition: int, offsets: Sequence[int]) -> AsyncIterator[LogRecord]:
        async for record in self.read(topic, partition):
            if record.offset in offsets:
                yield record

    def of(self, topic: str) -> list[LogRecord]:
        """The records of a topic, one partition after the other."""
        return [record for partition in range(self.count) for record in self.records.get((topic, partition), ())]

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

    def run(self, stage: FoldStage, body: Mapping[str, Any], *, overdue: bool = False) -> None:
        """What a live task of `stage` would do with all input there is; `overdue`: and then with deadlines that have passed."""
        counts = {topic: self.count for topic in (*stage.outputs, "dead-letters")}
        for topic in stage.inputs:
            for partition in range(self.count):
                self._run_partition(stage, body, topic, partition, counts, overdue)

    def _run_partition(
        self, stage: FoldStage, body: Mapping[str, Any], topic: str, partition: int, counts: Mapping[str, int], overdue: bool
    ) -> None:
        """Goes on from the newest position, if there is one."""
        name = changelog(stage.name, topic).name
        state = {(record.key or b"").decode(): record.value for record in self.records.get((name, partition), [])}
        position = decode_position(state.pop(POSITION_KEY, None) or encode_position(Position(state_version=stage.state_version)))
        data = RulesActivation(
            stage=stage.name,
            topic=topic,
            partition=partition,
            from_offset=position.next_offset,
            version=stage.version,
            digest=digest(body),
            body=body,
        )
        event = RulesActivated(specversion="1.0", id="rules", source="headrace:test", data=data)
        self.append(
            "rules", 0, f"{stage.name}/{topic}/{partition}".encode(), encode(event), origin_without_input(f"{stage.name}.rules")
        )
        runner = FoldRunner(stage, topic, partition, counts, Sealing(self.ring))
        runner.activate_newest(body)
        assert runner.fold is not None
        runner.counters, runner.now = dict(position.counters), position.now
        there = {key: value for key, value in state.items() if value is not None}
        upcast = stage.upcast_state(position.state_version, there)
        runner.state = {key: runner.load_value(key, value) for key, value in upcast.items()}
        runner.derive()
        runner.watch(0)
        offset = position.next_offset - 1
        for record in islice(self.records.get((topic, partition), []), position.next_offset, None):  # it may grow meanwhile
            offset = record.offset
            self._see_to_keys(runner, record)
            for produced in runner.run(record).produced:
                self.write(produced)
        now = self.time
        while overdue and (writes := runner.overdue(now, 3)):
            for write in writes:
                value = write.value if isinstance(write.value, bytes) else encode(write.value)
                record = self.append(topic, partition, write.key.encode(), value, origin_without_input(f"{stage.name}.tick"))
                offset = record.offset
                for produced in runner.run(record).produced:
                    self.write(produced)
        dumped = runner.dumped()
        for key in sorted(there.keys() - dumped.keys()):
            self.append(name, partition, key.encode(), None)
        for key, value in dumped.items():
            self.append(name, partition, key.encode(), value)
        position = Position(
            next_offset=offset + 1,
            now=runner.now,
            partitions=self.count,
            counters=runner.counters,
            rules=Rules(stage.version, digest(body)),
            state_version=stage.state_version,
        )
        self.append(name, partition, POSITION_KEY.encode(), encode_position(position))

    def _see_to_keys(self, runner: FoldRunner, record: LogRecord) -> None:
        """As a task does before it folds."""
        if runner.fold is None or not (runner.fold.seals or (runner.fold.erases and self.ring.has_keys)):
            return
        claims = runner.fold.claims(Record(*record[:4], record.timestamp, *record[4:]))
        events = issued(self.ring, claims, self.time)
        while events:
            for event in events:
                self.append("keys", 0, key_of("keys", event).encode(), encode(event), origin_without_input(WRITER))
                self.ring.apply(event)
            events = erasures(self.ring, self.time, 100)
