"""What is said: one frozen Struct per event type, CloudEvents attributes around `data`, one tagged union by `type`.

`Event` is the union of all, `InputEvent` of what others may publish. The number at the end of a type is the version of its
`data`. Knows no Kafka and no clock.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta, Struct

from headrace_schemas.derived import (
    Assessment,
    Batch,
    BatchRetryRequest,
    DeadLetter,
    DrawnPrompt,
    ErasureContinuation,
    Evaluation,
    Example,
    ExampleRejection,
    ExampleSettlement,
    InteractionExpiry,
    InteractionSettlement,
    KeyBelonging,
    KeyErasure,
    KeyIssue,
    ModelVersion,
    PositionSkip,
    PromoteRequest,
    Redrive,
    RefExpiry,
    ReleaseDecision,
    RevokeRequest,
    RollbackRequest,
    RulesActivation,
    SessionExpiry,
    SessionFeedback,
    SessionFeedbackRetraction,
    SessionJoin,
    SessionLeave,
    SignalRejection,
    Silence,
    SilenceEnd,
    SilenceMute,
    SubjectKeysErasure,
    Supersession,
    SwitchRequest,
    Tick,
    Tracking,
    TrafficSnapshot,
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
    doc,
)
from headrace_schemas.times import rfc3339

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]  # RFC 3339 with offset: constraints.check_time


class Envelope(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """CloudEvents 1.0 attributes. `time` is absent only on what others publish; intake fills it with the append time."""

    specversion: Annotated[Literal["1.0"], doc("Version of CloudEvents.")]
    id: Annotated[Key, doc("Unique per source: the publisher's promise.")]
    source: Annotated[Key, doc("Who says it: a URI reference, such as agent:review-bot/7.")]
    time: Annotated[Time | None, doc("When it happened, RFC 3339 with an offset. Absent: the record's append time.")] = None
    subject: Annotated[str | None, doc("What it is about, if the publisher says so. Not read.")] = None
    dataschema: Annotated[str | None, doc("URI of the schema of data. Not read.")] = None
    datacontenttype: Annotated[str | None, doc("Media type of data: application/json.")] = None
    traceparent: Annotated[
        Annotated[str, Meta(max_length=KEY_LIMIT)] | None, doc("W3C trace context; carried to all that is derived.")
    ] = None


E = TypeVar("E", bound=Envelope)


def make(kind: type[E], data: Any, *, id: str, writer: str, time_ms: int, traceparent: str | None = None) -> E:
    """An event of ours. `writer` is the stage (or what else of Headrace says it), `time_ms` since the epoch."""
    return kind(  # type: ignore[call-arg]
        specversion="1.0",
        id=id,
        source=f"headrace:{writer}",
        time=rfc3339(time_ms),
        traceparent=traceparent,
        data=data,
    )


class InteractionRecorded(Envelope, frozen=True, kw_only=True, tag="headrace.interaction.recorded.v1"):
    """An agent did something."""

    data: Interaction


class InteractionLinked(Envelope, frozen=True, kw_only=True, tag="headrace.interaction.linked.v1"):
    """A foreign id of an interaction was learnt."""

    data: Link


class InteractionRetracted(Envelope, frozen=True, kw_only=True, tag="headrace.interaction.retracted.v1"):
    """An interaction is to be forgotten."""

    data: InteractionRetraction


class SubjectErased(Envelope, frozen=True, kw_only=True, tag="headrace.subject.erased.v1"):
    """A person's data is to be forgotten."""

    data: SubjectErasure


class FeedbackRecorded(Envelope, frozen=True, kw_only=True, tag="headrace.feedback.recorded.v1"):
    """Somebody said how good an interaction was."""

    data: Feedback


class FeedbackRetracted(Envelope, frozen=True, kw_only=True, tag="headrace.feedback.retracted.v1"):
    """Feedback was taken back."""

    data: FeedbackRetraction


class InteractionExpired(Envelope, frozen=True, kw_only=True, tag="headrace.interaction.expired.v1"):
    """Nothing was heard of an interaction for too long."""

    data: InteractionExpiry


class InteractionSettled(Envelope, frozen=True, kw_only=True, tag="headrace.interaction.settled.v1"):
    """The time in which more was expected to be said of an interaction is over."""

    data: InteractionSettlement


class ErasureContinued(Envelope, frozen=True, kw_only=True, tag="headrace.erasure.continued.v1"):
    """The next portion of an erasure is due."""

    data: ErasureContinuation


class SessionJoined(Envelope, frozen=True, kw_only=True, tag="headrace.session.joined.v1"):
    """An interaction of a session was recorded."""

    data: SessionJoin


class SessionLeft(Envelope, frozen=True, kw_only=True, tag="headrace.session.left.v1"):
    """An interaction of a session was retracted or erased."""

    data: SessionLeave


