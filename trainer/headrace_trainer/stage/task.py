"""The train stage: batches of a partition, one after the other, each to a version and an evaluation, exactly once.

It decides nothing about releases. The journal makes it exact: pins are in the log before a job starts, progress shows a fenced
trainer that it is one, and version, evaluation, completion and position are one transaction.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct

from headrace_schemas import derived
from headrace_schemas.codec import encode
from headrace_schemas.derived import TrainingStart
from headrace_schemas.events import BatchReady, Event, RulesActivated
from headrace_schemas.ids import derive_id
from headrace_schemas.selection import run_members
from headrace_schemas.times import rfc3339
from headrace_streams.adapter_store import AdapterRefused
from headrace_streams.kafka import clients
from headrace_streams.runtime.journal import Journal, Position, Refused, Rules, Transport, stop
from headrace_streams.runtime.stage import Record
from headrace_streams.runtime.step import Produced
from headrace_trainer.job.process import JobFailed, JobProcess
from headrace_trainer.spec import JobProgress, JobResult
from headrace_trainer.stage import catalogue, events
from headrace_trainer.stage.catalogue import Catalogue
from headrace_trainer.stage.context import TrainerContext
from headrace_trainer.stage.events import STAGE, Origin

log = logging.getLogger("headrace")

VERSION = 1  # of the rules in this file
PROGRESS_SECONDS = 1.0
POLL_MS = 500
OUTPUTS = ("runs", "versions", "outcomes", "rules")


class TrainingRun(Struct, frozen=True):
    """A batch under way: its pins, and the errors of its failed attempts. State key `run:<batch id>`."""

    start: TrainingStart
    errors: tuple[str, ...] = ()


class TrainBucket(Struct, frozen=True, omit_defaults=True):
    """State key `bucket:<bucket>`. `waits_for`: the evaluation that release must answer before the next batch; `untrained`:
    batches that came while the base had no weights, to be learnt in the next run."""

    waits_for: str | None = None
    untrained: tuple[str, ...] = ()


class TrainTask:
    """One partition of `batches`. With `once` it ends when every batch that was there at the start is done."""

    def __init__(self, context: TrainerContext, partition: int, *, once: bool = False) -> None:
        self.label = f"{STAGE}/batches/{partition}"
        self._context, self._partition, self._once = context, partition, once
        self._settings = context.settings
        self._journal = Journal(context.settings, STAGE, "batches", partition, OUTPUTS)
        self._catalogue = Catalogue(context.settings, partition)
        self._runs: dict[str, TrainingRun] = {}
        self._buckets: dict[str, TrainBucket] = {}
        self._position = Position()
        self._activity: dict[str, Any] = {"phase": "starting"}

    async def run(self) -> None:
        """Until cancelled (the job is killed, its checkpoint stays). Raises Refused, Fenced, ProducerLost, Transport."""
        tp = TopicPartition(clients.full_name(self._settings, "batches"), self._partition)
        consumer = clients.consumer(self._settings)
        try:
            await self._journal.open()
            await self._restore()
            await consumer.start()
            consumer.assign([tp])
            begin, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
            if not begin <= self._position.next_offset <= end:
                raise Refused(f"{self.label}: position {self._position.next_offset} is outside the log [{begin}, {end})")
            consumer.seek(tp, self._position.next_offset)
            while True:
                await self._poll_once(consumer, tp)
                if self._once and await consumer.position(tp) >= end:
                    return
        except (KafkaError, OSError) as error:
            raise Transport(f"{self.label}: {error!r}") from error
        finally:
            self._activity = {"phase": "stopped"}
            await stop(consumer)
            await self._journal.close()

    def describe(self) -> dict[str, Any]:
        """Phase, next offset, counters; bucket, batch, step and loss while a job runs; what a bucket waits for."""
        return {
            "stage": STAGE, "topic": "batches", "partition": self._partition, "next_offset": self._position.next_offset,
            "counters": dict(self._position.counters), **self._activity,
        }  # fmt: skip

    @property
    def progress(self) -> int | None:
        return self._position.next_offset if self._activity["phase"] not in ("starting", "stopped") else None

    async def _poll_once(self, consumer: AIOKafkaConsumer, tp: TopicPartition) -> None:
        """The next record of `batches`, when one comes within POLL_MS."""
        self._activity = {"phase": "running"}
        for message in (await consumer.getmany(tp, timeout_ms=POLL_MS, max_records=1)).get(tp, []):
            now = max(self._position.now, message.timestamp)
            await self._handle_batch(
                Record("batches", self._partition, message.offset, message.timestamp, now, message.key, message.value)
            )

    async def _restore(self) -> None:
        for key, value in self._journal.state.items():
            kind, _, name = key.partition(":")
            if kind == "run":
                self._runs[name] = msgspec.json.decode(value, type=TrainingRun)
            else:
                self._buckets[name] = msgspec.json.decode(value, type=TrainBucket)
        count = self._journal.partitions["batches"]
        position = self._journal.position or Position(partitions=count)
        if position.partitions != count:
            raise Refused(f"{self.label}: topic batches has {count} partitions, its state was made with {position.partitions}")
        self._position = position
        rules = Rules(VERSION, self._context.policy.digest)
        if position.rules != rules:
            await self._commit([self._activated(rules)], {}, _moved(position, rules=rules))

    def _activated(self, rules: Rules) -> Produced:
        """The policy's body is in the log before the first pins that name its digest."""
        offset = self._position.next_offset
        event = RulesActivated(
            specversion="1.0",
            id=derive_id("rules", STAGE, "batches", self._partition, offset, rules.version, rules.digest),
            source=f"headrace:{STAGE}",
            time=rfc3339(_now()),
            data=derived.RulesActivation(
                stage=STAGE, topic="batches", partition=self._partition, from_offset=offset, version=rules.version,
                digest=rules.digest, body=self._context.policy.model_dump(mode="json"),
            ),
        )  # fmt: skip
        headers = (("content-type", b"application/cloudevents+json"), ("headrace-stage", f"{STAGE}.rules".encode()))
        return Produced("rules", 0, self.label.encode(), encode(event), headers)

    async def _handle_batch(self, record: Record) -> None:
        """One record of `batches`, to its end."""
        event = catalogue.decode_known(record.value)
        if not isinstance(event, BatchReady):
            log.warning("%s: the record at offset %d is no BatchReady", self.label, record.offset)
            return await self._commit([], {}, self._after(record, "strange"))
        origin = Origin(record, event.data, event.traceparent)
        bucket = self._buckets.get(event.data.bucket, TrainBucket())
        if self._context.weights_of(event.data.base) is None:
            return await self._without_weights(origin, bucket)
        if bucket.waits_for is not None:
            self._activity = {"phase": "waiting for release", "bucket": event.data.bucket, "evaluation": bucket.waits_for}
            await catalogue.answered(self._settings, event.data.bucket, bucket.waits_for)
        await self._train(origin, bucket)

    async def _without_weights(self, origin: Origin, bucket: TrainBucket) -> None:
        batch = origin.batch
        error = f"no_weights: no weights are mapped to base {batch.base!r}; its examples are kept for the first run that has them"
        log.warning("%s: %s", self.label, error)
        held = msgspec.structs.replace(bucket, untrained=(*bucket.untrained, batch.batch_id))
        failed = events.failed(origin, derive_id("run", batch.batch_id), 0, error, _now())
        await self._finish(origin, [failed], held, "held")

    async def _train(self, origin: Origin, bucket: TrainBucket) -> None:
        batch = origin.batch
        run = self._runs.get(batch.batch_id)
        if run is None:
            self._activity = {"phase": "pinning", "bucket": batch.bucket, "batch": batch.batch_id}
            run = TrainingRun(await self._context.choose_pins(origin, self._catalogue, bucket.untrained))
            await self._publish(origin, [events.started(origin, run.start, _now())], run)
        while True:
            try:
                async with self._context.job_slot:
                    result = await self._attempt(origin, run)
            except (JobFailed, AdapterRefused) as error:
                run = TrainingRun(run.start, (*run.errors, str(error)))
                log.warning("%s: attempt %d on batch %s failed: %s", self.label, len(run.errors), batch.batch_id, error)
                if len(run.errors) >= self._context.policy.attempts:
                    failed = events.failed(origin, run.start.run_id, len(run.errors), str(error), _now())
                    return await self._finish(origin, [failed], bucket, "failed")
                await self._publish(origin, [], run)
                continue
            adapter = await asyncio.to_thread(self._context.store.put, result.folder)
            completed = events.completed(origin, run.start, adapter, result, _now(), self._context.policy)
            return await self._finish(origin, completed, TrainBucket(waits_for=events.evaluation_id(run.start.run_id)), "trained")

    async def _attempt(self, origin: Origin, run: TrainingRun) -> JobResult:
        """One attempt. JobFailed or AdapterRefused when it fails; progress is published at most once a second."""
        start, attempt = run.start, len(run.errors) + 1
        batch = origin.batch
        parent = await self._context.adapter_folder(start.parent_adapter)
        values = await catalogue.values_of(self._settings, run_members(batch, start).all())
        job = JobProcess(self._context.job_spec(origin, start, values, parent))
        published_at, phase = 0.0, ""
        async with aclosing(job.events()) as stream:
            async for event in stream:
                if isinstance(event, JobResult):
                    return event
                self._activity = {"phase": event.phase, "bucket": batch.bucket, "batch": batch.batch_id, "attempt": attempt,
                               "step": event.step, "steps": event.steps, "loss": event.loss}  # fmt: skip
                now = time.monotonic()
                if event.phase != phase or now - published_at >= PROGRESS_SECONDS:
                    published_at, phase = now, event.phase
                    await self._publish_progress(origin, start, event, attempt)
        raise JobFailed("the job ended without a result")

    async def _publish_progress(self, origin: Origin, start: TrainingStart, progress: JobProgress, attempt: int) -> None:
        """Also tells a fenced trainer that it is one: then this raises, and the job is killed on the way out."""
        event = events.progressed(origin, start, progress, attempt, _now())
        await self._commit(events.address(origin, [event], self._journal.partitions), {}, self._position)

    async def _publish(self, origin: Origin, outputs: list[Event], run: TrainingRun) -> None:
        self._runs[origin.batch.batch_id] = run
        changes = {f"run:{origin.batch.batch_id}": msgspec.json.encode(run)}
        await self._commit(events.address(origin, outputs, self._journal.partitions), changes, self._position)

    async def _finish(self, origin: Origin, outputs: list[Event], bucket: TrainBucket, counter: str) -> None:
        """The last events of a batch, its position and its bucket's state, as one transaction."""
        batch = origin.batch
        changes = {f"run:{batch.batch_id}": None, f"bucket:{batch.bucket}": msgspec.json.encode(bucket)}
        await self._commit(
            events.address(origin, outputs, self._journal.partitions), changes, self._after(origin.record, counter)
        )
        self._buckets[batch.bucket] = bucket
        run = self._runs.pop(batch.batch_id, None)
        if run is not None:
            shutil.rmtree(self._context.run_folder(run.start.run_id), ignore_errors=True)

    def _after(self, record: Record, counter: str) -> Position:
        counters = dict(self._position.counters)
        for name in ("in", counter):
            counters[name] = counters.get(name, 0) + 1
        return _moved(self._position, next_offset=record.offset + 1, now=record.now, counters=counters)

    async def _commit(self, produced: list[Produced], changes: Mapping[str, bytes | None], position: Position) -> None:
        await self._journal.commit(produced, changes, position)
        self._position = position


def _moved(position: Position, **changed: Any) -> Position:
    return msgspec.structs.replace(position, **changed)


def _now() -> int:
    return time.time_ns() // 1_000_000
