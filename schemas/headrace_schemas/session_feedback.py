"""Feedback on a session as others publish it: it names a session instead of an interaction, or beside it. Knows JSON, no stage.

It is checked and scrubbed as if it were about an interaction of that name: a stand-in for the id, marked as such, which whoever
passes it on takes out again. What names no session, or a foreign id, is not of this kind.
"""

from __future__ import annotations

from typing import Any

from headrace_schemas.errors import DecodeError
from headrace_schemas.events import FeedbackRecorded, FeedbackRetracted, InputEvent
from headrace_schemas.json_limits import tree_of

CONTENT = "content_reported"  # kind of feedback on a session: what something holds now, which is no outcome
UNDONE = "undone"  # likewise: what was made last was taken back. A report too, where a derivation reads it
STAND_IN = "session_stands_in"  # a field of data: the feedback itself named no interaction
_NAME = b'"session_id"'
_TAGS = {str(kind.__struct_config__.tag) for kind in (FeedbackRecorded, FeedbackRetracted)}


def standing_in(raw: bytes) -> dict[str, Any] | None:
    """The tree of such feedback, or of its retraction, as one on an interaction; None for all else, and what can't be read."""
    if _NAME not in raw:
        return None
    try:
        tree: dict[str, Any] = tree_of(raw)
        data = tree["data"]
        if tree["type"] not in _TAGS or not isinstance(data["session_id"], str) or data.get("ref") is not None:
            return None
        if data.get("interaction_id") is None:
            data["interaction_id"] = data["session_id"]
            data[STAND_IN] = True
        return tree
    except (DecodeError, LookupError, TypeError, AttributeError):
        return None


def check_session_feedback(event: InputEvent) -> None:
    """DecodeError for what can be said of an interaction only."""
    if isinstance(event, FeedbackRecorded) and event.data.kind == "preference":
        message = "data.session_id: a preference is of an interaction, not of a session"
        raise DecodeError("bad_value", "data.session_id", message)
    given: str = event.data.interaction_id or "" if isinstance(event, FeedbackRecorded | FeedbackRetracted) else ""
    if not given:
        raise DecodeError("missing", "data.session_id", "data.session_id: must not be empty")
