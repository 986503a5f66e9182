"""What a publisher is told: why a record is none, in one line that names field and value and says what is right.

Works on a DecodeError of the decoder and the bytes that it was about; decides nothing, except that an error which a JSON parser
can't place (half a surrogate pair, NaN) gets the field and code of what is really wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

from headrace_schemas.errors import DecodeError, clipped
from headrace_schemas.events import InputEvent
from headrace_schemas.inputs import FinishReason

_MARKS = (
    (b"\xef\xbb\xbf", "UTF-8 with a byte order mark (EF BB BF) at its beginning; write it without one"),
    (b"\xff\xfe", "UTF-16 or UTF-32; write it as UTF-8"),
    (b"\xfe\xff", "UTF-16; write it as UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32; write it as UTF-8"),
)
_INPUTS = ", ".join(str(kind.__struct_config__.tag) for kind in get_args(InputEvent))
# Closed lists and patterns, by the end of the field's path: what is right.
_RIGHT = (
    (re.compile(r"(^|\.)content\[\d+\]\.type"), 'it must be "text" or "ref"; what is not text is carried by reference: '
                                                '{"type": "ref", "media_type": …, "uri": …}'),
    (re.compile(r"\.role"), "it must be system, developer, user, assistant or tool"),
    (re.compile(r"\.finish_reason"), f"it must be {', '.join(get_args(FinishReason))}, or absent"),
    (re.compile(r"\.principal\.kind"), "it must be human, validator, test or agent"),
    (re.compile(r"^specversion"), 'it must be "1.0"'),
    (re.compile(r"\.artifact_type"), "it must be 1 to 64 of a-z, 0-9, _ . -, and begin with a letter or digit"),
    (re.compile(r"^data\.kind"), "it must be 1 to 40 of a-z and _"),
    (re.compile(r"\.adapter"), "it must be sha256: and 64 hexadecimal digits in lower case"),
)  # fmt: skip
_BYTE = re.compile(r"JSON is malformed: (?P<what>.+?) \(byte (?P<byte>\d+)\)")
_AROUND = 20  # bytes before and after the place of an error that are shown


def explained(error: DecodeError, raw: bytes) -> DecodeError:
    """The same error in words for whoever published `raw`, at most as long as a record may be."""
    if error.code == "bad_value" and error.field is not None:
        for field, right in _RIGHT:
            if _ends(field, error.field):
                value = error.message.rpartition("; it is ")[2]
                return DecodeError(error.code, error.field, f"{error.field}: is {value}, {right}")
    if error.code == "unknown_type":
        return DecodeError(error.code, error.field, f"{error.message}; what may be published: {_INPUTS}")
    return _malformed(error, raw) if error.code in ("not_json", "not_utf8") else error


def _ends(field: re.Pattern[str], path: str) -> bool:
    return any(match.end() == len(path) for match in field.finditer(path))


def _malformed(error: DecodeError, raw: bytes) -> DecodeError:
    """No JSON, or no text: by its first bytes, by what a more tolerant reader finds, or by the place where it goes wrong."""
    for mark, what in _MARKS:
        if raw.startswith(mark):
            return DecodeError(error.code, None, f"record: is {what}")
    try:
        tree = json.loads(raw, parse_constant=_Constant)
    except (ValueError, RecursionError):
        return _placed(error, raw)
    for path, value in _leaves(tree):
        if isinstance(value, _Constant):
            return DecodeError("not_json", path or None, f"{path or 'record'}: is {value.name}, which JSON has not; leave it out")
        if isinstance(value, str) and (half := _half(value)):
            message = (
                f"{path or 'record'}: holds \\u{half:04x}, half of a character (a lone surrogate); cut texts between characters"
            )
            return DecodeError("not_utf8", path or None, message)
    return _placed(error, raw)


def _placed(error: DecodeError, raw: bytes) -> DecodeError:
    if error.message.endswith("Input data was truncated"):
        return DecodeError(error.code, error.field, f"record: no JSON: it ends too early, after {len(raw)} bytes")
    found = _BYTE.search(error.message)
    if found is None:
        return error
    place = int(found["byte"])
    near = clipped(raw[max(0, place - _AROUND) : place + _AROUND].decode(errors="replace"))
    return DecodeError(error.code, error.field, f"record: no JSON: {found['what']} at byte {place}, near {near}")


class _Constant:
    """NaN or an infinity, which Python's reader takes for numbers."""

    def __init__(self, name: str) -> None:
        self.name = name


def _half(text: str) -> int:
    """The first lone surrogate of a text, or 0."""
    return next((ord(char) for char in text if "\ud800" <= char <= "\udfff"), 0)


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Path and value of every scalar, and of every name that can't be written (the path is then that of its object)."""
    todo: list[tuple[str, Any]] = [("", tree)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, dict):
            for name, item in reversed(value.items()):
                todo.append((path, name) if _half(name) else (f"{path}.{name}" if path else name, item))
        elif isinstance(value, list):
            todo.extend((f"{path}[{index}]", item) for index, item in reversed(list(enumerate(value))))
        else:
            yield path[:200], value
