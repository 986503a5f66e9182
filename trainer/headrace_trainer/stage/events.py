"""What the train stage writes: its events and how they are addressed. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from msgspec import structs

from headrace_schemas.canonical import rounded
from headrace_schemas.codec import encode
from headrace_schemas.derived import (
    Adapter,
    BaseIdentity,
    Batch,
    BatchRetryRequest,
    Evaluation,
    HeadReference,
    HeadResult,
    Member,
    ModelVersion,
    SamplesReference,
    SuiteReference,
    Surroundings,
    TrainingCompletion,
    TrainingFailure,
    TrainingProgress,
    TrainingStart,
)
from headrace_schemas.events import (
    E,
    EvaluationCompleted,
    Event,
    ModelVersionCreated,
    TrainingCompleted,
    TrainingFailed,
    TrainingProgressed,
    TrainingStarted,
    make,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.selection import dataset_members, members_digest
from headrace_schemas.topics import route
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.runtime import provenance
from headrace_streams.runtime.stage import Record
from headrace_streams.runtime.step import Produced
from headrace_trainer.objectives.table import OBJECTIVES
from headrace_trainer.policy import TrainerPolicy
from headrace_trainer.spec import Counts, JobProgress, JobResult
from headrace_trainer.stage.standing import LearnerStanding
from headrace_trainer.suites import Suite

STAGE = "train"
_ORDINALS = {
    TrainingStarted: 0,
    ModelVersionCreated: 1,
    EvaluationCompleted: 2,
    TrainingCompleted: 3,
    TrainingFailed: 4,
    TrainingProgressed: 5,
}


class Origin(NamedTuple):
    """What everything here is derived from: a `BatchReady` with its record, data and trace; or the request to train that batch
    once more, by its record and id."""

    record: Record
    batch: Batch
    traceparent: str | None = None
    request_id: str | None = None
    retrain: BatchRetryRequest | None = None  # of a run without what was taken back

    @property
    def run_id(self) -> str:
        """A batch is one run, and another one each time that somebody asks for it again."""
        return derive_id("run", self.batch.batch_id, *([] if self.request_id is None else [self.request_id]))


def pins(
    origin: Origin,
    policy: TrainerPolicy,
    precision: str,
    *,
    planned: Mapping[str, Any] = MappingProxyType({}),
    parent_adapter: str | None,
    parent_release_id: str | None,
    rehearsal: Sequence[Member],
    withdrawn: Sequence[str] = (),
    base_identity: BaseIdentity | None = None,
    surroundings: Surroundings | None = None,
    learner: LearnerStanding | None = None,
    optimiser: str | None = None,
    suites: Sequence[Suite] = (),
    taken_back: Sequence[HeadReference] = (),
    teacher: BaseIdentity | None = None,
) -> TrainingStart:
    """Everything that decides the bytes of a run's adapter. The seed follows from batch and policy; `planned`: hyperparameters
    that memory decided; `taken_back`: heads that the learner leaves; `teacher`: the base that teaches, if one does."""
    batch = origin.batch
    standing = learner or LearnerStanding()
    hyper = policy.hyperparameters(batch.bucket).model_copy(update={"precision": precision, **planned})
    return TrainingStart(
        run_id=origin.run_id,
        batch_id=batch.batch_id,
        bucket=batch.bucket,
        base=batch.base,
        seed=int(derive_id("seed", batch.batch_id, policy.seed)[:8], 16),
        method=hyper.method,
        hyperparameters=hyper.to_wire(),
        rehearsal=list(rehearsal),
        policy_digests={**batch.policy_digests, STAGE: policy.digest},
        parent_adapter=parent_adapter,
        parent_release_id=parent_release_id,
        withdrawn=list(withdrawn) or None,
        base_identity=base_identity,
        surroundings=surroundings,
        learner_adapter=standing.adapter,
        optimiser=optimiser,
        heads=list(standing.heads) or None,
        watched=standing.watched,
        suites=suite_references(suites),
        taken_back=list(taken_back) or None,
        avoids=OBJECTIVES[hyper.objective].avoids or None,
        teacher=teacher,
    )


def suite_references(suites: Sequence[Suite]) -> list[SuiteReference] | None:
    return [SuiteReference(name=suite.name, sha256=suite.content_digest) for suite in suites] or None


def evaluation_id(run_id: str) -> str:
    return derive_id("evaluation", run_id)


def version_id(run_id: str) -> str:
    return derive_id("version", run_id)


def started(origin: Origin, start: TrainingStart, now: int) -> TrainingStarted:
    return _make(TrainingStarted, start, origin, "training-started", start.run_id, now)


def progressed(origin: Origin, start: TrainingStart, progress: JobProgress, attempt: int, now: int) -> TrainingProgressed:
    data = TrainingProgress(
        run_id=start.run_id,
        bucket=start.bucket,
        step=progress.step,
        steps=progress.steps,
        loss=rounded(progress.loss),
        attempt=attempt,
        phase=progress.phase,  # type: ignore[arg-type]
        tokens_per_second=rounded(progress.tokens_per_second) if progress.tokens_per_second else None,
        validation_loss=_told(progress.validation_loss),
        learning_rate=_told(progress.learning_rate),
        gradient_norm=_told(progress.gradient_norm),
    )
    identity = derive_id("training-progressed", start.run_id, attempt, progress.phase, progress.step)
    return _make(TrainingProgressed, data, origin, "training-progressed", identity, now)


def _told(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def failed(origin: Origin, run_id: str, attempts: int, error: str, now: int) -> TrainingFailed:
    data = TrainingFailure(
        run_id=run_id, batch_id=origin.batch.batch_id, bucket=origin.batch.bucket, attempts=attempts, error=error[:2000]
    )
    return _make(TrainingFailed, data, origin, "training-failed", run_id, now)


def completed(
    origin: Origin,
    start: TrainingStart,
    adapter: Adapter,
    result: JobResult,
    now: int,
    policy: TrainerPolicy,
    samples: SamplesReference | None = None,
    optimiser: str | None = None,
    taken_back: Mapping[str, str] = MappingProxyType({}),
) -> list[Event]:
    """Version, evaluation and completion of a run. `policy` is the one that it was evaluated by: not pinned, so that after a
    restart the figures are judged by today's requirements, and the evaluation names whose they are. `optimiser`: digest of the
    optimiser's state, if one is kept; `taken_back`: why heads count no more, by version."""
    batch = origin.batch
    tokens = result.training.tokens if result.training else 0
    version = ModelVersion(
        version_id=version_id(start.run_id),
        bucket=batch.bucket,
        artifact_type=batch.artifact_type,
        base=batch.base,
        adapter=adapter,
        batch_id=batch.batch_id,
        run_id=start.run_id,
        method=start.method,
        hyperparameters={**start.hyperparameters, **_as_run(result), "warm_started": result.warm_started, "seed": start.seed},
        rows=result.rows,
        tokens=tokens,
        seconds=rounded(result.seconds),
        base_identity=start.base_identity,
        surroundings=result.surroundings,
        parent_adapter=start.learner_adapter or start.parent_adapter,
        optimiser=optimiser,
        dataset_digest=members_digest(dataset_members(batch, start)),
    )
    completion = TrainingCompletion(
        run_id=start.run_id,
        batch_id=batch.batch_id,
        bucket=batch.bucket,
        version_id=version.version_id,
        evaluation_id=evaluation_id(start.run_id),
        seconds=rounded(result.seconds),
        left_out=result.left_out,
        shortened=result.shortened,
        notes=list(result.notes) or None,
        left_out_examples=result.left_out_examples,
    )
    evaluated_by = structs.replace(start, policy_digests={**start.policy_digests, STAGE: policy.digest})
    return [
        _make(ModelVersionCreated, version, origin, "version", start.run_id, now),
        evaluated(origin, evaluated_by, version, result, evaluation_id(start.run_id), now, samples, taken_back),
        _make(TrainingCompleted, completion, origin, "training-completed", start.run_id, now),
    ]


