"""The one loop around a fold: state, counters, fold time and the rules in force over one input partition. Knows no client.

The live task, verify, rebuild and tests all step records through a FoldRunner, so that there is one meaning of fold time, of
counters and of switching rules.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from headrace_schemas.canonical import digest
from headrace_schemas.cloudevents import STRUCTURED
from headrace_schemas.codec import check_finite, encode
from headrace_schemas.derived import RecordError
from headrace_schemas.sealed_fields import NotSealable
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.unpacking import UnreadValue
from headrace_streams.runtime.deadlines import Deadlines
from headrace_streams.runtime.micro_batch import MicroBatch
from headrace_streams.runtime.provenance import ORIGIN, HeaderForm, origin
from headrace_streams.runtime.sealing import KeyMissing, Opened, Sealing, is_sealed_state, owner_of
from headrace_streams.runtime.stage import DERIVED, Fold, Headers, Record, Stage, Step, StoredRecord, Write
from headrace_streams.runtime.step import (
    DERIVED_LIMIT,
    LIMITS,
    STATE_LIMIT,
    Processed,
    Produced,
    failed,
    made,
    process,
    refused,
    seal_state,
)
from headrace_streams.runtime.writers import anybody_may_write, is_common, refusal
from headrace_streams.sealing.cipher import NotOpened

AHEAD_RECORDS = 64  # that a fold is shown at once: some 2 ms of its work
AHEAD_BYTES = 256 * 1024  # and no more of them than that, but for one

_record: Callable[[tuple[Any, ...]], Record] = partial(tuple.__new__, Record)  # as in step.py


class _Otherwise(Exception):
    """A record is no ordinary one."""


class FoldRunner:
    """One partition of one stage. `partitions`: short topic name -> count, of its outputs and `dead-letters`.

    `activate` before the first `run`; `state`, `counters` and `now` may be set from a changelog before. `sealing` opens sealed
    records and seals what is written; without one there must be none."""

    def __init__(
        self,
        stage: Stage[Fold],
        topic: str,
        partition: int,
        partitions: Mapping[str, int],
        sealing: Sealing | None = None,
    ) -> None:
        self.stage, self.topic, self.partition, self.partitions = stage, topic, partition, partitions
        self.sealing = sealing
        self.owners: dict[str, str] = {}  # of state values that are sealed on the changelog
        self.erased = 0  # records folded that nobody can open
        self._opened: dict[int, Opened | RecordError] = {}  # by offset, of records that were shown to the fold
        self._name = stage.name
        self.state: dict[str, Any] = {}
        self.state_version = stage.state_version  # the form of `state`
        self.counters: dict[str, int] = {}
        self.now = 0
        self.fold: Fold | None = None
        self.provenance: HeaderForm = origin  # as the rules in force write it
        self.checks_writers = False  # as the rules in force do, where not anybody may write
        self._later_writers: tuple[str, ...] = ()
        self.deadlines: Deadlines | None = None
        self._is_common: Callable[[bytes], object] | None = None

    def activate(self, version: int, body: Mapping[str, Any], name: str) -> None:
        """Puts a rule version and a policy in force from the next record on; the state takes on the form that the version reads.
        Raises UnknownVersion, InvalidBody."""
        before, self.fold = self.fold, None
        fold = self.stage.build(version, body, name)
        self._take_form(self.stage.state_version_of(version), before, fold)
        self.fold = fold
        rules = self.stage.versions[version]
        self.provenance, self._later_writers = rules.provenance, rules.later_writers
        self.checks_writers = rules.checks_writers and not anybody_may_write(self.topic)
        self._is_common = is_common(self.topic, rules.later_writers) if self.checks_writers else None

    def activate_newest(self, body: Mapping[str, Any]) -> None:
        """Puts the newest rule version in force, under a policy body. Raises InvalidBody."""
        self.activate(self.stage.version, body, digest(body))

    def _take_form(self, wanted: int, before: Fold | None, fold: Fold) -> None:
        """As a live task does that starts with a newer version: what its state looks like is upcast in changelog form, and what
        was derived from it is derived again."""
        if self.state and before is not None:
            kept = {key: value for key, value in self.state.items() if not key.startswith(DERIVED)}
            if wanted != self.state_version:
                dumped = {key: before.dump(key, value) for key, value in kept.items()}
                upcast = self.stage.upcast_state(self.state_version, dumped, wanted)
                kept = {key: fold.load(key, value) for key, value in upcast.items()}
            self.state = {**kept, **fold.derive(kept)}
        self.state_version = wanted

    def look_ahead(self, records: Iterable[StoredRecord]) -> int:
        """Shows the fold the first of `records`, which are to be run next; how many. That changes nothing but what they cost."""
        assert self.fold is not None
        if type(self.fold).look_ahead is Fold.look_ahead:
            return AHEAD_RECORDS
        shown: list[tuple[bytes, Headers]] = []
        size = seen = 0
        for record in islice(records, AHEAD_RECORDS):
            if isinstance(record.value, bytes) and not isinstance(record.value, UnreadValue):
                size += len(record.value)
                if shown and size > AHEAD_BYTES:
                    break
                value = self._shown(record) if len(record.headers) > 2 else record.value
                if value is not None:
                    shown.append((value, record.headers))
            seen += 1
        self.fold.look_ahead(shown)
        return seen

    def run(self, record: StoredRecord) -> Processed:
        """Folds one record into state and counters; what it writes. What a fold raises is a dead letter; raises
        SurroundingsFailed only, with state and counters as they were."""
        assert self.fold is not None, f"{self.stage.name} over {self.topic}/{self.partition} has no rules in force"
        timestamp = record.timestamp
        if timestamp > self.now:
            self.now = timestamp
        value, error = (record.value, None) if len(record.headers) < 3 else self._open(record)
        given = _record((self.topic, self.partition, record.offset, timestamp, self.now, record.key, value, record.headers))
        processed = self.decide(given) if error is None else self._refuse(given, error)
        return self._taken(processed)

    def _taken(self, processed: Processed) -> Processed:
        """What a record does, which is done now."""
        processed.apply(self.state, self.counters)
        if processed.owners or self.owners:
            self._note_owners(processed)
        if self.deadlines is not None:
            self.deadlines.note(processed.changes)
        return processed

    def fold_into(self, batch: MicroBatch, backlog: deque[StoredRecord], most: int, until: float) -> int:
        """Runs the first `most` of `backlog` into `batch`, fewer when that is full or it is `until` by the monotonic clock; how
        many. Ordinary records have here what `run` and `process` do, without a call for each part of it (2 of 6 us a record);
        others, and what is wrong with any, go their way."""
        assert self.fold is not None
        step, write, state, counters, deadlines = self.fold.step, self.fold.dump, self.state, self.counters, self.deadlines
        topic, partition, partitions, is_common = self.topic, self.partition, self.partitions, self._is_common
        place = f"{self._name}/{topic}/{partition}"
        ordinary = self.provenance is origin and (is_common is not None or not self.checks_writers)
        done = 0
        while done < most and backlog:
            record = backlog.popleft()
            done += 1
            timestamp, offset, value, headers = record.timestamp, record.offset, record.value, record.headers
            if (
                not ordinary
                or self.owners
                or type(value) is not bytes
                or len(headers) > 2
                or (is_common and not (len(headers) == 2 and headers[1][0] == ORIGIN and is_common(headers[1][1] or b"")))
            ):
                batch.add(timestamp, self.run(record))
                if batch.full or time.monotonic() >= until:
                    break
                continue
            if timestamp > self.now:
                self.now = timestamp
            given = _record((topic, partition, offset, timestamp, self.now, record.key, value, headers))
            produced: list[Produced] = []
            dumped: dict[str, bytes | None] = {}
            size = 0
            said: Step | None = None
            try:
                said = step(state, given)
                outputs, changes, counts, owners = said
                if owners:
                    raise _Otherwise
                for target, name, event, everywhere, owner in outputs:
                    text = event if isinstance(event, bytes) else encode(event)
                    if everywhere or owner or len(text) > LIMITS.get(target, DERIVED_LIMIT):
                        raise _Otherwise
                    size += len(text)
                    key = name.encode()
                    told = STRUCTURED, (ORIGIN, f"{place}/{offset}/{len(produced)}".encode())
                    produced.append(made((target, partition_for(key, partitions[target]), key, text, told)))
                for state_key, changed in changes.items():
                    if state_key.startswith(DERIVED):
                        continue
                    dumped[state_key] = data = None if changed is None else write(state_key, changed)
                    if data is not None:
                        if data is not changed:
                            check_finite(changed, data)
                        size += len(data)
                        if len(data) > STATE_LIMIT:
                            raise _Otherwise
            except _Otherwise:
                batch.add(timestamp, self._taken(self._process(given, state, said)))
            except Exception as error:
                batch.add(timestamp, self._taken(failed(self._name, given, error, partitions, self.provenance)))
            else:
                for state_key, changed in changes.items():
                    if changed is None:
                        state.pop(state_key, None)
                    else:
                        state[state_key] = changed
                for counter, count in {"in": 1, **counts}.items():
                    counters[counter] = counters.get(counter, 0) + count
                if deadlines is not None and changes:
                    deadlines.note(changes)
                batch.take(timestamp, produced, dumped, size)
            if batch.full or time.monotonic() >= until:
                break
        return done

    def _shown(self, record: StoredRecord) -> bytes | None:
        """The value of a record as the fold will see it, kept until it does; None when it can't be opened."""
        if isinstance(record.value, Opened) or owner_of(self.topic, record.headers) is None:
            return record.value
        try:
            value, error = self._open(record)
        except KeyMissing:  # told of when it is the record's turn
            return None
        if (kept := value if isinstance(value, Opened) else error) is not None:
            self._opened[record.offset] = kept
        return value if error is None else None

    def _open(self, record: StoredRecord) -> tuple[bytes | None, RecordError | None]:
        """A record's value, opened if it is sealed, and why it can't be. KeyMissing without a key for it."""
        owner, stored = owner_of(self.topic, record.headers), record.value
        assert self.fold is not None
        if owner is None or not self.fold.opens or not isinstance(stored, bytes) or isinstance(stored, UnreadValue):
            return stored, None
        if isinstance(stored, Opened):  # by whoever read it
            self.erased += stored.erased
            return stored, None
        known = self._opened.pop(record.offset, None)
        if known is not None:
            return (known, None) if isinstance(known, Opened) else (stored, known)
        if self.checks_writers:  # before a key is missed: who may not write here names whatever owner they like
            error = refusal(self.topic, stored, record.headers, self._later_writers)
            if error is not None:
                return stored, error
        if self.sealing is None:
            raise KeyMissing(f"{owner}: {self._name} reads a sealed record, and has no keys")
        try:
            opened = self.sealing.opened(owner, stored)
        except (NotOpened, NotSealable) as error:
            return stored, RecordError(code="not_opened", message=str(error))
        self.erased += opened.erased
        return opened, None

    def _note_owners(self, processed: Processed) -> None:
        self.owners.update(processed.owners)
        for key, data in processed.dumped.items():
            if data is None:
                self.owners.pop(key, None)

    def load_value(self, key: str, value: bytes, *, unchecked: bool = True) -> Any:
        """A state value from its changelog form. KeyMissing for one that is sealed and whose key is not there."""
        assert self.fold is not None
        if is_sealed_state(value):
            if self.sealing is None:
                raise KeyMissing(f"{self._name}: state {key!r} is sealed, and there are no keys")
            self.owners[key], opened = self.sealing.opened_state(key, value)
            return self.fold.load(key, opened)
        return self.fold.load(key, value) if unchecked else self.fold.reload(key, value)

    def decide(self, record: Record, state: Mapping[str, Any] | None = None) -> Processed:
        """What a record would do now, or in another `state`; nothing of it is taken."""
        assert self.fold is not None
        if self.checks_writers and not isinstance(record.value, UnreadValue):
            error = refusal(record.topic, record.value, record.headers, self._later_writers)
            if error is not None:
                return self._refuse(record, error)
        return self._process(record, self.state if state is None else state)

    def _process(self, record: Record, state: Mapping[str, Any], said: Step | None = None) -> Processed:
        assert self.fold is not None
        return process(self._name, self.fold, state, record, self.partitions, self.provenance, self.sealing, self.owners, said)

    def _refuse(self, record: Record, error: RecordError) -> Processed:
        return refused(self._name, record, error, self.partitions, self.provenance)

    def watch(self, retry_ms: int) -> None:
        """From here on deadlines of the state are kept, for a driver that lets time pass (Deadlines says what `retry_ms` is)."""
        assert self.fold is not None
        if type(self.fold).deadline is not Fold.deadline:
            self.deadlines = Deadlines(self.fold.deadline, retry_ms)
            self.deadlines.load(self.fold.deadlines(self.state))

    def overdue(self, now: int, limit: int) -> Sequence[Write]:
        """What to write into the input partition for up to `limit` keys whose deadline has passed at fold time `now` (ms)."""
        assert self.fold is not None
        if self.deadlines is None or not (keys := self.deadlines.overdue(self.state, now, limit)):
            return ()
        return self.fold.overdue(self.state, keys, now)

    def derive(self) -> None:
        """Makes the derived keys of a state that was loaded from a changelog: after `activate`, before the first `run`."""
        assert self.fold is not None
        self.state.update(self.fold.derive(self.state))

    def entries(self) -> Iterator[tuple[str, bytes]]:
        """The state in changelog form, sealed where it is sealed there, entry by entry: whole, it would be in memory twice."""
        assert self.fold is not None
        for key, value in self.state.items():
            if not key.startswith(DERIVED):
                yield key, self.entry(key, value)

    def entry(self, key: str, value: Any) -> bytes:
        """A value of the state in changelog form."""
        assert self.fold is not None
        data, owner = self.fold.dump(key, value), self.owners.get(key)
        return data if owner is None else seal_state(self.fold, self.sealing, owner, key, data)

    def dumped(self) -> dict[str, bytes]:
        """The whole state in changelog form."""
        return dict(self.entries())
