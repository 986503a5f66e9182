"""What an example is good for, or why it is good for nothing: roles and the one table of rejections. Pure; knows no state.

A rejection says `reason`, a name of this table, and `rule`, the sentence beside it with the policy's figures.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from headrace_processors.curate import near_duplicates
from headrace_processors.curate.policy import NEWEST, CuratePolicy, TargetRule
from headrace_processors.curate.texts import ExampleTexts
from headrace_schemas.chat import has_references, has_trace
from headrace_schemas.derived import Example
from headrace_schemas.text import has_text, normalise

Role = Literal["train", "negative"]

REJECTIONS: dict[str, str] = {
    "stale_revision": "a revision is newer than the one known",
    "retracted": "the interaction was not retracted",
    "erased": "the data subject was not erased",
    "not_for_training": "the publisher allows training (train is not false)",
    "no_text_target": "the target has text, or a tool call",
    "answer_has_references": "the target is text and calls only, no image and no file",
    "no_text_prompt": "the prompt has text, or a tool call",
    "question_too_long": "the last message of the user has at most {longest_chars} characters",
    "answer_too_long": "the target has at most 2 x {longest_chars} characters",
    "generic": "the target has a letter or digit, at least {min_chars} characters, and up to {generic_chars} no empty phrase",
    "echo": "the target is less than {echo} alike to what was asked",
    "truncated": "a target that nobody corrected ended for another reason than {truncated}",
    "contradicted": "no voices of opposite sign were heard",
    "low_score": "a target that nobody corrected has a score above {train_above:g}",
    "no_reward": "there is a reward, above or below 0",
    "held_out": "a negative example is on the train side",
    "implicit": "on the test and validation side somebody said something of it, where derived feedback may not judge",
    "duplicate": "no other example of the bucket has the same prompt, context and target",
    "near_duplicate": "no other open example of its role and outcome that is worth as much is {near_duplicate} alike to it",
    "target_learnt": "no example that is learnt from has the target of {one_side_chars} characters of a test or validation row",
    "overflow": "an open bucket keeps {open_limit} of each role, those that are worth most",
    "pool_full": "a pool of test or validation rows, or of prompts, keeps the newest; it may have been in batches before",
    "same_group": "no other prompt that was drawn has the same group",
    "not_graded": "prompts are drawn of artifact types that are graded without a reference",
    "too_many_buckets": "a partition has at most {max_buckets} buckets",
}

UNASKED = ("no_text_prompt", "question_too_long")  # of the prompt, not of the answer
BEFORE_3: dict[str, str] = {  # as rule versions 1 and 2 say
    "held_out": "a negative example is not in the test split",
    "overflow": "an open bucket keeps the newest {open_limit} of each role",
}


class FilterResult(NamedTuple):
    """`reason` is None exactly when `role` is given."""

    role: Role | None
    reason: str | None


_TRAIN, _NEGATIVE = FilterResult("train", None), FilterResult("negative", None)


def rules(policy: CuratePolicy, version: int = NEWEST) -> dict[str, str]:
    """The table as a rule version has it, with the figures of `policy`."""
    figures = {**policy.model_dump(), "truncated": " or ".join(policy.truncated)}
    return {reason: rule.format(**figures) for reason, rule in {**REJECTIONS, **(BEFORE_3 if version < 3 else {})}.items()}


def judge(policy: CuratePolicy, version: int, example: Example, texts: ExampleTexts, split: str) -> FilterResult:
    """The role of an example by itself: what needs no knowledge of others, under a rule version. On the test side what gives no
    reference is still a prompt, where answers are graded without one: a negative, whatever was wrong with its answer."""
    if not example.train:
        return FilterResult(None, "not_for_training")
    found = _judged(policy, version, example, texts)
    if found.role is not None and not may_judge(policy, example) and pool_of(version, split) is not None:
        found = FilterResult(None, "implicit")
    if found.role == "train" or pool_of(version, split) is None:
        return found
    if split == "test" and policy.keeps_prompts(example.artifact_type) and found.reason not in UNASKED:
        return _NEGATIVE
    return FilterResult(None, "held_out") if found.role == "negative" else found


def may_judge(policy: CuratePolicy, example: Example) -> bool:
    """Whether it may be a test row and count in a success rate: not by what nobody said, unless policy says so."""
    return policy.implicit == "judge" or example.voices > (example.derived or 0)


def pool_of(version: int, split: str) -> Literal["test", "validation"] | None:
    """The pool of a side of the split; None of the train side, which validation was part of until rule version 3."""
    if split == "test":
        return "test"
    return "validation" if split == "validation" and version > 2 else None


def _judged(policy: CuratePolicy, version: int, example: Example, texts: ExampleTexts) -> FilterResult:
    if (lost := _lost(policy, version, example, texts)) is not None:
        return FilterResult(None, lost)
    if (broken := _broken(policy, example, texts)) is not None:
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
        return _TRAIN if good else FilterResult(None, "low_score")
    return _NEGATIVE if example.reward < 0 else FilterResult(None, "no_reward")


def _lost(policy: CuratePolicy, version: int, example: Example, texts: ExampleTexts) -> str | None:
    """Why no run can make a row of an example, as far as that is known without a base."""
    if version < 3:
        return None if has_text(example.content.target) else "no_text_target"
    if has_references(example.content.target):
        return "answer_has_references"
    if not texts.target.strip():
        return "no_text_target"
    if not has_trace(example.content.prompt):
        return "no_text_prompt"
    most = policy.longest_chars
    if most is not None and len(texts.prompt if texts.question is None else texts.question) > most:
        return "question_too_long"
    return "answer_too_long" if most is not None and len(texts.target) > 2 * most else None


def _broken(policy: CuratePolicy, example: Example, texts: ExampleTexts) -> TargetRule | None:
    """The rule about targets that an example breaks, of those that hold for its artifact type."""
    exempt = policy.exempt.get(example.artifact_type, ())
    if "generic" not in exempt and is_generic(policy, texts.target):
        return "generic"
    corrected = example.components.correction is not None
    if "truncated" not in exempt and example.finish_reason in policy.truncated and not corrected:
        return "truncated"
    return "echo" if policy.echo is not None and "echo" not in exempt and is_echo(policy.echo, texts) else None


def is_echo(least: float, texts: ExampleTexts) -> bool:
    """Whether a target says again what was asked: the prompt, or its last message, and little else. White space and case do not
    count. Texts of which one is much longer are not compared."""
    target = texts.target
    for text in (texts.prompt, texts.question):
        if text is None or not len(text) * least <= len(target) <= len(text) / least:
            continue
        text, said = normalise(text).casefold(), normalise(target).casefold()
        if text == said or near_duplicates.similarity(near_duplicates.sketch(text), near_duplicates.sketch(said)) >= least:
            return True
    return False


def is_generic(policy: CuratePolicy, text: str) -> bool:
    """Whether a text would be the same whatever was asked: punctuation only, too short, or a stock phrase and little more."""
    text = text.strip()
    if len(text) < policy.min_chars or not any(map(str.isalnum, text)):
        return True
    if len(text) > policy.generic_chars:
        return False
    return normalise(text).casefold().replace("’", "'").startswith(policy.generic)