class SessionFeedbackRecorded(Envelope, frozen=True, kw_only=True, tag="headrace.session_feedback.recorded.v1"):
    """Somebody said how a session went."""

    data: SessionFeedback


class SessionFeedbackRetracted(Envelope, frozen=True, kw_only=True, tag="headrace.session_feedback.retracted.v1"):
    """What was said of a session was taken back."""

    data: SessionFeedbackRetraction


class SessionExpired(Envelope, frozen=True, kw_only=True, tag="headrace.session.expired.v1"):
    """Nothing was heard of a session for too long."""

    data: SessionExpiry


class RefExpired(Envelope, frozen=True, kw_only=True, tag="headrace.ref.expired.v1"):
    """Nothing was heard of a foreign id for too long."""

    data: RefExpiry


class PromptDrawn(Envelope, frozen=True, kw_only=True, tag="headrace.prompt.drawn.v1"):
    """What an interaction of the test side asked, whatever is said of its answer."""

    data: DrawnPrompt


class ExampleRewarded(Envelope, frozen=True, kw_only=True, tag="headrace.example.rewarded.v1"):
    """An interaction and what it is worth, one revision."""

    data: Example


class ExampleSettled(Envelope, frozen=True, kw_only=True, tag="headrace.example.settled.v1"):
    """The label of an example was provisional, and is final."""

    data: ExampleSettlement


class ExampleWithdrawn(Envelope, frozen=True, kw_only=True, tag="headrace.example.withdrawn.v1"):
    """An example holds no more."""

    data: Withdrawal


class ClockTicked(Envelope, frozen=True, kw_only=True, tag="headrace.clock.ticked.v1"):
    """Time passed on a partition where nothing else happened."""

    data: Tick


class RequirementsTracked(Envelope, frozen=True, kw_only=True, tag="headrace.requirements.tracked.v1"):
    """Which requirements the served release of a bucket meets."""

    data: Tracking


class ExampleRejected(Envelope, frozen=True, kw_only=True, tag="headrace.example.rejected.v1"):
    """Curate did not take an example."""

    data: ExampleRejection


class SignalRejected(Envelope, frozen=True, kw_only=True, tag="headrace.signal.rejected.v1"):
    """Reward did not take an event."""

    data: SignalRejection


class ExampleSuperseded(Envelope, frozen=True, kw_only=True, tag="headrace.example.superseded.v1"):
    """A batch holds a revision of an example that is no longer the newest."""

    data: Supersession


class BatchReady(Envelope, frozen=True, kw_only=True, tag="headrace.batch.ready.v1"):
    """A bucket was cut: the manifest of what is to be trained."""

    data: Batch


class TrainingStarted(Envelope, frozen=True, kw_only=True, tag="headrace.training.started.v1"):
    """A run began, with everything that decides its result."""

    data: TrainingStart


class TrainingProgressed(Envelope, frozen=True, kw_only=True, tag="headrace.training.progressed.v1"):
    """A run got further."""

    data: TrainingProgress


class TrainingCompleted(Envelope, frozen=True, kw_only=True, tag="headrace.training.completed.v1"):
    """A run ended with a version and its evaluation."""

    data: TrainingCompletion


class TrainingFailed(Envelope, frozen=True, kw_only=True, tag="headrace.training.failed.v1"):
    """A run was given up."""

    data: TrainingFailure


class ModelVersionCreated(Envelope, frozen=True, kw_only=True, tag="headrace.model_version.created.v1"):
    """A run made an adapter."""

    data: ModelVersion


class EvaluationCompleted(Envelope, frozen=True, kw_only=True, tag="headrace.evaluation.completed.v1"):
    """A version was compared with what is served."""

    data: Evaluation


class BucketAssessed(Envelope, frozen=True, kw_only=True, tag="headrace.bucket.assessed.v1"):
    """Why a bucket is not cut yet, or that it was."""

    data: Assessment


class BatchRetryRequested(Envelope, frozen=True, kw_only=True, tag="headrace.batch.retry.requested.v1"):
    """Somebody wants a batch trained once more."""

    data: BatchRetryRequest


class PromoteRequested(Envelope, frozen=True, kw_only=True, tag="headrace.promote.requested.v1"):
    """Somebody wants a version served."""

    data: PromoteRequest


class RollbackRequested(Envelope, frozen=True, kw_only=True, tag="headrace.rollback.requested.v1"):
    """Somebody wants an earlier release back."""

    data: RollbackRequest


class RevokeRequested(Envelope, frozen=True, kw_only=True, tag="headrace.revoke.requested.v1"):
    """Somebody wants an adapter never to be served again."""

    data: RevokeRequest


