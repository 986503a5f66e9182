"""Which side of a bucket's data a prompt group is on, for ever: test, validation or train. Pure."""

from __future__ import annotations

from headrace_schemas.ids import derived

SPLITS = 10  # of which 0 is test and 1 is validation


def split_of(bucket: str, prompt_group: str) -> str:
    """`test`, `validation` or `train`, for ever the same for a prompt group of a bucket (one in ten, one in ten, the rest)."""
    number = (int.from_bytes(derived("split", bucket, prompt_group)[:8], "big") >> 4) % SPLITS  # the first 15 of its hex digits
    return "test" if number == 0 else "validation" if number == 1 else "train"
