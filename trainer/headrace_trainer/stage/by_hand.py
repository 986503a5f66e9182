"""One job by hand: the same pins, members and job as the train stage, without its journal. Used by the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from msgspec import Struct, structs

from headrace_cli.common import NO, CliError
from headrace_schemas.derived import Member, ModelVersion, Surroundings, TrainingStart
from headrace_schemas.events import BatchReady
from headrace_schemas.ids import derive_id
from headrace_schemas.selection import run_members
from headrace_streams import release_log
from headrace_streams.kafka import publisher
from headrace_streams.kafka.reader import Reader, event_of
from headrace_streams.requests import versions
from headrace_streams.runtime.session import now_ms
from headrace_streams.runtime.stage import Record
from headrace_streams.settings import Settings
from headrace_trainer.job.process import JobFailed, JobProcess
from headrace_trainer.spec import Counts, EvaluationReport, JobResult
from headrace_trainer.stage import catalogue, events
from headrace_trainer.stage.catalogue import Catalogue
from headrace_trainer.stage.context import KnownBase, TrainerContext, context_of
from headrace_trainer.stage.events import Origin

PrintLine = Callable[[str], None]


class JobSummary(Struct, frozen=True):
    """The result of a job by hand. `recorded`: the digest that the log has for the same run; `published`: the evaluation's id;
    `differs`: what of the surroundings is other than the log has; `left_out`: rows, by side and reason."""

    adapter: str
    rows: int
    steps: int
    tokens: int
    seconds: float
    report: EvaluationReport
    recorded: str | None = None
    published: str | None = None
    differs: str | None = None
    left_out: Counts | None = None
    notes: list[str] = []


async def train_batch(settings: Settings, batch_id: str, device: str, show: PrintLine) -> JobSummary:
    """Trains a batch with its recorded pins, or with pins as of now when it was never begun. CliError, JobFailed, StoreError."""
    context = await context_of(settings, device)
    origin = await _newest_batch(context.reader, lambda batch: batch.data.batch_id == batch_id)
    if origin is None:
        raise CliError(NO, f"no batch {batch_id}: `headrace tail batches` shows all")
    _check_weights(context, origin)
    base = await context.base_of(origin.batch.base, _tell(show))
    start = await catalogue.started(context.reader, origin.batch.bucket, batch_id)
    known = Catalogue(context.reader, origin.record.partition)
    name = context.teacher_of(origin.batch.bucket, start)
    teacher = None if name is None else await context.base_of(name, _tell(show))
    if start is None:
        start, _ = await context.choose_pins(origin, known, base, teacher=teacher)
    context.check_base(origin.batch.base, base, start.base_identity)
    if name is not None and teacher is not None:
        context.check_base(name, teacher, start.teacher)
    version = await _version(settings, lambda version: version.run_id == start.run_id)
    result = await _run(context, origin, start, base, known, show, teacher=teacher)
    adapter = context.store.put(result.folder)
    shutil.rmtree(_folder(context, start), ignore_errors=True)
    summary = _summary(adapter.digest, result, recorded=version.adapter.digest if version else None)
    return structs.replace(summary, differs=_differs(version.surroundings if version else None, result.surroundings))


async def evaluate_version(
    settings: Settings, version_id: str, device: str, show: PrintLine, *, publish: bool = False
) -> JobSummary:
    """Evaluates a version against what its bucket serves now, on the test pool of the bucket's newest batch."""
    context = await context_of(settings, device)
    version = await _version(settings, lambda version: version.version_id == version_id)
    if version is None:
        raise CliError(NO, f"no version {version_id}: `headrace tail versions` shows all")
    origin = await _newest_batch(context.reader, lambda batch: batch.data.bucket == version.bucket)
    recorded = await catalogue.started(context.reader, version.bucket, version.batch_id)
    if origin is None or recorded is None:
        raise CliError(NO, f"version {version_id}: its batch or run is not in the log")
    _check_weights(context, origin)
    release = (await release_log.served(context.reader, version.bucket)).get(version.bucket)
    candidate = await context.adapter_folder(version.adapter.digest)
    await context.adapter_folder(release_log.adapter_digest(release))  # what is missing is said before a base is downloaded
    base = await context.base_of(version.base, _tell(show))
    context.check_base(version.base, base, version.base_identity)
    known = Catalogue(context.reader, origin.record.partition)
    await known.refresh(version.bucket)
    identity = derive_id(
        "evaluation", version_id, release.release_id if release else "base", origin.batch.batch_id, context.policy.digest
    )
    start = TrainingStart(
        run_id=identity, batch_id=origin.batch.batch_id, bucket=version.bucket, base=version.base, seed=recorded.seed,
        method=recorded.method, hyperparameters=recorded.hyperparameters, rehearsal=[],
        policy_digests={**origin.batch.policy_digests, events.STAGE: context.policy.digest},
        parent_adapter=release_log.adapter_digest(release),
        parent_release_id=release.release_id if release else None,
        withdrawn=known.withdrawn_of(origin.batch) or None,
        base_identity=base.identity,
        suites=events.suite_references(context.suites_of(version.bucket)),
    )  # fmt: skip
    own = await catalogue.batch_of(context.reader, origin.record.partition, version.batch_id, origin.record.offset + 1)
    learnt = [] if own is None else [*run_members(own.data, recorded).training, *recorded.rehearsal]
    result = await _run(context, origin, start, base, known, show, candidate, learnt)
    if publish:
        samples = await context.store_samples(origin.batch, start, result, known)
        await known.refresh(version.bucket)
        reason = (await known.chain(version.bucket)).reason(version.adapter.digest, start.parent_adapter)
        taken_back = {} if reason is None else {version_id: reason}
        event = events.evaluated(origin, start, version, result, identity, now_ms(), samples, taken_back)
        await publisher.publish(settings, event)
    shutil.rmtree(_folder(context, start), ignore_errors=True)
    return _summary(version.adapter.digest, result, published=identity if publish else None)


