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
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct

from headrace_schemas import derived
from headrace_schemas.codec import encode
from headrace_schemas.derived import Member, TrainingStart
from headrace_schemas.events import BatchReady, RulesActivated
from headrace_schemas.ids import derive_id
from headrace_schemas.times import rfc3339
from headrace_streams.adapter_store import AdapterRefused, Store, fetch
from headrace_streams.kafka import clients
from headrace_streams.runtime.journal import Journal, Position, Refused, Rules, Transport, stop
from headrace_streams.runtime.stage import Record
from headrace_streams.runtime.step import Produced
from headrace_streams.settings import Settings
from headrace_trainer.data.rows import MemberRefused, name_of, rehearsal_rows, verify, without
from headrace_trainer.job.process import JobFailed, JobProcess, Surroundings
from headrace_trainer.policy import TrainerPolicy
from headrace_trainer.spec import JobResult, JobSpec, Moment, Name
from headrace_trainer.stage import catalogue as source
from headrace_trainer.stage import events
from headrace_trainer.stage.events import STAGE, Origin

log = logging.getLogger("headrace")

VERSION = 1  # of the rules in this file
PROGRESS_SECONDS = 1.0
POLL_MS = 500
OUTPUTS = ("runs", "versions", "outcomes", "rules")


class Run(Struct, frozen=True):
    """A batch under way: its pins, and what its failed attempts said. State key `run:<batch id>`."""

    start: TrainingStart
    errors: tuple[str, ...] = ()


class Bucket(Struct, frozen=True, omit_defaults=True):
    """State key `bucket:<bucket>`. `waits_for`: the evaluation that release must answer before the next batch; `untrained`:
    batches that came while the base had no weights, to be learnt in the next run."""

    waits_for: str | None = None
    untrained: tuple[str, ...] = ()


class Trainer:
    """What all tasks of a process share: settings, policy, surroundings, store, and one job at a time."""

    def __init__(self, settings: Settings, policy: TrainerPolicy, around: Surroundings) -> None:
        self.settings, self.policy, self.around = settings, policy, around
        self.store = Store(settings.store)
        self.turn = asyncio.Semaphore(1)
        self.folder = settings.data_dir / "trainer" / settings.deployment

    def weights(self, base: str) -> str | None:
        """Where the base's weights are, or None: then nothing can be trained for it."""
        found = self.policy.bases.get(base)
        return None if found is None else found.weights

    def run_folder(self, run_id: str) -> Path:
        return self.folder / "runs" / run_id

    def spec(self, origin: Origin, start: TrainingStart, values: dict[Name, bytes], parent: Path | None) -> JobSpec:
        """The job of pinned `start`. KeyError when the base has no weights."""
        policy, batch = self.policy, without(origin.batch, start.withdrawn)
        return JobSpec(
            start=start, batch=batch, weights=policy.bases[batch.base].weights, values=values, parent=parent,
            folder=self.run_folder(start.run_id), evaluation=policy.evaluation, requirements=policy.requirements_of(batch.bucket),
            grader=policy.graders.get(batch.artifact_type), device=self.around.device, threads=policy.threads,
            checkpoint_seconds=policy.checkpoint_seconds,
        )  # fmt: skip

    async def adapter(self, digest: str | None) -> Path | None:
        """The folder of an adapter in the store, verified. AdapterRefused, StoreError."""
        if digest is None:
            return None
        return await asyncio.to_thread(lambda: fetch(self.store.adapter(digest), self.folder / "cache"))

    async def pin(self, origin: Origin, catalogue: source.Catalogue, untrained: tuple[str, ...] = ()) -> TrainingStart:
        """The pins of a batch as of now. Rows of earlier batches that are not what their manifest says are left out, or one bad
        batch would fail all later ones."""
        batch = origin.batch
        hyper = self.policy.hyperparameters(batch.bucket)
        await catalogue.refresh(batch.bucket)
        rows = rehearsal_rows(
            batch, catalogue.earlier(batch.bucket, origin.record.offset), hyper.rehearsal, catalogue.of(untrained)
        )
        values = await source.values_of(self.settings, rows)
        precision = self.around.precision if hyper.precision == "auto" else hyper.precision
        now = await source.served(self.settings, batch.bucket)
        return events.pins(
            batch, self.policy, precision, parent_adapter=now.adapter,
            parent_release_id=now.release_id, rehearsal=[member for member in rows if _sound(member, values)],
            withdrawn=catalogue.gone(batch),
        )  # fmt: skip


