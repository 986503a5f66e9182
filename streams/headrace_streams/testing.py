"""The kit for whoever writes a fold or an agent: events by hand, a task in memory, the contract of folds, a Kafka of one's own.

    task = MemoryTask(STAGE, "signals")
    [write] = task.feed(event("headrace.interaction.recorded.v1", {...})).produced
    check_fold(STAGE, "signals", values)

    with local_kafka() as settings:  # a real one, with all topics, for as long as the block
        with headrace.Recorder(settings.bootstrap, deployment=settings.deployment, agent="bot") as recorder: ...
        [interaction] = published(settings, "interactions")

Knows no stage and no test framework.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from headrace_schemas.codec import decode, encode
from headrace_schemas.events import Event
from headrace_schemas.topics import BY_NAME, TOPIC_NAMES
from headrace_schemas.topology import DEAD, RECORDS, STAGES_BY_NAME
from headrace_streams.kafka import admin
from headrace_streams.kafka.reader import Reader
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.policy import Policy
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.provenance import Provenance, origin, origin_without_input
from headrace_streams.runtime.stage import DERIVED, FoldStage, Headers, Record, Write, all_deadlines
from headrace_streams.runtime.step import Processed
from headrace_streams.settings import Settings

START_MS = 1_790_000_000_000  # append time of a task's first record
STEP_MS = 1_000  # from one record to the next
PARTITIONS = 3
SHOWN = 5  # records at most that a fold is shown ahead of their turn
REFUSALS = ("dead-letters", "rejections")  # where a stage says why it did not take a record


def event(
    kind: str, data: Mapping[str, Any], *, id: str = "e1", source: str = "test", time: str | None = None, **more: Any
) -> bytes:
    """A CloudEvent as others publish it, structured. `kind` is its whole type, `time` RFC 3339; nothing is checked."""
    tree = {"specversion": "1.0", "id": id, "source": source, "type": kind, "data": data, **more}
    return msgspec.json.encode(tree if time is None else {**tree, "time": time})


def written_headers(topic: str) -> Headers:
    """Headers as of a record that the first writer of `topic` (short name) wrote; none where anybody may write."""
    declared = BY_NAME.get(topic)
    writer = None if declared is None else STAGES_BY_NAME.get(declared.writers[0])
    return () if writer is None else origin(Provenance(writer.name, writer.inputs[0], 0, 0, 0))


class MemoryTask:
    """Partition 0 of one input of a stage, as a live task runs it, without a broker: what is fed is the input log. Each topic
    that it writes to has 3 partitions. Raises ValueError for a topic that is no input."""

    def __init__(self, stage: FoldStage, topic: str, policy: Policy | None = None) -> None:
        if topic not in stage.inputs:
            raise ValueError(f"topic {topic!r} is no input of stage {stage.name!r}")
        self.stage, self.topic = stage, topic
        self._body = (policy or stage.policy()).body()
        self._offset = 0
        self._runner = self._started()

    def _started(self) -> FoldRunner:
        runner = FoldRunner(self.stage, self.topic, 0, dict.fromkeys(TOPIC_NAMES, PARTITIONS))
        runner.activate_newest(self._body)
        return runner

    def activate(self, policy: Policy) -> None:
        """What is fed from now on is folded under another policy, with the state that there is."""
        self._body = policy.body()
        self._runner.activate_newest(self._body)

    @property
    def records(self) -> int:
        """How many were fed."""
        return self._offset

    @property
    def counters(self) -> Mapping[str, int]:
        """Of all records since the start, `in` among them."""
        return self._runner.counters

    @property
    def deadlines(self) -> Mapping[str, int]:
        """State keys that wait for time to pass, with the fold time in ms until which they do."""
        assert self._runner.fold is not None
        return self._runner.fold.deadlines(self._runner.state)

    def overdue(self, now_ms: int) -> Sequence[Write]:
        """What a live task would write into this input at that fold time; `let_pass` feeds it too."""
        assert self._runner.fold is not None
        keys = [key for key, at in sorted(self.deadlines.items(), key=lambda item: (item[1], item[0])) if at <= now_ms]
        return self._runner.fold.overdue(self._runner.state, keys, now_ms) if keys else ()

    def let_pass(self, now_ms: int) -> list[Processed]:
        """Time passes while nothing comes in: what an idle task writes into its own input then, and folds."""
        return [
            self.feed(
                write.value if isinstance(write.value, bytes) else encode(write.value),
                key=write.key.encode(),
                headers=origin_without_input(f"{self.stage.name}.tick"),
                at_ms=now_ms,
            )
            for write in self.overdue(now_ms)
        ]

    def feed(
        self, value: bytes | None, *, key: bytes | None = None, headers: Headers = (), at_ms: int | None = None
    ) -> Processed:
        """Takes one record; what it did. `at_ms` is its append time: by default a second after the record before."""
        processed = self._runner.run(self.next_record(value, key=key, headers=headers, at_ms=at_ms))
        self._offset += 1
        return processed

    def look_ahead(self, values: Sequence[bytes | None], *, headers: Headers = ()) -> None:
        """Shows the fold what is fed next, as a live task does that has a backlog."""
        self._runner.look_ahead([self.next_record(value, headers=headers) for value in values])

    def next_record(
        self, value: bytes | None, *, key: bytes | None = None, headers: Headers = (), at_ms: int | None = None
    ) -> Record:
        """The record that `feed` would take. Without `headers` it has those of a stage, where only stages write."""
        time = START_MS + self._offset * STEP_MS if at_ms is None else at_ms
        headers = headers or written_headers(self.topic)
        return Record(self.topic, 0, self._offset, time, max(time, self._runner.now), key, value, headers)

    def try_out(self, record: Record, *, backwards: bool = False) -> Processed:
        """What the record would do now; nothing of it is taken. `backwards`: with the keys of the state the other way round."""
        runner = self._runner
        return runner.decide(record, dict(reversed(runner.state.items())) if backwards else None)

    def dumped(self) -> dict[str, bytes]:
        """The state in changelog form."""
        return self._runner.dumped()

    def restart(self) -> None:
        """Goes on with what a changelog holds. AssertionError when the state changes on the way, derived keys among it."""
        before, old = self.dumped(), self._runner
        self._runner = self._started()
        assert self._runner.fold is not None
        self._runner.state = {key: self._runner.fold.load(key, value) for key, value in before.items()}
        self._runner.derive()
        self._runner.counters, self._runner.now = dict(old.counters), old.now
        derived, kept = (
            {key: value for key, value in runner.state.items() if key.startswith(DERIVED)} for runner in (self._runner, old)
        )
        assert derived == kept, _difference(f"{self.stage.name}: derived state after a restart", kept, derived)
        after = self.dumped()
        assert after == before, _difference(f"{self.stage.name}: state that was dumped and loaded", before, after)
        fold = self._runner.fold
        taken = {key: value if key.startswith(fold.as_bytes) else fold.reload(key, value) for key, value in before.items()}
        after = {key: fold.dump(key, value) for key, value in taken.items()}
        assert after == before, _difference(f"{self.stage.name}: state that was dumped and reloaded", before, after)
        every, whole = all_deadlines(fold.deadline, self._runner.state), fold.deadlines(self._runner.state)
        assert whole == every, _difference(f"{self.stage.name}: deadlines of the whole state", every, whole)


def check_fold(
    stage: FoldStage,
    topic: str,
    values: Iterable[bytes | None],
    policy: Policy | None = None,
    *,
    key: bytes | None = b"key",
    repeats: bool = True,
) -> None:
    """Runs the newest rules of a stage over records and holds them to what live tasks, restarts and replay rely on.

    - A step changes no state by itself, and the same state and record give the same step, in whatever order the state's keys
      stand: they stand otherwise after a restart. Replays are equal.
    - What a fold found out ahead of a record's turn, of any number of records, changes nothing.
    - State survives its changelog form, and a task that restarts before every record does what one does that never stops. Its
      deadlines are the same found all at once or one by one.
    - Delivery is at least once: a record that comes twice in a row changes no state and writes nothing new but why it was not
      taken. `repeats=False` leaves that out, for a stage that passes repetitions on to one that knows them.
    - Every record is in one counter of the topology; writes go to its outputs; no state key is the runtime's own.
    - What it writes when deadlines have passed goes into its input and moves them: it would be asked for ever.

    AssertionError names the stage, the record's number and what differs."""
    straight, restarting = MemoryTask(stage, topic, policy), MemoryTask(stage, topic, policy)
    records = list(values)
    shown = 0
    for number, value in enumerate(records):
        if number == shown:
            shown += 1 + number % SHOWN
            straight.look_ahead(records[number:shown])
        where = f"{stage.name} over {topic}, record {number}"
        record, before = straight.next_record(value, key=key), straight.dumped()
        tried = straight.try_out(record)
        assert straight.dumped() == before, _difference(f"{where}: the step changed state itself", before, straight.dumped())
        again = straight.try_out(record)
        assert again == tried, _difference(f"{where}: the same step again", tried._asdict(), again._asdict())
        turned = straight.try_out(record, backwards=True)
        assert turned == tried, _difference(f"{where}: with the state in another order", tried._asdict(), turned._asdict())
        processed = straight.feed(value, key=key)
        _check_places(stage, processed, where)
        _check_counters(stage, straight.counters, number + 1, where)

        restarting.restart()
        other = restarting.feed(value, key=key)
        assert other == processed, _difference(f"{where}: after a restart", processed._asdict(), other._asdict())
        assert restarting.deadlines == straight.deadlines, f"{where}: after a restart other keys wait for time to pass"

        if repeats:
            again = straight.try_out(straight.next_record(value, key=key, at_ms=record.timestamp))
            _check_repetition(straight.dumped(), processed, again, f"{where}, again")
    assert restarting.dumped() == straight.dumped()
    _check_deadlines(straight)


