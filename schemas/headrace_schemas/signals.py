"""Signals as reward reads them: what intake checked is not held against the patterns of its keys again. Knows no rule of its own.

Each event has a twin with the same fields in the same order and no patterns, of which a decode is 3 us cheaper. What a twin
refuses (an integer written as 1.0, an older version) is read the general way; the rules between fields are checked in both.
"""

from __future__ import annotations

import types
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from headrace_schemas.cloudevents import Headers, structured
from headrace_schemas.codec import decode
from headrace_schemas.constraints import check_event
from headrace_schemas.events import Event
from headrace_schemas.struct_twins import struct_twin
from headrace_schemas.topics import BY_NAME


def decode_signal(value: bytes | None, headers: Headers = ()) -> Event:
    """As codec.decode, for a record of `signals`: an event of the same fields, which encodes to the same bytes."""
    try:
        event = _DECODER.decode(structured(value, headers))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return decode(value, headers)
    check_event(event)
    return event


def _without_patterns(annotation: Any) -> Any:
    """The type that twins have where the events have `annotation`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        kind, *metas = get_args(annotation)
        kept = [meta for meta in map(_without_pattern, metas) if meta is not None]
        return reduce(lambda inner, meta: Annotated[inner, meta], kept, _without_patterns(kind))
    if origin is Union or origin is types.UnionType:
        return reduce(or_, map(_without_patterns, get_args(annotation)))
    if origin in (list, dict, tuple):
        return origin[tuple(map(_without_patterns, get_args(annotation)))]
    return _twin(annotation) if isinstance(annotation, type) and issubclass(annotation, Struct) else annotation


def _without_pattern(meta: Meta) -> Meta | None:
    limits = {name: getattr(meta, name) for name in ("ge", "le", "min_length", "max_length")}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return Meta(**given) if given else None


@cache
def _twin(kind: type[Struct]) -> type[Struct]:
    return struct_twin(kind, lambda _, annotation: _without_patterns(annotation), __name__)


_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(reduce(or_, map(_twin, BY_NAME["signals"].events)))
