"""Which part of an event is sealed: everything of a person's event but what is listed here. Knows shapes, no key and no cipher.

A sealed event is a valid event of its type: what has to be there says SEALED, and `data.sealed` holds the rest, encrypted. Clear
stays what stages count, group and join by, so that a fold can go on over an event whose texts nobody can open any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from headrace_schemas.derived import DrawnPrompt, Example
from headrace_schemas.root_error import HeadraceError

SEALED = "[sealed]"  # what stands in the place of a text that has to be there
ERASED = "[erased]"  # and what a reader is shown there whose keys are gone
FIELD = "sealed"  # of `data`: base64 of the encrypted rest


def _fields_of(kind: type[Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(kind))


_ENVELOPE = frozenset({"specversion", "id", "source", "type", "time", "traceparent", "datacontenttype"})
_CLEAR: Mapping[str, frozenset[str]] = {
    "headrace.interaction.recorded.v1": frozenset(
        {
            "interaction_id", "agent", "artifact_type", "model", "adapter", "prompt_group", "session_id", "turn",
            "parent_interaction_id", "refs", "attempt", "latency_ms", "ttft_ms", "cost_usd", "usage", "finish_reason",
            "experiment", "train",
        }
    ),
    "headrace.feedback.recorded.v1": frozenset(
        {"feedback_id", "interaction_id", "ref", "kind", "score", "scale", "name", "over", "under", "principal"}
    ),
    "headrace.example.rewarded.v1": _fields_of(Example) - {"content", "data_subject"},
    "headrace.prompt.drawn.v1": _fields_of(DrawnPrompt) - {"content", "data_subject"},
    "headrace.record.rejected.v1": frozenset({"topic", "partition", "offset", "timestamp"}),
}  # fmt: skip
_STAND_INS: Mapping[str, Mapping[str, Any]] = {
    "headrace.interaction.recorded.v1": {"prompt": SEALED, "output": SEALED},
    "headrace.feedback.recorded.v1": {"corrected_output": SEALED},
    "headrace.example.rewarded.v1": {
        "content": {"prompt": SEALED, "output": SEALED, "target": SEALED},
    },
    "headrace.prompt.drawn.v1": {"content": {"prompt": SEALED}},
    "headrace.record.rejected.v1": {"headers": [], "error": SEALED},
}
_PIECES = msgspec.json.Decoder(dict[str, Raw])
_TEXT = msgspec.json.Decoder(str)
_REST = msgspec.json.Decoder(tuple[dict[str, Raw], dict[str, Raw]])
_ENCODER = msgspec.json.Encoder()

Cipher = Callable[[bytes, bytes], bytes]  # (text, what it is bound to) -> text


class NotSealable(HeadraceError, ValueError):
    """A value that is none of the events which hold texts, or a sealed one that is not as `seal` writes it."""


def has_texts(value: bytes) -> bool:
    """Whether an event says anything that would be sealed."""
    envelope, data, kind = _parts(value)
    return bool(envelope.keys() - _ENVELOPE - {"data"}) or bool(data.keys() - _CLEAR[kind])


def seal(value: bytes, encrypt: Cipher | None) -> bytes:
    """The event with its texts encrypted; without a cipher they are left out. Raises NotSealable."""
    envelope, data, kind = _parts(value)
    clear, stand_ins = _CLEAR[kind], _STAND_INS[kind]
    around = {name: envelope.pop(name) for name in list(envelope) if name not in _ENVELOPE and name != "data"}
    rest = {name: text for name, text in data.items() if name not in clear}
    left: dict[str, Any] = {}
    for name, piece in data.items():
        if name in clear:
            left[name] = piece
        elif name in stand_ins:
            left[name] = _without_message(piece) if name == "error" else stand_ins[name]
    left[FIELD] = None if encrypt is None else encrypt(_ENCODER.encode((around, rest)), _bound_to(kind, envelope))
    return _ENCODER.encode({**envelope, "data": left})


def open_(value: bytes, decrypt: Cipher) -> bytes:
    """The event as it was before `seal`, perhaps in another order of its fields. Raises NotSealable and as `decrypt`."""
    envelope, data, kind = _parts(value)
    sealed = data.pop(FIELD, None)
    text = None if sealed is None else msgspec.json.decode(sealed, type=bytes | None)
    if text is None:
        raise NotSealable(f"data.{FIELD}: there is none")
    try:
        around, rest = _REST.decode(decrypt(text, _bound_to(kind, envelope)))
    except msgspec.MsgspecError as error:
        raise NotSealable(f"data.{FIELD}: {error}") from None
    return _ENCODER.encode({**envelope, **around, "data": {**data, **rest}})


def without_texts(value: bytes, data_subject: str | None = None) -> bytes:
    """A sealed event as folds read it when nobody can open it. Raises NotSealable."""
    envelope, data, kind = _parts(value)
    data.pop(FIELD, None)
    said: dict[str, Any] = {**data}
    if data_subject is not None and kind == "headrace.interaction.recorded.v1":
        said["data_subject"] = data_subject
    return _ENCODER.encode({**envelope, "data": said})


def erased(value: bytes) -> bytes:
    """A sealed event as it is shown when nobody can open it any more: ERASED where a text has to be. Others as they are."""
    try:
        envelope, data, kind = _parts(value)
    except NotSealable:
        return value
    data.pop(FIELD, None)
    for name in data.keys() & _STAND_INS[kind].keys():
        data[name] = Raw(bytes(data[name]).replace(SEALED.encode(), ERASED.encode()))
    return _ENCODER.encode({**envelope, "data": data})


def masked(value: bytes) -> bytes:
    """A sealed event without the encrypted part: what is left to compare when nobody can open it. Others as they are."""
    try:
        envelope, data, _ = _parts(value)
    except NotSealable:
        return value
    if data.pop(FIELD, None) is None:
        return value
    return _ENCODER.encode({**envelope, "data": data})


def _without_message(error: Raw) -> dict[str, Any]:
    """Of what is wrong with a record: the word for machines, which quotes nothing."""
    return {"code": msgspec.json.decode(error)["code"], "message": SEALED}


def _bound_to(kind: str, envelope: Mapping[str, Raw]) -> bytes:
    """An encrypted part is no other event's."""
    return kind.encode() + b" " + bytes(envelope.get("id", Raw(b"")))


def _parts(value: bytes) -> tuple[dict[str, Any], dict[str, Any], str]:
    try:
        envelope: dict[str, Any] = _PIECES.decode(value)
        data: dict[str, Any] = _PIECES.decode(envelope["data"])
        kind = _TEXT.decode(envelope["type"])
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as error:
        raise NotSealable(f"no event: {error}") from None
    if kind not in _CLEAR:
        raise NotSealable(f"type: {kind!r} holds no texts of a person")
    return envelope, data, kind
