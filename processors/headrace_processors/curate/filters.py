"""What an example is good for, or why it is good for nothing: roles and the one table of rejections. Pure; knows no state.

A rejection says `reason`, a name of this table, and `rule`, the sentence beside it with the policy's figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from headrace_processors.curate import near_duplicates
from headrace_processors.curate.policy import NEWEST, CuratePolicy, TargetRule
from headrace_schemas.derived import Example
from headrace_schemas.inputs import Message
from headrace_schemas.text import has_text, normalise, render

Role = Literal["train", "negative"]

REJECTIONS: dict[str, str] = {
    "stale_revision": "a revision is newer than the one known",
    "retracted": "the interaction was not retracted",
    "erased": "the data subject was not erased",
    "not_for_training": "the publisher allows training (train is not false)",
    "no_text_target": "the target has text, or a tool call",
    "generic": "the target has a letter or digit, at least {min_chars} characters, and up to {generic_chars} no empty phrase",
    "echo": "the target is less than {echo} alike to what was asked",
    "truncated": "a target that nobody corrected ended for another reason than {truncated}",
    "contradicted": "no voices of opposite sign were heard",
    "low_score": "a target that nobody corrected has a score above {train_above:g}",
    "no_reward": "there is a reward, above or below 0",
    "held_out": "a negative example is on the train side",
    "duplicate": "no other example of the bucket has the same prompt, context and target",
    "near_duplicate": "no other open example of its role and outcome that is worth as much is {near_duplicate} alike to it",
    "target_learnt": "no example that is learnt from has the target of {one_side_chars} characters of a test or validation row",
    "overflow": "an open bucket keeps {open_limit} of each role, those that are worth most",
    "same_group": "no other prompt that was drawn has the same group",
    "not_graded": "prompts are drawn of artifact types that are graded without a reference",
    "too_many_buckets": "a partition has at most {max_buckets} buckets",
}

BEFORE_3: dict[str, str] = {  # as rule versions 1 and 2 say
    "held_out": "a negative example is not in the test split",
    "overflow": "an open bucket keeps the newest {open_limit} of each role",
}


class FilterResult(NamedTuple):
    """`reason` is None exactly when `role` is given."""

    role: Role | None
    reason: str | None


def rules(policy: CuratePolicy, version: int = NEWEST) -> dict[str, str]:
    """The table as a rule version has it, with the figures of `policy`."""
    figures = {**policy.model_dump(), "truncated": " or ".join(policy.truncated)}
    return {reason: rule.format(**figures) for reason, rule in {**REJECTIONS, **(BEFORE_3 if version < 3 else {})}.items()}


def judge(policy: CuratePolicy, example: Example, target: str, split: str) -> FilterResult:
    """The role of an example by itself: what needs no knowledge of others. `target` is its target as one text. On the test side
    what gives no reference is still a prompt, where answers are graded without one: a negative, whatever was wrong with it."""
    if not example.train:
        return FilterResult(None, "not_for_training")
    found = _judged(policy, example, target)
    if split != "test" or found.role == "train":
        return found
    if policy.keeps_prompts(example.artifact_type):
        return FilterResult("negative", None)
    return FilterResult(None, "held_out") if found.role == "negative" else found


def _judged(policy: CuratePolicy, example: Example, target: str) -> FilterResult:
    if not has_text(example.content.target):
        return FilterResult(None, "no_text_target")
    if (broken := _broken(policy, example, target)) is not None:
        return FilterResult(None, broken)
    if example.contradicted and policy.contradictions == "drop":
        return FilterResult(None, "contradicted")
    return role_of(policy, example)


def role_of(policy: CuratePolicy, example: Example) -> FilterResult:
    """Train: corrected, or a score above `train_above`, or no score; and a reward above 0, for it becomes the weight.
    Negative: a reward below 0. What the score calls good and the reward calls bad (somebody objected) is negative."""
    score = example.score
    good = example.components.correction is not None or score is None or score > policy.train_above
    if example.reward > 0:
        return FilterResult("train", None) if good else FilterResult(None, "low_score")
    return FilterResult("negative", None) if example.reward < 0 else FilterResult(None, "no_reward")


def _broken(policy: CuratePolicy, example: Example, target: str) -> TargetRule | None:
    """The rule about targets that an example breaks, of those that hold for its artifact type."""
    exempt = policy.exempt.get(example.artifact_type, ())
    if "generic" not in exempt and is_generic(policy, target):
        return "generic"
    corrected = example.components.correction is not None
    if "truncated" not in exempt and example.finish_reason in policy.truncated and not corrected:
        return "truncated"
    return "echo" if policy.echo is not None and "echo" not in exempt and is_echo(policy.echo, example, target) else None


def is_echo(least: float, example: Example, target: str) -> bool:
    """Whether a target says again what was asked: the prompt, or its last message, and little else. White space and case do not
    count. Texts of which one is much longer are not compared."""
    prompt = example.content.prompt
    asked = [render(prompt)] if isinstance(prompt, str) else [render(prompt), *(render(message) for message in _last(prompt))]
    for text in asked:
        if not len(text) * least <= len(target) <= len(text) / least:
            continue
        text, said = normalise(text).casefold(), normalise(target).casefold()
        if text == said or near_duplicates.similarity(near_duplicates.sketch(text), near_duplicates.sketch(said)) >= least:
            return True
    return False


def _last(prompt: Sequence[Message]) -> Sequence[Message]:
    """The last message of a prompt that somebody asked."""
    return [message for message in prompt if message.role == "user"][-1:]


def is_generic(policy: CuratePolicy, text: str) -> bool:
    """Whether a text would be the same whatever was asked: punctuation only, too short, or a stock phrase and little more."""
    text = text.strip()
    if len(text) < policy.min_chars or not any(map(str.isalnum, text)):
        return True
    if len(text) > policy.generic_chars:
        return False
    return normalise(text).casefold().replace("’", "'").startswith(policy.generic)
