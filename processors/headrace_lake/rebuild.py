"""Rebuild: reward and curate chained offline from the recorded signals, in the order (event time, event id). No Kafka client.

Unlike verify, which repeats what happened, this says what would be if everything had come in order: it depends on what the
signals say only, so it is equal to itself on any machine and for any number of workers.

The order is one for all partitions, and yet one partition's state is in memory at a time: each is folded on its own, and what is
written lies on disk by its place in that order. What a partition tells another of the same stage (a preference that is retracted
is retracted on the other side too) may come after that one was folded: then that one is folded again. Each time more of the
order is as it will stay, so this ends; where nothing is told, each is folded once.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from headrace_lake.keys import sealing_of
from headrace_lake.log import Log, LogRecord, partitions_of
from headrace_lake.rebuild_spool import FetchedRecord, Position, RebuiltSpool, below
from headrace_schemas.codec import encode
from headrace_schemas.times import parse_ns
from headrace_streams.kafka.reader import decode_or_none
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.provenance import origin_without_input, writer_of
from headrace_streams.runtime.sealing import Sealing
from headrace_streams.runtime.stage import FoldStage
from headrace_streams.runtime.step import Produced

CHAIN = ("reward", "curate")  # the stages between signals and batches; what is released depends on runs, which are not repeated
SIGNALS = "signals"


class Signal(NamedTuple):
    """A recorded signal with what it is ordered by."""

    time_ns: int
    event_id: str
    record: LogRecord


async def signals_in_order(log: Log, *, until_ms: int | None = None) -> AsyncGenerator[Signal, None]:
    """All signals from outside the chain that were appended up to `until_ms`, by (event time, event id); the place on the log
    decides between equals. They are sorted on disk: memory does not grow with them."""
    with closing(RebuiltSpool()) as spool:
        await _spool(spool, log, until_ms)
        for time_ns, event_id, record in spool.signals():
            yield Signal(time_ns, event_id, record)


async def _spool(spool: RebuiltSpool, log: Log, until_ms: int | None) -> None:
    for partition in range(await log.partitions(SIGNALS)):
        async for record in log.read(SIGNALS, partition):
            if until_ms is not None and record.timestamp > until_ms:
                continue
            if writer_of(record.headers) in CHAIN:
                continue  # the chain writes it again
            event = decode_or_none(record.value, record.headers)  # as reward does: it may have grown since it came in
            if event is None:
                continue  # nobody but intake writes there; what is no event is in dead letters by now
            time_ns = record.timestamp * 1_000_000 if event.time is None else parse_ns(event.time)
            spool.add_signal(time_ns, event.id, record)
    spool.sort()


async def rebuild(
    log: Log, stages: Sequence[FoldStage], policies: Mapping[str, Mapping[str, Any]], *, until_ms: int | None = None
) -> AsyncIterator[Produced]:
    """Yields what the chain writes, in order, offsets counted from 0. `policies`: stage name -> policy body.

    Signals of one interaction stay on one partition as they are recorded, so shares are counted as they were live.
    """
    chain = [stage for name in CHAIN for stage in stages if stage.name == name]
    counts = await partitions_of(log, [topic for stage in chain for topic in (*stage.inputs, *stage.outputs, "dead-letters")])
    sealing = await sealing_of(log)
    with closing(RebuiltSpool()) as spool:
        await _spool(spool, log, until_ms)
        for stage in chain:
            _fold_stage(spool, stage, policies[stage.name], counts, sealing)
        for produced in spool.written():
            yield produced


def _fold_stage(
    spool: RebuiltSpool, stage: FoldStage, policy: Mapping[str, Any], counts: Mapping[str, int], sealing: Sealing
) -> None:
    """Every partition of the stage's input, those that were told something since they were folded once more."""
    topic = stage.inputs[0]
    folded: dict[int, bytes] = {}
    while stale := [one for one in range(counts[topic]) if one not in folded or folded[one] != spool.told(topic, one)]:
        for number in stale:
            folded[number] = spool.told(topic, number)
            spool.forget(topic, number)
            _Partition(spool, stage, policy, number, counts, sealing).fold()


class _Partition:
    """One partition of a stage's input, folded in order from nothing."""

    def __init__(
        self,
        spool: RebuiltSpool,
        stage: FoldStage,
        policy: Mapping[str, Any],
        number: int,
        counts: Mapping[str, int],
        sealing: Sealing,
    ) -> None:
        self._spool, self._task, self._offset = spool, (stage.inputs[0], number), 0
        self._own: list[tuple[Position, int, Produced]] = []  # heap: what it has written into its own input
        self._runner = FoldRunner(stage, *self._task, counts, sealing)
        self._runner.activate_newest(policy)

    def fold(self) -> None:
        for position, time_ms, record in self._input():
            while self._own and self._own[0][0] < position:
                self._run(*heapq.heappop(self._own))
            self._run(position, time_ms, record)
        while self._own:
            self._run(*heapq.heappop(self._own))

    def _input(self) -> Iterator[FetchedRecord]:
        told = self._spool.told_to(*self._task)
        if self._task[0] != SIGNALS:
            return told
        return heapq.merge(self._spool.signals_of(self._task[1]), told, key=lambda spooled: spooled.position)

    def _run(self, position: Position, time_ms: int, record: LogRecord | Produced) -> None:
        given = LogRecord(*self._task, self._offset, time_ms, record.key, record.value, tuple(record.headers))
        self._offset += 1
        processed = self._runner.run(given)
        for number, produced in enumerate((*processed.produced, *self._due_at_once(time_ms, processed.changes))):
            place = below(position, number)
            self._spool.add_written(self._task, place, time_ms, produced)
            if (produced.topic, produced.partition) == self._task:
                heapq.heappush(self._own, (place, time_ms, produced))

    def _due_at_once(self, time_ms: int, changes: Mapping[str, Any]) -> list[Produced]:
        """What a live task would write into its own input as soon as it can, a deadline of 0: an erasure's portions. Other
        deadlines pass where they are recorded to have passed, if that is true here."""
        runner = self._runner
        fold = runner.fold
        assert fold is not None
        keys = [key for key, value in changes.items() if value is not None and fold.deadline(key, value) == 0]
        headers = origin_without_input(f"{runner.stage.name}.tick")
        return [
            Produced(
                *self._task, write.key.encode(), write.value if isinstance(write.value, bytes) else encode(write.value), headers
            )
            for write in (fold.overdue(runner.state, keys, time_ms) if keys else ())
        ]
