"""What intake tells the attribute stage: which interactions a session has, and what is said of it. Knows no scrubbing.

Feedback that names a session, and its retraction, is put on `sessions` instead of `signals`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace_schemas.codec import encode_tree
from headrace_schemas.derived import SessionJoin
from headrace_schemas.errors import fault
from headrace_schemas.events import (
    FeedbackRecorded,
    FeedbackRetracted,
    InputEvent,
    InteractionRecorded,
    SessionFeedbackRecorded,
    SessionFeedbackRetracted,
    SessionJoined,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.json_limits import tree_of
from headrace_schemas.session_feedback import STAND_IN
from headrace_streams.runtime.stage import Write

STAGE = "intake"


class _Data(msgspec.Struct):
    session_id: str | None = None


class _Event(msgspec.Struct):
    data: _Data


_SESSION = msgspec.json.Decoder(_Event)
_TYPES: dict[type[InputEvent], Any] = {FeedbackRecorded: SessionFeedbackRecorded, FeedbackRetracted: SessionFeedbackRetracted}


def session_routed(event: InputEvent, value: bytes) -> list[Write]:
    """The write of feedback on a session, completed and scrubbed as `value`. DecodeError where its session is none."""
    tree = tree_of(value)
    data = tree["data"]
    if data.pop(STAND_IN, None):
        del data["interaction_id"]
    kind = _TYPES[type(event)]
    tree["type"] = str(kind.__struct_config__.tag)
    try:
        msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise fault(error, tree) from None
    return [Write("sessions", data["session_id"], encode_tree(tree))]


def session_joined(event: InputEvent, value: bytes) -> Write | None:
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
        data=SessionJoin(session_id=session_id, interaction_id=interaction_id),
    )
    return Write("sessions", session_id, joined)
