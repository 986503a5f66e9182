"""What holds for a JSON text before anything is understood: UTF-8, nesting, integers within 64 bits.

Works on bytes only and is cheap on what is fine: one pass that makes all digits and brackets alike, then a few searches; only
what looks suspicious is taken apart. Knows no event type.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

from headrace_schemas.errors import DecodeError, clipped

RECORD_LIMIT = 1024 * 1024  # bytes of an event in structured mode, uncompressed
NESTING_LIMIT = 64
VALUE_LIMIT = 20_000  # of a published record: objects, arrays, strings, numbers, true, false and null; some 2 MB as objects
_CLIP = 200  # characters of a path through fields that we do not know
INT64 = range(-(2**63), 2**63)

# All digits become 0, every opening bracket {, every closing one }, E becomes e: what follows is a matter of searches.
_ALIKE = bytes.maketrans(b"123456789[]E", b"000000000{}e")
_LONG = b"0" * 19  # no integer with fewer digits leaves 64 bits
_EXPONENT = re.compile(rb"0e\+?000")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_EMPTY = re.compile(rb"[\[{]\s*[\]}]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}"))

_TREE = msgspec.json.Decoder()


def check_limits(raw: bytes) -> None:
    """DecodeError for bytes that are no UTF-8, nest too deeply or hold a number beyond 64 bits, in known fields or not."""
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            raise unreadable(error) from None
    alike = raw.translate(_ALIKE)
    if alike.count(b"{") > NESTING_LIMIT:
        _check_nesting(alike)
    if _LONG in alike or _has_exponent(alike):
        _check_numbers(raw)


def check_values(raw: bytes) -> None:
    """DecodeError for a JSON text with more than `VALUE_LIMIT` values. A list or object of n has n - 1 commas."""
    if len(raw) < 2 * VALUE_LIMIT or raw.count(b",") + raw.count(b"{") + raw.count(b"[") < VALUE_LIMIT:
        return
    bare = _STRING.sub(b'""', raw)
    values = 1 + bare.count(b",") + bare.count(b"{") + bare.count(b"[") - len(_EMPTY.findall(bare))
    if values > VALUE_LIMIT:
        raise DecodeError("over_limit", None, f"record: {values} JSON values, at most {VALUE_LIMIT} are allowed")


def tree_of(raw: bytes) -> Any:
    """The record as plain JSON. DecodeError when it is none."""
    try:
        return _TREE.decode(raw)
    except msgspec.ValidationError as error:  # numbers that no float and no integer holds
        raise DecodeError("out_of_range", None, f"record: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from None


def unreadable(error: Exception) -> DecodeError:
    """What a JSON parser raises, as one of our own."""
    if isinstance(error, RecursionError):
        return DecodeError("nesting", None, f"record: nested more than {NESTING_LIMIT} levels deep")
    if isinstance(error, UnicodeDecodeError):
        return DecodeError("not_utf8", None, f"record: no UTF-8: {error.reason} at byte {error.start}")
    return DecodeError("not_json", None, f"record: no JSON: {error}")


def _check_nesting(alike: bytes) -> None:
    """Takes strings away and then the innermost brackets, level by level: what is left after the last level is too deep."""
    brackets = _STRING.sub(b"", alike)
    if brackets.count(b"{") <= NESTING_LIMIT:
        return
    brackets = brackets.translate(None, _NOT_BRACKETS)
    for _ in range(NESTING_LIMIT):
        brackets = brackets.replace(b"{}", b"")
        if not brackets:
            return
    raise DecodeError("nesting", None, f"record: nested more than {NESTING_LIMIT} levels deep")


def _has_exponent(alike: bytes) -> bool:
    """Whether a number, not a word of hexadecimal digits in a string, has an exponent of three digits."""
    for match in _EXPONENT.finditer(alike):
        before = alike[max(0, match.start() - 32) : match.start() + 1].rstrip(b"0.").removesuffix(b"-")
        if before.endswith((b":", b",", b"{", b" ", b"\n", b"\r", b"\t")) or not before:
            return True
    return False


def _check_numbers(raw: bytes) -> None:
    """Walks the whole record for the place of a number that is too large, with a reader that takes them all."""
    try:
        todo: list[tuple[str, Any]] = [("", json.loads(raw.decode(), parse_int=_integer))]
    except ValueError as error:
        raise unreadable(error) from None
    while todo:
        path, value = todo.pop()
        if isinstance(value, dict):
            todo.extend((f"{path}.{name}" if path else name, item) for name, item in value.items())
        elif isinstance(value, list):
            todo.extend((f"{path}[{index}]", item) for index, item in enumerate(value))
        elif value == math.inf or value == -math.inf or (isinstance(value, int) and value not in INT64):
            what = "a number beyond all floats" if isinstance(value, float) else f"an integer beyond 64 bits: {clipped(value)}"
            path = path[:_CLIP].encode(errors="replace").decode()  # a name may hold lone surrogates
            raise DecodeError("out_of_range", path or None, f"{path or 'record'}: {what}")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 1000 else float(digits)  # Python reads no integer of thousands of digits
