"""Who may have written a record of a topic that only Headrace writes, as its headers say. Knows the two tables, no fold.

Headers prove nothing about somebody who may write to the topic; they keep mistakes and simple forgeries out of every state. What
they claim is checked by verify, and who may write at all by the broker (`headrace topics acls`).
"""

from __future__ import annotations

from headrace_schemas.derived import RecordError
from headrace_schemas.topics import ANYBODY, BY_NAME
from headrace_schemas.topology import STAGES_BY_NAME
from headrace_streams.kafka.reader import decode_or_none
from headrace_streams.runtime.provenance import ORIGIN, Headers, provenance_of, writer_of

UNKNOWN_WRITER = "unknown_writer"
_COMMON_BYTES = 200  # of the header; a number of thousands of digits is none
_STAGES = {
    name: frozenset(writer.encode() for writer in topic.writers if writer in STAGES_BY_NAME) for name, topic in BY_NAME.items()
}


def refusal(topic: str, value: bytes | None, headers: Headers) -> RecordError | None:
    """Why a record of `topic` (short name) is not taken for one of ours; None when it is, or when anybody may write there."""
    declared = BY_NAME.get(topic)
    if declared is None or ANYBODY in declared.writers:
        return None
    if _is_commonly_written(topic, headers):
        return None
    source = provenance_of(headers)
    if source is not None and source.stage in STAGES_BY_NAME and source.stage in declared.writers:
        return None
    writer = writer_of(headers)
    if writer is None:
        if declared.requests and isinstance(decode_or_none(value, headers), declared.requests):
            return None
        found = "none"
    else:
        stage = STAGES_BY_NAME.get(writer.removesuffix(".tick"))
        if stage is not None and stage.name != writer and stage.name in declared.writers and topic in stage.inputs:
            return None
        found = repr(writer[:80])
    message = f"{ORIGIN}: {found}, but {topic} is written by {', '.join(declared.writers)}"
    return RecordError(code=UNKNOWN_WRITER, message=message, field="headers")


def _is_commonly_written(topic: str, headers: Headers) -> bool:
    """Whether the headers are exactly as `origin` writes them for one of the topic's stages: nearly all are, and this is asked of
    every record. What it denies is looked at again."""
    if len(headers) != 2 or headers[1][0] != ORIGIN:
        return False
    written = headers[1][1] or b""
    parts = written.split(b"/")
    if len(parts) != 5 or len(written) > _COMMON_BYTES:
        return False
    stage, source, partition, offset, ordinal = parts
    return stage in _STAGES[topic] and source.isascii() and partition.isdigit() and offset.isdigit() and ordinal.isdigit()
