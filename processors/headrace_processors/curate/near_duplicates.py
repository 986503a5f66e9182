"""How alike two texts are, by their shingles: sketches, their bands, exact similarity. Knows no state and no index.

A text is the set of its shingles (5 bytes of UTF-8 each), hashed to 32 bits. Its *sketch* is the 128 smallest hashes, in order
(bottom-k: Cohen and Kaplan, "Summarizing data using bottom-k sketches", 2007): the whole set of a text with no more, so that the
Jaccard similarity of two such is exact; of longer texts an estimate with a standard error of 0.03 at 0.85. Candidates are found
by MinHash signatures over the sketches and banding (Broder 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets",
ch. 3): 16 bands of 4, so that a pair of similarity 0.85 is missed once in 10^5 and one of 0.3 is looked at once in eight.

All of it is integer arithmetic that is written here: a library may change its digests with its version, and the state outlives
that. numpy only carries it out, on many texts at once: the same calls on one text cost five times as much.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5  # bytes
SKETCH = 128  # hashes
COMPARED = 64 * 1024  # bytes of a text that are looked at: sorting a MiB would take 60 ms
TOGETHER = 16 * 1024  # bytes of texts that are hashed at once: larger arrays were given back and mapped anew each time (+50 %)
SORTED = 7 * SKETCH // 2  # of the smallest hashes of a long text: with fewer one code text in seven had too many equal ones
BANDS, ROWS = 16, 4

_MASK = np.uint64((1 << 8 * SHINGLE) - 1)
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)  # odd: products are permutations
_THIRD = np.uint32(0x85EBCA6B)
_SHIFT, _HALF = np.uint64(29), np.uint64(32)
_MOST = (1 << 64) - 1
_PLACES = BANDS * ROWS  # on the ring of 2^32, evenly
_PLACE = np.uint32(26)  # bits between two
_BAND = BANDS * 8  # bytes of all bands
_WHOLE = 4 * SKETCH  # bytes of a sketch that is not the whole set
_FIGURES = re.compile(r"\d+")
_ZERO, _TEN, _BLANK = np.uint8(ord("0")), np.uint8(10), np.uint8(ord(" "))


def sketch(text: str, salt: str = "") -> bytes:
    """The sketch of a text: up to 128 hashes, ascending, little-endian. Texts of another `salt` have nothing in common."""
    return sketches([text], [salt])[0]


def sketches(texts: Sequence[str], salts: Sequence[str]) -> list[bytes]:
    """The sketch of each text with its salt."""
    compared = [text.encode(errors="replace")[:COMPARED].ljust(SHINGLE, b"\0") for text in texts]
    seeds = np.fromiter(map(_seed, salts), "<u8", len(salts))
    found: list[bytes] = []
    first = size = 0
    for place, data in enumerate(compared):
        if size and size + len(data) > TOGETHER:
            found += _smallest(compared[first:place], seeds[first:place], SORTED)
            first, size = place, 0
        size += len(data)
    return found + _smallest(compared[first:], seeds[first:], SORTED) if compared else []


def figures(texts: Sequence[str]) -> list[str]:
    """The numbers of each text, in their order."""
    plain = [place for place, text in enumerate(texts) if text.isascii() and len(text) <= COMPARED]
    found = dict(zip(plain, _ascii_figures([texts[place] for place in plain]), strict=True))
    return [found[place] if place in found else " ".join(_FIGURES.findall(text)) for place, text in enumerate(texts)]


def similarity(one: bytes, other: bytes) -> float:
    """Jaccard similarity of two texts by their sketches, 0 to 1: exact where neither has more than 128 shingles."""
    both = np.frombuffer(one + other, "<u4").copy()
    both.sort()
    repeated = both[1:] == both[:-1]  # a sketch has no hash twice: what is there twice is in both
    distinct = len(both) - int(repeated.sum())
    if max(len(one), len(other)) < _WHOLE:
        return int(repeated.sum()) / distinct
    wanted = min(distinct, SKETCH)
    firsts = np.flatnonzero(np.concatenate(([True], ~repeated)))  # where each distinct hash stands first
    end = int(firsts[wanted]) if wanted < distinct else len(both)
    return int(repeated[: end - 1].sum()) / wanted


def bands(sketched: bytes) -> bytes:
    """The bands of a sketch's MinHash signature. An entry of the signature is the hash that comes next on a ring after a fixed
    place: as good as a permutation of its own, and there is one for every place however few hashes there are."""
    return rows([sketched])[0]


def rows(sketched: Sequence[bytes]) -> list[bytes]:
    """The bands of each sketch."""
    if not sketched:
        return []
    # With a hash there more than once the ring has no other hashes, so all can have one size.
    wide = b"".join([one if len(one) == _WHOLE else (one * SKETCH)[:_WHOLE] for one in sketched])
    ring = np.frombuffer(wide, "<u4").reshape(-1, SKETCH) * _THIRD
    ring.sort(axis=1)
    behind = (ring >> _PLACE).astype(np.int64)
    behind += np.arange(0, _PLACES * len(sketched), _PLACES)[:, None]
    counts = np.bincount(behind.ravel(), minlength=_PLACES * len(sketched)).reshape(-1, _PLACES)
    nexts = counts.cumsum(axis=1) - counts  # how many hashes lie before a place: the number of the next one
    nexts %= SKETCH  # after the last one comes the first
    pairs = np.take_along_axis(ring, nexts, 1).astype("<u4", copy=False).view("<u8")
    mixed = pairs[:, ::2] * _FIRST
    mixed ^= pairs[:, 1::2] * _SECOND
    flat = mixed.astype("<u8", copy=False).tobytes()
    return [flat[start : start + _BAND] for start in range(0, len(flat), _BAND)]


def _seed(salt: str) -> int:
    return int.from_bytes(hashlib.blake2b(salt.encode(errors="replace"), digest_size=8).digest(), "little") if salt else 0


def _smallest(texts: Sequence[bytes], seeds: NDArray[np.uint64], wanted: int) -> list[bytes]:
    """The 128 smallest different hashes of each text's shingles. About `wanted` of a text are sorted, or all: sorting what is
    surely among the smallest costs a third of sorting all."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = lengths.cumsum()
    joined = b"".join((*texts, bytes(8 - SHINGLE)))
    hashed = np.zeros(ends[-1], "<u8")
    shingles = hashed[: 1 - SHINGLE]  # every 5 bytes in a row, of one text or, to be left out, of two
    np.bitwise_and(np.ndarray(shingles.shape, "<u8", joined, 0, (1,)), _MASK, out=shingles)
    hashed ^= seeds.repeat(lengths)
    hashed *= _FIRST
    hashed ^= hashed >> _SHIFT
    hashed *= _SECOND
    counts = (lengths - (SHINGLE - 1)).tolist()
    bounds = [(wanted << 64) // count if count > wanted else _MOST for count in counts]
    small = hashed <= np.array(bounds, "<u8").repeat(lengths)
    for back in range(1, SHINGLE):
        small[ends - back] = False
    places = small.nonzero()[0]
    ascending = (hashed[places] >> _HALF).astype("<u4")
    behind = places.searchsorted(ends)  # where the hashes of each text end
    starts = [0, *behind.tolist()]
    for start, end in pairwise(starts):
        ascending[start:end].sort()
    distinct = np.ones(len(ascending), bool)
    np.not_equal(ascending[1:], ascending[:-1], out=distinct[1:])
    distinct[[start for start in starts[:-1] if start < len(ascending)]] = True
    flat = ascending[distinct].tobytes()
    ends_there = 4 * np.concatenate(([0], distinct.cumsum()))[behind]
    found = [flat[start : min(end, start + _WHOLE)] for start, end in pairwise([0, *ends_there.tolist()])]
    again = [place for place, (one, count) in enumerate(zip(found, counts, strict=True)) if len(one) < _WHOLE and count > wanted]
    if again:
        for place, whole in zip(again, _smallest([texts[place] for place in again], seeds[again], 8 * wanted), strict=True):
            found[place] = whole
    return found


def _ascii_figures(texts: Sequence[str]) -> list[str]:
    """Of each digit string the digits, and a blank for what follows it: the pattern alone took as long as all the rest."""
    if not texts:
        return []
    characters = np.frombuffer("\n".join((*texts, "")).encode(), np.uint8)
    digits = characters - _ZERO < _TEN
    wanted = digits.copy()
    wanted[1:] |= digits[:-1]
    places = wanted.nonzero()[0]
    found = np.where(digits[places], characters[places], _BLANK).tobytes().decode()
    ends = np.fromiter(map(len, texts), np.int64, len(texts))
    ends += 1
    starts = [0, *places.searchsorted(ends.cumsum()).tolist()]
    return [found[start : max(start, end - 1)] for start, end in pairwise(starts)]
