"""The common case of a published event in one decode: nothing unknown, nothing doubtful. Knows no rule that is not elsewhere.

Each input event has a twin with the same fields that refuses unknown ones and reads the frequent keys without their patterns
(3 us of an event; `str.isprintable` says as much of nearly every key). What it refuses is not bad, only not common: the caller
reads it again the general way. A twin may refuse too much, but never takes what the general way refuses or reads otherwise.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from operator import or_
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from headrace_schemas.events import FeedbackRecorded, InputEvent, InteractionRecorded
from headrace_schemas.inputs import Agent, Feedback, Interaction, Message, Principal
from headrace_schemas.json_limits import INT64
from headrace_schemas.struct_twins import struct_twin

# Fields that nearly every event has, read without their pattern here and looked at by `_keys_hold`.
_BARE = {
    InteractionRecorded: ("id", "source"),
    FeedbackRecorded: ("id", "source"),
    Agent: ("name",),
    Interaction: ("interaction_id", "artifact_type", "model", "session_id"),
    Feedback: ("feedback_id", "interaction_id", "kind"),
    Principal: ("id",),
}
_DEEP = 40  # levels of a free value that are surely allowed, wherever it stands
_SLACK = 5  # bytes: no second value of a name fits into fewer, with its quotes, colon and comma
_SHORTEST = 3  # bytes of the shortest number with an exponent
_CONSTRAINTS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length")
_MAY_NOT_HOLD, _MAY_SAVE = frozenset({int, dict, list}), frozenset({float, dict, list})  # kinds of values in free ones
_ENCODER = msgspec.json.Encoder()


def decode_strictly(raw: bytes) -> InputEvent | None:
    """The event that `raw`, at most as long as a record may be, says in full and in the common way; None for all else.

    The rules between fields (constraints.check_event) are the caller's, as they are of any decoded event.
    """
    try:
        event = _DECODER.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not _keys_hold(event):
        return None
    free = free_values(event)
    return event if not free or all(map(_holds, free)) else None


def says_no_more(raw: bytes, event: InputEvent) -> bool:
    """Whether `raw`, of which `event` was decoded strictly, is the one compact JSON text of it, whatever the order of its names.

    Of equal events the compact text is the shortest: white space, escapes, nulls and a name given twice only add to it. Only a
    number with an exponent may take less (`1e2` for 100.0), so what numbers could save is bounded by what could hide in it.
    """
    return len(raw) == len(_ENCODER.encode(event)) and _slack(event) <= _SLACK


def free_values(event: InputEvent) -> Sequence[Any]:
    """The values of fields that are any JSON: arguments of tool calls, parameters of tools, attributes."""
    if isinstance(event, InteractionRecorded):
        data = event.data
        if data.tools is None and type(data.prompt) is str and type(data.output) is str:
            return () if data.attributes is None else (data.attributes,)
        messages = (*(data.prompt if type(data.prompt) is list else ()), data.output)
        tools = [tool.parameters for tool in data.tools or ()]
        return [*(() if data.attributes is None else (data.attributes,)), *tools, *_arguments(messages)]
    if isinstance(event, FeedbackRecorded) and event.data.corrected_output is not None:
        return _arguments((event.data.corrected_output,))
    return ()


def _arguments(messages: Iterable[Any]) -> list[Any]:
    return [call.arguments for message in messages if isinstance(message, Message) for call in message.tool_calls or ()]


def _keys_hold(event: InputEvent) -> bool:
    """What the patterns that the twins lack would say, or less. Each kind of key was seen a moment ago, mostly."""
    if isinstance(event, InteractionRecorded):
        data = event.data
        keys = f"{event.id}{event.source}{data.model}{data.agent.name}{data.interaction_id or ''}{data.session_id or ''}"
        return keys.isprintable() and _is_artifact_type(data.artifact_type)
    if isinstance(event, FeedbackRecorded):
        said = event.data
        principal = "" if said.principal is None else said.principal.id
        keys = f"{event.id}{event.source}{said.interaction_id or ''}{said.feedback_id or ''}{principal}"
        return keys.isprintable() and _is_kind(said.kind)
    return True


@lru_cache(4096)
def _is_artifact_type(text: str) -> bool:
    return re.fullmatch("[a-z0-9][a-z0-9_.-]{0,63}", text) is not None


@lru_cache(4096)
def _is_kind(text: str) -> bool:
    return re.fullmatch("[a-z_]{1,40}", text) is not None


def _holds(value: Any, depth: int = 0) -> bool:
    """Whether a free value has no integer beyond 64 bits and is not nested deeply: all around it is so by its type."""
    kind = type(value)
    if kind is str:
        return True
    if kind is int:
        return value in INT64
    if kind is not dict and kind is not list:
        return True
    if depth >= _DEEP:
        return False
    for item in value.values() if kind is dict else value:
        if type(item) in _MAY_NOT_HOLD and not _holds(item, depth + 1):
            return False
    return True


def _slack(event: InputEvent) -> int:
    """At most so many bytes could be saved by writing the numbers of an event with exponents."""
    saved = 0
    if isinstance(event, InteractionRecorded):
        data = event.data
        for number in (data.latency_ms, data.ttft_ms, data.cost_usd):
            if type(number) is float and (number < 0.01 or number.is_integer()):
                saved += _saved(number)
        if data.experiment is not None:
            saved += _saved(data.experiment.propensity)
        if type(data.context) is list:
            saved += sum(_saved(item.score) for item in data.context)
    elif isinstance(event, FeedbackRecorded):
        saved = _saved(event.data.score)
        if event.data.scale is not None:
            saved += sum(map(_saved, event.data.scale))
        if event.data.attributed_from is not None:
            saved += _saved(event.data.attributed_from.share)
    free = free_values(event)
    return saved + sum(map(_saved_in, free)) if free else saved


def _saved_in(value: Any) -> int:
    kind = type(value)
    if kind is dict or kind is list:
        values = value.values() if kind is dict else value
        return sum([_saved_in(item) for item in values if type(item) in _MAY_SAVE])
    return _saved(value) if kind is float else 0


def _saved(number: Any) -> int:
    """At most so many bytes are saved by writing a float with an exponent: only whole and very small ones have shorter forms."""
    if type(number) is not float or (not number.is_integer() and abs(number) >= 0.01):
        return 0
    return max(0, len(_ENCODER.encode(number)) - _SHORTEST)


def _twin_of(annotation: Any, bare: bool = False) -> Any:
    """The type that the twins have where the events have `annotation`; without pattern if `bare`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        kind, *metas = get_args(annotation)
        limits = [_without_pattern(meta) if bare else meta for meta in metas if isinstance(meta, Meta)]
        return _limited(_twin_of(kind, bare), limits)
    if origin is Union or origin is types.UnionType:
        return reduce(or_, (_twin_of(kind, bare) for kind in get_args(annotation)))
    if origin in (list, dict, tuple):
        return origin[tuple(_twin_of(kind) for kind in get_args(annotation))]
    if annotation is float:  # an integer stays one, so that encoding gives the bytes that came
        return Annotated[int, Meta(ge=INT64.start, le=INT64.stop - 1)] | float
    return _struct_twin(annotation) if isinstance(annotation, type) and issubclass(annotation, Struct) else annotation


def _limited(kind: Any, limits: list[Meta]) -> Any:
    """`kind` under constraints; of a number that may be an integer each kind has them."""
    for limit in limits:
        if limit.ge is not None and (get_origin(kind) is Union or get_origin(kind) is types.UnionType):
            kind = (
                Annotated[int, Meta(ge=limit.ge, le=INT64.stop - 1 if limit.le is None else limit.le)] | Annotated[float, limit]
            )
        elif any(getattr(limit, name) is not None for name in _CONSTRAINTS):
            kind = Annotated[kind, limit]
    return kind


def _without_pattern(meta: Meta) -> Meta:
    return Meta(min_length=meta.min_length, max_length=meta.max_length)


@lru_cache(None)
def _struct_twin(kind: type[Struct]) -> type[Struct]:
    bare = _BARE.get(kind, ())
    return struct_twin(kind, lambda name, annotation: _twin_of(annotation, name in bare), __name__, forbid_unknown_fields=True)


_DECODER: msgspec.json.Decoder[InputEvent] = msgspec.json.Decoder(reduce(or_, map(_struct_twin, get_args(InputEvent))))
