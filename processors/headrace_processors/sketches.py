"""How alike texts are, and whether one stands in another, by sketches that hold no text. Pure; knows no event and no state.

A text is the set of its pieces, one or several words each, hashed to 32 bits. Its *sketch* is the smallest of these hashes, as
many as there is room for (bottom-k: Cohen and Kaplan, "Summarizing data using bottom-k sketches", 2007), in base64. Two sketches
are compared below the hash up to which both are complete: exactly where neither text has more pieces than its room, else with a
standard error of sqrt(p (1 - p) / k), k being the hashes there: 0.04 at most of 128.

curate's sketches (near_duplicates.py) are of bytes, for texts of the same form; here a reply stands in a file, indented anew.
"""

from __future__ import annotations

import re
import struct
from base64 import b64decode, b64encode
from bisect import bisect_left
from functools import lru_cache
from heapq import nsmallest
from typing import NamedTuple
from zlib import crc32

COMPARED = 64 * 1024  # characters of a text that are looked at: a MiB would take 0.2 s
MOST = 4096  # hashes of any sketch
KEPT = 256  # sketches that are kept read: all of a session of 64 turns and 16 reports. 10 MB of ours
FEWEST = 8  # pieces of a text about which it can be said that it stands in another: fewer are there by chance

_LETTERS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # of languages that are written without blanks: a word each
_WORDS = re.compile(f"[{_LETTERS}]|[^\\W{_LETTERS}]+")
_ALL = 1 << 32
_CUT = "~"  # begins the sketch of a text that has more pieces
_SPREAD, _MASK = 0x9E3779B1, _ALL - 1  # odd: a permutation. CRCs of like texts are like each other


class _Hashes(NamedTuple):
    """Those of a text that are below `limit`, all of them: in order, and as a set."""

    ordered: tuple[int, ...]
    known: frozenset[int]
    limit: int

    def below(self, limit: int) -> frozenset[int]:
        return self.known if limit >= self.limit else frozenset(self.ordered[: self.count(limit)])

    def count(self, limit: int) -> int:
        return len(self.ordered) if limit >= self.limit else bisect_left(self.ordered, limit)


def sketch_of(text: str, *, words: int, room: int) -> str | None:
    """The sketch of a text by pieces of so many words; None of a text without a word. A shorter text is one piece."""
    found = [each.encode(errors="replace") for each in _WORDS.findall(text[:COMPARED].casefold())]
    if not found:
        return None
    if words > 1:
        found = [b" ".join(found[start : start + words]) for start in range(max(1, len(found) - words + 1))]
    hashes = {crc32(piece) * _SPREAD & _MASK for piece in found}
    least = sorted(hashes) if len(hashes) <= room else nsmallest(room, hashes)
    coded = b64encode(struct.pack(f">{len(least)}I", *least)).decode()
    return _CUT + coded if len(least) < len(hashes) else coded


def overlap(one: str | None, other: str | None) -> float:
    """Jaccard similarity of two texts, 0 to 1; 0 where one has no sketch."""
    first, second, both = _compared(one, other)
    return both / (first + second - both or 1)


def containment(part: str | None, whole: str | None) -> float:
    """How much of a text stands in another, 0 to 1; 0 where one has no sketch, or too little is known to say."""
    mine, _, both = _compared(part, whole)
    return both / mine if mine >= FEWEST else 0.0


def _compared(one: str | None, other: str | None) -> tuple[int, int, int]:
    """Of the hashes up to which both sketches are complete those of the one, of the other, and of both; 0 without a sketch."""
    if one is None or other is None:
        return 0, 0, 0
    first, second = _read(one), _read(other)
    limit = min(first.limit, second.limit)
    mine = first.below(limit)
    return len(mine), second.count(limit), len(mine & second.known)


@lru_cache(maxsize=KEPT)
def _read(coded: str) -> _Hashes:
    """ValueError for what is no sketch. Each record about a session compares what is in it once more, each with each."""
    data = b64decode(coded.removeprefix(_CUT), validate=True)
    if len(data) % 4 or not 0 < len(data) <= 4 * MOST:
        raise ValueError(f"sketch: {len(data)} bytes are no hashes of 4 bytes each, at most {MOST}")
    hashes = struct.unpack(f">{len(data) // 4}I", data)
    return _Hashes(hashes, frozenset(hashes), hashes[-1] + 1 if coded.startswith(_CUT) else _ALL)
