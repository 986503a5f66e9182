"""What a step becomes on the log: bytes, partitions and provenance headers; errors become dead letters. Knows no client.

Both drivers (the live partition task and replay) call `process`, so what they write for one record is the same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

from headrace_schemas.codec import encode

from headrace_schemas.derived import RecordError, Rejection
from headrace_schemas.events import Event, RecordRejected
from headrace_schemas.ids import derive_id
from headrace_schemas.times import rfc3339
from headrace_streams.partitioner import partition_for
from headrace_streams.stage import Fold, Output, Record, Step
from headrace_streams.topics import MIB

RECORD_LIMIT = MIB  # uncompressed bytes of a value on input and signals; larger input is poison
DERIVED_LIMIT = 8 * MIB - 64 * 1024  # of what we write; the broker's own limit leaves room for headers
STATE_LIMIT = DERIVED_LIMIT


class Produced(NamedTuple):
    """One record as it is written. `topic` is the short name."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class Processed(NamedTuple):
    produced: list[Produced]
    changes: Mapping[str, Any]
    counts: Mapping[str, int]


def dead_letter(stage: str, record: Record, error: RecordError) -> Output:
    """The whole record, its coordinates and the error, addressed to `dead-letters`."""
    coordinates = f"{record.topic}/{record.partition}/{record.offset}"
    event: Event = RecordRejected(
        specversion="1.0",
        id=derive_id("dead-letter", stage, coordinates),
        source=f"headrace:{stage}",
        time=rfc3339(record.now),
        data=Rejection(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            headers=[(name, None if value is None else base64.b64encode(value).decode()) for name, value in record.headers],
            key_base64=None if record.key is None else base64.b64encode(record.key).decode(),
            value_base64=None if record.value is None else base64.b64encode(record.value).decode(),
            error=error,
        ),
    )
    return Output("dead-letters", coordinates, event)


def provenance(stage: str, record: Record, ordinal: int) -> tuple[tuple[str, bytes], ...]:
    """Headers of a derived record: where it came from. `ordinal` numbers the outputs of one input record from 0."""
    return (
        ("content-type", b"application/cloudevents+json"),
        ("headrace-stage", stage.encode()),
        ("headrace-topic", record.topic.encode()),
        ("headrace-partition", str(record.partition).encode()),
        ("headrace-offset", str(record.offset).encode()),
        ("headrace-ordinal", str(ordinal).encode()),
    )


def address(stage: str, record: Record, step: Step, partitions: Mapping[str, int]) -> list[Produced]:
    """The records of a step, in order. ValueError when one is over its limit."""
    produced: list[Produced] = []
    for output in step.outputs:
        value = output.value if isinstance(output.value, bytes) else encode(output.value)
        if len(value) > DERIVED_LIMIT:
            raise ValueError(f"output to {output.topic} has {len(value)} bytes, more than {DERIVED_LIMIT}")
        key = output.key.encode()
        count = partitions[output.topic]
        for partition in range(count) if output.everywhere else (partition_for(key, count),):
            produced.append(Produced(output.topic, partition, key, value, provenance(stage, record, len(produced))))
    return produced


def process(stage: str, fold: Fold, state: Mapping[str, Any], record: Record, partitions: Mapping[str, int]) -> Processed:
    """Runs `fold` on one record. An exception of the fold, or an output over its limit, becomes a dead letter
    (`stage_error`) with state unchanged: nothing bad stops the stream. `partitions`: short topic name -> count."""
    try:
        step = fold.step(state, record)
        return Processed(address(stage, record, step, partitions), step.changes, {"in": 1, **step.counts})
    except Exception as error:  # the whole point: whatever one record does to a fold, the next one must not notice
        reason = RecordError(code="stage_error", message=f"{type(error).__name__}: {error}"[:2000])
        step = Step([dead_letter(stage, record, reason)])
        return Processed(address(stage, record, step, partitions), {}, {"in": 1, "dead": 1})
