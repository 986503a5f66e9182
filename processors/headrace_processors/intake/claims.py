"""Whose texts an input event holds, and what it says of owners: what has to be on `keys` before it is folded. Pure.

An interaction owns its texts and those of feedback on it; feedback that names a foreign id is sealed under that id, which belongs
to an interaction as soon as an event says so. Whether an interaction has a data subject is not known when feedback on it comes
first, so all feedback with texts is sealed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace_processors.owners import interaction_owner, ref_owner
from headrace_processors.reward.keys import subject_digest
from headrace_schemas.cloudevents import Headers, structured
from headrace_schemas.codec import DecodeError
from headrace_schemas.events import FeedbackRecorded, InputEvent, InteractionLinked, InteractionRecorded, SubjectErased
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import KEY_LIMIT, Ref
from headrace_schemas.sealed_fields import has_texts
from headrace_schemas.times import parse_ns
from headrace_streams.runtime.stage import Claim

_ANYTHING = msgspec.json.Decoder()


def owner_of(event: InputEvent, value: bytes) -> str:
    """Whose key seals an event that is passed on as `value`; empty: nobody's."""
    if isinstance(event, InteractionRecorded):
        return interaction_owner(event.data.interaction_id or "") if event.data.data_subject is not None else ""
    if isinstance(event, FeedbackRecorded) and has_texts(value):
        ref = event.data.ref
        return interaction_owner(event.data.interaction_id or "") if ref is None else ref_owner(ref)
    return ""


def claims_of(event: InputEvent, value: bytes) -> list[Claim]:
    """What an event says, `value` being what it is passed on as."""
    time_ns = 0 if event.time is None else parse_ns(event.time)
    if isinstance(event, SubjectErased):
        return [Claim("", time_ns, subject=subject_digest(event.data.data_subject), erases=True)]
    if isinstance(event, InteractionLinked):
        return [Claim(ref_owner(event.data.ref), time_ns, of=interaction_owner(event.data.interaction_id))]
    owner = owner_of(event, value)
    if not owner:
        return []
    if not isinstance(event, InteractionRecorded):
        return [Claim(owner, time_ns, makes_key=True)]
    assert event.data.data_subject is not None
    subject = subject_digest(event.data.data_subject)
    refs = dict.fromkeys(map(ref_owner, event.data.refs or ()))
    return [Claim(owner, time_ns, subject=subject, makes_key=True), *(Claim(ref, time_ns, of=owner) for ref in refs)]


def claim_of_refused(value: bytes, headers: Headers, time_ns: int) -> Claim | None:
    """What an input that is no event says, as far as it can be read: whose it is. None when it names nobody."""
    try:
        tree = _ANYTHING.decode(structured(value, headers))
    except (DecodeError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    data = tree.get("data") if isinstance(tree, dict) else None
    if not isinstance(data, dict):
        return None
    subject = _name(data.get("data_subject"))
    interaction_id = _name(data.get("interaction_id"))
    if interaction_id is None and subject is not None:
        interaction_id = derive_id("interaction", str(tree.get("source")), str(tree.get("id")))
    if interaction_id is not None:
        owner = interaction_owner(interaction_id)
        return Claim(owner, time_ns, subject="" if subject is None else subject_digest(subject), makes_key=True)
    ref: Any = data.get("ref")
    if isinstance(ref, dict) and (system := _name(ref.get("system"))) and (name := _name(ref.get("id"))):
        return Claim(ref_owner(Ref(system=system, id=name)), time_ns, makes_key=True)
    return None


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= KEY_LIMIT else None
