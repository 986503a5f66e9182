"""What stands on the derived topics, sorted by who says to have written it. Knows who may write where, folds nothing.

Each record is looked at once: it is an output of a task (then its coordinates and a digest go to a file of that task, so that
memory does not grow with the log), a record that needs no input (a tick, an activation, a person's request, what the trainer
says), or one that nobody accounts for: a stranger, which is right only where the stage that reads it made a dead letter of it.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from headrace_lake.differences import Difference
from headrace_lake.log import Log, LogRecord
from headrace_schemas.events import Event
from headrace_schemas.topics import ANYBODY, BY_NAME, TOPICS, key_of
from headrace_schemas.topology import STAGES_BY_NAME, StageTopology
from headrace_streams.kafka.reader import decode_or_none
from headrace_streams.runtime.provenance import ORIGIN, Headers, Provenance, provenance_of, writer_of
from headrace_streams.signing import without_signature

# Where only stages and commands write. What is secret is read for its keys alone, and may not be read by all.
DERIVED = tuple(topic.name for topic in TOPICS if ANYBODY not in topic.writers and not topic.secret)
STRANGERS_LIMIT = 100_000  # that are kept
_ENTRY = struct.Struct("<qiq16s")
_FLUSH_BYTES = 64 * 1024

Task = tuple[str, str, int]  # stage, input topic, partition
Place = tuple[str, int]  # output topic, partition


class RecordedOutput(NamedTuple):
    """An output as it lies on the log: what it was made of, its own offset, and the digest of what verify compares."""

    source: int
    ordinal: int
    offset: int
    print: bytes


def fingerprint(key: bytes | None, value: bytes | None, headers: Headers) -> bytes:
    """Equal for two records of one partition exactly when everything that verify compares is equal."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in (key, value, *(part for name, text in headers for part in (name.encode(), text))):
        hashed.update(b"-" if part is None else b"%d:" % len(part))
        hashed.update(part or b"")
    return hashed.digest()


