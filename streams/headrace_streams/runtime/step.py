"""What a step becomes on the log: bytes, partitions and provenance headers; errors become dead letters. Knows no client.

Both drivers (the live partition task and replay) call `process`, so what they write for one record is the same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from headrace_schemas.codec import check_finite, encode
from headrace_schemas.derived import DeadLetter, RecordError
from headrace_schemas.events import Event, RecordRejected, make
from headrace_schemas.ids import derive_id
from headrace_schemas.root_error import HeadraceError
from headrace_schemas.topics import MIB, TOPICS
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.unpacking import UnreadValue
from headrace_streams.runtime.provenance import HeaderForm, Provenance, WrittenHeaders, origin
from headrace_streams.runtime.sealing import NO_OWNERS, KeyMissing, Opened, SealedValue, Sealing, sealed_header, stored
from headrace_streams.runtime.stage import DERIVED, Fold, Record, Step, Write

RECORD_LIMIT = MIB  # uncompressed bytes of a value on input and signals; larger input is poison
_ROOM = 64 * 1024  # that the broker's own limit leaves for key and headers
DERIVED_LIMIT = 8 * MIB - _ROOM  # bytes of a value that we write, where the topic takes it
STATE_LIMIT = DERIVED_LIMIT
CARRIED_SURELY = MIB  # bytes of a record that fit into a dead letter in any case, headers written as JSON and all
LIMITS = {topic.name: min(DERIVED_LIMIT, topic.max_bytes - _ROOM) for topic in TOPICS}


SURROUNDINGS = (OSError, MemoryError, ImportError)


class SurroundingsFailed(HeadraceError):
    """A fold could not run on a record for want of memory, descriptors, disk or a module; the message says where and of what."""


class Produced(NamedTuple):
    """One record as it is written. `topic` is the short name."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: WrittenHeaders


class Processed(NamedTuple):
    """What one record does: records to write, state changes (`None` deletes) as values and in changelog form, counters."""

    produced: list[Produced]
    changes: Mapping[str, Any]
    dumped: Mapping[str, bytes | None]
    counters: Mapping[str, int]
    owners: Mapping[str, str] = NO_OWNERS  # of state values that are sealed, as far as they change

    def apply(self, state: dict[str, Any], counters: dict[str, int]) -> None:
        """Takes the step into a driver's own `state` and `counters`."""
        for key, value in self.changes.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        for name, count in self.counters.items():
            counters[name] = counters.get(name, 0) + count


# A tuple's own constructor: named ones have another around it, in Python, which costs each record 1.5 us in all.
made: Callable[[tuple[Any, ...]], Produced] = partial(tuple.__new__, Produced)
_processed: Callable[[tuple[Any, ...]], Processed] = partial(tuple.__new__, Processed)
_provenance: Callable[[tuple[Any, ...]], Provenance] = partial(tuple.__new__, Provenance)


def dead_letter(stage: str, record: Record, error: RecordError) -> Write:
    """The whole record, its coordinates and the error, addressed to `dead-letters`. A record that no dead letter can hold
    stays behind at its coordinates, and the message says so; so does one that was not read."""
    bare = record._replace(key=None, value=None, headers=())
    # A header costs what is around it too: a million empty ones are a few bytes for a publisher and ten million as JSON.
    headers = sum(2 + len(name.encode()) + len(value or b"") for name, value in record.headers)
    size = len(record.key or b"") + len(record.value or b"") + headers
    if size > CARRIED_SURELY and _letter_bytes(stage, record, error) > LIMITS["dead-letters"]:
        message = f"{error.message} (record of {size} bytes not carried)"
        record, error = bare, RecordError(code=error.code, message=message, field=error.field)
    elif isinstance(record.value, UnreadValue):
        record = bare
    return Write("dead-letters", record.coordinates, _letter(stage, record, error))


def _letter_bytes(stage: str, record: Record, error: RecordError) -> int:
    """What the dead letter of a record has as JSON, judged before anything of the record is written. Base64: 4 of 3."""
    size = len(encode(_letter(stage, record._replace(key=None, value=None, headers=()), error)))
    for name, text in (("key", record.key), ("value", record.value)):
        if text is not None:
            size += len(f',"{name}_base64":') + _base64_bytes(text)
    for header, value in record.headers:
        size += len("[,],") + len(msgspec.json.encode(header)) + (len("null") if value is None else _base64_bytes(value))
    return size - (1 if record.headers else 0)


def _base64_bytes(data: bytes) -> int:
    return 2 + (len(data) + 2) // 3 * 4


def _letter(stage: str, record: Record, error: RecordError) -> Event:
    return make(
        RecordRejected,
        DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            headers=[(name, None if value is None else base64.b64encode(value).decode()) for name, value in record.headers],
            key_base64=None if record.key is None else base64.b64encode(record.key).decode(),
            value_base64=None if record.value is None else base64.b64encode(stored(record.value) or b"").decode(),
            error=error,
        ),
        id=derive_id("dead-letter", stage, record.coordinates),
        writer=stage,
        time_ms=record.now,
    )


