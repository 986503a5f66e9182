"""The one loop around a fold: state, counters, fold time and the rules in force over one input partition. Knows no client.

The live task, verify, rebuild and tests all step records through a FoldRunner, so that there is one meaning of fold time, of
counters and of switching rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Protocol

from headrace_schemas.canonical import digest
from headrace_streams.kafka.unpacking import UnreadValue
from headrace_streams.runtime.deadlines import Deadlines
from headrace_streams.runtime.provenance import HeaderForm, origin
from headrace_streams.runtime.stage import DERIVED, Fold, Headers, Record, Stage, Write
from headrace_streams.runtime.step import Processed, process, refused
from headrace_streams.runtime.writers import refusal

AHEAD_RECORDS = 64  # that a fold is shown at once: some 2 ms of its work
AHEAD_BYTES = 256 * 1024  # and no more of them than that, but for one

_record: Callable[[tuple[Any, ...]], Record] = partial(tuple.__new__, Record)  # as in step.py


class StoredRecord(Protocol):
    """What a runner reads of a record, wherever it comes from. `timestamp` is the append time in ms."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class FoldRunner:
    """One partition of one stage. `partitions`: short topic name -> count, of its outputs and `dead-letters`.

    `activate` before the first `run`; `state`, `counters` and `now` may be set from a changelog before."""

    def __init__(self, stage: Stage[Fold], topic: str, partition: int, partitions: Mapping[str, int]) -> None:
        self.stage, self.topic, self.partition, self.partitions = stage, topic, partition, partitions
        self._name = stage.name
        self.state: dict[str, Any] = {}
        self.state_version = stage.state_version  # the form of `state`
        self.counters: dict[str, int] = {}
        self.now = 0
        self.fold: Fold | None = None
        self.provenance: HeaderForm = origin  # as the rules in force write it
        self.checks_writers = False  # as the rules in force do
        self.deadlines: Deadlines | None = None

    def activate(self, version: int, body: Mapping[str, Any], name: str) -> None:
        """Puts a rule version and a policy in force from the next record on; the state takes on the form that the version reads.
        Raises UnknownVersion, InvalidBody."""
        before, self.fold = self.fold, None
        fold = self.stage.build(version, body, name)
        self._take_form(self.stage.state_version_of(version), before, fold)
        self.fold = fold
        rules = self.stage.versions[version]
        self.provenance, self.checks_writers = rules.provenance, rules.checks_writers

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
                shown.append((record.value, record.headers))
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
        given = (self.topic, self.partition, record.offset, timestamp, self.now, record.key, record.value, record.headers)
        processed = self.decide(_record(given))
        processed.apply(self.state, self.counters)
        if self.deadlines is not None:
            self.deadlines.note(processed.changes)
        return processed

    def decide(self, record: Record, state: Mapping[str, Any] | None = None) -> Processed:
        """What a record would do now, or in another `state`; nothing of it is taken."""
        assert self.fold is not None
        if self.checks_writers and not isinstance(record.value, UnreadValue):
            error = refusal(record.topic, record.value, record.headers)
            if error is not None:
                return refused(self._name, record, error, self.partitions, self.provenance)
        return process(self._name, self.fold, self.state if state is None else state, record, self.partitions, self.provenance)

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
        """The state in changelog form, entry by entry: whole, it would be in memory twice."""
        assert self.fold is not None
        for key, value in self.state.items():
            if not key.startswith(DERIVED):
                yield key, self.fold.dump(key, value)

    def dumped(self) -> dict[str, bytes]:
        """The whole state in changelog form."""
        return dict(self.entries())
