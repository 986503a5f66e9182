"""State of the link stage: one small value per foreign id; each event that waits for its link once, under a key of its own.

Keys are JSON lists: `[system, id]` of the foreign id, `[system, id, number]` of what waits for it, in order of arrival. Values
stay the bytes that they are on the log. `upcast` makes them of version 1, in which all that waited stood in one value.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from headrace_schemas.inputs import Ref
from headrace_schemas.times import parse_ns


class ForeignId(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A foreign id: what it means, as of `time_ns`, or how much waits to be told. `touched` stands first in its bytes."""

    touched: int  # fold time in ms of the last record about it; of one that is used, not always the last
    interaction_id: str = ""
    time_ns: int = 0
    waiting: int = 0  # events
    size: int = 0  # bytes of the events
    sealed: tuple[int, ...] = ()  # numbers of the events that are sealed, as they came
    own_keys: tuple[int, ...] = ()  # those of them with a key of their own: intake has written such since its rule version 5


def head_key(ref: Ref) -> str:
    """Unlike the record key, of one foreign id only, whatever colons its parts hold."""
    return msgspec.json.encode([ref.system, ref.id]).decode()


def event_key(ref: Ref, number: int) -> str:
    return msgspec.json.encode([ref.system, ref.id, number]).decode()


def is_head(key: str) -> bool:
    """Whether a key of this stage is a foreign id's own."""
    return key.endswith('"]')


def ref_of(key: str) -> Ref | None:
    """The foreign id of a head's key, None for a key of what waits. ValueError for any other."""
    if not is_head(key):
        msgspec.json.decode(key, type=tuple[str, str, int])
        return None
    system, name = msgspec.json.decode(key, type=tuple[str, str])
    return Ref(system=system, id=name)


class _ForeignId1(Struct):
    interaction_id: str = ""
    time_ns: int = 0
    events: tuple[str, ...] = ()
    size: int = 0


class _Event(Struct):
    time: str | None = None


def upcast(state: Mapping[str, bytes]) -> dict[str, bytes]:
    """A changelog of state version 1 as one of version 2. The time of the last record about a foreign id was not kept: the newest
    event time stands in for it."""
    found: dict[str, bytes] = {}
    for key, value in state.items():
        before = msgspec.json.decode(value, type=_ForeignId1)
        ref = ref_of(key)
        assert ref is not None
        events = [event.encode() for event in before.events]
        times = [parse_ns(time) for event in events if (time := msgspec.json.decode(event, type=_Event).time)]
        found[key] = msgspec.json.encode(
            ForeignId(
                touched=max([before.time_ns, *times]) // 1_000_000,
                interaction_id=before.interaction_id,
                time_ns=before.time_ns,
                waiting=len(events),
                size=before.size,
            )
        )
        found |= {event_key(ref, number): event for number, event in enumerate(events)}
    return found
