"""The events that an agent publishes, as records: ids, time, CloudEvents envelope, validated. Knows no outbox and no broker.

The same decoder that will judge the event at the other end judges it here, so what is accepted is not refused there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote

from headrace.fields import Call, EventTime, Ref
from headrace.writing import written
from headrace_schemas.captured import check_captured
from headrace_schemas.codec import decode
from headrace_schemas.errors import DecodeError
from headrace_schemas.events import InteractionRecorded
from headrace_schemas.groups import question_group, session_group
from headrace_schemas.provider_messages import finish_reason_of, prompt_of, response_of, tools_of, usage_of
from headrace_schemas.published import check_published
from headrace_schemas.session_feedback import CONTENT

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
_RANDOM = 10  # bytes of an id


def uuid7(ns: int, random: bytes) -> str:
    """A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then random; sorts by time of creation. `ns` since the epoch;
    of `random` 10 bytes."""
    at, text = f"{ns // 1_000_000:012x}", random.hex()
    return f"{at[:8]}-{at[8:]}-7{text[:3]}-{'89ab'[random[9] & 3]}{text[3:6]}-{text[6:18]}"  # 7, 8-b: version and variant


class _RecordedCall(Call):
    """A call of which no group and no session is known keeps its event, so that a child can be of the same group."""

    event: bytes | None = None

    def __repr__(self) -> str:
        return repr(Call(*self))


class EventFactory:
    """Makes the events of one agent: knows its attributes and the CloudEvents source of all its events.

    `agent` is a name or {name, role?, version?}; `source` defaults to `agent:<name>` or `agent:<name>/<version>`. `now` is the
    time of events that are given none (nanoseconds since the epoch), and what the others' times are judged by.
    """

    def __init__(self, agent: str | Mapping[str, Any], source: str | None = None, now: Callable[[], int] | None = None) -> None:
        self._now = now or time.time_ns
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

        With a `parent`, its id is `parent_interaction_id`, and its session and prompt group are this one's unless given: also the
        group that the stages derive for it, where they would derive another for this one."""
        now, random = self._now(), os.urandom(2 * _RANDOM)  # a system call for both ids
        data: dict[str, Any] = {"interaction_id": uuid7(now, random[:_RANDOM]), "agent": self._agent}
        if parent is not None:
            if fields.get("parent_interaction_id") is not None:
                raise TypeError("interaction() takes a parent or a parent_interaction_id, not both")
            data |= _without_none(
                {
                    "parent_interaction_id": parent.interaction_id,
                    "session_id": parent.session_id,
                    "prompt_group": parent.prompt_group,
                }
            )
        _take(fields, data)
        if parent is not None and "prompt_group" not in data and (group := _derived(parent, data.get("session_id"))) is not None:
            data["prompt_group"] = group
        if isinstance(refs := data.get("refs"), list | tuple):  # what is no list, the decoder names
            data["refs"] = [_ref(ref) for ref in refs]
        check_captured(data)
        call = _RecordedCall(str(data["interaction_id"]), data.get("prompt_group"), data.get("session_id"))
        identity = uuid7(now, random[_RANDOM:])
        event = self._event(
            "interactions", call.interaction_id, "interaction.recorded", data, event_time, traceparent, now, identity
        )
        call.event = None if call.prompt_group or call.session_id else event.value
        return event, call

    def feedback(
        self, call: Call | str | None, fields: Mapping[str, Any], event_time: EventTime, traceparent: str | None
    ) -> OutgoingEvent:
        """The contract's `feedback.recorded`: on an interaction (`call`, `interaction_id`), a foreign id (`ref`) or a session
        (`session_id`), as whose outcome an interaction may be named beside it."""
        data: dict[str, Any] = {}
        _take(fields, data)
        target, ref = data.pop("interaction_id", None), data.pop("ref", None)
        if call is not None:
            if target is not None:
                raise TypeError("feedback() takes a call or an interaction_id, not both")
            target = interaction_id(call)
        session = data.get("session_id")
        if session is not None and ref is not None:
            raise InvalidEvent("bad_value", "data.session_id", "feedback: give session_id alone or with interaction_id, not ref")
        if session is None and (target is None) == (ref is None):
            raise InvalidEvent("bad_value", "data.interaction_id", "feedback: give exactly one of interaction_id and ref")
        if data.get("kind") == CONTENT and (session is None or not isinstance(data.get("content"), str)):
            field = "data.session_id" if session is None else "data.content"
            raise InvalidEvent("missing", field, f"feedback: {CONTENT} needs a session_id, and as content the text that is there")
        if session is not None:
            key = session
            if target is not None:
                data["interaction_id"] = target
        elif ref is None:
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
        self,
        feedback_id: str,
        target: Call | str | None,
        reason: str | None,
        event_time: EventTime,
        traceparent: str | None,
        session_id: str | None = None,
    ) -> OutgoingEvent:
        """One feedback does not count any more. It must come from the same source as the feedback, and name what that named."""
        if target is None and session_id is None:
            raise TypeError("retract_feedback() takes a call, an interaction's id or a session_id")
        about = {"interaction_id": None if target is None else interaction_id(target), "session_id": session_id}
        data = _without_none({"feedback_id": feedback_id, **about, "reason": reason})
        key = session_id or data["interaction_id"]
        return self._event("feedback", key, "feedback.retracted", data, event_time, traceparent)

    def forget(self, data_subject: str, event_time: EventTime, traceparent: str | None) -> OutgoingEvent:
        """Everything of this person or account is to be erased."""
        return self._event(
            "interactions", data_subject, "subject.erased", {"data_subject": data_subject}, event_time, traceparent
        )

    def _event(
        self,
        topic: str,
        key: str,
        kind: str,
        data: Mapping[str, Any],
        event_time: EventTime,
        traceparent: str | None,
        now: int | None = None,
        identity: str | None = None,
    ) -> OutgoingEvent:
        now = now or self._now()
        identity = identity or uuid7(now, os.urandom(_RANDOM))
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": identity,
            "source": self._source,
            "type": f"headrace.{kind}.v1",
            "time": _text(now) if event_time is None else _rfc3339(event_time),
        }
        if traceparent is not None:
            event["traceparent"] = traceparent
        event["data"] = data
        value = written(event, now // 1_000_000)
        check_published(value, now // 1_000_000, feedback=topic == "feedback")
        return OutgoingEvent(topic, key.encode(), value, identity)


def interaction_id(target: Call | str) -> str:
    return target.interaction_id if isinstance(target, Call) else target


def _derived(parent: Call, session_id: str | None) -> str | None:
    """The group that the stages derive for a parent; None where they derive the same for its child, or its texts are not known.
    Where intake takes something private out of the question, theirs is another."""
    if parent.session_id is not None:
        return None if session_id == parent.session_id else session_group(parent.session_id)
    event = decode(parent.event) if isinstance(parent, _RecordedCall) and parent.event is not None else None
    return question_group(event.data.prompt, event.data.context) if isinstance(event, InteractionRecorded) else None


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _take(fields: Mapping[str, Any], data: dict[str, Any]) -> None:
    """Puts the fields into `data`, but None, in the contract's form. What a whole response says of its end and its tokens is
    taken unless it is given."""
    said: dict[str, Any] = {}
    try:
        for name, value in fields.items():
            if value is None:
                continue
            if type(value) is str and name != "finish_reason":  # as nearly all are: no reader changes a text
                data[name] = value
            elif name == "output":
                data[name], *more = response_of(value)
                said = dict(zip(("finish_reason", "usage"), more, strict=True))
            else:
                data[name] = _READERS[name](value) if name in _READERS else value
    except RecursionError:
        raise InvalidEvent("nesting", None, "event: nested too deeply") from None
    for name, value in said.items():
        if value is not None:
            data.setdefault(name, value)


def _ref(ref: Any) -> dict[str, Any]:
    if isinstance(ref, Mapping):
        return dict(ref)
    if isinstance(ref, Iterable) and not isinstance(ref, str) and len(pair := list(ref)) == 2:
        return {"system": pair[0], "id": pair[1]}
    raise InvalidEvent("wrong_type", "data.ref", f"ref: (system, id), not {ref!r}")


def _ref_key(ref: Mapping[str, Any]) -> str:
    return f"{ref.get('system')}:{ref.get('id')}"


def _text(ns: int) -> str:
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(16)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def _rfc3339(event_time: str | datetime) -> str:
    if isinstance(event_time, str):
        return event_time
    if event_time.tzinfo is None:
        raise InvalidEvent("bad_time", "time", f"time: {event_time.isoformat()} has no offset from UTC")
    return event_time.isoformat(timespec="microseconds").replace("+00:00", "Z")
