"""What is wrong with an event: DecodeError, and how a msgspec message becomes one that names field and value.

The codes are few and for machines; the message is for people. Knows nothing of the rules themselves.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from headrace_schemas.inputs import NO_CONTROL
from headrace_schemas.root_error import USAGE, HeadraceError

CODES: dict[str, str] = {
    "null_value": "the record has no value",
    "not_utf8": "bytes that are no UTF-8, or a string that cannot be written as UTF-8",
    "not_json": "no JSON document",
    "not_an_object": "a JSON document, but no object",
    "nesting": "arrays and objects nested too deeply",
    "unknown_type": "no event type that can be read here, or a version that is not known",
    "missing": "a required attribute or field is absent or null",
    "wrong_type": "another JSON type than the field has",
    "bad_value": "a value outside a closed list, off a pattern, or at odds with another field",
    "out_of_range": "a number or a time that is too small or too large",
    "over_limit": "a string, list or record that is too long",
    "bad_time": "no RFC 3339 time with an offset",
    "future_time": "a time too far ahead of the record's append time",
}

_MESSAGE = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>\$.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([A-Za-z0-9_]+)|\[(\d+)\]|(\[\.\.\.\])")
_REQUIRED = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_CLIP = 80  # characters of a value that a message repeats


class DecodeError(HeadraceError, ValueError):
    """An event that is none. `code` is one of CODES, `field` a dotted path (`data.prompt`) or None for the whole record."""

    exit_code = USAGE

    def __init__(self, code: str, field: str | None, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.message = message

    def __reduce__(self) -> tuple[type[DecodeError], tuple[str, str | None, str]]:
        return type(self), (self.code, self.field, self.message)


class Spot(NamedTuple):
    """Where in a tree something is: the container, the key or index in it (None: the root itself) and the dotted path."""

    holder: Any
    last: Any
    field: str | None
    value: Any


def clipped(value: Any) -> str:
    """A value as JSON for a message, cut after 80 characters; never raises."""
    try:
        text = msgspec.json.encode(value[:_CLIP] if isinstance(value, str) else value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= _CLIP else text[:_CLIP] + "…"


def spot(tree: Any, path: str) -> Spot:
    """Follows msgspec's `$.data.refs[1].id`. A key of a free map is not told (`[...]`): the path and the value end there."""
    holder: Any = None
    last: Any = None
    value, names = tree, ""
    for name, index, hidden in _STEP.findall(path):
        if hidden:
            break
        step: Any = int(index) if index else name
        names += f"[{index}]" if index else f".{name}"
        holder, last = value, step
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            value = None
    return Spot(holder, last, names.removeprefix(".") or None, value)


def whole_number(error: msgspec.ValidationError, tree: Any) -> Spot | None:
    """The place of a float without fraction where an integer is expected (`1.0` for 1); None when `error` is another one."""
    what, path = _parts(error)
    if not what.startswith("Expected `int") or not what.endswith("got `float`"):
        return None
    found = spot(tree, path)
    ok = found.holder is not None and isinstance(found.value, float) and found.value.is_integer()
    return found if ok else None


def fault(error: msgspec.ValidationError, tree: Any) -> DecodeError:
    """The DecodeError for a msgspec error on `tree`, the plain JSON of the same record."""
    what, path = _parts(error)
    found = spot(tree, path)
    required = _REQUIRED.fullmatch(what)
    if required:
        field = f"{found.field}.{required[1]}" if found.field else required[1]
        return DecodeError("missing", field, f"{field}: required, but absent")
    if found.field is None and not isinstance(tree, dict):
        return DecodeError("not_an_object", None, f"record: an event is a JSON object, not {clipped(tree)}")
    code = "unknown_type" if found.field == "type" and what.startswith("Invalid value") else _code(what)
    if code == "wrong_type" and found.value is None:
        code = "missing"
    return DecodeError(code, found.field, f"{found.field or 'record'}: {_sentence(code, what)}; it is {clipped(found.value)}")


def _parts(error: msgspec.ValidationError) -> tuple[str, str]:
    match = _MESSAGE.fullmatch(str(error))
    return (match["what"], match["path"] or "$") if match else (str(error), "$")


def _code(what: str) -> str:
    if "of length" in what:
        return "over_limit" if "<=" in what else "out_of_range"
    if "matching regex" in what or what.startswith("Invalid"):
        return "bad_value"
    if "out of range" in what or "<=" in what or ">=" in what:
        return "out_of_range"
    return "wrong_type"


def _sentence(code: str, what: str) -> str:
    if code == "unknown_type":
        return "no event type or version that is known here"
    if repr(NO_CONTROL) in what:
        return "must hold no control characters"
    return what[:1].lower() + what[1:].replace("`", "")
