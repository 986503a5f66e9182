"""What is said: one frozen Struct per event type, CloudEvents attributes around `data`, one tagged union by `type`.

`Event` is the union of all, `InputEvent` of what others may publish. The number at the end of a type is the version of its
`data`. Knows no Kafka and no clock.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from headrace_schemas.derived import (
    Batch,
    Evaluation,
    Example,
    ExampleRejection,
    ModelVersion,
    PromoteRequest,
    Rejection,
    Release,
    RevokeRequest,
    RollbackRequest,
    Rules,
    SignalRejection,
    Supersession,
    SwitchRequest,
    Tick,
    Tracking,
    TrainingCompletion,
    TrainingFailure,
    TrainingProgress,
    TrainingStart,
    Withdrawal,
)
from headrace_schemas.inputs import (
    KEY_LIMIT,
    Feedback,
    FeedbackRetraction,
    Interaction,
    InteractionRetraction,
    Key,
    Link,
    SubjectErasure,
)

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]  # RFC 3339 with offset: rules.check_time


class Envelope(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """CloudEvents 1.0 attributes. `time` is absent only on what others publish; intake fills it with the append time."""

    specversion: Literal["1.0"]
    id: Key
    source: Key
    time: Time | None = None
    subject: str | None = None
    dataschema: str | None = None
    datacontenttype: str | None = None
    traceparent: Annotated[str, Meta(max_length=KEY_LIMIT)] | None = None


class InteractionRecorded(Envelope, frozen=True, kw_only=True, tag="headrace.interaction.recorded.v1"):
    data: Interaction


class InteractionLinked(Envelope, frozen=True, kw_only=True, tag="headrace.interaction.linked.v1"):
    data: Link


class InteractionRetracted(Envelope, frozen=True, kw_only=True, tag="headrace.interaction.retracted.v1"):
    data: InteractionRetraction


class SubjectErased(Envelope, frozen=True, kw_only=True, tag="headrace.subject.erased.v1"):
    data: SubjectErasure


class FeedbackRecorded(Envelope, frozen=True, kw_only=True, tag="headrace.feedback.recorded.v1"):
    data: Feedback


class FeedbackRetracted(Envelope, frozen=True, kw_only=True, tag="headrace.feedback.retracted.v1"):
    data: FeedbackRetraction


class ExampleRewarded(Envelope, frozen=True, kw_only=True, tag="headrace.example.rewarded.v1"):
    data: Example


class ExampleWithdrawn(Envelope, frozen=True, kw_only=True, tag="headrace.example.withdrawn.v1"):
    data: Withdrawal


class ClockTicked(Envelope, frozen=True, kw_only=True, tag="headrace.clock.ticked.v1"):
    data: Tick


class RequirementsTracked(Envelope, frozen=True, kw_only=True, tag="headrace.requirements.tracked.v1"):
    data: Tracking


class ExampleRejected(Envelope, frozen=True, kw_only=True, tag="headrace.example.rejected.v1"):
    data: ExampleRejection


class SignalRejected(Envelope, frozen=True, kw_only=True, tag="headrace.signal.rejected.v1"):
    data: SignalRejection


class ExampleSuperseded(Envelope, frozen=True, kw_only=True, tag="headrace.example.superseded.v1"):
    data: Supersession


class BatchReady(Envelope, frozen=True, kw_only=True, tag="headrace.batch.ready.v1"):
    data: Batch


class TrainingStarted(Envelope, frozen=True, kw_only=True, tag="headrace.training.started.v1"):
    data: TrainingStart


class TrainingProgressed(Envelope, frozen=True, kw_only=True, tag="headrace.training.progressed.v1"):
    data: TrainingProgress


class TrainingCompleted(Envelope, frozen=True, kw_only=True, tag="headrace.training.completed.v1"):
    data: TrainingCompletion


class TrainingFailed(Envelope, frozen=True, kw_only=True, tag="headrace.training.failed.v1"):
    data: TrainingFailure


class ModelVersionCreated(Envelope, frozen=True, kw_only=True, tag="headrace.model_version.created.v1"):
    data: ModelVersion


class EvaluationCompleted(Envelope, frozen=True, kw_only=True, tag="headrace.evaluation.completed.v1"):
    data: Evaluation


class PromoteRequested(Envelope, frozen=True, kw_only=True, tag="headrace.promote.requested.v1"):
    data: PromoteRequest


class RollbackRequested(Envelope, frozen=True, kw_only=True, tag="headrace.rollback.requested.v1"):
    data: RollbackRequest


class RevokeRequested(Envelope, frozen=True, kw_only=True, tag="headrace.revoke.requested.v1"):
    data: RevokeRequest


class PauseRequested(Envelope, frozen=True, kw_only=True, tag="headrace.pause.requested.v1"):
    data: SwitchRequest


class ResumeRequested(Envelope, frozen=True, kw_only=True, tag="headrace.resume.requested.v1"):
    data: SwitchRequest


class ReleasePromoted(Envelope, frozen=True, kw_only=True, tag="headrace.release.promoted.v1"):
    data: Release


class ReleaseDeclined(Envelope, frozen=True, kw_only=True, tag="headrace.release.declined.v1"):
    data: Release


class ReleaseRolledBack(Envelope, frozen=True, kw_only=True, tag="headrace.release.rolled_back.v1"):
    data: Release


class ReleaseRevoked(Envelope, frozen=True, kw_only=True, tag="headrace.release.revoked.v1"):
    data: Release


class ReleasePaused(Envelope, frozen=True, kw_only=True, tag="headrace.release.paused.v1"):
    data: Release


class ReleaseResumed(Envelope, frozen=True, kw_only=True, tag="headrace.release.resumed.v1"):
    data: Release


class RulesActivated(Envelope, frozen=True, kw_only=True, tag="headrace.rules.activated.v1"):
    data: Rules


class RecordRejected(Envelope, frozen=True, kw_only=True, tag="headrace.record.rejected.v1"):
    data: Rejection


InputEvent = InteractionRecorded | InteractionLinked | InteractionRetracted | SubjectErased | FeedbackRecorded | FeedbackRetracted
Event = (
    InputEvent
    | ExampleRewarded
    | ExampleWithdrawn
    | ClockTicked
    | RequirementsTracked
    | ExampleRejected
    | SignalRejected
    | ExampleSuperseded
    | BatchReady
    | TrainingStarted
    | TrainingProgressed
    | TrainingCompleted
    | TrainingFailed
    | ModelVersionCreated
    | EvaluationCompleted
    | PromoteRequested
    | RollbackRequested
    | RevokeRequested
    | PauseRequested
    | ResumeRequested
    | ReleasePromoted
    | ReleaseDeclined
    | ReleaseRolledBack
    | ReleaseRevoked
    | ReleasePaused
    | ReleaseResumed
    | RulesActivated
    | RecordRejected
)

EVENT_TYPES: dict[str, type[Envelope]] = {str(cls.__struct_config__.tag): cls for cls in Event.__args__}
