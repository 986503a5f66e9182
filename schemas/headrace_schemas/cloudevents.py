"""CloudEvents modes of a Kafka record: structured (the value is the event) and binary (attributes in `ce_*` headers). Knows no
event type.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from headrace_schemas.errors import DecodeError, clipped
from headrace_schemas.json_limits import check_limits

Headers = Iterable[tuple[str, bytes | None]]

STRUCTURED = ("content-type", b"application/cloudevents+json")  # the header of an event in structured mode, as we write it
_MARKS = frozenset({"ce_specversion", "ce_id", "ce_source", "ce_type"})  # any of them: binary mode
_RAW = msgspec.json.Decoder(Raw)


def structured(value: bytes | None, headers: Headers = ()) -> bytes:
    """The record as one structured-mode JSON text: the value itself, or built from `ce_*` headers around it (binary mode)."""
    if value is not None and isinstance(headers, list | tuple) and headers and headers[0] == STRUCTURED:  # as nearly all are
        return value
    named = [(name, content) for name, content in headers if isinstance(name, str)] if headers else []
    binary = any(name in _MARKS for name, _ in named) and not _says_structured(named)
    if value is None:
        raise DecodeError("null_value", None, "record: null instead of an event")
    if not binary:
        return value
    attributes: dict[str, Any] = {}
    for name, content in named:
        attribute = _attribute(name)
        if attribute is None or content is None:
            continue
        if attribute in attributes or attribute == "data":
            raise DecodeError("bad_value", attribute, f"{attribute}: the header {clipped(name)} is one too many")
        attributes[attribute] = _text(attribute, content)
    check_limits(value)
    try:
        attributes["data"] = _RAW.decode(value)
        return msgspec.json.encode(attributes)
    except UnicodeEncodeError:
        raise DecodeError("not_utf8", None, "headers: a name that cannot be written as UTF-8") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DecodeError("not_json", "data", f"data: no JSON: {error}") from None


def _says_structured(headers: list[tuple[str, bytes | None]]) -> bool:
    return any(
        name.lower() == "content-type" and (content or b"").lower().startswith(b"application/cloudevents")
        for name, content in headers
    )


def _attribute(name: str) -> str | None:
    if name.startswith("ce_"):
        return name[3:] or None
    return "datacontenttype" if name.lower() == "content-type" else None


def _text(attribute: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(
            "not_utf8", attribute, f"{attribute}: header is no UTF-8: {error.reason} at byte {error.start}"
        ) from None
