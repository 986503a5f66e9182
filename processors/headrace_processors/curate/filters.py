"""What an example is good for, or why it is good for nothing: roles and the one table of rejections. Pure; knows no state.

A rejection says `reason`, a name of this table, and `rule`, the sentence beside it with the policy's figures.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from headrace_processors.curate.policy import CuratePolicy
from headrace_schemas.derived import Example
from headrace_schemas.text import has_text, normalise

Role = Literal["train", "negative"]

REJECTIONS: dict[str, str] = {
    "stale_revision": "a revision is newer than the one known",
    "retracted": "the interaction was not retracted",
    "erased": "the data subject was not erased",
    "not_for_training": "the publisher allows training (train is not false)",
    "no_text_target": "the target has text, or a tool call",
    "generic": "the target has a letter or digit, at least {min_chars} characters, and up to {generic_chars} no empty phrase",
    "low_score": "a target that nobody corrected has a score above {train_above:g}",
    "no_reward": "there is a reward, above or below 0",
    "held_out": "a negative example is not in the test split",
    "duplicate": "no other example of the bucket has the same prompt, context and target",
    "overflow": "an open bucket keeps the newest {open_limit} of each role",
}


class FilterResult(NamedTuple):
    """`reason` is None exactly when `role` is given."""

    role: Role | None
    reason: str | None


def rules(policy: CuratePolicy) -> dict[str, str]:
    """The table with the figures of `policy`."""
    return {reason: rule.format(**policy.model_dump()) for reason, rule in REJECTIONS.items()}


def judge(policy: CuratePolicy, example: Example, target: str, split: str) -> FilterResult:
    """The role of an example by itself: what needs no knowledge of others. `target` is its target as one text."""
    if not example.train:
        return FilterResult(None, "not_for_training")
    if not has_text(example.content.target):
        return FilterResult(None, "no_text_target")
    if is_generic(policy, target):
        return FilterResult(None, "generic")
    result = role_of(policy, example)
    return FilterResult(None, "held_out") if result.role == "negative" and split == "test" else result


def role_of(policy: CuratePolicy, example: Example) -> FilterResult:
    """Train: corrected, or a score above `train_above`, or no score; and a reward above 0, for it becomes the weight.
    Negative: a reward below 0. What the score calls good and the reward calls bad (somebody objected) is negative."""
    score = example.score
    good = example.components.correction is not None or score is None or score > policy.train_above
    if example.reward > 0:
        return FilterResult("train", None) if good else FilterResult(None, "low_score")
    return FilterResult("negative", None) if example.reward < 0 else FilterResult(None, "no_reward")


def is_generic(policy: CuratePolicy, text: str) -> bool:
    """Whether a text would be the same whatever was asked: punctuation only, too short, or a stock phrase and little more."""
    text = text.strip()
    if len(text) < policy.min_chars or not any(map(str.isalnum, text)):
        return True
    if len(text) > policy.generic_chars:
        return False
    return normalise(text).casefold().replace("’", "'").startswith(policy.generic)
