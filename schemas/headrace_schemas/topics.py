"""The one table of topics: name, key, retention, compaction, size, event types, who writes. And `route`: where an event goes.

README's table of topics, AsyncAPI and what is declared on a broker are drawn from it. Knows no client.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from headrace_schemas import events
from headrace_schemas.events import Envelope, Event
from headrace_schemas.inputs import Ref

HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS
MIB = 1024 * 1024
FOREVER = -1


class Compaction(Struct, frozen=True, kw_only=True):
    """How a broker cleans a compacted topic. What is not cleaned yet is what a restore reads for nothing.

    `segment_bytes`: only closed segments are cleaned, so each restore reads up to one whole segment of what has been replaced
    since; a busy task's positions alone fill 64 MiB, Kafka's choice for its own such topics, in hours.
    `dirty_ratio`: a partition is cleaned when that part of its closed segments is not: a restore reads 1 / (1 - ratio) of what
    holds (a third more, where Kafka's 0.5 is twice), and the cleaner writes 1 / ratio bytes for each that came.
    `within_ms`: what was replaced or deleted is gone after that time, however little is written; Kafka's default is never, and
    what was erased must not lie in a changelog for ever.
    `tombstones_ms`: deletions are kept that long after they were cleaned. Whoever goes on from a copy of the state that is older
    would keep what was deleted, and must read all anew."""

    segment_bytes: int = 16 * MIB
    dirty_ratio: float = 0.25
    within_ms: int = DAY_MS
    tombstones_ms: int = 7 * DAY_MS


class Topic(Struct, frozen=True, kw_only=True):
    """`name` is short; on the broker it is `{deployment}.{name}`. `retention_ms` -1 keeps for ever; `max_bytes` of a record.

    `key` says in words what the record key is; of a topic with `trusted_key` False it is whatever its publisher chose.
    `packed`: its batches are packed with LZ4 by the stages that write it. What others read of Headrace stays plain: not every
    client can unpack. `secret`: who may look at everything may not look at this. `later`: deployments
    were declared before it was thought of: who reads finds one that is not there empty, so that their logs still verify; who
    writes needs it declared."""

    name: str
    key: str
    description: str
    events: tuple[type[Envelope], ...] = ()
    writers: tuple[str, ...] = ()  # stages; "anybody": outsiders, "operator": people's commands, "observer": the worker's
    requests: tuple[type[Envelope], ...] = ()  # of the events: those that commands write
    observed: tuple[type[Envelope], ...] = ()  # and those of the worker's observer, which no input record makes
    retention_ms: int = FOREVER
    compaction: Compaction | None = None  # only the newest record of each key is kept
    max_bytes: int = 2 * MIB
    fixed_partitions: int | None = None
    may_grow: bool = False  # in partitions, once it has records
    trusted_key: bool = True
    packed: bool = False
    secret: bool = False
    later: bool = False

    @property
    def compacted(self) -> bool:
        return self.compaction is not None


ANYBODY, OPERATOR, OBSERVER = "anybody", "operator", "observer"
REDRIVE = "redrive"  # transactional id, behind the deployment's name, of who publishes dead letters' records once more
_REQUESTS = (
    events.PromoteRequested,
    events.RollbackRequested,
    events.RevokeRequested,
    events.PauseRequested,
    events.ResumeRequested,
)

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="interactions",
        key="any",
        trusted_key=False,
        description="what agents publish: interactions, links, retractions, erasures",
        events=(events.InteractionRecorded, events.InteractionLinked, events.InteractionRetracted, events.SubjectErased),
        writers=(ANYBODY,),
        retention_ms=7 * DAY_MS,
        max_bytes=4 * MIB,
        may_grow=True,
    ),
    Topic(
        name="feedback",
        key="any",
        trusted_key=False,
        description="what people, tests and validators publish",
        events=(events.FeedbackRecorded, events.FeedbackRetracted),
        writers=(ANYBODY,),
        retention_ms=7 * DAY_MS,
        max_bytes=4 * MIB,
        may_grow=True,
    ),
    Topic(
        name="refs",
        key="foreign id",
        description="links, and feedback that names a foreign id",
        events=(events.InteractionLinked, events.FeedbackRecorded, events.RefExpired),
        writers=("intake", "link"),
        max_bytes=4 * MIB,
        packed=True,
    ),
    Topic(
        name="sessions",
        key="session id",
        description="which interactions a session has, and what is said of it, where policy credits that to them",
        events=(
            events.SessionJoined,
            events.SessionLeft,
            events.SessionFeedbackRecorded,
            events.SessionFeedbackRetracted,
            events.SessionExpired,
        ),
        writers=("intake", "attribute", "reward"),
        max_bytes=4 * MIB,
        packed=True,
        later=True,
    ),
    Topic(
        name="signals",
        key="interaction id",
        description="the same facts validated, scrubbed and re-keyed: the source of truth",
        events=(
            events.InteractionRecorded,
            events.InteractionRetracted,
            events.SubjectErased,
            events.FeedbackRecorded,
            events.FeedbackRetracted,
            events.InteractionExpired,
            events.InteractionSettled,
            events.ErasureContinued,
        ),
        writers=("intake", "link", "attribute", "reward"),
        max_bytes=4 * MIB,
        packed=True,
    ),
    Topic(
        name="examples",
        key="bucket",
        description="what each interaction is worth by revision, and when that is final; drawn prompts; withdrawals; ticks",
        events=(
            events.ExampleRewarded,
            events.ExampleSettled,
            events.PromptDrawn,
            events.ExampleWithdrawn,
            events.ClockTicked,
            events.RequirementsTracked,
        ),
        writers=("reward", "curate", "release"),
        max_bytes=8 * MIB,
    ),
    Topic(
        name="rejections",
        key="interaction id",
        description="what was not taken, and why",
        events=(events.ExampleRejected, events.SignalRejected, events.ExampleSuperseded),
        writers=("reward", "curate"),
        retention_ms=90 * DAY_MS,
    ),
    Topic(
        name="batches",
        key="bucket",
        description="manifests of what is to be trained",
        events=(events.BatchReady, events.BatchRetryRequested),
        writers=("curate", OPERATOR),
        requests=(events.BatchRetryRequested,),
        max_bytes=8 * MIB,
    ),
    Topic(
        name="assessments",
        key="bucket, or who is silent",
        description="why buckets are not cut yet: each condition with value, bound and since when; who should speak and does not",
        events=(
            events.BucketAssessed,
            events.SilenceRaised,
            events.SilenceEnded,
            events.SilenceMuted,
            events.TrafficObserved,
        ),
        writers=("curate", OBSERVER, OPERATOR),
        requests=(events.SilenceMuted,),
        observed=(events.SilenceRaised, events.SilenceEnded, events.TrafficObserved),
        retention_ms=90 * DAY_MS,
        later=True,
    ),
    Topic(
        name="runs",
        key="bucket",
        description="training started, progressed, completed, failed",
        events=(events.TrainingStarted, events.TrainingProgressed, events.TrainingCompleted, events.TrainingFailed),
        writers=("train",),
        retention_ms=90 * DAY_MS,
        max_bytes=8 * MIB,
    ),
    Topic(
        name="versions",
        key="bucket",
        description="adapters with their lineage",
        events=(events.ModelVersionCreated,),
        writers=("train",),
    ),
    Topic(
        name="outcomes",
        key="bucket",
        description="evaluations and people's requests, in one order",
        events=(events.EvaluationCompleted, *_REQUESTS),
        writers=("train", OPERATOR),
        requests=_REQUESTS,
    ),
    Topic(
        name="releases",
        key="bucket",
        description="what to serve now",
        events=(events.ReleasePromoted, events.ReleaseRolledBack, events.ReleaseRevoked),
        writers=("release",),
        compaction=Compaction(),
    ),
    Topic(
        name="releases.history",
        key="bucket",
        description="every answer of the release stage",
        events=(
            events.ReleasePromoted,
            events.ReleaseDeclined,
            events.ReleaseRolledBack,
            events.ReleaseRevoked,
            events.ReleasePaused,
            events.ReleaseResumed,
        ),
        writers=("release",),
    ),
    Topic(
        name="rules",
        key="stage/topic/partition",
        description="which policy holds from which offset on; what was skipped",
        events=(events.RulesActivated, events.PositionSkipped),
        writers=("intake", "link", "attribute", "reward", "curate", "train", "release"),
        fixed_partitions=1,
    ),
    Topic(
        name="keys",
        key="key id",
        description="keys that texts of data subjects are sealed with; what remains of those that were erased",
        events=(events.KeyIssued, events.KeyBelongs, events.KeyErased, events.SubjectKeysErased),
        writers=("intake",),
        compaction=Compaction(segment_bytes=4 * MIB, dirty_ratio=0.01, within_ms=HOUR_MS),
        fixed_partitions=1,
        secret=True,
        later=True,
    ),
    Topic(
        name="dead-letters",
        key="topic/partition/offset",
        description="what could not be processed, whole, with the error; what of it was published once more",
        events=(events.RecordRejected, events.RecordRedriven),
        writers=("intake", "link", "attribute", "reward", "curate", "train", "release", OPERATOR),
        requests=(events.RecordRedriven,),
        retention_ms=30 * DAY_MS,
        max_bytes=8 * MIB,
    ),
)
BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}
TOPIC_NAMES = tuple(BY_NAME)

# The first topic in the table that an event stands on is where it is first written; a compacted one only repeats what is said.
_HOME: dict[type[Envelope], str] = {}
for _topic in TOPICS:
    for _event in _topic.events:
        if not _topic.compacted or _topic.secret:
            _HOME.setdefault(_event, _topic.name)


def route(event: Event) -> tuple[str, str]:
    """(short topic, record key) of an event where it is first written. Ids that intake fills in must be there."""
    topic = _HOME[type(event)]
    return topic, key_of(topic, event)


def key_of(topic: str, event: Event) -> str:
    """The record key of `event` on `topic`, a short name."""
    data: Any = event.data
    match BY_NAME[topic].key:
        case "bucket":
            return str(data.bucket)
        case "bucket, or who is silent":
            return str(data.bucket if isinstance(event, events.BucketAssessed) else data.subject)
        case "foreign id":
            return ref_key(data.ref)
        case "session id":
            return str(data.session_id)
        case "stage/topic/partition":
            return f"{data.stage}/{data.topic}/{data.partition}"
        case "key id":
            return str(data.subject if isinstance(event, events.SubjectKeysErased) else data.key_id)
        case "topic/partition/offset":
            return f"{data.topic}/{data.partition}/{data.offset}"
    if isinstance(event, events.SubjectErased):
        return event.data.data_subject
    if isinstance(event, events.ErasureContinued):
        return event.data.subject
    if data.interaction_id is None and isinstance(event, events.FeedbackRecorded) and event.data.ref is not None:
        return ref_key(event.data.ref)
    return data.interaction_id or ""


def may_grow(topic: str) -> bool:
    """Whether a topic that has records may get more partitions; others keep the count that keys were laid out for."""
    return topic in BY_NAME and BY_NAME[topic].may_grow


def ref_key(ref: Ref) -> str:
    """The record key of a foreign id. Two ids may share one; whoever joins by them compares both parts."""
    return f"{ref.system}:{ref.id}"
