"""One disagreement between a log and what its rules make of it, and how two JSON texts differ. Knows no log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec


class Difference(NamedTuple):
    """One disagreement. `field` is key, value, headers, missing, unexpected, counters, now, state, position or rules.

    `topic/partition` is the input that `stage` reads and `offset` a record of it; of a record that nobody accounts for they are
    where it lies, and `stage` is one that writes there."""

    stage: str
    topic: str
    partition: int
    offset: int | None
    field: str
    expected: str
    found: str

    def __str__(self) -> str:
        where = f"{self.stage} over {self.topic}/{self.partition}" + ("" if self.offset is None else f"@{self.offset}")
        return f"{where}: {self.field}: expected {self.expected}, found {self.found}"


def json_differences(expected: bytes, found: bytes) -> list[tuple[str, str, str]]:
    """Paths at which two JSON texts differ; the whole texts where one is no JSON or they differ in form only."""
    if expected == found:
        return []
    try:
        paths = list(_walk("", msgspec.json.decode(expected), msgspec.json.decode(found)))
    except (msgspec.DecodeError, RecursionError):
        paths = []
    return paths or [("", repr(expected[:200]), repr(found[:200]))]


def brief(topic: str, key: bytes, value: bytes) -> str:
    """A record in a line, cut."""
    return f"{topic} key {key[:80]!r} value {value[:200]!r}"


def _walk(path: str, expected: Any, found: Any) -> Iterable[tuple[str, str, str]]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in sorted(expected.keys() | found.keys()):
            yield from _walk(f"{path}.{name}", expected.get(name), found.get(name))
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (left, right) in enumerate(zip(expected, found, strict=True)):
            yield from _walk(f"{path}[{index}]", left, right)
    elif expected != found:
        yield path, repr(expected)[:200], repr(found)[:200]