def address(
    stage: str,
    record: Record,
    step: Step,
    partitions: Mapping[str, int],
    headers: HeaderForm = origin,
    sealing: Sealing | None = None,
) -> list[Produced]:
    """The records of a step, in order. ValueError when one is over its limit; KeyMissing when one has an owner without a key."""
    produced: list[Produced] = []
    for topic, name, said, everywhere, owner in step.outputs:
        value = said if isinstance(said, bytes) else encode(said)
        if owner:
            value = _seal(sealing, owner, value)
        limit = LIMITS.get(topic, DERIVED_LIMIT)
        if len(value) > limit:
            raise ValueError(f"output to {topic} has {len(value)} bytes, more than {limit}")
        key = name.encode()
        count = partitions[topic]
        for partition in range(count) if everywhere else (partition_for(key, count),):
            source = _provenance((stage, record.topic, record.partition, record.offset, len(produced)))
            written = headers(source)
            produced.append(made((topic, partition, key, value, (*written, sealed_header(owner)) if owner else written)))
    return produced


def _seal(sealing: Sealing | None, owner: str, value: bytes) -> bytes:
    if isinstance(value, SealedValue):
        return value
    if sealing is None:
        raise KeyMissing(f"{owner}: its texts are to be sealed, and there are no keys")
    return sealing.sealed(owner, value)


def dump(
    fold: Fold, changes: Mapping[str, Any], owners: Mapping[str, str] = NO_OWNERS, sealing: Sealing | None = None
) -> dict[str, bytes | None]:
    """The changelog form of state changes, sealed where they have an owner; derived keys have none. ValueError when a value is
    over its limit or has a number that is not finite."""
    dumped: dict[str, bytes | None] = {}
    write = fold.dump
    for key, value in changes.items():
        if key.startswith(DERIVED):
            continue
        data = None if value is None else write(key, value)
        if data is not None:
            if data is not value:  # bytes that are their own changelog form hold nothing that could be told from a null
                check_finite(value, data)
            if len(data) > STATE_LIMIT:
                raise ValueError(f"state of {key[:200]!r} has {len(data)} bytes, more than {STATE_LIMIT}")
            if owners and (owner := owners.get(key)):
                data = seal_state(fold, sealing, owner, key, data)
        dumped[key] = data
    return dumped


def seal_state(fold: Fold, sealing: Sealing | None, owner: str, key: str, data: bytes) -> bytes:
    """The changelog form of a state value under its owner's key. KeyMissing without one."""
    if sealing is None:
        raise KeyMissing(f"{owner}: its state is to be sealed, and there are no keys")
    return sealing.sealed_state(owner, key, data, fold.stand_in(key, data))


def _owners_of(changes: Mapping[str, Any], new: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Of the keys that a step changes those with an owner: the `new` one, else the one that is `known`."""
    return {key: owner for key in changes if (owner := new.get(key) or known.get(key))}


def _unread(stage: str, record: Record) -> Step:
    """What becomes of a record that readers give out without its value, whatever the stage and its rule version."""
    assert isinstance(record.value, UnreadValue)
    error = RecordError(code=record.value.code, message=record.value.message)
    return Step([dead_letter(stage, record, error)], {}, {"dead": 1})


def process(
    stage: str,
    fold: Fold,
    state: Mapping[str, Any],
    record: Record,
    partitions: Mapping[str, int],
    headers: HeaderForm = origin,
    sealing: Sealing | None = None,
    owners: Mapping[str, str] = NO_OWNERS,
    said: Step | None = None,
) -> Processed:
    """Runs `fold` on one record, or takes what it has `said` of it. An exception of the fold, or an output or state value over
    its limit, becomes a dead letter (`stage_error`) with state unchanged: nothing bad stops the stream. What the surroundings
    lack (memory, descriptors, disk, a module) is no record's fault and would be another verdict in a replay: SurroundingsFailed;
    nor is a key that it needs, and that is not there: KeyMissing. `partitions`: short topic name -> count; `owners`: of state
    values that are sealed already."""
    try:
        if said is not None:
            step = said
        else:
            step = _unread(stage, record) if isinstance(record.value, UnreadValue) else fold.step(state, record)
        changes = step.changes
        produced = address(stage, record, step, partitions, headers, sealing)
        owned = _owners_of(changes, step.owners, owners) if step.owners or owners else NO_OWNERS
        dumped = dump(fold, changes, owned, sealing) if changes else {}
        return _processed((produced, changes, dumped, {"in": 1, **step.counters}, owned))
    except Exception as error:  # the whole point: whatever one record does to a fold, the next one must not notice
        return failed(stage, record, error, partitions, headers)


def failed(
    stage: str, record: Record, error: Exception, partitions: Mapping[str, int], headers: HeaderForm = origin
) -> Processed:
    """What becomes of a record at which a fold, or what it wrote, came to `error`. Raises as `process`."""
    if isinstance(error, KeyMissing):
        raise error
    if isinstance(error, SURROUNDINGS):
        raise SurroundingsFailed(f"{stage} at {record.coordinates}: {type(error).__name__}: {error}") from error
    quoted = "(a sealed record: what it says is not told)" if isinstance(record.value, Opened) else error
    message = f"{type(error).__name__}: {quoted}"[:2000].encode(errors="replace").decode()  # whatever it quotes, it is text
    return refused(stage, record, RecordError(code="stage_error", message=message), partitions, headers)


def refused(
    stage: str, record: Record, error: RecordError, partitions: Mapping[str, int], headers: HeaderForm = origin
) -> Processed:
    """A record that no fold sees: a dead letter, with state unchanged."""
    step = Step([dead_letter(stage, record, error)])
    return Processed(address(stage, record, step, partitions, headers), {}, {}, {"in": 1, "dead": 1})