def _check_places(stage: FoldStage, processed: Processed, where: str) -> None:
    strange = {produced.topic for produced in processed.produced} - {*stage.outputs, "dead-letters"}
    assert not strange, f"{where}: writes to {sorted(strange)}, which the topology does not name as outputs of {stage.name}"
    reserved = [key for key in processed.changes if key.startswith("@")]
    assert not reserved, f"{where}: state keys that begin with @ are the runtime's: {reserved}"


def _check_counters(stage: FoldStage, counters: Mapping[str, int], records: int, where: str) -> None:
    counters = {name: count for name, count in counters.items() if not stage.topology.is_tally(name)}
    strange = counters.keys() - {RECORDS, DEAD, *stage.topology.counters}
    assert not strange, f"{where}: counters {sorted(strange)} are none of {stage.name}'s"
    total = sum(count for name, count in counters.items() if name != RECORDS)
    assert counters[RECORDS] == records == total, (
        f"{where}: {records} records, but the counters add up to {total}: {dict(counters)}"
    )


def _check_deadlines(task: MemoryTask) -> None:
    """Time passes until nothing waits any more, one deadline after the other."""
    stage, waiting = task.stage, dict(task.deadlines)
    while waiting:
        now = min(waiting.values())
        due = sorted(key for key, at in waiting.items() if at <= now)
        where = f"{stage.name} over {task.topic}, deadlines of {due[:5]} passed"
        writes = task.overdue(now)
        assert writes == task.overdue(now), f"{where}: it writes other events when asked again"
        strange = {write.topic for write in writes} - {task.topic}
        assert not strange, f"{where}: writes to {sorted(strange)}, which is not its input"
        for processed in task.let_pass(now):
            _check_places(stage, processed, where)
        _check_counters(stage, task.counters, task.records, where)
        left = dict(task.deadlines)
        same = [key for key in due if left.get(key) == waiting[key]]
        assert not same, f"{where}: what it wrote does not move the deadlines of {same[:5]}"
        waiting = left


