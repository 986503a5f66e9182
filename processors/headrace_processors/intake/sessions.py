"""What intake tells the attribute stage: which interactions a session has, and what is said of it. Knows no scrubbing.

Feedback that names a session, and its retraction, is put on `sessions` instead of `signals`. Texts are not: where policy derives
feedback, sketches of them are, and a content that is reported is nothing but its sketch. Rule versions before 5 knew no sketches.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace_processors.sketches import sketch_of
from headrace_schemas.codec import encode_tree
from headrace_schemas.derived import InteractionSketch, SessionJoin
from headrace_schemas.errors import DecodeError, fault
from headrace_schemas.events import (
    FeedbackRecorded,
    FeedbackRetracted,
    InputEvent,
    InteractionRecorded,
    SessionFeedbackRecorded,
    SessionFeedbackRetracted,
    SessionJoined,
)
from headrace_schemas.groups import question_of, without
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Agent, Context, Output, Text
from headrace_schemas.json_limits import tree_of
from headrace_schemas.plain_chat import answer_text
from headrace_schemas.published import Published
from headrace_schemas.session_feedback import CONTENT, STAND_IN
from headrace_streams.runtime.stage import Write

STAGE = "intake"
QUESTION, OUTPUT, CONTEXT, REPORT = 128, 128, 512, 2048  # hashes of a sketch at most: of a reply of 130 words all of them
PHRASE = 3  # words of a piece of what may stand in something else


class _Data(msgspec.Struct):
    session_id: str | None = None


class _Event(msgspec.Struct):
    data: _Data


class _Texts(msgspec.Struct):
    agent: Agent
    prompt: Text
    output: Output
    context: Context = None
    latency_ms: float | None = None


class _Told(msgspec.Struct):
    data: _Texts


_SESSION = msgspec.json.Decoder(_Event)
_TOLD = msgspec.json.Decoder(_Told)
_TYPES: dict[type[InputEvent], Any] = {FeedbackRecorded: SessionFeedbackRecorded, FeedbackRetracted: SessionFeedbackRetracted}


def check_report(published: Published) -> None:
    """DecodeError for a content that is reported of no session: as feedback on an interaction it would say that it is worth 0."""
    event = published.event
    if isinstance(event, FeedbackRecorded) and event.data.kind == CONTENT and not published.on_session:
        message = f"data.session_id: {CONTENT} is said of a session, and the policy derives nothing from any, or it is missing"
        raise DecodeError("missing", "data.session_id", message)


def check_origin(published: Published) -> None:
    """DecodeError for feedback that says of itself what the stage attribute says: it would count as derived, and as nobody's."""
    event = published.event
    if isinstance(event, FeedbackRecorded) and event.data.attributed_from is not None:
        message = "data.attributed_from: what feedback is derived from is said by the stage attribute, not by who publishes"
        raise DecodeError("bad_value", "data.attributed_from", message)


def session_routed(event: InputEvent, value: bytes, version: int, sketches: bool) -> list[Write]:
    """The write of feedback on a session, completed and scrubbed as `value`. DecodeError where its session is none.
    `version`: of the rules; `sketches`: whether contents are told."""
    tree = tree_of(value)
    data = tree["data"]
    if version > 4 and isinstance(event, FeedbackRecorded):
        data.pop("content_sketch", None)
        if event.data.kind == CONTENT:
            content = data.pop("content", None)
            if not isinstance(content, str):
                raise DecodeError("bad_value", "data.content", f"data.content: {CONTENT} needs the text that is there now")
            if sketches and (sketch := sketch_of(content, words=PHRASE, room=REPORT)) is not None:
                data["content_sketch"] = sketch
    if data.pop(STAND_IN, None):
        del data["interaction_id"]
    kind = _TYPES[type(event)]
    tree["type"] = str(kind.__struct_config__.tag)
    try:
        msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise fault(error, tree) from None
    return [Write("sessions", data["session_id"], encode_tree(tree))]


def session_joined(event: InputEvent, value: bytes, sketches: bool) -> Write | None:
    """Tells the session of an interaction of it, which is passed on as `value`; None where it has none."""
    if not isinstance(event, InteractionRecorded) or event.data.session_id is None:
        return None
    session_id, interaction_id = _SESSION.decode(value).data.session_id, event.data.interaction_id
    assert session_id is not None and interaction_id is not None  # noqa: PT018  # as they were decoded, or derived
    joined = SessionJoined(
        specversion="1.0",
        id=derive_id("session.joined", session_id, interaction_id),
        source=f"headrace:{STAGE}",
        time=event.time,
        traceparent=event.traceparent,
        data=SessionJoin(session_id=session_id, interaction_id=interaction_id, sketch=_sketch_of(value) if sketches else None),
    )
    return Write("sessions", session_id, joined)


def _sketch_of(value: bytes) -> InteractionSketch:
    """Of what is passed on, so that nothing private has left a trace in it."""
    said = _TOLD.decode(value).data
    context = said.context
    attached = context if isinstance(context, str) else "\n".join(item.content for item in context or ())
    return InteractionSketch(
        agent=said.agent.name,
        latency_ms=said.latency_ms,
        question=sketch_of(without(question_of(said.prompt), context), words=1, room=QUESTION),
        output=sketch_of(answer_text(said.output), words=PHRASE, room=OUTPUT),
        context=sketch_of(attached, words=PHRASE, room=CONTEXT),
    )
