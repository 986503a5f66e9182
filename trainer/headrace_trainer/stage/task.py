"""The train stage: batches of a partition, one after the other, each to a version and an evaluation, exactly once.

It decides nothing about releases. The journal makes it exact: pins are in the log before a job starts, progress shows a fenced
trainer that it is one, and version, evaluation, completion and position are one transaction.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import msgspec

from headrace_schemas.derived import Batch, BatchRetryRequest, TrainingStart
from headrace_schemas.events import BatchReady, BatchRetryRequested, Event
from headrace_schemas.root_error import HeadraceError
from headrace_schemas.topology import RECORDS, STAGES_BY_NAME
from headrace_streams.adapter_files import StoreError
from headrace_streams.backoff import Backoff
from headrace_streams.kafka.clients import BrokerUnavailable
from headrace_streams.kafka.reader import decode_or_none
from headrace_streams.runtime.journal import Position
from headrace_streams.runtime.session import Session, now_ms
from headrace_streams.runtime.stage import Record, RuleVersion, Stage
from headrace_streams.runtime.status import GAUGED_BUCKETS, TaskReport
from headrace_streams.runtime.writers import refusal
from headrace_trainer.data.members import RecordValues
from headrace_trainer.job.failures import cause_of
from headrace_trainer.job.process import JobFailed, JobProcess
from headrace_trainer.model.identity import BaseChanged, BaseMissing
from headrace_trainer.policy import TrainerPolicy
from headrace_trainer.spec import JobProgress, JobResult
from headrace_trainer.stage import catalogue, events
from headrace_trainer.stage.catalogue import Catalogue
from headrace_trainer.stage.context import KnownBase, Pins, TrainerContext
from headrace_trainer.stage.events import STAGE, Origin
from headrace_trainer.stage.state import TrainBucket, TrainingRun

log = logging.getLogger("headrace")

PROGRESS_SECONDS = 1.0
BACKOFF_SECONDS = (2.0, 600.0)  # first and longest pause before a batch is tried again
TRIED_AGAIN = (JobFailed, StoreError, OSError, MemoryError)
POLL_MS = 500
ANSWER_SECONDS = 300.0  # without an answer of release, before its batch counts as held


def _policy(body: Mapping[str, Any], digest: str) -> TrainerPolicy:
    return TrainerPolicy.from_recorded(body)


TRAIN: Stage[TrainerPolicy] = Stage(topology=STAGES_BY_NAME[STAGE], policy=TrainerPolicy, versions={1: RuleVersion(_policy)})


class Held(HeadraceError):
    """A batch can't be trained because of something around it, and who asked for it will not wait; it keeps its place."""