def _check_repetition(state: Mapping[str, bytes], first: Processed, again: Processed, where: str) -> None:
    assert {**state, **again.dumped} == state, _difference(f"{where}: state", state, {**state, **again.dumped})
    written = {produced[:4] for produced in first.produced}
    new = [produced for produced in again.produced if produced[:4] not in written and produced.topic not in REFUSALS]
    assert not new, f"{where}: writes to {new[0].topic} what it did not write the first time: {new[0].value[:500]!r}"


def _difference(what: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    keys = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
    told = "; ".join(f"{key}: expected {expected.get(key)!r}, found {found.get(key)!r}" for key in keys)
    return f"{what} differs: {told[:2000]}"


@contextmanager
def local_kafka(*, partitions: int = 1, deployment: str = "test") -> Iterator[Settings]:
    """Settings of a real Kafka that lives as long as the block, in a temporary folder, with every topic declared.

    Needs the `broker` extra. Raises MissingPiece (no Java, no jars) or KafkaFailed."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder, LocalKafka(Path(folder) / "kafka") as kafka:
        settings = Settings(
            bootstrap=kafka.bootstrap, deployment=deployment, partitions=partitions, data_dir=Path(folder) / "data"
        )
        asyncio.run(admin.declare(settings))
        yield settings


def published(settings: Settings, topic: str) -> list[Event]:
    """All committed events of a topic (short name), partition by partition. DecodeError for what is none."""

    async def read() -> list[Event]:
        return [decode(record.value, record.headers) async for record in Reader(settings).read_topic(topic)]

    return asyncio.run(read())


__all__ = ["MemoryTask", "check_fold", "event", "local_kafka", "published", "written_headers"]
