"""How alike two texts are, by their shingles: sketches, the index that finds candidates, exact similarity. Knows no state.

A text is the set of its shingles (5 bytes of UTF-8 each), hashed to 32 bits. Its *sketch* is the 128 smallest hashes, in order
(bottom-k: Cohen and Kaplan, "Summarizing data using bottom-k sketches", 2007): the whole set of a text with no more, so that the
Jaccard similarity of two such is exact; of longer texts an estimate with a standard error of 0.03 at 0.85. Candidates are found
by MinHash signatures over the sketches and banding (Broder 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets",
ch. 3): 16 bands of 4, so that a pair of similarity 0.85 is missed once in 10^5 and one of 0.3 is looked at once in eight.

All of it is integer arithmetic that is written here: a library may change its digests with its version, and the state outlives
that. numpy only carries it out.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections import Counter

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

SHINGLE = 5  # bytes
SKETCH = 128  # hashes
COMPARED = 64 * 1024  # bytes of a text that are looked at: sorting a MiB would take 60 ms
VERIFIED = 16  # candidates of one text that are compared exactly, those with most equal bands first
BANDS, ROWS = 16, 4
MANY = 64  # equal bands, from which on they are counted by numpy

_MASK = np.uint64((1 << 8 * SHINGLE) - 1)
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)  # odd: products are permutations
_THIRD = np.uint32(0x85EBCA6B)
_SHIFT, _HALF = np.uint64(29), np.uint64(32)
_POINTS = (np.arange(BANDS * ROWS, dtype=np.uint32) << np.uint32(26)).astype("<u4")  # 64 places on the ring of 2^32
_BAND = BANDS * 8  # bytes
_FIGURES = re.compile(r"\d+")

Hashes = NDArray[np.uint32]


def sketch(text: str, salt: str = "") -> bytes:
    """The sketch of a text: up to 128 hashes, ascending, little-endian. Texts of another `salt` have nothing in common."""
    data = text.encode(errors="replace")[:COMPARED]
    count = max(1, len(data) - SHINGLE + 1)
    padded = data.ljust(SHINGLE, b"\0") + bytes(8 - SHINGLE)
    hashed = np.ndarray((count,), "<u8", padded, 0, (1,)) & _MASK  # every 5 bytes in a row
    if salt:
        hashed ^= np.uint64(int.from_bytes(hashlib.blake2b(salt.encode(errors="replace"), digest_size=8).digest(), "little"))
    hashed *= _FIRST
    hashed ^= hashed >> _SHIFT
    hashed *= _SECOND
    if count > 4 * SKETCH:  # sorting what is surely among the smallest costs a third of sorting all
        few = _smallest(hashed[hashed < np.uint64((3 * SKETCH << 64) // count)])
        if len(few) == SKETCH:
            return few.tobytes()
    return _smallest(hashed).tobytes()


def figures(text: str) -> str:
    """The numbers of a text, in their order."""
    return " ".join(_FIGURES.findall(text))


def similarity(one: bytes, other: bytes) -> float:
    """Jaccard similarity of two texts by their sketches, 0 to 1: exact where neither has more than 128 shingles."""
    both = np.frombuffer(one + other, "<u4").copy()
    both.sort()
    repeated = both[1:] == both[:-1]  # a sketch has no hash twice: what is there twice is in both
    distinct = len(both) - int(repeated.sum())
    if max(len(one), len(other)) < 4 * SKETCH:
        return int(repeated.sum()) / distinct
    wanted = min(distinct, SKETCH)
    firsts = np.flatnonzero(np.concatenate(([True], ~repeated)))  # where each distinct hash stands first
    end = int(firsts[wanted]) if wanted < distinct else len(both)
    return int(repeated[: end - 1].sum()) / wanted


def bands(sketched: bytes) -> bytes:
    """The bands of a sketch's MinHash signature. An entry of the signature is the hash that comes next on a ring after a fixed
    place: as good as a permutation of its own, and there is one for every place however few hashes there are."""
    ring = np.frombuffer(sketched, "<u4") * _THIRD
    ring.sort()
    signature = ring.take(ring.searchsorted(_POINTS), mode="wrap").astype("<u4", copy=False)
    pairs = signature.view("<u8")
    mixed = pairs[::2] * _FIRST
    mixed ^= pairs[1::2] * _SECOND
    return mixed.astype("<u8", copy=False).tobytes()


class NearIndex(Struct, frozen=True):
    """The members among which near-duplicates are looked for, ordered by id, and their bands, row by row. They are as few as an
    open bucket may hold: one comparison of all rows costs less than sixteen tables (1000 rows: 20 µs), and is a value."""

    ids: tuple[str, ...] = ()
    rows: bytes = b""

    def add(self, example_id: str, row: bytes) -> NearIndex:
        """With a member and the bands of its sketch."""
        place = bisect_left(self.ids, example_id)
        start = place * _BAND
        return NearIndex((*self.ids[:place], example_id, *self.ids[place:]), self.rows[:start] + row + self.rows[start:])

    def remove(self, example_id: str) -> NearIndex:
        place = bisect_left(self.ids, example_id)
        start = place * _BAND
        return NearIndex(self.ids[:place] + self.ids[place + 1 :], self.rows[:start] + self.rows[start + _BAND :])

    def candidates(self, row: bytes) -> list[str]:
        """Members that share one of the bands `row`, those that share most first."""
        if not self.ids:
            return []
        shared = np.frombuffer(self.rows, "<u8").reshape(-1, BANDS) == np.frombuffer(row, "<u8")
        bits = np.flatnonzero(shared)
        if len(bits) > MANY:
            counts = shared.sum(axis=1)
            found = np.flatnonzero(counts)
            best = found[np.argsort(-counts[found], kind="stable")].tolist()
        else:  # as most are: adding up all rows costs twice what comparing them does
            best = [place for place, _ in Counter(bit // BANDS for bit in bits.tolist()).most_common(VERIFIED)]
        return [self.ids[place] for place in best[:VERIFIED]]


def _smallest(hashed: NDArray[np.uint64]) -> Hashes:
    """The 128 smallest different ones of the upper halves, ascending."""
    ascending = (hashed >> _HALF).astype("<u4")
    ascending.sort()
    first = np.empty(len(ascending), dtype=bool)
    first[:1] = True
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    return ascending[first][:SKETCH]
