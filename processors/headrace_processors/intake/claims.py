"""Whose texts an input event holds, and what it says of owners: what has to be on `keys` before it is folded. Pure.

An interaction owns its texts and those of feedback on it; feedback that names a foreign id has a key of its own, which belongs to
the interaction that the id means. Whether an interaction has a data subject is not known when feedback on it comes
first, so all feedback with texts is sealed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace_processors.owners import feedback_owner, foreign_owner, interaction_owner, ref_owner
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
OWN_KEYS = 5  # the first rule version under which each feedback on a foreign id has a key of its own


def owner_of(event: InputEvent, value: bytes, version: int) -> str:
    """Whose key seals an event that is passed on as `value` under a rule version; empty: nobody's."""
    if isinstance(event, InteractionRecorded):
        return interaction_owner(event.data.interaction_id or "") if event.data.data_subject is not None else ""
    if isinstance(event, FeedbackRecorded) and has_texts(value):
        ref = event.data.ref
        if ref is None:
            return interaction_owner(event.data.interaction_id or "")
        return ref_owner(ref) if version < OWN_KEYS else feedback_owner(ref, event.source, event.data.feedback_id or event.id)
    return ""


def claims_of(event: InputEvent, value: bytes, version: int) -> list[Claim]:
    """What an event says, `value` being what it is passed on as under a rule version."""
    time_ns = 0 if event.time is None else parse_ns(event.time)
    if isinstance(event, SubjectErased):
        return [Claim("", time_ns, subject=subject_digest(event.data.data_subject), erases=True)]
    if isinstance(event, InteractionLinked):
        return _linked(event.data.ref, interaction_owner(event.data.interaction_id), time_ns)
    owner = owner_of(event, value, version)
    if isinstance(event, FeedbackRecorded):
        if not owner:
            return []
        under = "" if event.data.ref is None or version < OWN_KEYS else foreign_owner(event.data.ref)
        return [Claim(owner, time_ns, makes_key=True, under=under)]
    if not isinstance(event, InteractionRecorded):
        return []
    claims = []
    if event.data.data_subject is not None:
        claims.append(Claim(owner, time_ns, subject=subject_digest(event.data.data_subject), makes_key=True))
    meant = interaction_owner(event.data.interaction_id or "")  # whether or not it has a subject: a later link counts
    return [*claims, *(claim for ref in event.data.refs or () for claim in _linked(ref, meant, time_ns))]


def _linked(ref: Ref, owner: str, time_ns: int) -> list[Claim]:
    """That a foreign id means an interaction; and whose the texts are that were sealed under the id."""
    return [Claim(named, time_ns, of=owner) for named in (foreign_owner(ref), ref_owner(ref))]


def claim_of_refused(value: bytes, headers: Headers, time_ns: int, version: int) -> Claim | None:
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
        meant = Ref(system=system, id=name)
        if version < OWN_KEYS:
            return Claim(ref_owner(meant), time_ns, makes_key=True)
        owner = feedback_owner(meant, str(tree.get("source")), str(data.get("feedback_id") or tree.get("id")))
        return Claim(owner, time_ns, makes_key=True, under=foreign_owner(meant))
    return None


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= KEY_LIMIT else None