def _check_weights(context: TrainerContext, origin: Origin) -> None:
    if context.weights_of(origin.batch.base) is None:
        raise CliError(NO, f"no weights are mapped to base {origin.batch.base!r}: name them in [train.bases] of the policy")


def _folder(context: TrainerContext, start: TrainingStart) -> Path:
    """Apart from the run folder of the train stage, which may be at the same batch."""
    return context.folder / "by-hand" / start.run_id


async def _run(
    context: TrainerContext,
    origin: Origin,
    start: TrainingStart,
    base: KnownBase,
    known: Catalogue,
    show: PrintLine,
    candidate: Path | None = None,
    learnt: Sequence[Member] | None = None,
    teacher: KnownBase | None = None,
) -> JobResult:
    """`candidate`: evaluate this adapter, which was trained on `learnt`, train none."""
    spec = await context.job_spec(origin, start, base, {}, known, teacher)
    values = {**spec.values, **await catalogue.values_of(context.reader, learnt or ())}
    spec = replace(spec, folder=_folder(context, start), candidate=candidate, learnt=learnt, values=values)
    async with aclosing(JobProcess(spec).events()) as stream:
        async for event in stream:
            if isinstance(event, JobResult):
                return event
            show(f"{event.phase} {event.step}/{event.steps} loss {event.loss:.4f} {event.tokens_per_second:.0f} tokens/s")
    raise JobFailed("the job ended without a result")


def _tell(show: PrintLine) -> Callable[[str, int, int], None]:
    return lambda phase, done, whole: show(f"{phase} {done / 1e6:.0f}/{whole / 1e6:.0f} MB")


def _differs(before: Surroundings | None, now: Surroundings | None) -> str | None:
    """What of the surroundings is another, for people."""
    if before is None or now is None:
        return None
    pairs = ((name, getattr(before, name), getattr(now, name)) for name in Surroundings.__struct_fields__)
    return ", ".join(f"{name} {old} -> {new}" for name, old, new in pairs if old != new) or None


def _summary(digest: str, result: JobResult, *, recorded: str | None = None, published: str | None = None) -> JobSummary:
    training = result.training
    steps, tokens = (training.steps, training.tokens) if training else (0, 0)
    return JobSummary(
        digest, result.rows, steps, tokens, result.seconds, result.report, recorded, published, None, result.left_out,
        list(result.notes),
    )  # fmt: skip


async def _newest_batch(reader: Reader, wanted: Callable[[BatchReady], bool]) -> Origin | None:
    """The newest batch that is wanted."""
    newest: Origin | None = None
    async for message in reader.read_topic("batches"):
        event, time_ms = event_of(message), message.timestamp
        if isinstance(event, BatchReady) and wanted(event) and (newest is None or time_ms >= newest.record.timestamp):
            record = Record("batches", message.partition, message.offset, time_ms, time_ms, message.key, message.value)
            newest = Origin(record, event.data, event.traceparent)
    return newest


async def _version(settings: Settings, wanted: Callable[[ModelVersion], bool]) -> ModelVersion | None:
    return next((version for version in await versions(settings) if wanted(version)), None)
