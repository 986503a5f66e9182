"""Bytes <-> events: the one place where a Kafka value and its headers become an event, and where an event becomes a value.

Knows JSON, the CloudEvents modes and the rules between fields; the rules of single fields are the structs'. Knows no Kafka
client and no clock: whoever decodes what others published says when the broker appended it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from headrace_schemas.cloudevents import Headers, structured
from headrace_schemas.constraints import check_event
from headrace_schemas.errors import DecodeError, fault, whole_number
from headrace_schemas.events import Event, FeedbackRecorded, InputEvent, InteractionRecorded
from headrace_schemas.ids import derive_id
from headrace_schemas.json_limits import RECORD_LIMIT, check_limits, tree_of, unreadable
from headrace_schemas.times import rfc3339
from headrace_schemas.upcast import upcast

__all__ = [
    "RECORD_LIMIT",
    "DecodeError",
    "Decoded",
    "check_finite",
    "decode",
    "decode_input",
    "encode",
    "encode_numbered",
    "encode_tree",
]

_T = TypeVar("_T", bound=Event)

_EVENTS: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_INPUTS: msgspec.json.Decoder[InputEvent] = msgspec.json.Decoder(InputEvent)
_PIECES = msgspec.json.Decoder(dict[str, Raw])
_ENCODER = msgspec.json.Encoder()
_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")  # in msgpack: a float with all bits of its exponent set; in no UTF-8
_MENDABLE = 32  # integers written as 1.0 in one event; more than any input has fields for


def decode(value: bytes | None, headers: Headers = (), *, append_time_ms: int | None = None) -> Event:
    """The event in a record, structured or binary mode. DecodeError, and nothing else, when it is none.

    `append_time_ms` says that the record is somebody else's: then it is checked whole, in fields that we do not know too, may
    be no larger than `RECORD_LIMIT` and no more than ten minutes ahead. What we wrote ourselves (no append time) was checked
    before it was written, and may have grown a little since.
    """
    return _typed(_EVENTS, _read(value, headers, append_time_ms), append_time_ms)[1]


def encode(event: Event) -> bytes:
    """One structured-mode JSON object. DecodeError when a string of it cannot be written (a lone surrogate), or a number (one
    that is not finite)."""
    return _written(event)


def encode_numbered(event: Event, *numbers: float) -> bytes:
    """As `encode`, of an event whose only numbers that are not whole are `numbers`: its texts need not be searched for others."""
    total = sum(numbers)
    if total - total != 0:  # infinite or none: one of them may be
        return _written(event)
    try:
        return _ENCODER.encode(event)
    except UnicodeEncodeError:
        return _written(event)


def check_finite(value: Any, written: bytes) -> None:
    """DecodeError when `value`, which msgspec wrote as `written`, has a number that is not finite: JSON has none, so msgspec
    writes null, which no reader of the field takes. Costs a search for `null` (0.7 us a KB), where there is one some more."""
    if b"null" not in written or not _NOT_FINITE.search(msgspec.msgpack.encode(value)):
        return
    field = _not_finite(msgspec.to_builtins(value), "")
    if field is not None:
        raise DecodeError("out_of_range", field, f"{field}: a number that is not finite can't be written")


def encode_tree(tree: Mapping[str, Any]) -> bytes:
    """The same for a plain JSON tree, as `Decoded.tree` gives it."""
    return _written(tree)


class Decoded:
    """An event that others published, completed, together with all that they wrote, known to us or not.

    `event` has what may be missing filled in: `time` by the append time, an interaction's id by a digest of (source, id), a
    feedback's id by the event's. `passed` and `tree` give the same event with every unknown attribute and field; `value` is
    the event in structured mode as it came.
    """

    __slots__ = ("_attributes", "_data", "event", "value")

    def __init__(self, value: bytes, event: InputEvent, append_time_ms: int | None) -> None:
        self.value = value
        self._attributes: dict[str, Any] = {}
        self._data: dict[str, Any] = {}
        if event.time is None and append_time_ms is not None:
            self._attributes["time"] = rfc3339(append_time_ms)
        if isinstance(event, InteractionRecorded) and event.data.interaction_id is None:
            self._data["interaction_id"] = derive_id("interaction", event.source, event.id)
        elif isinstance(event, FeedbackRecorded) and event.data.feedback_id is None:
            self._data["feedback_id"] = event.id
        if self._data:
            event = msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, **self._data))
        self.event: InputEvent = msgspec.structs.replace(event, **self._attributes) if self._attributes else event

    def passed(self, data: Mapping[str, Any] | None = None) -> bytes:
        """The event anew in structured mode, unknown fields untouched; `data` sets fields of `data` (None removes one)."""
        changes = {**self._data, **data} if data else self._data
        if not changes and not self._attributes:
            return self.value
        pieces = _pieces(self.value)
        pieces.update(self._attributes)
        if changes:
            fields = {**_pieces(pieces["data"]), **changes}
            pieces["data"] = {name: field for name, field in fields.items() if field is not None}
        return _written(pieces)

    def tree(self) -> dict[str, Any]:
        """The event as plain JSON, a new one at each call: for whoever must look at, or replace, every string."""
        tree: dict[str, Any] = tree_of(self.value)
        tree.update(self._attributes)
        tree["data"].update(self._data)
        return tree


def decode_input(value: bytes | None, headers: Headers = (), *, append_time_ms: int | None = None) -> Decoded:
    """As `decode`, for the events that others may publish; an event of another type is an unknown one (`unknown_type`)."""
    return Decoded(*read_input(value, headers, append_time_ms), append_time_ms)


def read_input(value: bytes | None, headers: Headers, append_time_ms: int | None) -> tuple[bytes, InputEvent]:
    """The structured-mode bytes of an event that others may publish, and the event as they say it, not completed."""
    return _typed(_INPUTS, _read(value, headers, append_time_ms), append_time_ms)


def _read(value: bytes | None, headers: Headers, append_time_ms: int | None) -> bytes:
    raw = structured(value, headers)
    if append_time_ms is not None:
        if len(raw) > RECORD_LIMIT:
            raise DecodeError("over_limit", None, f"record: {len(raw)} bytes, at most {RECORD_LIMIT} are allowed")
        check_limits(raw)
    return raw


def _typed(decoder: msgspec.json.Decoder[_T], raw: bytes, append_time_ms: int | None) -> tuple[bytes, _T]:
    """The event and the bytes that say it, which are others than `raw` when it came in an older version."""
    try:
        event = decoder.decode(raw)
    except msgspec.ValidationError as error:
        raw, event = _mended(decoder, raw, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from None
    check_event(event, append_time_ms)
    return raw, event


def _mended(decoder: msgspec.json.Decoder[_T], raw: bytes, error: msgspec.ValidationError) -> tuple[bytes, _T]:
    """The slow way, for what the one-pass decoder refuses but the contract allows: older versions, integers written as 1.0."""
    tree = tree_of(raw)
    newer = upcast(tree)
    if newer is not None:
        raw, tree = _written(newer), newer
    for _ in range(_MENDABLE):
        try:
            return raw, msgspec.convert(tree, decoder.type)
        except msgspec.ValidationError as other:
            error = other
        found = whole_number(error, tree)
        if found is None:
            break
        found.holder[found.last] = int(found.value)
    raise fault(error, tree) from None


def _pieces(raw: bytes | Raw) -> dict[str, Any]:
    """An object with its values as they are written. DecodeError for a name that is no UTF-8, which no known one is."""
    try:
        return dict(_PIECES.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise unreadable(error) from None


def _written(value: Any) -> bytes:
    try:
        written = _ENCODER.encode(value)
    except UnicodeEncodeError as error:
        raise DecodeError("not_utf8", None, f"event: a string holds a lone surrogate: {error.reason}") from None
    check_finite(value, written)
    return written


def _not_finite(tree: Any, field: str) -> str | None:
    """The dotted path of the first number of a tree that is not finite."""
    if isinstance(tree, float):
        return None if math.isfinite(tree) else field.removeprefix(".")
    named = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    return next((path for name, part in named if (path := _not_finite(part, f"{field}.{name}")) is not None), None)
