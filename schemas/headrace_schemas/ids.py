"""Derived ids: digests of input ids, a kind and a revision, so that whoever derives one again gets the same. Pure."""

from __future__ import annotations

import hashlib

import orjson


def derive_id(kind: str, *parts: str | int) -> str:
    """32 hex digits that depend on `kind` and `parts` only."""
    return hashlib.sha256(orjson.dumps([kind, *parts])).hexdigest()[:32]  # canonical: no object is in it


def derived(kind: str, *parts: str | int) -> bytes:
    """The 16 bytes that `derive_id` writes."""
    return hashlib.sha256(orjson.dumps([kind, *parts])).digest()[:16]
