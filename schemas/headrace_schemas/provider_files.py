"""Images, audio and documents inside a provider's message, as references of the contract. Pure; knows no message around them.

Bytes never go onto the log: what comes inline (base64, `data:`) is referred to by its SHA-256, `sha256:…`, whatever its size. An
agent that wants to keep it puts it under that name. What lies at the provider is `provider-file:ID`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from headrace_schemas.canonical import sha256
from headrace_schemas.errors import DecodeError, clipped

FILE_PARTS = frozenset({"image_url", "input_image", "input_audio", "file", "input_file", "image", "document"})
"""Types of parts that are files."""


def file_parts(part: Mapping[str, Any], kind: str, field: str) -> list[Any]:
    """The reference for what is no text; a document that is text stays text."""
    if kind in ("image", "document"):
        source, where = object_in(part, "source", field), f"{field}.source"
        if source.get("type") == "text":
            return [{"type": "text", "text": text_in(source, "data", where)}]
        if "file_id" in source:
            return [_reference(_media(kind), text_in(source, "file_id", where))]
        if "url" in source:
            return [_by_url(text_in(source, "url", where), _media(kind), f"{where}.url")]
        return [inline(text_in(source, "data", where), text_in(source, "media_type", where), f"{where}.data")]
    if kind == "input_audio":
        audio, where = object_in(part, kind, field), f"{field}.{kind}"
        return [inline(text_in(audio, "data", where), f"audio/{text_in(audio, 'format', where)}", f"{where}.data")]
    inner = part.get(kind.removeprefix("input_")) if kind == "file" else part
    where = f"{field}.file" if kind == "file" else field
    held: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {}
    if isinstance(held.get("file_id"), str):
        return [_reference(_media(kind), held["file_id"])]
    for name in ("image_url", "file_url", "file_data"):
        given = held.get(name)
        url = given.get("url") if isinstance(given, Mapping) else given
        if url is not None:
            if not isinstance(url, str):
                raise DecodeError("wrong_type", f"{where}.{name}", f"{where}.{name}: a text is needed; it is {clipped(url)}")
            return [_by_url(url, _media(kind), f"{where}.{name}", plain_data=name == "file_data")]
    raise DecodeError("missing", where, f"{where}: says neither where it lies nor what is in it; it is {clipped(part)}")


def _media(kind: str) -> str:
    """The media type where a provider gives none."""
    return "image/*" if "image" in kind else "application/octet-stream"


def _reference(media_type: str, file_id: str) -> dict[str, Any]:
    return {"type": "ref", "media_type": media_type, "uri": f"provider-file:{file_id}"}


def _by_url(url: str, media_type: str, field: str, *, plain_data: bool = False) -> dict[str, Any]:
    if not url.startswith("data:"):
        return inline(url, media_type, field) if plain_data else {"type": "ref", "media_type": media_type, "uri": url}
    head, comma, data = url.removeprefix("data:").partition(",")
    if not comma:
        raise DecodeError("bad_value", field, f"{field}: no data URI; it is {clipped(url)}")
    media, encoding = head.split(";")[0] or media_type, head.rpartition(";")[2]
    return inline(data, media, field) if encoding == "base64" else _digested(unquote_to_bytes(data), media)


def inline(data: str, media_type: str, field: str) -> dict[str, Any]:
    """The reference for bytes that are given as base64."""
    try:
        return _digested(base64.b64decode("".join(data.split()), validate=True), media_type)
    except (binascii.Error, ValueError):
        raise DecodeError("bad_value", field, f"{field}: no base64; it is {clipped(data)}") from None


def _digested(data: bytes, media_type: str) -> dict[str, Any]:
    digest = sha256(data)
    return {"type": "ref", "media_type": media_type, "uri": digest, "sha256": digest}


def text_in(holder: Mapping[str, Any], name: str, field: str) -> str:
    """The text `name` of `holder`; DecodeError when it is absent, empty or no text."""
    value = holder.get(name)
    if value is None or value == "":
        raise DecodeError("missing", f"{field}.{name}", f"{field}.{name}: required; it is {clipped(value)} in {clipped(holder)}")
    if not isinstance(value, str):
        raise DecodeError("wrong_type", f"{field}.{name}", f"{field}.{name}: a text is needed; it is {clipped(value)}")
    return value


def object_in(holder: Mapping[str, Any], name: str, field: str) -> Mapping[str, Any]:
    value = holder.get(name)
    if not isinstance(value, Mapping):
        raise DecodeError("wrong_type", f"{field}.{name}", f"{field}.{name}: an object is needed; it is {clipped(value)}")
    return value


def list_in(holder: Mapping[str, Any], name: str, field: str) -> Sequence[Any]:
    value = holder.get(name)
    if not isinstance(value, list | tuple):
        raise DecodeError("wrong_type", f"{field}.{name}", f"{field}.{name}: a list is needed; it is {clipped(value)}")
    return value
