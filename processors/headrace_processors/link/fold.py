"""The link stage: foreign ids become interaction ids. Pure fold over refs.

A link says which interaction a foreign id means; the latest one counts, by event time, for feedback that comes after it.
Feedback whose foreign id nobody has linked yet waits, up to a limit beyond which it is a dead letter, for the first link. What
nobody speaks of for as long as the policy says expires, link and waiting feedback alike.
Counters: resolved (links too), waiting, expired, dead; beside them how much feedback came, how much found a link, and how long
after it was said that was learnt. These are rule versions 2 and 3; version_1 is what came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import structs

from headrace_processors.expiry import period_ms, touched_of
from headrace_processors.intake.preference import fan_out
from headrace_processors.link.policy import LinkPolicy
from headrace_processors.link.state import ForeignId, event_key, head_key, is_head, ref_of
from headrace_processors.owners import feedback_owner, ref_owner
from headrace_schemas.codec import Decoded, decode, decode_input
from headrace_schemas.delays import delays_of
from headrace_schemas.derived import RecordError, RefExpiry
from headrace_schemas.events import FeedbackRecorded, InteractionLinked, RefExpired, make
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Ref
from headrace_schemas.times import parse_ns, rfc3339
from headrace_schemas.topics import ref_key
from headrace_schemas.topology import FEEDBACK
from headrace_streams.runtime.sealing import SealedValue
from headrace_streams.runtime.sealing import owner_of as sealed_with
from headrace_streams.runtime.stage import Fold, Record, Step, Write
from headrace_streams.runtime.step import dead_letter

STAGE = "link"
NEWEST = 3  # rule version
WAITING_BYTES = 3 * 1024 * 1024  # of all that waits for one foreign id
TOUCHES = 16  # a link that is used says so in the state at most so many times in the time after which it would expire

_HEAD = msgspec.json.Decoder(ForeignId)
_EVENT = msgspec.json.Decoder(msgspec.Raw)
_EXPIRED = str(RefExpired.__struct_config__.tag).encode()


class LinkFold(Fold):
    """`headrace_streams.runtime.stage.Fold` under one policy."""

    as_bytes = ("",)
    opens = False  # what it joins by is not sealed, so that a sealed text stays what it is, under the key that it came with

    def __init__(self, policy: LinkPolicy, *, version: int = NEWEST) -> None:
        self._policy, self._version = policy, version
        self._expire_ms = period_ms(policy.expire_after_days)

    def load(self, key: str, value: bytes) -> Any:
        ref_of(key)
        if is_head(key):
            _HEAD.decode(value)
            touched_of(value)
        else:
            _EVENT.decode(value)
        return value

    def dump(self, key: str, value: Any) -> bytes:
        assert isinstance(value, bytes)
        return value

    def deadline(self, key: str, value: Any) -> int | None:
        return touched_of(value) + self._expire_ms if self._expire_ms and is_head(key) else None

    def overdue(self, state: Mapping[str, Any], keys: Sequence[str], now: int) -> Sequence[Write]:
        return [self._expired(ref, touched_of(state[key]), now) for key in keys if (ref := ref_of(key)) is not None]

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        if _EXPIRED in (record.value or b""):
            own = decode(record.value, record.headers)
            if isinstance(own, RefExpired):
                return self._expire(state, record, own.data.ref)
        decoded = decode_input(record.value, record.headers)
        event = decoded.event
        if isinstance(event, InteractionLinked):
            return self._linked(state, record, event)
        if isinstance(event, FeedbackRecorded) and event.data.ref is not None:
            return self._referred(state, record, decoded, event.data.ref)
        raise ValueError(f"type: {type(event).__name__} names no foreign id")

    def _linked(self, state: Mapping[str, Any], record: Record, event: InteractionLinked) -> Step:
        ref = event.data.ref
        before = _head(state, ref)
        time_ns = parse_ns(event.time or "")
        if before.interaction_id and time_ns < before.time_ns:
            return Step((), {}, {"resolved": 1})
        interaction_id = event.data.interaction_id
        outputs: list[Write] = []
        changes: dict[str, Any] = {}
        found: list[Decoded] = []
        for number, (key, value) in enumerate(_waiting(state, ref, before)):
            decoded = decode_input(value)
            outputs += _resolved(decoded, interaction_id, _owner(decoded, ref, number, before))
            changes[key] = None
            found.append(decoded)
        changes[head_key(ref)] = msgspec.json.encode(
            ForeignId(touched=record.now, interaction_id=interaction_id, time_ns=time_ns)
        )
        counters = {"resolved": 1 + before.waiting}
        if before.waiting:
            counters["waiting"] = -before.waiting
            counters |= self._joined(time_ns, found)
        return Step(outputs, changes, counters)

    def _joined(self, linked_ns: int, found: Sequence[Decoded]) -> dict[str, int]:
        """What feedback counts that found its link, by how long before that it was said."""
        if self._version < 3:
            return {}
        delays = delays_of(linked_ns - parse_ns(decoded.event.time or "") for decoded in found)
        return {FEEDBACK + "joined": len(found), **delays}

    def _referred(self, state: Mapping[str, Any], record: Record, decoded: Decoded, ref: Ref) -> Step:
        key = head_key(ref)
        before = _head(state, ref)
        seen = {FEEDBACK + "seen": 1} if self._version > 2 else {}
        owner = sealed_with(record.topic, record.headers) or ""
        if before.interaction_id:
            stale = self._expire_ms and record.now - before.touched > self._expire_ms // TOUCHES
            changes = {key: msgspec.json.encode(structs.replace(before, touched=record.now))} if stale else {}
            counters = {"resolved": 1, **seen, **self._joined(before.time_ns, [decoded])}
            return Step(_resolved(decoded, before.interaction_id, owner), changes, counters)
        event = decoded.passed()
        size = before.size + len(event)
        if before.waiting >= self._policy.waiting or size > WAITING_BYTES:
            message = f"data.ref: {before.waiting} feedbacks wait for a link of {ref.system}:{ref.id} already"
            error = RecordError(code="waiting_limit", field="data.ref", message=message)
            return Step([dead_letter(STAGE, record, error)], {}, {"dead": 1, **seen})
        sealed = (*before.sealed, before.waiting) if owner else before.sealed
        own = (*before.own_keys, before.waiting) if owner and owner != ref_owner(ref) else before.own_keys
        after = ForeignId(touched=record.now, waiting=before.waiting + 1, size=size, sealed=sealed, own_keys=own)
        return Step((), {key: msgspec.json.encode(after), event_key(ref, before.waiting): event}, {"waiting": 1, **seen})

    def _expire(self, state: Mapping[str, Any], record: Record, ref: Ref) -> Step:
        """True by the fold's own time and policy, or nothing: something may have been heard since it was written."""
        key = head_key(ref)
        value = state.get(key)
        due = None if value is None else self.deadline(key, value)
        if due is None or due > record.now:
            return Step((), {}, {"resolved": 1})
        before = _head(state, ref)
        changes: dict[str, Any] = {key: None, **{waiting: None for waiting, _ in _waiting(state, ref, before)}}
        counters = {"resolved": 1}
        if before.waiting:
            counters |= {"waiting": -before.waiting, "expired": before.waiting}
        return Step((), changes, counters)

    def _expired(self, ref: Ref, touched: int, now: int) -> Write:
        event = make(
            RefExpired,
            RefExpiry(ref=ref, last_heard=rfc3339(touched)),
            id=derive_id("ref.expired", ref.system, ref.id, touched),
            writer=STAGE,
            time_ms=now,
        )
        return Write("refs", ref_key(ref), event)


