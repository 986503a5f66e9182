"""How things get their names: canonical JSON, digests and derived ids. Pure: no clock, no randomness, no Kafka.

A derived id is a digest of input ids, a kind and a revision, so that whoever derives it again gets the same one.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

SPLITS = 10  # of which 0 is test and 1 is validation


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no white space: equal values are equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def sha256(data: bytes) -> str:
    """`sha256:` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """The sha256 of a JSON-able value's canonical form."""
    return sha256(canonical(value))


def derive_id(kind: str, *parts: str | int) -> str:
    """32 hex digits that depend on `kind` and `parts` only."""
    return hashlib.sha256(canonical([kind, *parts])).hexdigest()[:32]


def split_of(bucket: str, prompt_group: str) -> str:
    """`test`, `validation` or `train`, for ever the same for a prompt group of a bucket (one in ten, one in ten, the rest)."""
    place = int(hashlib.sha256(canonical(["split", bucket, prompt_group])).hexdigest()[:15], 16) % SPLITS
    return {0: "test", 1: "validation"}.get(place, "train")


def rounded(value: float) -> float:
    """12 significant digits: derived floats are rounded so that they are equal wherever they are computed. -0.0 becomes 0.0."""
    return float(f"{value:.12g}") + 0.0
