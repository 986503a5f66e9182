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
    UnknownError,
    UnsupportedForMessageFormatError,
)

# UnknownError is among them because aiokafka reports brokers' newer codes so, "invalid record" for one; an entry that is set
# aside by mistake is not lost: `Outbox.requeue` brings it back.
FOR_GOOD = (
    CorruptRecordException,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    RecordTooLargeError,
    UnknownError,
    UnsupportedForMessageFormatError,
)
