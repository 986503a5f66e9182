"""The copy of a text that patterns search: compatible forms made alike, what nobody sees left out. Knows where each piece was.

NFKC (Unicode Standard Annex 15) is applied from one base character to the next, so that every character of the copy has a place
in the original; invisible characters go, digits of other scripts become 0-9. Look-alikes of other alphabets stay what they are.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

# Zero width and direction marks, soft hyphen, joiners, variation selectors, tags, fillers.
_UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff"
)
_TO_FOLD = re.compile(rf"[{_UNSEEN}]|[^\D0-9]")
_INVISIBLE = re.compile(rf"[{_UNSEEN}]")
_OTHERS = re.compile(r"[^\x00-\x7f]+")


class Folded(NamedTuple):
    """`text` is searched; `starts` and `ends` give the original place of each of its characters, None where nothing moved."""

    text: str
    starts: list[int] | None = None
    ends: list[int] | None = None

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Where a piece of the copy, which is not empty, stands in the original."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]


def fold(text: str) -> Folded:
    """The copy of a text; the text itself in nearly all cases."""
    if text.isascii() or (unicodedata.is_normalized("NFKC", text) and not _TO_FOLD.search(text)):
        return Folded(text)
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    end = 0
    for run in _OTHERS.finditer(text):
        begin = run.start()
        # a mark belongs to the letter before it, which may be ASCII
        if begin > end and unicodedata.combining(text[begin]):
            begin -= 1
        _keep(text, end, begin, pieces, starts, ends)
        end = run.end()
        _fold_run(text, begin, end, pieces, starts, ends)
    _keep(text, end, len(text), pieces, starts, ends)
    return Folded("".join(pieces), starts, ends)


def _keep(text: str, begin: int, end: int, pieces: list[str], starts: list[int], ends: list[int]) -> None:
    pieces.append(text[begin:end])
    starts.extend(range(begin, end))
    ends.extend(range(begin + 1, end + 1))


def _fold_run(text: str, begin: int, end: int, pieces: list[str], starts: list[int], ends: list[int]) -> None:
    while begin < end:
        after = begin + 1
        while after < end and unicodedata.combining(text[after]):
            after += 1
        alike = "".join(_digit(char) for char in unicodedata.normalize("NFKC", _INVISIBLE.sub("", text[begin:after])))
        pieces.append(alike)
        starts.extend([begin] * len(alike))
        ends.extend([after] * len(alike))
        begin = after


def _digit(char: str) -> str:
    return str(unicodedata.decimal(char)) if char.isdecimal() else char
