"""The attribute stage: what is said of a session, and seen in it, becomes feedback on its interactions. Pure fold over sessions.

Which interactions, and how much each, is for policy (credit.py); the shares add up to 1. What it derives is feedback like any
other, under an id of its own, and says what it was made of (`attributed_from`). When another interaction turns up that should
have been credited, what was derived is replaced; when the feedback is retracted, all of it is. So the order of arrival does not
matter for what stands in the end, in a session of up to MEMBERS interactions; in a longer one who was credited stays so. An
interaction that is retracted keeps its share: the others did no more for it.

What derivations see (derivation.py) is feedback of a marked origin, `attributed_from.derived_by`, and is looked for anew with
each record about the session: what is seen no more, or in something that was retracted, is taken back. Version 1 saw nothing.
Counters: joined, left, reported, credited, waiting, retracted, duplicate, conflict, expired, ticks, dead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from headrace_processors.attribute.policy import AttributePolicy
from headrace_processors.attribute.state import SessionState, session_of
from headrace_processors.attribute.step import STAGE, AttributeStep
from headrace_processors.expiry import period_ms, touched_of
from headrace_schemas.codec import decode
from headrace_schemas.derived import SessionExpiry
from headrace_schemas.events import (
    SessionExpired,
    SessionFeedbackRecorded,
    SessionFeedbackRetracted,
    SessionJoined,
    SessionLeft,
    make,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.times import rfc3339
from headrace_streams.runtime.stage import Fold, Record, Step, Write

NEWEST = 2  # rule version

_SESSION = msgspec.json.Decoder(SessionState)
_WORD = msgspec.json.Decoder(msgspec.Raw)


class AttributeFold(Fold):
    """`headrace_streams.runtime.stage.Fold` under one policy."""

    as_bytes = ("",)

    def __init__(self, policy: AttributePolicy, *, version: int = NEWEST) -> None:
        self._derivations = policy.derivations if version > 1 else None
        # Sessions are read for derivations, too. A word that names an interaction beside its session is then that one's.
        self._credits = policy.credit != "off" or version == 1
        self._policy = policy if self._credits else policy.model_copy(update={"credit": "last"})
        self._expire_ms = period_ms(policy.expire_after_days)

    def load(self, key: str, value: bytes) -> Any:
        if session_of(key) is None:
            _WORD.decode(value)
        else:
            _SESSION.decode(value)
            touched_of(value)
        return value

    def dump(self, key: str, value: Any) -> bytes:
        assert isinstance(value, bytes)
        return value

    def deadline(self, key: str, value: Any) -> int | None:
        return touched_of(value) + self._expire_ms if self._expire_ms and session_of(key) is not None else None

    def overdue(self, state: Mapping[str, Any], keys: Sequence[str], now: int) -> Sequence[Write]:
        return [self._expired(name, touched_of(state[key]), now) for key in keys if (name := session_of(key)) is not None]

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        event = decode(record.value, record.headers)
        if not isinstance(
            event, SessionJoined | SessionLeft | SessionFeedbackRecorded | SessionFeedbackRetracted | SessionExpired
        ):
            raise ValueError(f"type: {type(event).__name__} is about no session")
        step = AttributeStep(self._policy, state, record, event, event.data.session_id, self._derivations, self._credits)
        match event:
            case SessionJoined():
                return step.joined(event)
            case SessionLeft():
                return step.left(event)
            case SessionFeedbackRecorded():
                return step.recorded(event)
            case SessionFeedbackRetracted():
                return step.retracted(event)
            case _:
                return step.expired(self.deadline)

    def _expired(self, session_id: str, touched: int, now: int) -> Write:
        event = make(
            SessionExpired,
            SessionExpiry(session_id=session_id, last_heard=rfc3339(touched)),
            id=derive_id("session.expired", session_id, touched),
            writer=STAGE,
            time_ms=now,
        )
        return Write("sessions", session_id, event)


def build(body: Mapping[str, Any], digest: str, version: int = NEWEST) -> AttributeFold:
    """The fold under a policy body. It names no policy in what it writes, so `digest` is not used."""
    return AttributeFold(AttributePolicy.model_validate(body), version=version)


build_1 = partial(build, version=1)