def _as_run(result: JobResult) -> dict[str, Any]:
    """Hyperparameters that the run had to change."""
    tokens = result.training.batch_tokens if result.training else 0
    return {"batch_tokens": tokens} if tokens else {}


def evaluated(
    origin: Origin,
    start: TrainingStart,
    version: ModelVersion,
    result: JobResult,
    identity: str,
    now: int,
    samples: SamplesReference | None = None,
    taken_back: Mapping[str, str] = MappingProxyType({}),
) -> EvaluationCompleted:
    """`start` names what the candidate was compared with, and by which policies; `taken_back`: why heads count no more."""
    data = Evaluation(
        evaluation_id=identity,
        version_id=version.version_id,
        bucket=version.bucket,
        artifact_type=version.artifact_type,
        base=version.base,
        batch_id=version.batch_id,
        run_id=version.run_id,
        adapter=version.adapter,
        candidate=result.report.candidate,
        incumbent=result.report.incumbent,
        comparison=result.report.comparison,
        requirements=result.report.requirements,
        policy_digests=start.policy_digests,
        parent_adapter=start.parent_adapter,
        parent_release_id=start.parent_release_id,
        base_identity=start.base_identity,
        surroundings=result.surroundings,
        left_out=_tested(result.left_out),
        shortened=_tested(result.shortened),
        ungraded=result.report.ungraded,
        measure=result.report.measure,
        heads=_results(result.report.heads, version.version_id, taken_back),
        watched=None if result.report.watched is None else list(result.report.watched),
        samples=samples,
        dataset_digest=version.dataset_digest,
    )
    return _make(EvaluationCompleted, data, origin, "evaluation", identity, now)


def _results(measured: Sequence[HeadResult], own: str, taken_back: Mapping[str, str]) -> list[HeadResult]:
    """The heads of an evaluation, its `own` last. Those that have learnt what was taken back are none, measured or not."""
    named = [head if head.version_id else structs.replace(head, version_id=own) for head in measured]
    judged = [structs.replace(head, invalid=head.invalid or taken_back.get(head.version_id)) for head in named]
    left = taken_back.keys() - {head.version_id for head in judged}
    return [*(HeadResult(version_id=each, groups=[], invalid=taken_back[each]) for each in sorted(left)), *judged]


def _tested(counts: Counts | None) -> Counts | None:
    """Of the rows that an evaluation is about."""
    return {side: found for side, found in (counts or {}).items() if side in ("test", "prompts")} or None


def _make(kind: type[E], data: object, origin: Origin, name: str, identity: str, now: int) -> E:
    return make(kind, data, id=derive_id(name, identity), writer=STAGE, time_ms=now, traceparent=origin.traceparent)


def address(origin: Origin, events: Sequence[Event], partitions: Mapping[str, int]) -> list[Produced]:
    """The records of events: keyed by bucket, with the batch's coordinates. `partitions`: count by short topic name."""
    key = origin.batch.bucket.encode()
    produced = []
    for event in events:
        topic, _ = route(event)
        record = origin.record
        ordinal = _ORDINALS[type(event)]
        source = provenance.Provenance(STAGE, record.topic, record.partition, record.offset, ordinal)
        produced.append(Produced(topic, partition_for(key, partitions[topic]), key, encode(event), provenance.origin(source)))
    return produced
