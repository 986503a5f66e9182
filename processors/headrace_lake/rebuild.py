"""Rebuild: reward and curate chained offline from the recorded signals, in the order (event time, event id). No Kafka client.

Unlike verify, which repeats what happened, this says what would be if everything had come in order: it depends on what the
signals say only, so it is equal to itself on any machine and for any number of workers.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any, NamedTuple

from msgspec import msgpack

from headrace_lake.log import Log, LogRecord
from headrace_schemas.codec import encode
from headrace_schemas.times import parse_ns
from headrace_streams.kafka.reader import decode_or_none
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.provenance import origin_without_input, writer_of
from headrace_streams.runtime.stage import FoldStage
from headrace_streams.runtime.step import Produced

CHAIN = ("reward", "curate")  # the stages between signals and batches; what is released depends on runs, which are not repeated


class Signal(NamedTuple):
    """A recorded signal with what it is ordered by."""

    time_ns: int
    event_id: str
    record: LogRecord


async def signals_in_order(log: Log, *, until_ms: int | None = None) -> AsyncGenerator[Signal, None]:
    """All signals from outside the chain that were appended up to `until_ms`, by (event time, event id); the place on the log
    decides between equals. They are sorted on disk, in a file that goes with the connection: memory does not grow with them."""
    with closing(sqlite3.connect("")) as spool:
        spool.execute(
            "CREATE TABLE signals (time_ns INTEGER, event_id BLOB, partition INTEGER, log_offset INTEGER, time_ms INTEGER, "
            "key BLOB, value BLOB, headers BLOB)"
        )
        for partition in range(await log.partitions("signals")):
            async for record in log.read("signals", partition):
                if until_ms is not None and record.timestamp > until_ms:
                    continue
                if writer_of(record.headers) in CHAIN:
                    continue  # the chain writes it again
                event = decode_or_none(record.value, record.headers)  # as reward does: it may have grown since it came in
                if event is None:
                    continue  # nobody but intake writes there; what is no event is in dead letters by now
                time_ns = record.timestamp * 1_000_000 if event.time is None else parse_ns(event.time)
                row = (time_ns, event.id.encode(), record.partition, record.offset, record.timestamp, record.key, record.value)
                spool.execute("INSERT INTO signals VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, msgpack.encode(record.headers)))
        for row in spool.execute("SELECT * FROM signals ORDER BY time_ns, event_id, partition, log_offset"):
            time_ns, event_id, partition, offset, time_ms, key, value, headers = row
            named = tuple((name, content) for name, content in msgpack.decode(headers))
            yield Signal(time_ns, event_id.decode(), LogRecord("signals", partition, offset, time_ms, key, value, named))


async def rebuild(
    log: Log, stages: Sequence[FoldStage], policies: Mapping[str, Mapping[str, Any]], *, until_ms: int | None = None
) -> AsyncIterator[Produced]:
    """Yields what the chain writes, in order, offsets counted from 0. `policies`: stage name -> policy body.

    Signals of one interaction stay on one partition as they are recorded, so shares are counted as they were live.
    """
    chain = [stage for name in CHAIN for stage in stages if stage.name == name]
    partitions = {topic: await log.partitions(topic) for stage in chain for topic in (*stage.outputs, "dead-letters")}
    runners: dict[tuple[str, int], FoldRunner] = {}
    offsets: Counter[tuple[str, int]] = Counter()
    by_input = {stage.inputs[0]: stage for stage in chain}

    def follow(topic: str, partition: int, time_ms: int, record: LogRecord | Produced) -> list[Produced]:
        stage, task = by_input[topic], (topic, partition)
        if task not in runners:
            runners[task] = FoldRunner(stage, topic, partition, partitions)
            runners[task].activate_newest(policies[stage.name])
        given = LogRecord(topic, partition, offsets[task], time_ms, record.key, record.value, tuple(record.headers))
        offsets[task] += 1
        written: list[Produced] = []
        processed = runners[task].run(given)
        for produced in (*processed.produced, *due_at_once(task, time_ms, processed.changes)):
            written.append(produced)
            if produced.topic in by_input:
                written += follow(produced.topic, produced.partition, time_ms, produced)
        return written

    def due_at_once(task: tuple[str, int], time_ms: int, changes: Mapping[str, Any]) -> list[Produced]:
        """What a live task would write into its own input as soon as it can, a deadline of 0: an erasure's portions. Other
        deadlines pass where they are recorded to have passed, if that is true here."""
        runner = runners[task]
        fold = runner.fold
        assert fold is not None
        keys = [key for key, value in changes.items() if value is not None and fold.deadline(key, value) == 0]
        headers = origin_without_input(f"{runner.stage.name}.tick")
        return [
            Produced(*task, write.key.encode(), write.value if isinstance(write.value, bytes) else encode(write.value), headers)
            for write in (fold.overdue(runner.state, keys, time_ms) if keys else ())
        ]

    async with aclosing(signals_in_order(log, until_ms=until_ms)) as signals:
        async for signal in signals:
            for produced in follow("signals", signal.record.partition, signal.time_ns // 1_000_000, signal.record):
                yield produced
