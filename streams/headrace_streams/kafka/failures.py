"""What a broker's answers mean to who sends: which of them will be the same tomorrow. Knows Kafka's errors only."""

from __future__ import annotations

from aiokafka.errors import (
    CorruptRecordException,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnknownError,
    UnknownTopicOrPartitionError,
    UnsupportedForMessageFormatError,
)

from headrace_streams.kafka.clients import TopicMissing
from headrace_streams.kafka.diagnosis import NOT_ALLOWED, RIGHTS

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
# One topic takes nothing; others may.
OF_ONE_TOPIC = (TopicMissing, TopicAuthorizationFailedError, UnknownTopicOrPartitionError)


def remedy(error: BaseException) -> str | None:
    """What somebody has to do about an answer that will be the same however often one asks; None for what may pass by itself."""
    name = type(error).__name__
    if isinstance(error, NOT_ALLOWED):
        what = ", ".join(map(str, error.args))
        return f"the broker does not allow it ({name.removesuffix('Error')}: {what}): {RIGHTS}"
    if isinstance(error, _TOO_LARGE):
        return f"{name}: a topic takes less than it must: `headrace topics check` names it; set its max.message.bytes"
    if isinstance(error, FOR_GOOD):
        return f"{name}: refused for good: `headrace topics check` tells what the broker has set otherwise, its log says why"
    return None
