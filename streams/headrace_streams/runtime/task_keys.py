"""The keys that a task's records need, seen to before they are folded: read, issued, written over. Knows no transaction.

A key that a task issues is committed before the first record that is sealed with it. A crash between the two leaves a key that
the next task uses, or nobody: both are harmless. Of two tasks that make a key for one owner both use the first on the topic.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from headrace_schemas.codec import encode
from headrace_schemas.events import Event, SubjectErased
from headrace_schemas.times import parse_ns
from headrace_schemas.topics import BY_NAME, key_of
from headrace_streams.kafka.clients import NotAllowed
from headrace_streams.runtime.errors import Refused
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.journal import Ends
from headrace_streams.runtime.provenance import origin_without_input
from headrace_streams.runtime.sealing import Sealing, is_sealed_state, owners_in
from headrace_streams.runtime.stage import Record, StoredRecord
from headrace_streams.runtime.step import Produced
from headrace_streams.sealing.issuing import WRITER, erasures, issued
from headrace_streams.sealing.key_log import TOPIC, KeyLog, key_log
from headrace_streams.settings import Settings

KEYS_AT_ONCE = 2000  # erased in one transaction
_COMPACTION = BY_NAME[TOPIC].compaction
assert _COMPACTION is not None
ROLL_SECONDS = _COMPACTION.within_ms / 1000 + 60  # after which a broker closes a segment, when something is appended
RECENT_SECONDS = 2 * ROLL_SECONDS  # an erasure of before is compacted by now
_ERASED = str(SubjectErased.__struct_config__.tag).encode()

Commit = Callable[[Sequence[Produced]], Awaitable[Ends]]


class TaskKeys:
    """Of one task with its `runner`; `commit` writes records in a transaction of their own. `attach` first, in its loop."""

    def __init__(self, settings: Settings, runner: FoldRunner, commit: Commit) -> None:
        self._settings, self._runner, self._commit = settings, runner, commit
        self._log: KeyLog | None = None
        self._seals = runner.fold is not None and runner.fold.seals
        self._writes = self._seals
        self._roll_at: float | None = None  # by the monotonic clock

    async def attach(self) -> tuple[str, ...]:
        """Gives the runner what opens and seals; the topics that it writes to beside the stage's. Who seals nothing any more has
        what was sealed before to forget. Raises as a `Reader`."""
        fold, log = self._runner.fold, key_log(self._settings)
        self._log, self._runner.sealing = log, Sealing(log.ring)
        if fold is not None and fold.erases and not self._seals:
            with suppress(NotAllowed):  # a deployment without the topic says that, too
                if not log.was_read:
                    await log.refresh()
            self._writes = log.ring.has_keys or bool(log.ring.leftovers)
        return (TOPIC,) if self._writes else ()

    async def read_for(self, state: Mapping[str, bytes]) -> None:
        """Before a state, in changelog form, is loaded."""
        if self._writes or any(map(is_sealed_state, state.values())):
            await self._refresh()

    async def prepare(self, records: Sequence[StoredRecord]) -> None:
        """Before `records` are folded. Raises as a commit, and Refused where the topic may not be read."""
        runner, ring = self._runner, self._known.ring
        assert runner.fold is not None
        if runner.fold.opens and self._must_read(records):
            await self._refresh()
        if not self._writes:
            return
        claims = [claim for record in records for claim in runner.fold.claims(self._record(record))]
        if not issued(ring, claims, 0):
            return
        await self._refresh()  # another task may have issued them
        if events := issued(ring, claims, _now_ms()):
            await self._write(events)
        await self.erase_leftovers()

    async def begin(self) -> None:
        """When the task may write: what its predecessor left."""
        await self.erase_leftovers()
        last = self._known.ring.last_erasure if self._writes else None
        if last is not None and _now_ms() - parse_ns(last.time or "") // 1_000_000 < RECENT_SECONDS * 1000:
            self._roll_at = time.monotonic() + ROLL_SECONDS

    async def erase_leftovers(self) -> None:
        """Writes over what still holds keys that are erased, if that is this stage's to do."""
        while self._writes and (events := erasures(self._known.ring, _now_ms(), KEYS_AT_ONCE)):
            await self._write(events)
            self._roll_at = time.monotonic() + ROLL_SECONDS

    async def roll(self) -> None:
        """While idle: a broker compacts closed segments only, and closes one when something is appended to it. So that an erased
        key does not lie in the last one until somebody needs a new one, what was said last of an erasure is said once more."""
        if self._roll_at is None or time.monotonic() < self._roll_at:
            return
        self._roll_at, last = None, self._known.ring.last_erasure
        if last is not None:
            await self._write([last])

    @property
    def _known(self) -> KeyLog:
        assert self._log is not None
        return self._log

    def _must_read(self, records: Sequence[StoredRecord]) -> bool:
        """Whether some are sealed with keys that are not known yet, or tell that keys are no more."""
        topic, ring = self._runner.topic, self._known.ring
        if any(not ring.is_known(owner) for owner in owners_in(topic, records)):
            return True
        return topic == "signals" and ring.has_keys and any(_ERASED in (record.value or b"") for record in records)

    def _record(self, record: StoredRecord) -> Record:
        topic, partition, at = self._runner.topic, self._runner.partition, record.timestamp
        return Record(topic, partition, record.offset, at, at, record.key, record.value, record.headers)

    async def _write(self, events: Sequence[Event]) -> None:
        headers = origin_without_input(WRITER)
        ends = await self._commit([Produced(TOPIC, 0, key_of(TOPIC, event).encode(), encode(event), headers) for event in events])
        await self._refresh(ends[TOPIC, 0])

    async def _refresh(self, until: int = 0) -> None:
        try:
            await self._known.refresh(until)
        except NotAllowed as error:
            raise Refused(str(error)) from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
