"""What curate writes: the events of one step, from what it decided. Pure; decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_schemas.derived import Assessment, Batch, ExampleRejection, Supersession, Tick
from headrace_schemas.events import BatchReady, BucketAssessed, ClockTicked, ExampleRejected, ExampleSuperseded, make
from headrace_schemas.ids import derive_id
from headrace_schemas.times import rfc3339
from headrace_streams.runtime.stage import Record, Write

STAGE = "curate"


def ready(record: Record, batch: Batch, traceparent: str | None) -> Write:
    """A batch that was cut."""
    event_id = derive_id("batch.ready", batch.batch_id)
    event = make(BatchReady, batch, id=event_id, writer=STAGE, time_ms=record.now, traceparent=traceparent)
    return Write("batches", batch.bucket, event)


def assessed(record: Record, assessment: Assessment) -> Write:
    """How a bucket stands."""
    event_id = derive_id("bucket.assessed", record.topic, record.partition, record.offset, assessment.bucket, assessment.batches)
    return Write(
        "assessments", assessment.bucket, make(BucketAssessed, assessment, id=event_id, writer=STAGE, time_ms=record.now)
    )


def rejected(record: Record, rejection: ExampleRejection, traceparent: str | None) -> Write:
    """An example that was not taken, or that left an open bucket."""
    event_id = derive_id("example.rejected", record.topic, record.partition, record.offset, rejection.example_id)
    event = make(ExampleRejected, rejection, id=event_id, writer=STAGE, time_ms=record.now, traceparent=traceparent)
    return Write("rejections", rejection.interaction_id, event)


def superseded(record: Record, newer: Supersession, traceparent: str | None) -> Write:
    """A batch that holds an older revision than there is."""
    event_id = derive_id("example.superseded", newer.example_id, newer.revision, newer.batch_id)
    event = make(ExampleSuperseded, newer, id=event_id, writer=STAGE, time_ms=record.now, traceparent=traceparent)
    return Write("rejections", newer.interaction_id, event)


def tick(topic: str, bucket: str, examples: Sequence[str], now_ms: int) -> Write:
    """Time that passed: for every bucket of the partition, and for the `examples` of `bucket` whose deadline has passed."""
    data = Tick(bucket=bucket, time=rfc3339(now_ms), examples=list(examples) or None)
    event_id = derive_id("tick", STAGE, bucket, now_ms, *examples)
    return Write(topic, bucket, make(ClockTicked, data, id=event_id, writer=STAGE, time_ms=now_ms))
