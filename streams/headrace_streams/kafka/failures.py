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
# One topic takes nothing; others may.
OF_ONE_TOPIC = (TopicMissing, TopicAuthorizationFailedError, UnknownTopicOrPartitionError)
