"""Which interactions a prompt is drawn from: of the test side, by the hash of their group. Pure; knows no feedback, so that
nothing that is said of an answer has a part in it.
"""

from __future__ import annotations

import hashlib

from headrace_processors.reward.policy import DrawPolicy
from headrace_processors.reward.state import InteractionContent
from headrace_schemas.canonical import canonical
from headrace_schemas.splits import split_of
from headrace_schemas.topology import PROMPTS

DRAWN = PROMPTS + "drawn"


def drawing_of(policy: DrawPolicy, bucket: str, group: str, content: InteractionContent) -> str:
    """What an interaction with this `content`, in the bucket and group that its example would have, counts as beside its record:
    DRAWN, why no prompt is drawn from it, or nothing where it could never have been."""
    if split_of(bucket, group) != "test":
        return ""
    if not content.train:
        return PROMPTS + "not_for_training"
    if len(memoryview(content.prompt)) + len(memoryview(content.context)) + len(memoryview(content.tools)) > policy.max_bytes:
        return PROMPTS + "too_large"
    if policy.share < 1 and _share_of(bucket, group) >= policy.share:
        return PROMPTS + "not_chosen"
    return DRAWN


def _share_of(bucket: str, group: str) -> float:
    """In [0, 1), for ever the same for a group of a bucket, and another number than its side of the split comes from."""
    return int(hashlib.sha256(canonical(["draw", bucket, group])).hexdigest()[:13], 16) / 16**13
