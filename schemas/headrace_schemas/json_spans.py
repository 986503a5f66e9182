"""Where in a JSON text a field stands: for showing people what is wrong with it. Knows paths as errors name them, no event.

The text may be anybody's: what is no JSON has a place where it stops to be, and a field that is not there has one that it is
missing from.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed leaves it out
from typing import Literal, NamedTuple

_WHITE = re.compile(r"[ \t\n\r]*")
_INDEX = re.compile(r"\[(\d+)\]")
_SCAN = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


class TextSpan(NamedTuple):
    """Characters `start` to `end` of a text. `what`: the field itself, what it is missing from, or where the text is no JSON."""

    start: int
    end: int
    what: Literal["field", "missing", "broken"]


def span_of(text: str, field: str | None) -> TextSpan | None:
    """The place of `field`, a dotted path (`data.messages[2].role`), in a JSON text. None for a whole record, or where a text
    nests too deeply to be looked at. Of a name that is given twice the last one counts, as for every reader of ours."""
    try:
        start = _skip(text, 0)
        end = _SCAN(text, start)[1]
        behind = _skip(text, end)
        if behind != len(text):
            return TextSpan(behind, len(text), "broken")
        return None if field is None else _follow(text, field, start, end)
    except json.JSONDecodeError as error:
        return TextSpan(min(error.pos, len(text)), min(error.pos + 1, len(text)), "broken")
    except StopIteration as stopped:  # no value where one has to be
        at = int(stopped.value) if isinstance(stopped.value, int) else 0
        return TextSpan(min(at, len(text)), min(at + 1, len(text)), "broken")
    except (RecursionError, ValueError):  # a number of more digits than Python reads
        return None


def _follow(text: str, rest: str, start: int, end: int) -> TextSpan:
    while rest:
        found = _member(text, rest, start) if text[start] == "{" else _element(text, rest, start) if text[start] == "[" else None
        if found is None:
            return TextSpan(start, end, "missing")
        start, end, rest = found
    return TextSpan(start, end, "field")


def _member(text: str, rest: str, start: int) -> tuple[int, int, str] | None:
    """Start and end of the value that a path goes through next, and what is left of the path: a name may hold dots itself."""
    found: tuple[int, int, str] | None = None
    longest = -1
    at = _skip(text, start + 1)
    while text[at] != "}":
        name, at = scanstring(text, at + 1)
        value = _skip(text, _skip(text, at) + 1)
        end = _SCAN(text, value)[1]
        if len(name) >= longest and rest.startswith(name) and (rest[len(name) :][:1] in ("", ".", "[")):
            longest, found = len(name), (value, end, rest[len(name) :].removeprefix("."))
        at = _next(text, end)
    return found


def _element(text: str, rest: str, start: int) -> tuple[int, int, str] | None:
    index = _INDEX.match(rest)
    if index is None:
        return None
    at, number = _skip(text, start + 1), 0
    while text[at] != "]":
        end = _SCAN(text, at)[1]
        if number == int(index[1]):
            return at, end, rest[index.end() :].removeprefix(".")
        at, number = _next(text, end), number + 1
    return None


def _next(text: str, end: int) -> int:
    """Where the next member begins, or the closing bracket stands."""
    at = _skip(text, end)
    return _skip(text, at + 1) if text[at] == "," else at


def _skip(text: str, at: int) -> int:
    match = _WHITE.match(text, at)
    return at if match is None else match.end()
