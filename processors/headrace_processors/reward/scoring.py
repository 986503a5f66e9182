"""From an interaction's content and what is said of it to an outcome. Knows formulas and bytes of texts, no event and no key."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from headrace_processors.reward.feedback import FeedbackSummary
from headrace_processors.reward.formula import difficulty_of, terms_of
from headrace_processors.reward.policy import RewardPolicy
from headrace_processors.reward.similarity import similarity
from headrace_processors.reward.state import NOTHING, InteractionContent, RewardOutcome, Similarity
from headrace_schemas.canonical import rounded
from headrace_schemas.groups import question_group, session_group
from headrace_schemas.inputs import Context, Output, Text
from headrace_schemas.plain_chat import answer_text
from headrace_schemas.text import prompt_group, render

_TEXT: msgspec.json.Decoder[Text] = msgspec.json.Decoder(Text)
_OUTPUT: msgspec.json.Decoder[Output] = msgspec.json.Decoder(Output)
_CONTEXT: msgspec.json.Decoder[Context] = msgspec.json.Decoder(Context)


def outcome_of(
    policy: RewardPolicy, content: InteractionContent, summary: FeedbackSummary, alike: Similarity | None
) -> RewardOutcome:
    """What an interaction is worth; `alike` is of its output and the corrected one, None without one."""
    difficulty = difficulty_of(policy, content.artifact_type, content.prompt_chars, content.context_chars)
    correction = None if alike is None else 1 - alike.value
    terms = terms_of(policy, summary, difficulty, correction)
    return RewardOutcome(  # what `result_of` has, without two structs on the way: 1 us
        quality=rounded(terms.quality),
        reward=rounded(terms.reward),
        validation=rounded(summary.validation),
        feedback=rounded(summary.feedback),
        difficulty=rounded(difficulty),
        multiplier=rounded(terms.multiplier),
        correction=None if correction is None else rounded(correction),
        score=None if summary.score is None else rounded(summary.score),
        contradicted=summary.contradicted,
        voices=summary.voices,
        target=summary.corrected or "",
    )


def similarity_of(
    policy: RewardPolicy, version: int, known: Similarity | None, output: Raw, digest: str, corrected: Raw
) -> Similarity:
    """Computed once for an output and a corrected output, unless the policy weighs it otherwise by now."""
    weights = policy.similarity_weights
    how = f"{policy.overlap} {weights.edit!r} {weights.overlap!r}"
    if known is not None and (known.target, known.weights) == (digest, how):
        return known
    read = answer_text if version > 2 else render
    value = similarity(
        read(_OUTPUT.decode(output)),
        read(_OUTPUT.decode(corrected)),
        overlap=policy.overlap,
        edit_weight=weights.edit,
        overlap_weight=weights.overlap,
    )
    return Similarity(target=digest, weights=how, value=value)


def group_of(content: InteractionContent, version: int) -> str:
    """The prompt group that a rule version derives; empty where the publisher gave one."""
    if content.prompt_group is not None:
        return ""
    if version > 2 and content.session_id is not None:
        return session_group(content.session_id)
    prompt = _TEXT.decode(content.prompt)
    context = None if content.context is NOTHING else _CONTEXT.decode(content.context)
    return question_group(prompt, context) if version > 2 else prompt_group(render(prompt), render(context))