class PauseRequested(Envelope, frozen=True, kw_only=True, tag="headrace.pause.requested.v1"):
    """Somebody wants automatic releases of a bucket to stop."""

    data: SwitchRequest


class ResumeRequested(Envelope, frozen=True, kw_only=True, tag="headrace.resume.requested.v1"):
    """Somebody wants automatic releases of a bucket to go on."""

    data: SwitchRequest


class ReleasePromoted(Envelope, frozen=True, kw_only=True, tag="headrace.release.promoted.v1"):
    """A version is served from now on."""

    data: ReleaseDecision


class ReleaseDeclined(Envelope, frozen=True, kw_only=True, tag="headrace.release.declined.v1"):
    """What was asked for is not served; what was, still is."""

    data: ReleaseDecision


class ReleaseRolledBack(Envelope, frozen=True, kw_only=True, tag="headrace.release.rolled_back.v1"):
    """An earlier release is served again."""

    data: ReleaseDecision


class ReleaseRevoked(Envelope, frozen=True, kw_only=True, tag="headrace.release.revoked.v1"):
    """An adapter is never served again."""

    data: ReleaseDecision


class ReleasePaused(Envelope, frozen=True, kw_only=True, tag="headrace.release.paused.v1"):
    """Automatic releases of a bucket have stopped."""

    data: ReleaseDecision


class ReleaseResumed(Envelope, frozen=True, kw_only=True, tag="headrace.release.resumed.v1"):
    """Automatic releases of a bucket go on."""

    data: ReleaseDecision


class RulesActivated(Envelope, frozen=True, kw_only=True, tag="headrace.rules.activated.v1"):
    """A policy holds for a stage from an offset on."""

    data: RulesActivation


class PositionSkipped(Envelope, frozen=True, kw_only=True, tag="headrace.position.skipped.v1"):
    """A task left input out."""

    data: PositionSkip


class KeyIssued(Envelope, frozen=True, kw_only=True, tag="headrace.key.issued.v1"):
    """A key was made, before the first text that is sealed with it."""

    data: KeyIssue


class KeyBelongs(Envelope, frozen=True, kw_only=True, tag="headrace.key.belongs.v1"):
    """It was learnt whose the texts of an owner are."""

    data: KeyBelonging


class KeyErased(Envelope, frozen=True, kw_only=True, tag="headrace.key.erased.v1"):
    """A key is no more."""

    data: KeyErasure


class SubjectKeysErased(Envelope, frozen=True, kw_only=True, tag="headrace.subject_keys.erased.v1"):
    """All keys of a person are no more."""

    data: SubjectKeysErasure


class RecordRejected(Envelope, frozen=True, kw_only=True, tag="headrace.record.rejected.v1"):
    """A record could not be processed."""

    data: DeadLetter


class RecordRedriven(Envelope, frozen=True, kw_only=True, tag="headrace.record.redriven.v1"):
    """A record that could not be processed was published once more."""

    data: Redrive


class SilenceRaised(Envelope, frozen=True, kw_only=True, tag="headrace.silence.raised.v1"):
    """Somebody who should speak does not."""

    data: Silence


class SilenceEnded(Envelope, frozen=True, kw_only=True, tag="headrace.silence.ended.v1"):
    """They speak again, or need not any more."""

    data: SilenceEnd


class SilenceMuted(Envelope, frozen=True, kw_only=True, tag="headrace.silence.muted.v1"):
    """Somebody knows of a silence."""

    data: SilenceMute


class TrafficObserved(Envelope, frozen=True, kw_only=True, tag="headrace.traffic.observed.v1"):
    """Who spoke when, as the worker's observer goes on with it."""

    data: TrafficSnapshot


InputEvent = InteractionRecorded | InteractionLinked | InteractionRetracted | SubjectErased | FeedbackRecorded | FeedbackRetracted
Event = (
    InputEvent
    | InteractionExpired
    | InteractionSettled
    | ErasureContinued
    | RefExpired
    | SessionJoined
    | SessionLeft
    | SessionFeedbackRecorded
    | SessionFeedbackRetracted
    | SessionExpired
    | PromptDrawn
    | ExampleRewarded
    | ExampleSettled
    | ExampleWithdrawn
    | ClockTicked
    | RequirementsTracked
    | ExampleRejected
    | SignalRejected
    | ExampleSuperseded
    | BatchReady
    | BucketAssessed
    | BatchRetryRequested
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
    | PositionSkipped
    | KeyIssued
    | KeyBelongs
    | KeyErased
    | SubjectKeysErased
    | RecordRejected
    | RecordRedriven
    | SilenceRaised
    | SilenceEnded
    | SilenceMuted
    | TrafficObserved
)

EVENT_TYPES: dict[str, type[Envelope]] = {str(cls.__struct_config__.tag): cls for cls in Event.__args__}