class TrainTask:
    """One partition of `batches`. With `once` it ends when every batch that was there at the start is done."""

    def __init__(self, context: TrainerContext, partition: int, *, once: bool = False) -> None:
        self._context, self._once = context, once
        self._session = Session(context.settings, TRAIN, context.policy.body(), "batches", partition)
        self._catalogue = Catalogue(context.reader, partition)
        self._runs: dict[str, TrainingRun] = {}
        self._buckets: dict[str, TrainBucket] = {}
        self._activity: dict[str, Any] = {"phase": "starting"}
        self._append_ms: int | None = None  # of the record that is under way
        self._held: tuple[str, str] | None = None  # bucket, and what its batch waits for

    @property
    def label(self) -> str:
        """train/batches/partition"""
        return self._session.label

    async def run(self) -> None:
        """Until cancelled (the job is killed, its checkpoint stays). Raises Refused, Fenced, ProducerLost, Transport."""
        try:
            async with self._session.held() as state:
                self._load(state)
                await self._session.begin()
                end = await self._session.end_offset()
                while True:
                    await self._poll_once()
                    if self._once and self._session.next_offset >= end:
                        return
        finally:
            self._activity = {"phase": "stopped"}

    def describe(self) -> TaskReport:
        """Where it stands; bucket, batch, step and loss while a job runs; what a bucket waits for."""
        position = self._session.position
        return TaskReport(
            stage=STAGE, topic="batches", partition=self._session.partition, phase=self._activity["phase"],
            next_offset=position.next_offset, now=position.now, state_keys=len(self._runs) + len(self._buckets),
            counters=dict(position.counters), partitions=position.partitions, committed=self._session.committed_at,
            lag=self._session.lag(), lag_seconds=self._session.lag_seconds(self._append_ms), restore=self._session.restore,
            buckets=len(self._buckets), gauges=self._gauges(), held=None if self._held is None else self._held[1],
            activity={name: value for name, value in self._activity.items() if name != "phase"},
        )  # fmt: skip

    @property
    def progress(self) -> int | None:
        return self._session.position.next_offset if self._activity["phase"] not in ("starting", "stopped") else None

    def _gauges(self) -> dict[str, Mapping[str, float]]:
        held = None if self._held is None else self._held[0]
        names = heapq.nsmallest(GAUGED_BUCKETS, self._buckets)
        return {
            name: {"untrained_batches": len(self._buckets.get(name, TrainBucket()).untrained), "held_batches": name == held}
            for name in {*names, *filter(None, [held])}
        }

    def _load(self, state: Mapping[str, bytes]) -> None:
        for key, value in state.items():
            kind, _, name = key.partition(":")
            try:
                if kind == "run":
                    self._runs[name] = msgspec.json.decode(value, type=TrainingRun)
                else:
                    self._buckets[name] = msgspec.json.decode(value, type=TrainBucket)
            except msgspec.MsgspecError as error:
                raise self._session.unreadable(key, error) from error

    async def _poll_once(self) -> None:
        """The next record of `batches`, when one comes within POLL_MS."""
        self._activity = {"phase": "running"}
        records = await self._session.fetch(POLL_MS, 1)
        for message in records:
            self._append_ms = message.timestamp
            now = max(self._session.position.now, message.timestamp)
            await self._handle_batch(
                Record(
                    "batches",
                    self._session.partition,
                    message.offset,
                    message.timestamp,
                    now,
                    message.key,
                    message.value,
                    tuple(message.headers),
                )
            )
        self._append_ms = None
        if not records:
            await self._session.settle()
            kept = [run.start.run_id for run in self._runs.values()]
            if gone := await asyncio.to_thread(self._context.run_folders.sweep, self.label, kept):
                log.info("%s: folders of runs were removed that nobody goes on with: %s", self.label, ", ".join(gone))

    async def _handle_batch(self, record: Record) -> None:
        """One record of `batches`, to its end."""
        foreign = refusal("batches", record.value, record.headers)
        event = None if foreign is not None else decode_or_none(record.value, record.headers)
        request_id: str | None = None
        retrain: BatchRetryRequest | None = None
        if isinstance(event, BatchRetryRequested):
            request_id, wanted = event.id, event.data.batch_id
            retrain = None if event.data.without is None else event.data
            event = await catalogue.batch_of(self._context.reader, record.partition, wanted, record.offset)
            if event is None:
                log.warning("%s: batch %s is asked for again, and was never cut here", self.label, wanted)
        if not isinstance(event, BatchReady):
            reason = "no BatchReady" if foreign is None else f"not the curate stage's: {foreign.message}"
            log.warning("%s: the record at offset %d is %s", self.label, record.offset, reason)
            await self._session.commit([], {}, self._after(record, "strange"))
            return
        origin = Origin(record, event.data, event.traceparent, request_id, retrain)
        bucket = self._buckets.get(event.data.bucket, TrainBucket())
        if self._context.weights_of(event.data.base) is None:
            return await self._keep(origin, bucket, f"no_weights: no weights are mapped to base {event.data.base!r}")
        if bucket.waits_for is not None:
            self._activity = {"phase": "waiting for release", "bucket": event.data.bucket, "evaluation": bucket.waits_for}
            await self._wait_for_answer(event.data, bucket.waits_for)
        await self._train(origin, bucket)

    async def _wait_for_answer(self, batch: Batch, evaluation: str) -> None:
        reason = f"batch {batch.batch_id} of {batch.bucket} is held: release has not answered evaluation {evaluation}"

        def hold() -> None:
            log.warning("%s: %s", self.label, reason)
            self._held = (batch.bucket, reason)

        later = asyncio.get_running_loop().call_later(ANSWER_SECONDS, hold)
        try:
            await catalogue.wait_until_answered(self._context.reader, batch.bucket, evaluation)
        finally:
            later.cancel()
            self._held = None

    async def _keep(self, origin: Origin, bucket: TrainBucket, why: str) -> None:
        """Nothing can be trained until somebody does something; the batch is answered and learnt with the first one after."""
        batch, error = origin.batch, f"{why}; its examples are kept for the next run"
        log.warning("%s: %s", self.label, error)
        held = msgspec.structs.replace(bucket, untrained=tuple(dict.fromkeys((*bucket.untrained, batch.batch_id))))
        failed = events.failed(origin, origin.run_id, 0, error, now_ms())
        await self._finish(origin, [failed], held, "held")

    async def _train(self, origin: Origin, bucket: TrainBucket) -> None:
        batch = origin.batch
        run, rehearsed = self._runs.get(batch.batch_id), RecordValues()
        try:
            base, teacher = await self._base(batch, batch.base), None
            self._context.check_base(batch.base, base, bucket.base)
            if run is not None:
                self._context.check_base(batch.base, base, run.start.base_identity)
            if (name := self._context.teacher_of(batch.bucket, run.start if run else None)) is not None:
                teacher = await self._base(batch, name)
                self._context.check_base(name, teacher, run.start.teacher if run else None)
        except BaseChanged as error:
            return await self._keep(origin, bucket, str(error))
        if run is None:
            pinned = await self._pin(origin, bucket, base, teacher)
            if pinned is None:
                return
            run, rehearsed = TrainingRun(pinned.start), pinned.rehearsed
            await self._publish(origin, [events.started(origin, run.start, now_ms())], run)
        began, backoff, result, halvings = time.monotonic(), Backoff(*BACKOFF_SECONDS), None, 0
        while True:
            try:
                if result is None:
                    async with self._context.job_slot:
                        result = await self._attempt(origin, run, rehearsed, base, teacher, halvings)
                adapter = await asyncio.to_thread(self._context.store.put, result.folder)
                optimiser = await self._context.store_optimiser(result)
                samples = await self._context.store_samples(batch, run.start, result, self._catalogue)
                gone = await self._context.taken_back(run.start, adapter.digest, result.warm_started, self._catalogue)
            except TRIED_AGAIN as error:
                cause = error.cause if isinstance(error, JobFailed) else cause_of(error)
                if isinstance(error, BrokerUnavailable):
                    raise
                halvings += isinstance(error, JobFailed) and error.killed  # as a system does that is out of memory
                if cause == "surroundings":
                    await self._hold(batch, backoff, error)
                    continue
                run = TrainingRun(run.start, (*run.errors, str(error)))
                log.warning("%s: attempt %d on batch %s failed: %s", self.label, len(run.errors), batch.batch_id, error)
                if cause == "batch" or len(run.errors) >= self._context.policy.attempts:
                    failed = events.failed(origin, run.start.run_id, len(run.errors), str(error), now_ms())
                    await self._finish(origin, [failed], bucket, "failed")
                    return self._session.meter.trained("failed", time.monotonic() - began)
                await self._publish(origin, [], run)
                await backoff.wait()
                continue
            self._session.meter.trained("trained", time.monotonic() - began)
            completed = events.completed(
                origin, run.start, adapter, result, now_ms(), self._context.policy, samples, optimiser, gone
            )
            trained = TrainBucket(waits_for=events.evaluation_id(run.start.run_id), base=base.identity)
            return await self._finish(origin, completed, trained, "trained")

    async def _pin(self, origin: Origin, bucket: TrainBucket, base: KnownBase, teacher: KnownBase | None) -> Pins | None:
        """None when the policy asks for what this base does not have; the batch is then answered."""
        batch, backoff = origin.batch, Backoff(*BACKOFF_SECONDS)
        while True:
            self._activity = {"phase": "pinning", "bucket": batch.bucket, "batch": batch.batch_id}
            try:
                return await self._context.choose_pins(origin, self._catalogue, base, bucket.untrained, teacher)
            except (JobFailed, StoreError) as error:
                if isinstance(error, JobFailed) and error.cause != "surroundings":
                    await self._keep(origin, bucket, f"refused: {error}")
                    return None
                await self._hold(batch, backoff, error)

    async def _base(self, batch: Batch, name: str) -> KnownBase:
        """A base that a batch needs, waited for as long as it can't be had. BaseChanged, Held."""
        backoff = Backoff(*BACKOFF_SECONDS)

        def tell(phase: str, done: int, whole: int) -> None:
            self._activity = {"phase": phase, "bucket": batch.bucket, "base": name, "bytes": done, "of_bytes": whole}

        while True:
            try:
                return await self._context.base_of(name, tell)
            except BaseMissing as error:
                await self._hold(batch, backoff, error)

    async def _hold(self, batch: Batch, backoff: Backoff, error: Exception) -> None:
        """Waits for something around a batch to be mended; the batch keeps its place. Held when there is no time to wait."""
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, BaseMissing):
            said = f"BaseMissing: {said}"
        reason = f"batch {batch.batch_id} of {batch.bucket} is held: {said}"
        if self._once:
            raise Held(f"{self.label}: {reason}; it waits for the next start")
        log.warning("%s: %s", self.label, reason)  # again as long as it lasts: after some minutes, every ten
        self._held = (batch.bucket, reason)
        self._activity = {"phase": "held", "bucket": batch.bucket, "batch": batch.batch_id}
        try:
            await self._session.commit([], {}, self._session.position)  # tells a fenced trainer that it is one
            await backoff.wait()
        finally:
            self._held = None

    async def _attempt(
        self,
        origin: Origin,
        run: TrainingRun,
        rehearsed: RecordValues,
        base: KnownBase,
        teacher: KnownBase | None,
        halvings: int,
    ) -> JobResult:
        """One attempt. JobFailed, StoreError or OSError when it fails; progress is published at most once a second."""
        start, attempt = run.start, len(run.errors) + 1
        batch = origin.batch
        spec = await self._context.job_spec(origin, start, base, rehearsed, self._catalogue, teacher)
        job = JobProcess(replace(spec, halvings=halvings))
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
        event = events.progressed(origin, start, progress, attempt, now_ms())
        await self._session.commit(events.address(origin, [event], self._session.partitions), {}, self._session.position)

    async def _publish(self, origin: Origin, outputs: list[Event], run: TrainingRun) -> None:
        self._runs[origin.batch.batch_id] = run
        changes = {f"run:{origin.batch.batch_id}": msgspec.json.encode(run)}
        await self._session.commit(events.address(origin, outputs, self._session.partitions), changes, self._session.position)

    async def _finish(self, origin: Origin, outputs: list[Event], bucket: TrainBucket, counter: str) -> None:
        """The last events of a batch, its position and its bucket's state, as one transaction."""
        batch = origin.batch
        changes = {f"run:{batch.batch_id}": None, f"bucket:{batch.bucket}": msgspec.json.encode(bucket)}
        produced = events.address(origin, outputs, self._session.partitions)
        await self._session.commit(produced, changes, self._after(origin.record, counter))
        self._buckets[batch.bucket] = bucket
        run = self._runs.pop(batch.batch_id, None)
        if run is not None:
            self._context.clear(run.start)

    def _after(self, record: Record, counter: str) -> Position:
        counters = dict(self._session.position.counters)
        for name in (RECORDS, counter):
            counters[name] = counters.get(name, 0) + 1
        return self._session.moved(next_offset=record.offset + 1, now=record.now, counters=counters)
