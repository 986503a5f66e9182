"""What others publish, as intake reads it since its rule version 2 and as the door checks it. Knows no Kafka and no clock.

The same events as `codec.decode_input` reads, which stays as version 1 needs it, within two more bounds: the number of values of
a record and the scale of a score. The common case is decoded once (strict.py); errors say what is right (explain.py).
"""

from __future__ import annotations

from headrace_schemas.cloudevents import Headers, structured
from headrace_schemas.codec import Decoded, encode_tree, read_input
from headrace_schemas.constraints import check_event, check_scale
from headrace_schemas.errors import DecodeError
from headrace_schemas.events import FeedbackRecorded, InputEvent
from headrace_schemas.explain import explained
from headrace_schemas.json_limits import RECORD_LIMIT, check_values
from headrace_schemas.session_feedback import check_session_feedback, standing_in
from headrace_schemas.strict import decode_strictly, says_no_more


class Published(Decoded):
    """A published event, completed. `strict`: there is nothing in it that `event` does not have. `on_session`: it is feedback on
    a session, as if on an interaction (session_feedback.py)."""

    __slots__ = ("on_session", "strict")
    on_session: bool
    strict: bool

    def written(self) -> bytes:
        """The completed event anew, always from what a reader finds: of a name that is given twice only the last value is."""
        if self.strict and not self._data and not self._attributes and says_no_more(self.value, self.event):
            return self.value
        return encode_tree(self.tree())


def decode_published(value: bytes | None, headers: Headers = (), *, append_time_ms: int, sessions: bool = False) -> Published:
    """The event in a record that somebody else published. DecodeError, and nothing else, when it is none. `sessions`: feedback
    may be on one."""
    raw = structured(value, headers) if headers or value is None else value
    raw, event, strict, on_session = _checked(raw, append_time_ms, sessions)
    published = Published(raw, event, append_time_ms)
    published.strict, published.on_session = strict, on_session
    return published


def check_published(value: bytes, append_time_ms: int, *, feedback: bool = True) -> None:
    """DecodeError when `decode_published` would raise one, where sessions are credited. `feedback` False: it is known to be
    none, so nobody need look whether it is on a session (1.7 of 4.3 us)."""
    _checked(value, append_time_ms, sessions=feedback)


def _checked(raw: bytes, append_time_ms: int, sessions: bool) -> tuple[bytes, InputEvent, bool, bool]:
    """The bytes that say the event, the event, whether it was read strictly, and whether it is on a session."""
    if len(raw) > RECORD_LIMIT:
        raise DecodeError("over_limit", None, f"record: {len(raw)} bytes, at most {RECORD_LIMIT} are allowed")
    said = standing_in(raw) if sessions else None
    if said is not None:
        raw, stood_in, strict, _ = _checked(encode_tree(said), append_time_ms, sessions=False)
        check_session_feedback(stood_in)
        return raw, stood_in, strict, True
    event, strict = decode_strictly(raw), True
    if event is not None:
        check_event(event, append_time_ms)
    else:
        strict = False
        try:
            raw, event = read_input(raw, (), append_time_ms)
        except DecodeError as error:
            raise explained(error, raw) from None
    check_values(raw)
    if isinstance(event, FeedbackRecorded):
        check_scale(event.data)
    return raw, event, strict, False