class RecordedOutputs:
    """The records of derived topics. `accounted`: how many need no fold to be accounted for, by writer; `strangers`: what nobody
    accounts for, by topic, partition and offset. Files go into `folder`, 36 bytes a record."""

    def __init__(self, folder: Path, stages: Sequence[StageTopology]) -> None:
        self._folder = folder
        self._stages = {stage.name: stage for stage in stages}
        self._known = {**STAGES_BY_NAME, **self._stages}
        self._counts: dict[str, int] = {}
        self._numbers: dict[Task, int] = {}  # of a task's file
        self._buffers: dict[Task, bytearray] = {}
        self._sizes: Counter[Task] = Counter()
        self._runs: dict[Task, list[tuple[Place, int, int]]] = {}  # slices of a task's file, one a place
        self.accounted: Counter[str] = Counter()
        self.strangers: dict[tuple[str, int, int], Difference] = {}

    async def read(self, log: Log, topics: Iterable[str]) -> None:
        """Sorts every committed record of `topics` (short names), which are the outputs of the stages among others."""
        for stage in self._known.values():
            for topic in stage.inputs:
                self._counts[topic] = await log.partitions(topic)
        for topic in sorted(set(topics)):
            for partition in range(await log.partitions(topic)):
                before = dict(self._sizes)
                async for record in log.read(topic, partition):
                    self._sort(record)
                for task, size in self._sizes.items():
                    self._flush(task)
                    if size > before.get(task, 0):
                        self._runs.setdefault(task, []).append(((topic, partition), before.get(task, 0), size))

    def of(self, task: Task) -> dict[Place, Iterator[RecordedOutput]]:
        """A task's outputs by where they lie, each in the order of the log."""
        return {place: self._slice(task, start, end) for place, start, end in self._runs.get(task, ())}

    def _slice(self, task: Task, start: int, end: int) -> Iterator[RecordedOutput]:
        with self._file(task).open("rb") as file:
            file.seek(start)
            while start < end:
                block = file.read(min(end - start, _ENTRY.size * 1024))
                start += len(block)
                for fields in _ENTRY.iter_unpack(block):
                    yield RecordedOutput(*fields)

    def _sort(self, record: LogRecord) -> None:
        source = provenance_of(record.headers)
        if source is not None and self._is_output(record, source):
            if source.stage not in self._stages:
                self.accounted[source.stage] += 1
                return
            task = source[:3]
            buffer = self._buffers.setdefault(task, bytearray())
            print_ = fingerprint(record.key, record.value, without_signature(record.topic, record.headers))
            buffer += _ENTRY.pack(source.offset, source.ordinal, record.offset, print_)
            self._sizes[task] += _ENTRY.size
            if len(buffer) >= _FLUSH_BYTES:
                self._flush(task)
            return
        writer = None if source is not None else self._writer_without_input(record)
        if writer is not None:
            self.accounted[writer] += 1
        elif len(self.strangers) < STRANGERS_LIMIT:
            self.strangers[record.topic, record.partition, record.offset] = self._stranger(record)

    def _is_output(self, record: LogRecord, source: Provenance) -> bool:
        """Whether the task that the headers name exists and writes to this topic."""
        stage = self._known.get(source.stage)
        return (
            stage is not None
            and record.topic in (*stage.outputs, "dead-letters")
            and source.topic in stage.inputs
            and 0 <= source.partition < self._counts[source.topic]
            and 0 <= source.offset < 2**63
            and 0 <= source.ordinal < 2**31
        )

    def _writer_without_input(self, record: LogRecord) -> str | None:
        """Who writes such a record without an input record; None where nobody does."""
        writer = writer_of(record.headers)
        if writer is None:
            event = decode_or_none(record.value, record.headers)
            return "command" if event is not None and _is_request(event, record) else None
        name, _, what = writer.partition(".")
        stage = self._known.get(name)
        if stage is None:
            return None
        belongs = record.topic in stage.inputs if what == "tick" else what in ("rules", "skip") and record.topic == "rules"
        return writer if belongs else None

    def _stranger(self, record: LogRecord) -> Difference:
        writers = [name for name, stage in self._known.items() if record.topic in (*stage.outputs, "dead-letters", "rules")]
        stage = next((name for name in writers if name in self._stages), next(iter(self._stages)))
        found = dict(record.headers).get(ORIGIN) or writer_of(record.headers) or "no stage's headers"
        key, value = (record.key or b"")[:80], (record.value or b"")[:120]
        told = f"one with {found!r}, key {key!r}, value {value!r}"
        expected = f"a record of {' or '.join(writers)}"
        return Difference(stage, record.topic, record.partition, record.offset, "unexpected", expected, told)

    def _flush(self, task: Task) -> None:
        buffer = self._buffers.get(task)
        if buffer:
            with self._file(task).open("ab") as file:
                file.write(buffer)
            buffer.clear()

    def _file(self, task: Task) -> Path:
        return self._folder / str(self._numbers.setdefault(task, len(self._numbers)))


def _is_request(event: Event, record: LogRecord) -> bool:
    """Whether a command, or the worker's observer, may have written the event there, under its key."""
    topic = BY_NAME.get(record.topic)
    if topic is None or not isinstance(event, topic.requests + topic.observed):
        return False
    return record.key == key_of(record.topic, event).encode()


def state_print(entries: Iterable[tuple[str, bytes]]) -> int:
    """A number for a whole state, equal for equal states in any order: 256 bits, the sum of its entries' digests."""
    return sum(entry_print(key, value) for key, value in entries) % 2**256


def entry_print(key: str, value: bytes) -> int:
    """The number of one state entry."""
    name = key.encode()
    return int.from_bytes(hashlib.sha256(b"%d:%b%b" % (len(name), name, value)).digest(), "big")
