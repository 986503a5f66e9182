"""What a task's changelog holds: from this machine's copy, if there is a good one, and from Kafka what came after it.

Knows when a copy may be gone on from; knows no fold. The copy takes in a transaction when the next one has been committed, so
it can only lag: a commit that is acknowledged has no marker yet, and where the broker dies over that, whoever opens the task next
may find that nobody has read any of it, and abort it (`hanging.py`). The next commit shows that its markers are written."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.structs import RecordMetadata

from headrace_schemas.topics import Topic
from headrace_streams.kafka import compat
from headrace_streams.runtime.changelog import ChangelogReader
from headrace_streams.runtime.errors import Refused
from headrace_streams.runtime.local_state import Kept, LocalState, remove_old
from headrace_streams.runtime.position import POSITION_KEY, Position, UnreadablePosition, decode_position
from headrace_streams.settings import Settings

LOG_APPEND_TIME = 1


class _Committed(NamedTuple):
    changes: Mapping[str, bytes | None]
    end: int
    at_ms: int


class ChangelogState:
    """`values` (key -> bytes) and `position` are what `read` found, `records` how many it read of Kafka for that. All values but
    those of `unchecked` (None: no value) are known to be of `form`, which is what a task reads and writes."""

    def __init__(self, settings: Settings, topic: Topic, partition: TopicPartition, label: str, form: str) -> None:
        self.values: dict[str, bytes] = {}
        self.position: Position | None = None
        self.records = 0
        self.form = form
        self.unchecked: set[str] | None = None
        self.reader = ChangelogReader(settings, partition, label)
        self._topic, self._partition, self._label = topic, partition, label
        self._folder = None if settings.state_dir is None else settings.state_dir / f"{partition.topic}.{partition.partition}"
        self._local: LocalState | None = None
        self._at_ms = self._end = 0  # the newest append time so far, and the offset behind it
        self._checked = False
        self._newest: _Committed | None = None  # acknowledged, and not in the copy yet

    async def read(self, producer: Any, barrier: RecordMetadata, *, mend: bool = False) -> None:
        """Up to the record of which `barrier` are the metadata. Raises Refused for a position that can't be read, unless `mend`:
        then the one before it counts, and only Kafka is read. Raises KafkaError, OSError, Transport."""
        unreadable = ""
        start = None if mend else await self._begin(producer, barrier)
        async with aclosing(self.reader.records(start=start, at_least=barrier.offset + 1)) as batches:
            async for records in batches:
                self.records += len(records)
                changes: dict[str, bytes | None] = {}
                for record in records:
                    key = record.key.decode(errors="surrogateescape")  # somebody else's, too, is a key: one that no fold knows
                    changes[key] = record.value
                    if key == POSITION_KEY and record.value is not None:
                        try:
                            self.position, unreadable = decode_position(record.value), ""
                        except UnreadablePosition as error:
                            unreadable = f"its position at offset {record.offset} of {self._partition.topic}: {error}"
                    elif record.value is None:
                        self.values.pop(key, None)
                    else:
                        self.values[key] = record.value
                if self.unchecked is not None:
                    self.unchecked.update(changes)
                if records:
                    self._append(changes, records[-1].offset + 1, max(record.timestamp for record in records))
        if unreadable and not mend:
            raise Refused(f"{self._label}: {unreadable}: run `headrace positions rebuild {self._label}`")

    def checked(self) -> None:
        """All values have been found to be of `form`; what is committed from now on is, too."""
        self._checked, self.unchecked = True, None
        self._append({}, self._end, self._at_ms)

    def committed(self, changes: Mapping[str, bytes | None], position: bytes, end: int, at_ms: int) -> None:
        """A transaction has been committed, so the one before has ended everywhere: the copy takes that in. The records of this
        one lie below offset `end`, appended not later than `at_ms`."""
        if self._local is None:
            return
        if self._newest is not None:
            self._append(*self._newest)
        self._newest = _Committed({**changes, POSITION_KEY: position}, end, at_ms)

    def tidy(self, now_ms: int | None) -> None:
        """Call it often, with the broker's time."""
        if self._local is not None and now_ms is not None:
            self._local.tidy(now_ms)

    def close(self) -> None:
        """Gives the copy back; never raises."""
        if self._local is not None:
            self._local.close()
            self._local = None

    def _append(self, changes: Mapping[str, bytes | None], end: int, at_ms: int) -> None:
        self._at_ms, self._end = max(self._at_ms, at_ms), end
        if self._local is not None:
            self._local.append(changes, end, self._at_ms, self.form if self._checked else "")

    async def _begin(self, producer: Any, barrier: RecordMetadata) -> int | None:
        """Takes what the copy has. The offset to read from on; None: from the first."""
        if self._folder is None or barrier.timestamp_type != LOG_APPEND_TIME:
            return None
        remove_old(self._folder.parent, self._oldest_ms / 1000)
        owner = f"{self._partition.topic}/{self._partition.partition} of cluster {await compat.cluster_id(producer)}"
        local = LocalState(self._folder, self._label, owner)
        if not local.open():
            return None
        self._local = local
        kept = await asyncio.to_thread(local.load)
        if kept is not None:
            why, position = await self._useless(kept, barrier)
            if not why:
                self.values, self.position, self._at_ms = kept.values, position, kept.at_ms
                self.unchecked = set() if kept.form and kept.form == self.form else None
                return kept.offset
            local.refuse(why)
        local.restart(barrier.timestamp)
        return None

    @property
    def _oldest_ms(self) -> int:
        """Deletions are still on the changelog for twice as long."""
        compaction = self._topic.compaction
        return 0 if compaction is None else compaction.tombstones_ms // 2

    async def _useless(self, kept: Kept, barrier: RecordMetadata) -> tuple[str, Position | None]:
        """Why the changelog can't be gone on with from there, or nothing and the position of then."""
        try:
            value = kept.values.pop(POSITION_KEY, None)
            position = None if value is None else decode_position(value)
        except UnreadablePosition as error:
            return f"has a position that can't be read: {error}", None
        if barrier.timestamp - kept.at_ms > self._oldest_ms:
            return f"is {(barrier.timestamp - kept.at_ms) // 3_600_000} h old, and deletions since may be gone", None
        if kept.offset > barrier.offset or not await self.reader.goes_on(kept.offset, kept.at_ms):
            return f"is of another log of that name: it ends at offset {kept.offset}", None
        return "", position
