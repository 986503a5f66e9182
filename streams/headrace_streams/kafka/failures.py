"""What a broker's answers mean to who sends: which of them will be the same tomorrow. Knows Kafka's errors only."""

from __future__ import annotations

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    CorruptRecordException,
    GroupAuthorizationFailedError,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownError,
    UnknownTopicOrPartitionError,
    UnsupportedForMessageFormatError,
)

from headrace_streams.kafka.clients import TopicMissing

FOR_GOOD = (
    CorruptRecordException,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    RecordTooLargeError,
    UnsupportedForMessageFormatError,
)
# May be either: a broker's own trouble, or a newer code that aiokafka has no name for ("invalid record" is one). What others of
# the same partition meet tells which.
UNKNOWN = (UnknownError,)
# A broker or its settings must change before these end.
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError, RecordTooLargeError)
_NOT_ALLOWED = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
# One topic takes nothing; others may.
OF_ONE_TOPIC = (TopicMissing, TopicAuthorizationFailedError, UnknownTopicOrPartitionError)


def remedy(error: BaseException) -> str | None:
    """What somebody has to do about an answer that will be the same however often one asks; None for what may pass by itself."""
    if isinstance(error, _NOT_ALLOWED):
        return "the broker does not let this user do that: grant it (`headrace topics acls` lists what each process needs)"
    if isinstance(error, _TOO_LARGE):
        return "a topic takes less than it must: `headrace topics check` names it; set its max.message.bytes"
    if isinstance(error, FOR_GOOD):
        return "the broker refuses this for good: `headrace topics check` tells what it has set otherwise; its own log says why"
    return None
