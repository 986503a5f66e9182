"""Which interactions a prompt is drawn from: of the test side, by the hash of their group. Pure; knows no feedback, so that
nothing that is said of an answer has a part in it.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from headrace_processors.reward.policy import DrawPolicy
from headrace_processors.reward.state import InteractionContent
from headrace_schemas.canonical import canonical
from headrace_schemas.splits import split_of
from headrace_schemas.topology import PROMPTS

DRAWN = PROMPTS + "drawn"


class Drawing(NamedTuple):
    """`counter`: what the interaction counts as beside its record; empty where it could never have been drawn."""

    is_drawn: bool
    counter: str = ""


def drawing_of(policy: DrawPolicy, bucket: str, group: str, content: InteractionContent) -> Drawing:
    """Whether a prompt is drawn from an interaction with this `content` in the bucket and group that its example would have."""
    if split_of(bucket, group) != "test":
        return Drawing(False)
    if not content.train:
        return Drawing(False, PROMPTS + "not_for_training")
    if len(memoryview(content.prompt)) + len(memoryview(content.context)) + len(memoryview(content.tools)) > policy.max_bytes:
        return Drawing(False, PROMPTS + "too_large")
    if policy.share < 1 and _share_of(bucket, group) >= policy.share:
        return Drawing(False, PROMPTS + "not_chosen")
    return Drawing(True, DRAWN)


def _share_of(bucket: str, group: str) -> float:
    """In [0, 1), for ever the same for a group of a bucket, and another number than its side of the split comes from."""
    return int(hashlib.sha256(canonical(["draw", bucket, group])).hexdigest()[:13], 16) / 16**13
