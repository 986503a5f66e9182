"""Rule version 1 of the link stage, which logs of before November 2026 were written by. Kept for verify; decides as it did.

All that waits for a foreign id stands in one state value, and nothing ever expires.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct, structs

from headrace_processors.intake.preference import fan_out
from headrace_processors.link.policy import LinkPolicy
from headrace_schemas.codec import Decoded, decode_input
from headrace_schemas.derived import RecordError
from headrace_schemas.events import FeedbackRecorded, InteractionLinked
from headrace_schemas.inputs import Ref
from headrace_schemas.times import parse_ns
from headrace_streams.runtime.stage import Fold, Record, Step, Write
from headrace_streams.runtime.step import dead_letter

STAGE = "link"
WAITING_BYTES = 3 * 1024 * 1024  # of all that waits for one foreign id: what a changelog record holds, with room for escapes


class ForeignId1(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A foreign id: what it means, as of `time_ns`, or the events (JSON, in order of arrival) that wait to be told."""

    interaction_id: str = ""
    time_ns: int = 0
    events: tuple[str, ...] = ()
    size: int = 0  # bytes of the events


_UNKNOWN = ForeignId1()
_DECODER = msgspec.json.Decoder(ForeignId1)


class LinkFold1(Fold):
    """`headrace_streams.runtime.stage.Fold` under one policy."""

    def __init__(self, policy: LinkPolicy) -> None:
        self._policy = policy

    def load(self, key: str, value: bytes) -> Any:
        return _DECODER.decode(value)

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        decoded = decode_input(record.value, record.headers)
        event = decoded.event
        if isinstance(event, InteractionLinked):
            return self._linked(state, event)
        if isinstance(event, FeedbackRecorded) and event.data.ref is not None:
            return self._referred(state, record, decoded, event.data.ref)
        raise ValueError(f"type: {type(event).__name__} names no foreign id")

    def _linked(self, state: Mapping[str, Any], event: InteractionLinked) -> Step:
        key = _state_key(event.data.ref)
        before: ForeignId1 = state.get(key, _UNKNOWN)
        time_ns = parse_ns(event.time or "")
        if before.interaction_id and time_ns < before.time_ns:
            return Step((), {}, {"resolved": 1})
        interaction_id = event.data.interaction_id
        outputs = [
            output for event_json in before.events for output in _resolved(decode_input(event_json.encode()), interaction_id)
        ]
        counters = {"resolved": 1 + len(before.events)}
        if before.events:
            counters["waiting"] = -len(before.events)
        return Step(outputs, {key: ForeignId1(interaction_id=interaction_id, time_ns=time_ns)}, counters)

    def _referred(self, state: Mapping[str, Any], record: Record, decoded: Decoded, ref: Ref) -> Step:
        key = _state_key(ref)
        before: ForeignId1 = state.get(key, _UNKNOWN)
        if before.interaction_id:
            return Step(_resolved(decoded, before.interaction_id), {}, {"resolved": 1})
        event = decoded.passed()
        size = before.size + len(event)
        if len(before.events) >= self._policy.waiting or size > WAITING_BYTES:
            message = f"data.ref: {len(before.events)} feedbacks wait for a link of {ref.system}:{ref.id} already"
            error = RecordError(code="waiting_limit", field="data.ref", message=message)
            return Step([dead_letter(STAGE, record, error)], {}, {"dead": 1})
        return Step((), {key: ForeignId1(events=(*before.events, event.decode()), size=size)}, {"waiting": 1})


def _resolved(decoded: Decoded, interaction_id: str) -> list[Write]:
    """The feedback as if it had named the interaction itself, and its copies if it is a preference."""
    event = decoded.event
    assert isinstance(event, FeedbackRecorded)  # nothing else waits
    named = structs.replace(event, data=structs.replace(event.data, interaction_id=interaction_id, ref=None))
    value = decoded.passed({"interaction_id": interaction_id, "ref": None})
    return [Write("signals", interaction_id, value), *(Write("signals", other, copy) for other, copy in fan_out(named))]


def _state_key(ref: Ref) -> str:
    """Unlike the record key, of one foreign id only, whatever colons its parts hold."""
    return msgspec.json.encode([ref.system, ref.id]).decode()


def build(body: Mapping[str, Any], digest: str) -> LinkFold1:
    """The fold under a policy body."""
    return LinkFold1(LinkPolicy.model_validate(body))
