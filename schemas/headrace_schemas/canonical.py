"""Canonical JSON, digests of it, and floats that are equal wherever they are computed. Pure; knows no event."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import orjson


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no white space: equal values are equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def sha256(data: bytes) -> str:
    """`sha256:` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """The sha256 of a JSON-able value's canonical form."""
    return sha256(canonical(value))


@lru_cache(4096)  # bonuses, terms of equal scores: many values come again and again
def rounded(value: float) -> float:
    """12 significant digits: derived floats are rounded so that they are equal wherever they are computed. -0.0 becomes 0.0."""
    return float(f"{value:.12g}") + 0.0