def _head(state: Mapping[str, Any], ref: Ref) -> ForeignId:
    value = state.get(head_key(ref))
    return ForeignId(touched=0) if value is None else _HEAD.decode(value)


def _waiting(state: Mapping[str, Any], ref: Ref, head: ForeignId) -> Iterator[tuple[str, bytes]]:
    for number in range(head.waiting):
        key = event_key(ref, number)
        yield key, state[key]


def _owner(decoded: Decoded, ref: Ref, number: int, head: ForeignId) -> str:
    """Whose key seals what waited, as it came."""
    if number not in head.sealed:
        return ""
    event = decoded.event
    assert isinstance(event, FeedbackRecorded)  # nothing else waits
    if number not in head.own_keys:
        return ref_owner(ref)
    return feedback_owner(ref, event.source, event.data.feedback_id or event.id)


def _resolved(decoded: Decoded, interaction_id: str, owner: str) -> list[Write]:
    """The feedback as if it had named the interaction itself, and its copies if it is a preference, which have no texts. It stays
    sealed with the key of `owner`, if it is."""
    event = decoded.event
    assert isinstance(event, FeedbackRecorded)  # nothing else waits
    named = structs.replace(event, data=structs.replace(event.data, interaction_id=interaction_id, ref=None))
    value = decoded.passed({"interaction_id": interaction_id, "ref": None})
    copies = fan_out(named, by_preferred=True)
    if owner:
        value = SealedValue(value)
    return [Write("signals", interaction_id, value, owner=owner), *(Write("signals", other, copy) for other, copy in copies)]


def build(body: Mapping[str, Any], digest: str, version: int = NEWEST) -> LinkFold:
    """The fold under a policy body. It names no policy in what it writes, so `digest` is not used."""
    return LinkFold(LinkPolicy.model_validate(body), version=version)


build_2 = partial(build, version=2)