class TrainTask:
    """One partition of `batches`. With `once` it ends when every batch that was there at the start is done."""

    def __init__(self, trainer: Trainer, partition: int, *, once: bool = False) -> None:
        self.label = f"{STAGE}/batches/{partition}"
        self._trainer, self._partition, self._once = trainer, partition, once
        self._settings = trainer.settings
        self._journal = Journal(trainer.settings, STAGE, "batches", partition, OUTPUTS)
        self._catalogue = source.Catalogue(trainer.settings, partition)
        self._runs: dict[str, Run] = {}
        self._buckets: dict[str, Bucket] = {}
        self._position = Position()
        self._doing: dict[str, Any] = {"phase": "starting"}

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
                self._doing = {"phase": "running"}
                for message in (await consumer.getmany(tp, timeout_ms=POLL_MS, max_records=1)).get(tp, []):
                    now = max(self._position.now, message.timestamp)
                    await self._take(
                        Record("batches", self._partition, message.offset, message.timestamp, now, message.key, message.value)
                    )
                if self._once and await consumer.position(tp) >= end:
                    return
        except (KafkaError, OSError) as error:
            raise Transport(f"{self.label}: {error!r}") from error
        finally:
            self._doing = {"phase": "stopped"}
            await stop(consumer)
            await self._journal.close()

    def describe(self) -> dict[str, Any]:
        """Phase, next offset, counters; bucket, batch, step and loss while a job runs; what a bucket waits for."""
        return {
            "stage": STAGE, "topic": "batches", "partition": self._partition, "next_offset": self._position.next_offset,
            "counters": dict(self._position.counters), **self._doing,
        }  # fmt: skip

    @property
    def progress(self) -> int | None:
        return self._position.next_offset if self._doing["phase"] not in ("starting", "stopped") else None

    async def _restore(self) -> None:
        for key, value in self._journal.state.items():
            kind, _, name = key.partition(":")
            if kind == "run":
                self._runs[name] = msgspec.json.decode(value, type=Run)
            else:
                self._buckets[name] = msgspec.json.decode(value, type=Bucket)
        count = self._journal.partitions["batches"]
        position = self._journal.position or Position(partitions=count)
        if position.partitions != count:
            raise Refused(f"{self.label}: topic batches has {count} partitions, its state was made with {position.partitions}")
        self._position = position
        rules = Rules(VERSION, self._trainer.policy.digest)
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
                digest=rules.digest, body=self._trainer.policy.model_dump(mode="json"),
            ),
        )  # fmt: skip
        headers = (("content-type", b"application/cloudevents+json"), ("headrace-stage", f"{STAGE}.rules".encode()))
        return Produced("rules", 0, self.label.encode(), encode(event), headers)

    async def _take(self, record: Record) -> None:
        """One record of `batches`, to its end."""
        event = source.decode_known(record.value)
        if not isinstance(event, BatchReady):
            log.warning("%s: the record at offset %d is no BatchReady", self.label, record.offset)
            return await self._commit([], {}, self._after(record, "strange"))
        origin = Origin(record, event.data, event.traceparent)
        bucket = self._buckets.get(event.data.bucket, Bucket())
        if self._trainer.weights(event.data.base) is None:
            return await self._without_weights(origin, bucket)
        if bucket.waits_for is not None:
            self._doing = {"phase": "waiting for release", "bucket": event.data.bucket, "evaluation": bucket.waits_for}
            await source.answered(self._settings, event.data.bucket, bucket.waits_for)
        await self._train(origin, bucket)

    async def _without_weights(self, origin: Origin, bucket: Bucket) -> None:
        batch = origin.batch
        error = f"no_weights: no weights are mapped to base {batch.base!r}; its examples are kept for the first run that has them"
        log.warning("%s: %s", self.label, error)
        kept = msgspec.structs.replace(bucket, untrained=(*bucket.untrained, batch.batch_id))
        failed = events.failed(origin, derive_id("run", batch.batch_id), 0, error, _now())
        await self._end(origin, [failed], kept, "held")

    async def _train(self, origin: Origin, bucket: Bucket) -> None:
        batch = origin.batch
        run = self._runs.get(batch.batch_id)
        if run is None:
            self._doing = {"phase": "pinning", "bucket": batch.bucket, "batch": batch.batch_id}
            run = Run(await self._trainer.pin(origin, self._catalogue, bucket.untrained))
            await self._say(origin, [events.started(origin, run.start, _now())], run)
        while True:
            try:
                async with self._trainer.turn:
                    result = await self._attempt(origin, run)
            except (JobFailed, AdapterRefused) as error:
                run = Run(run.start, (*run.errors, str(error)))
                log.warning("%s: attempt %d on batch %s failed: %s", self.label, len(run.errors), batch.batch_id, error)
                if len(run.errors) >= self._trainer.policy.attempts:
                    failed = events.failed(origin, run.start.run_id, len(run.errors), str(error), _now())
                    return await self._end(origin, [failed], bucket, "failed")
                await self._say(origin, [], run)
                continue
            adapter = await asyncio.to_thread(self._trainer.store.put, result.folder)
            done = events.completed(origin, run.start, adapter, result, _now(), self._trainer.policy)
            return await self._end(origin, done, Bucket(waits_for=events.evaluation_id(run.start.run_id)), "trained")

    async def _attempt(self, origin: Origin, run: Run) -> JobResult:
        """One attempt. JobFailed or AdapterRefused when it fails; progress is published at most once a second."""
        start, attempt = run.start, len(run.errors) + 1
        batch = without(origin.batch, start.withdrawn)
        parent = await self._trainer.adapter(start.parent_adapter)
        values = await source.values_of(self._settings, [*batch.members, *batch.test_pool, *start.rehearsal])
        job = JobProcess(self._trainer.spec(origin, start, values, parent))
        told, phase = 0.0, ""
        async with aclosing(job.events()) as stream:
            async for event in stream:
                if isinstance(event, JobResult):
                    return event
                self._doing = {"phase": event.phase, "bucket": batch.bucket, "batch": batch.batch_id, "attempt": attempt,
                               "step": event.step, "steps": event.steps, "loss": event.loss}  # fmt: skip
                now = time.monotonic()
                if event.phase != phase or now - told >= PROGRESS_SECONDS:
                    told, phase = now, event.phase
                    await self._progress(origin, start, event, attempt)
        raise JobFailed("the job ended without a result")

    async def _progress(self, origin: Origin, start: TrainingStart, moment: Moment, attempt: int) -> None:
        """Also tells a fenced trainer that it is one: then this raises, and the job is killed on the way out."""
        event = events.progressed(origin, start, moment, attempt, _now())
        await self._commit(events.address(origin, [event], self._journal.partitions), {}, self._position)

    async def _say(self, origin: Origin, said: list[Any], run: Run) -> None:
        self._runs[origin.batch.batch_id] = run
        changes = {f"run:{origin.batch.batch_id}": msgspec.json.encode(run)}
        await self._commit(events.address(origin, said, self._journal.partitions), changes, self._position)

    async def _end(self, origin: Origin, said: list[Any], bucket: Bucket, box: str) -> None:
        """The last word on a batch, its position and what is left of its state, as one transaction."""
        batch = origin.batch
        changes = {f"run:{batch.batch_id}": None, f"bucket:{batch.bucket}": msgspec.json.encode(bucket)}
        await self._commit(events.address(origin, said, self._journal.partitions), changes, self._after(origin.record, box))
        self._buckets[batch.bucket] = bucket
        run = self._runs.pop(batch.batch_id, None)
        if run is not None:
            shutil.rmtree(self._trainer.run_folder(run.start.run_id), ignore_errors=True)

    def _after(self, record: Record, box: str) -> Position:
        counters = dict(self._position.counters)
        for name in ("in", box):
            counters[name] = counters.get(name, 0) + 1
        return _moved(self._position, next_offset=record.offset + 1, now=record.now, counters=counters)

    async def _commit(self, produced: list[Produced], changes: Mapping[str, bytes | None], position: Position) -> None:
        await self._journal.commit(produced, changes, position)
        self._position = position


def _sound(member: Member, values: dict[Name, bytes]) -> bool:
    try:
        verify(member, values.get(name_of(member)))
    except MemberRefused as error:
        log.warning("not rehearsed: %s", error)
        return False
    return True


def _moved(position: Position, **changed: Any) -> Position:
    return msgspec.structs.replace(position, **changed)


def _now() -> int:
    return time.time_ns() // 1_000_000
