"""What stands in a record for private text: `[EMAIL_1]`, numbered by distinct value, the same value always the same. One record.

Numbers that the record already holds, as text that was scrubbed before does, are not given to other values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_WRITTEN = re.compile(r"\[([A-Z][A-Z0-9_]*)_([0-9]{1,6})\]")


class Placeholders:
    """Hands out placeholders for the values of one record and counts the places that got one, by kind."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.counts: Counter[str] = Counter()
        self._given: dict[tuple[str, str], str] = {}
        self._last: dict[str, int] = {}
        for text in texts:
            if "[" in text:
                for kind, number in _WRITTEN.findall(text):
                    self._last[kind] = max(self._last.get(kind, 0), int(number))

    def of(self, kind: str, value: str) -> str:
        """The placeholder of a value; addresses are the same whatever their case."""
        self.counts[kind] += 1
        key = (kind, value.casefold() if kind == "email" else value)
        given = self._given.get(key)
        if given is None:
            name = kind.upper()
            number = self._last[name] = self._last.get(name, 0) + 1
            given = self._given[key] = f"[{name}_{number}]"
        return given
