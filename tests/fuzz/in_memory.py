"""Hostile batches through a fold without a broker: as the fetcher reads them, as a task folds them. Knows what must hold."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any

from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.structs import TopicPartition

from headrace_processors.stages import STAGES
from headrace_schemas.codec import DecodeError, decode
from headrace_schemas.events import RecordRejected
from headrace_schemas.topics import TOPIC_NAMES
from headrace_schemas.topology import DEAD, RECORDS
from headrace_streams.kafka.compat import Batches, DamagedBatch
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.stage import FoldStage, Record
from headrace_streams.testing import written_headers
from support.hostile import HostileBatch

APPEND_TIME = 1_790_000_000_000
PARTITIONS = 2


class FoldUnderFire:
    """Partition 0 of an input of a stage, at its default policy. `offset` is the next one."""

    def __init__(self, stage: FoldStage, topic: str) -> None:
        self.stage, self.topic, self.offset = stage, topic, 0
        self.outputs: Counter[str] = Counter()  # by topic
        self.codes: Counter[str] = Counter()  # of dead letters
        self.errors: Counter[str] = Counter()  # messages of stage errors
        self.runner = FoldRunner(stage, topic, 0, dict.fromkeys(TOPIC_NAMES, PARTITIONS))
        self.runner.activate_newest(stage.policy().body())

    def take(self, batch: HostileBatch) -> None:
        """Folds a batch. AssertionError when an offset is missing or comes twice, the counters do not add up, or what is written
        is no event."""
        data = struct.pack(">q", self.offset) + batch.data[8:]
        for record in _fetched(TopicPartition(self.topic, 0), data, self.offset):
            assert record.offset == self.offset, f"{self.label}: offset {record.offset}, after {self.offset - 1}"
            for item in self.runner.run(record).produced:
                self.outputs[item.topic] += 1
                try:
                    event = decode(item.value, item.headers)
                    if isinstance(event, RecordRejected):
                        self.codes[event.data.error.code] += 1
                        if event.data.error.code == "stage_error":
                            self.errors[event.data.error.message[:100]] += 1
                except DecodeError as error:
                    raise AssertionError(f"{self.label} wrote to {item.topic} at offset {record.offset}: {error}") from error
            self.offset += 1
        counters = self.runner.counters
        accounted = sum(counters.get(name, 0) for name in (*self.stage.topology.counters, DEAD))
        assert counters.get(RECORDS, 0) == accounted == self.offset, f"{self.label}: {counters}, {self.offset} records"

    def record(self, value: bytes) -> Record:
        """A good record, which takes the next offset."""
        self.offset += 1
        return Record(self.topic, 0, self.offset - 1, APPEND_TIME, APPEND_TIME, b"k", value, written_headers(self.topic))

    def restart(self) -> None:
        """Goes on with what a changelog holds. AssertionError when a value can't be loaded or is another one then."""
        assert self.runner.fold is not None
        dumped = self.runner.dumped()
        for key, value in dumped.items():
            loaded = self.runner.fold.load(key, value)
            assert self.runner.fold.dump(key, loaded) == value, f"{self.label}: state {key[:200]!r}"
            self.runner.state[key] = loaded

    @property
    def label(self) -> str:
        return f"{self.stage.name}/{self.topic}"


def folds() -> Iterable[FoldUnderFire]:
    """Of every stage over every input."""
    return [FoldUnderFire(stage, topic) for stage in STAGES for topic in stage.inputs]


def _fetched(tp: TopicPartition, data: bytes, offset: int) -> Iterable[Any]:
    for _ in range(3):
        try:
            return list(PartitionRecords(tp, Batches(data), [], offset, None, None, True, 1))
        except DamagedBatch:
            continue
    raise AssertionError("a damaged batch was not given out")
