"""Writes an event as JSON, or says which field can't be. Knows what has a JSON form; no event type and no rule of the contract.

What consists of nothing but JSON's own types is written by msgspec (0.5 us of an event, the standard library takes 9). It would
also write what is none, such as bytes, a set, or NaN as null: a lost score instead of an error. So all else goes the other way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

import msgspec

from headrace_schemas.errors import DecodeError
from headrace_schemas.published import check_published

_ENCODER = msgspec.json.Encoder()


def written(event: Mapping[str, Any], now_ms: int) -> bytes:
    """The event as compact JSON. DecodeError, by the clock of `now_ms`, when a value of it has no JSON form."""
    try:
        if _is_json(event):
            return _ENCODER.encode(event)
    except (TypeError, ValueError, OverflowError, RecursionError):  # half a character, a huge number, what contains itself
        pass
    return _written_slowly(event, now_ms)


def _is_json(value: Any) -> bool:
    """Whether it is made of JSON's types alone, and no subclass of them."""
    kind = type(value)
    if kind is dict:
        for name, item in value.items():  # noqa: SIM110 - half as long as all() of a generator
            if type(name) is not str or not (type(item) is str or _is_json(item)):
                return False
        return True
    if kind is list or kind is tuple:
        return all(map(_is_json, value))
    return kind is str or kind is int or kind is bool or value is None or (kind is float and isfinite(value))


def _written_slowly(event: Mapping[str, Any], now_ms: int) -> bytes:
    try:
        return _json(event)
    except (TypeError, ValueError, RecursionError) as error:
        _explain(event, now_ms)
        for name, value in event["data"].items():
            try:
                _json(value)
            except (TypeError, ValueError, RecursionError) as cause:
                raise DecodeError("not_json", f"data.{name}", f"{name}: no JSON: {cause}") from None
        raise DecodeError("not_json", None, f"event: no JSON: {error}") from None


def _explain(event: Mapping[str, Any], now_ms: int) -> None:
    """Raises what the decoder says of an event with NaN or half a character in it: field, value and what is right."""
    try:
        raw = json.dumps(event, default=_plain).encode()  # which Python writes, as no JSON that anybody else reads
    except (TypeError, ValueError, RecursionError):
        return
    check_published(raw, now_ms)


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    """Messages and tool calls as model libraries return them (pydantic), and numpy's numbers."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_none=True)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
