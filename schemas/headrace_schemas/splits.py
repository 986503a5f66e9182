"""Which side of a bucket's data a prompt group is on, for ever: test, validation or train. Pure."""

from __future__ import annotations

import hashlib

from headrace_schemas.canonical import canonical

SPLITS = 10  # of which 0 is test and 1 is validation


def split_of(bucket: str, prompt_group: str) -> str:
    """`test`, `validation` or `train`, for ever the same for a prompt group of a bucket (one in ten, one in ten, the rest)."""
    number = int(hashlib.sha256(canonical(["split", bucket, prompt_group])).hexdigest()[:15], 16) % SPLITS
    return {0: "test", 1: "validation"}.get(number, "train")
