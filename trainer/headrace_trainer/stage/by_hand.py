"""One job by hand: the same pins, members and job as the train stage, without its journal. Used by the command line."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from msgspec import Struct

from headrace_cli.common import NO, CliError
from headrace_schemas.codec import encode
from headrace_schemas.derived import ModelVersion, TrainingStart
from headrace_schemas.events import BatchReady, Event, ModelVersionCreated
from headrace_schemas.ids import derive_id
from headrace_streams.adapter_store import fetch
from headrace_streams.kafka import clients
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.reader import Reader
from headrace_streams.runtime.stage import Record
from headrace_streams.settings import Settings
from headrace_trainer.data.rows import without
from headrace_trainer.job.process import JobFailed, JobProcess, surroundings
from headrace_trainer.policy import load
from headrace_trainer.spec import JobResult, JobSpec, Report
from headrace_trainer.stage import catalogue as source
from headrace_trainer.stage import events
from headrace_trainer.stage.events import Origin
from headrace_trainer.stage.task import Trainer

Say = Callable[[str], None]


class Outcome(Struct, frozen=True):
    """What a job by hand came to. `recorded`: the digest that the log has for the same run; `published`: the evaluation's id."""

    adapter: str
    rows: int
    steps: int
    tokens: int
    seconds: float
    report: Report
    recorded: str | None = None
    published: str | None = None


async def train_batch(settings: Settings, batch_id: str, device: str, say: Say) -> Outcome:
    """Trains a batch with its recorded pins, or with pins as of now when it was never begun. CliError, JobFailed, StoreError."""
    trainer = Trainer(settings, load(settings.policy), await surroundings(device))
    origin = await _batch(settings, lambda batch: batch.data.batch_id == batch_id)
    if origin is None:
        raise CliError(NO, f"no batch {batch_id}: `headrace tail batches` shows all")
    _check_weights(trainer, origin)
    start = await source.started(settings, origin.batch.bucket, batch_id)
    if start is None:
        start = await trainer.pin(origin, source.Catalogue(settings, origin.record.partition))
    version = await _version(settings, lambda version: version.run_id == start.run_id)
    result = await _run(trainer, origin, start, say, lambda spec: spec)
    adapter = trainer.store.put(result.folder)
    shutil.rmtree(_folder(trainer, start), ignore_errors=True)
    return _outcome(adapter.digest, result, recorded=version.adapter.digest if version else None)


async def evaluate_version(settings: Settings, version_id: str, device: str, say: Say, *, publish: bool = False) -> Outcome:
    """Evaluates a version against what its bucket serves now, on the test pool of the bucket's newest batch."""
    trainer = Trainer(settings, load(settings.policy), await surroundings(device))
    version = await _version(settings, lambda version: version.version_id == version_id)
    if version is None:
        raise CliError(NO, f"no version {version_id}: `headrace tail versions` shows all")
    origin = await _batch(settings, lambda batch: batch.data.bucket == version.bucket)
    recorded = await source.started(settings, version.bucket, version.batch_id)
    if origin is None or recorded is None:
        raise CliError(NO, f"version {version_id}: its batch or run is not in the log")
    _check_weights(trainer, origin)
    served = await source.served(settings, version.bucket)
    catalogue = source.Catalogue(settings, origin.record.partition)
    await catalogue.refresh(version.bucket)
    identity = derive_id("evaluation", version_id, served.release_id or "base", origin.batch.batch_id, trainer.policy.digest)
    start = TrainingStart(
        run_id=identity, batch_id=origin.batch.batch_id, bucket=version.bucket, base=version.base, seed=recorded.seed,
        method=recorded.method, hyperparameters=recorded.hyperparameters, rehearsal=[],
        policy_digests={**origin.batch.policy_digests, events.STAGE: trainer.policy.digest},
        parent_adapter=served.adapter, parent_release_id=served.release_id,
        withdrawn=catalogue.gone(origin.batch) or None,
    )  # fmt: skip
    candidate = fetch(version.adapter, trainer.folder / "cache")
    result = await _run(trainer, origin, start, say, lambda spec: replace(spec, candidate=candidate))
    shutil.rmtree(_folder(trainer, start), ignore_errors=True)
    if publish:
        event = events.evaluated(origin, start, version, result, identity, time.time_ns() // 1_000_000)
        await _publish(settings, version.bucket, event)
    return _outcome(version.adapter.digest, result, published=identity if publish else None)


def _check_weights(trainer: Trainer, origin: Origin) -> None:
    if trainer.weights(origin.batch.base) is None:
        raise CliError(NO, f"no weights are mapped to base {origin.batch.base!r}: name them in [train.bases] of the policy")


def _folder(trainer: Trainer, start: TrainingStart) -> Path:
    """Apart from the run folder of the service, which may be at the same batch."""
    return trainer.folder / "foreground" / start.run_id


async def _run(
    trainer: Trainer, origin: Origin, start: TrainingStart, say: Say, change: Callable[[JobSpec], JobSpec]
) -> JobResult:
    parent = await trainer.adapter(start.parent_adapter)
    batch = without(origin.batch, start.withdrawn)
    values = await source.values_of(trainer.settings, [*batch.members, *batch.test_pool, *start.rehearsal])
    spec = change(replace(trainer.spec(origin, start, values, parent), folder=_folder(trainer, start)))
    async with aclosing(JobProcess(spec).events()) as stream:
        async for event in stream:
            if isinstance(event, JobResult):
                return event
            say(f"{event.phase} {event.step}/{event.steps} loss {event.loss:.4f} {event.tokens_per_second:.0f} tokens/s")
    raise JobFailed("the job ended without a result")


def _outcome(digest: str, result: JobResult, *, recorded: str | None = None, published: str | None = None) -> Outcome:
    done = result.trained
    steps, tokens = (done.steps, done.tokens) if done else (0, 0)
    return Outcome(digest, result.rows, steps, tokens, result.seconds, result.report, recorded, published)


async def _batch(settings: Settings, wanted: Callable[[BatchReady], bool]) -> Origin | None:
    """The newest batch that is wanted."""
    found: Origin | None = None
    async for record, event in _events(settings, "batches"):
        if isinstance(event, BatchReady) and wanted(event) and (found is None or record.timestamp >= found.record.timestamp):
            found = Origin(record, event.data, event.traceparent)
    return found


async def _version(settings: Settings, wanted: Callable[[ModelVersion], bool]) -> ModelVersion | None:
    async for _, event in _events(settings, "versions"):
        if isinstance(event, ModelVersionCreated) and wanted(event.data):
            return event.data
    return None


async def _events(settings: Settings, topic: str) -> AsyncIterator[tuple[Record, Event]]:
    async for record in Reader(settings).read_topic(topic):
        event = source.decode_known(record.value)
        if event is not None:
            made = Record(topic, record.partition, record.offset, record.timestamp, record.timestamp, record.key, record.value)
            yield made, event


async def _publish(settings: Settings, bucket: str, event: Event) -> None:
    count = (await clients.partition_counts(settings, ["outcomes"]))["outcomes"]
    key = bucket.encode()
    async with clients.connected(clients.producer(settings)) as producer:
        name = clients.full_name(settings, "outcomes")
        await producer.send_and_wait(name, encode(event), key=key, partition=partition_for(key, count))
