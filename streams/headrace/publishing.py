"""The events that an agent publishes, as records: ids, time, CloudEvents envelope, validated. Knows no outbox and no broker.

The same decoder that will judge the event at the other end judges it here, so what is accepted is not refused there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

from headrace.fields import Call, EventTime, Ref
from headrace_schemas.errors import DecodeError
from headrace_schemas.provider_messages import finish_reason_of, prompt_of, response_of, tools_of, usage_of
from headrace_schemas.published import decode_published

InvalidEvent = DecodeError
"""What was given breaks the contract and was not accepted: the error (code, field, message) that the other end would raise."""


class OutgoingEvent(NamedTuple):
    """An event as the record to publish: short topic, key, value; and the event's id."""

    topic: str
    key: bytes
    value: bytes
    id: str


_READERS: dict[str, Callable[[Any], Any]] = {
    "prompt": prompt_of,
    "tools": tools_of,
    "usage": usage_of,
    "finish_reason": finish_reason_of,
    "corrected_output": lambda value: response_of(value, "data.corrected_output").output,
}


def uuid7() -> str:
    """A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then random; sorts by time of creation."""
    bits = int.from_bytes(os.urandom(10), "big") | (time.time_ns() // 1_000_000) << 80
    bits = bits & ~(0xF << 76) | 7 << 76
    bits = bits & ~(0x3 << 62) | 2 << 62
    return str(UUID(int=bits))


class EventFactory:
    """Makes the events of one agent: knows its attributes and the CloudEvents source of all its events.

    `agent` is a name or {name, role?, version?}; `source` defaults to `agent:<name>` or `agent:<name>/<version>`. `now` is the
    time of events that are given none, and what the others' times are judged by.
    """

    def __init__(
        self, agent: str | Mapping[str, Any], source: str | None = None, now: Callable[[], datetime] | None = None
    ) -> None:
        self._now = now or _now
        self._agent = {"name": agent} if isinstance(agent, str) else dict(agent)
        name, version = self._agent.get("name"), self._agent.get("version")
        if not isinstance(name, str) or not name:
            raise InvalidEvent("missing", "data.agent.name", f"agent: a name or an object with a name, not {agent!r}")
        self._source = source or "agent:" + quote(f"{name}/{version}" if version else name, safe="/:@+~.")

    def interaction(
        self, fields: Mapping[str, Any], event_time: EventTime, traceparent: str | None, parent: Call | None = None
    ) -> tuple[OutgoingEvent, Call]:
        """The contract's `interaction.recorded`. None counts as absent; `refs` may be (system, id) pairs; prompt,
        output, tools, usage and finish reason may be what a model library returned.

        With a `parent`, its id is `parent_interaction_id`, and its session and prompt group are this one's unless given."""
        inherited: dict[str, Any] = {}
        if parent is not None:
            if fields.get("parent_interaction_id") is not None:
                raise TypeError("interaction() takes a parent or a parent_interaction_id, not both")
            inherited = _without_none(
                {
                    "parent_interaction_id": parent.interaction_id,
                    "session_id": parent.session_id,
                    "prompt_group": parent.prompt_group,
                }
            )
        data = {"interaction_id": uuid7(), "agent": self._agent, **inherited, **_normalised(_without_none(fields))}
        if isinstance(data.get("refs"), list | tuple):  # what is no list, the decoder names
            data["refs"] = [_ref(ref) for ref in data["refs"]]
        call = Call(str(data["interaction_id"]), data.get("prompt_group"), data.get("session_id"))
        return self._event("interactions", call.interaction_id, "interaction.recorded", data, event_time, traceparent), call

    def feedback(
        self, call: Call | str | None, fields: Mapping[str, Any], event_time: EventTime, traceparent: str | None
    ) -> OutgoingEvent:
        """The contract's `feedback.recorded`: on an interaction (`call`, `interaction_id`) or a foreign id (`ref`)."""
        data = _normalised(_without_none({"kind": None, "score": None, **fields}))
        target, ref = data.pop("interaction_id", None), data.pop("ref", None)
        if call is not None:
            if target is not None:
                raise TypeError("feedback() takes a call or an interaction_id, not both")
            target = interaction_id(call)
        if (target is None) == (ref is None):
            raise InvalidEvent("bad_value", "data.interaction_id", "feedback: give exactly one of interaction_id and ref")
        if ref is None:
            key = data["interaction_id"] = target
        else:
            data["ref"] = _ref(ref)
            key = _ref_key(data["ref"])
        if isinstance(data.get("over"), list | tuple):
            data["over"] = [interaction_id(other) for other in data["over"]]
        return self._event("feedback", key, "feedback.recorded", data, event_time, traceparent)

    def link(self, target: Call | str, ref: Ref, event_time: EventTime, traceparent: str | None) -> OutgoingEvent:
        """A foreign id of an interaction, learnt later."""
        key = interaction_id(target)
        data = {"interaction_id": key, "ref": _ref(ref)}
        return self._event("interactions", key, "interaction.linked", data, event_time, traceparent)

    def retract(self, target: Call | str, reason: str | None, event_time: EventTime, traceparent: str | None) -> OutgoingEvent:
        """The interaction is not to be learnt from any more."""
        data = _without_none({"interaction_id": interaction_id(target), "reason": reason})
        return self._event("interactions", data["interaction_id"], "interaction.retracted", data, event_time, traceparent)

    def retract_feedback(
        self, feedback_id: str, target: Call | str, reason: str | None, event_time: EventTime, traceparent: str | None
    ) -> OutgoingEvent:
        """One feedback does not count any more. It must come from the same source as the feedback."""
        data = _without_none({"feedback_id": feedback_id, "interaction_id": interaction_id(target), "reason": reason})
        return self._event("feedback", data["interaction_id"], "feedback.retracted", data, event_time, traceparent)

    def forget(self, data_subject: str, event_time: EventTime, traceparent: str | None) -> OutgoingEvent:
        """Everything of this person or account is to be erased."""
        return self._event(
            "interactions", data_subject, "subject.erased", {"data_subject": data_subject}, event_time, traceparent
        )

    def _event(
        self, topic: str, key: str, kind: str, data: Mapping[str, Any], event_time: EventTime, traceparent: str | None
    ) -> OutgoingEvent:
        identity, now = uuid7(), self._now()
        event = {
            "specversion": "1.0",
            "id": identity,
            "source": self._source,
            "type": f"headrace.{kind}.v1",
            "time": _rfc3339(now if event_time is None else event_time),
            **_without_none({"traceparent": traceparent}),
            "data": data,
        }
        value = _encode(event)
        decode_published(value, append_time_ms=int(now.timestamp() * 1000))
        return OutgoingEvent(topic, key.encode(), value, identity)


def interaction_id(target: Call | str) -> str:
    return target.interaction_id if isinstance(target, Call) else target


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _normalised(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields in the contract's form; what a whole response says of its end and its tokens is taken unless it is given."""
    try:
        made = {name: _READERS[name](value) if name in _READERS else value for name, value in fields.items()}
        if "output" in fields:
            made["output"], *said = response_of(fields["output"])
            for name, value in zip(("finish_reason", "usage"), said, strict=True):
                if value is not None:
                    made.setdefault(name, value)
    except RecursionError:
        raise InvalidEvent("nesting", None, "event: nested too deeply") from None
    return made


def _ref(ref: Any) -> dict[str, Any]:
    if isinstance(ref, Mapping):
        return dict(ref)
    if isinstance(ref, Iterable) and not isinstance(ref, str) and len(pair := list(ref)) == 2:
        return {"system": pair[0], "id": pair[1]}
    raise InvalidEvent("wrong_type", "data.ref", f"ref: (system, id), not {ref!r}")


def _ref_key(ref: Mapping[str, Any]) -> str:
    return f"{ref.get('system')}:{ref.get('id')}"


def _now() -> datetime:
    return datetime.now(UTC)


def _rfc3339(event_time: str | datetime) -> str:
    if isinstance(event_time, str):
        return event_time
    if event_time.tzinfo is None:
        raise InvalidEvent("bad_time", "time", f"time: {event_time.isoformat()} has no offset from UTC")
    return event_time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _encode(event: Mapping[str, Any]) -> bytes:
    try:
        return _json(event)
    except (TypeError, ValueError, RecursionError) as error:
        _explain(event)
        for name, value in event["data"].items():
            try:
                _json(value)
            except (TypeError, ValueError, RecursionError) as cause:
                raise InvalidEvent("not_json", f"data.{name}", f"{name}: no JSON: {cause}") from None
        raise InvalidEvent("not_json", None, f"event: no JSON: {error}") from None


def _explain(event: Mapping[str, Any]) -> None:
    """Raises what the decoder says of an event with NaN or half a character in it: field, value and what is right."""
    try:
        raw = json.dumps(event, default=_plain).encode()  # which Python writes, as no JSON that anybody else reads
    except (TypeError, ValueError, RecursionError):
        return
    decode_published(raw, append_time_ms=int(_now().timestamp() * 1000))


def _json(value: Any) -> bytes:
    # Of the standard library because the fast encoders write NaN as null: a lost score instead of an error.
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    """Messages and tool calls as model libraries return them (pydantic), and numpy's numbers."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_none=True)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
