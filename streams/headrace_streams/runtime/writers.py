"""Who may have written a record of a topic that only Headrace writes, as its headers say. Knows the two tables, no fold.

Headers prove nothing about somebody who may write to the topic; they keep mistakes and simple forgeries out of every state. What
they claim is checked by verify, and who may write at all by the broker (`headrace topics acls`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from headrace_schemas.derived import RecordError
from headrace_schemas.topics import ANYBODY, BY_NAME, TOPICS, Topic
from headrace_schemas.topology import STAGES_BY_NAME
from headrace_streams.kafka.reader import decode_or_none
from headrace_streams.runtime.provenance import ORIGIN, Headers, provenance_of, writer_of

UNKNOWN_WRITER = "unknown_writer"
_NUMBER = rb"[0-9]{1,19}"


def _common(topic: Topic) -> re.Pattern[bytes]:
    """What `origin` writes for one of a topic's stages. Nearly all that is read says this; what does not is looked at again."""
    stages = b"|".join(re.escape(writer.encode()) for writer in topic.writers if writer in STAGES_BY_NAME)
    return re.compile(rb"(?:%b)/[^/\x80-\xff]*/%b/%b/%b" % (stages, _NUMBER, _NUMBER, _NUMBER))


_COMMON: dict[str, Callable[[bytes], object]] = {
    topic.name: _common(topic).fullmatch for topic in TOPICS if ANYBODY not in topic.writers
}


def anybody_may_write(topic: str) -> bool:
    """Whether `refusal` never says anything."""
    return topic not in _COMMON


def is_common(topic: str, later: tuple[str, ...] = ()) -> Callable[[bytes], object] | None:
    """Says of the origin in a record's headers whether it is as nearly all of `topic` are, and no reason for a `refusal`."""
    return None if later else _COMMON.get(topic)


def refusal(topic: str, value: bytes | None, headers: Headers, later: tuple[str, ...] = ()) -> RecordError | None:
    """Why a record of `topic` (short name) is not taken for one of ours; None when it is, or when anybody may write there.
    `later`: writers that rules of before did not know of."""
    if not later and len(headers) == 2 and headers[1][0] == ORIGIN:
        common = _COMMON.get(topic)
        if common is not None and common(headers[1][1] or b""):
            return None
    declared = BY_NAME.get(topic)
    if declared is None or ANYBODY in declared.writers:
        return None
    writers = [writer for writer in declared.writers if writer not in later] if later else declared.writers
    source = provenance_of(headers)
    if source is not None and source.stage in STAGES_BY_NAME and source.stage in writers:
        return None
    writer = writer_of(headers)
    if writer is None:
        if declared.requests and isinstance(decode_or_none(value, headers), declared.requests):
            return None
        found = "none"
    else:
        stage = STAGES_BY_NAME.get(writer.removesuffix(".tick"))
        if stage is not None and stage.name != writer and stage.name in writers and topic in stage.inputs:
            return None
        found = repr(writer[:80])
    message = f"{ORIGIN}: {found}, but {topic} is written by {', '.join(writers)}"
    return RecordError(code=UNKNOWN_WRITER, message=message, field="headers")
