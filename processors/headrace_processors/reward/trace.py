"""The reward of one interaction term by term: what each adds, by which formula and which lines of the policy, and whose word is
behind it. Knows the functions that the stage decides by and runs them again; no event, no state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from headrace_processors.reward.feedback import PREFERENCE, FeedbackSummary, Statement, VoiceOpinion, voices_of
from headrace_processors.reward.formula import (
    RewardResult,
    RewardSums,
    bonus_of,
    difficulty_parts,
    result_of,
    terms_of,
)
from headrace_processors.reward.policy import RewardPolicy
from headrace_processors.reward.weighing import UNKNOWN, Weighing, heard_of, summary_of, weights_of


class RewardTerm(Struct, frozen=True, kw_only=True):
    """One term: what it adds, what it comes to with those before it (`total`), the formula with its figures, and the lines of the
    policy that it reads, by key."""

    name: str
    adds: float
    total: float
    formula: str
    policy: Mapping[str, Any]


class VoiceTrace(Struct, frozen=True, kw_only=True):
    """One voice. `validation` and `feedback`: what it comes to, before the mean over those that speak of the output; `said`:
    source and id of each of its statements that count, the latest last; `policy`: the line that its kind is worth by."""

    principal: str | None
    check: str | None
    kind: str | None
    score: float | None
    validation: float
    feedback: float
    speaks: bool
    said: list[tuple[str, str]]
    policy: Mapping[str, Any] = {}
    weights: tuple[float, float] = (1.0, 1.0)  # of its score and of its kind, beside a whole voice
    derived: bool = False  # nobody said it


class RewardTrace(Struct, frozen=True, kw_only=True):
    """A reward in all its terms. The last total of `terms` is the reward, that of `quality` the quality, of `difficulty` the
    difficulty, before they are rounded to what is published: `result`. `voices` are behind validation and feedback."""

    terms: list[RewardTerm]
    quality: list[RewardTerm]
    difficulty: list[RewardTerm]
    voices: list[VoiceTrace]
    result: RewardResult
    summary: FeedbackSummary


def trace_of(
    policy: RewardPolicy,
    artifact_type: str,
    prompt_chars: int,
    context_chars: int,
    feedback: Sequence[Statement],
    correction: float | None,
    share: Callable[[Any], float] | None = None,
    weighing: Weighing | None = None,
) -> RewardTrace | None:
    """How `feedback` and its correction become a reward; None when nothing counts. `correction` as of `terms_of`, of the latest
    corrected output; not asked for without one. `share` and `weighing`: as of `summary_of`."""
    summary = summary_of(policy, feedback, share, weighing)
    if summary is None:
        return None
    correction = None if summary.corrected is None else correction
    heard: Sequence[Any] = feedback
    bonus: Callable[[Any], float] = partial(bonus_of, policy)
    if weighing is not None:
        heard, bonus = heard_of(heard, weighing), weighing.bonus
    voices = voices_of(heard, bonus, share)
    hard = _difficulty(policy, artifact_type, prompt_chars, context_chars)
    difficulty = hard[-1].total
    terms = terms_of(policy, summary, difficulty, correction)
    opinion = _opinion(policy, summary, voices, weighing)
    return RewardTrace(
        terms=_reward(policy, opinion, terms, difficulty, correction),
        quality=_quality(opinion, summary, terms, correction),
        difficulty=hard,
        voices=[_voice(policy, voice, weighing) for voice in voices],
        result=result_of(terms, summary, difficulty, correction),
        summary=summary,
    )


def _difficulty(policy: RewardPolicy, artifact_type: str, prompt_chars: int, context_chars: int) -> list[RewardTerm]:
    parts, weights = difficulty_parts(policy, artifact_type, prompt_chars, context_chars), policy.difficulty_weights
    named = artifact_type in policy.complexity
    key = f"complexity.{artifact_type}" if named else "complexity_default"
    complexity = policy.complexity[artifact_type] if named else policy.complexity_default
    total = parts.complexity
    found = [
        RewardTerm(
            name="complexity",
            adds=parts.complexity,
            total=total,
            formula=f"{weights.complexity:g} × {complexity:g}, of {artifact_type}",
            policy={"difficulty_weights.complexity": weights.complexity, key: complexity},
        )
    ]
    lengths = (
        ("prompt", parts.prompt, weights.prompt, prompt_chars, "prompt_full_chars", policy.prompt_full_chars),
        ("context", parts.context, weights.context, context_chars, "context_full_chars", policy.context_full_chars),
    )
    for name, adds, weight, chars, full_key, full in lengths:
        total += adds
        found.append(
            RewardTerm(
                name=f"length of the {name}",
                adds=adds,
                total=total,
                formula=f"{weight:g} × min(1, {chars} / {full} characters)",
                policy={f"difficulty_weights.{name}": weight, full_key: full},
            )
        )
    return found


def _opinion(
    policy: RewardPolicy, summary: FeedbackSummary, voices: Sequence[VoiceOpinion[Any]], weighing: Weighing | None
) -> list[RewardTerm]:
    speaking = [voice for voice in voices if voice.speaks]
    count = len(speaking)
    scores = ", ".join("no score" if voice.score is None else f"{voice.score:g}" for voice in speaking[:8])
    bonuses = " + ".join(f"{voice.feedback:g}" for voice in speaking[:8])
    more = " …" if count > 8 else ""
    worth: dict[str, Any] = {}
    for voice in speaking:
        worth |= _worth(policy, voice, weighing)
    mean, over = "mean", f" / {count}"
    if weighing is not None:
        weights = [weights_of(voice, weighing)[1] for voice in speaking]
        bonuses = " + ".join(f"{weight:.4g} × {voice.feedback:g}" for voice, weight in zip(speaking[:8], weights, strict=False))
        mean, over = "weighed mean", f" / max(1, {math.fsum(weights):.4g})"
    return [
        RewardTerm(
            name="validation",
            adds=summary.validation,
            total=summary.validation,
            formula=f"{mean} over {_voices(count)} of tanh((score − 50) / 50): {scores}{more}"
            if count
            else "nobody gave a score",
            policy={},
        ),
        RewardTerm(
            name="feedback",
            adds=summary.feedback,
            total=summary.validation + summary.feedback,
            formula=f"{mean} over {_voices(count)} of what a kind is worth: ({bonuses}{more}){over}" if count else "no kind",
            policy=worth,
        ),
    ]


def _reward(
    policy: RewardPolicy, opinion: list[RewardTerm], terms: RewardSums, difficulty: float, correction: float | None
) -> list[RewardTerm]:
    if correction is None:
        found = list(opinion)
    else:
        bonus, full = policy.correction_bonus, policy.correction_full
        formula = f"{bonus:g} × min(1, {correction:.6g} / {full:g}), whatever was said of the output"
        named = {"correction_bonus": bonus, "correction_full": full}
        found = [RewardTerm(name="correction", adds=terms.earned, total=terms.earned, formula=formula, policy=named)]
    formula = f"× (1 + {policy.difficulty_slope:g} × difficulty {difficulty:.6g}) = × {terms.multiplier:.6g}"
    lines: dict[str, Any] = {"difficulty_slope": policy.difficulty_slope}
    if correction is None and terms.opinion < 0:
        lines["difficulty_on_negative"] = policy.difficulty_on_negative
        formula = formula if policy.difficulty_on_negative == "amplify" else "a negative reward is not multiplied"
    found.append(
        RewardTerm(name="difficulty", adds=terms.multiplied - terms.earned, total=terms.multiplied, formula=formula, policy=lines)
    )
    squashed = f"tanh({terms.multiplied:.6g})" if policy.squash == "tanh" else f"{terms.multiplied:.6g} cut off at ±1"
    found.append(
        RewardTerm(
            name="squash",
            adds=terms.reward - terms.multiplied,
            total=terms.reward,
            formula=squashed,
            policy={"squash": policy.squash},
        )
    )
    return found


def _quality(
    opinion: list[RewardTerm], summary: FeedbackSummary, terms: RewardSums, correction: float | None
) -> list[RewardTerm]:
    heard, found = terms.opinion, list(opinion)
    if summary.direct is not None:
        heard = summary.direct
        formula, line = "of those alone who said something: what was derived is not heard", {"derived_in_quality": False}
        found.append(RewardTerm(name="derived", adds=heard - terms.opinion, total=heard, formula=formula, policy=line))
    squashed = math.tanh(heard)
    found.append(RewardTerm(name="squash", adds=squashed - heard, total=squashed, formula=f"tanh({heard:.6g})", policy={}))
    if correction is not None:
        formula = f"no better than −{correction:.6g}: 1 − similarity of output and corrected output"
        found.append(
            RewardTerm(name="correction", adds=terms.quality - squashed, total=terms.quality, formula=formula, policy={})
        )
    return found


def _voice(policy: RewardPolicy, voice: VoiceOpinion[Any], weighing: Weighing | None) -> VoiceTrace:
    last = voice.records[-1]
    return VoiceTrace(
        principal=last.principal,
        check=last.name,
        kind=None if voice.kind is None else voice.kind.kind,
        score=voice.score,
        validation=voice.validation,
        feedback=voice.feedback,
        speaks=voice.speaks,
        said=[(record.source, record.feedback_id) for record in voice.records],
        policy=_worth(policy, voice, weighing),
        weights=(1.0, 1.0) if weighing is None or not voice.speaks else weights_of(voice, weighing),
        derived=weighing is not None and weighing.is_derived(last),
    )


def _worth(policy: RewardPolicy, voice: VoiceOpinion[Any], weighing: Weighing | None) -> dict[str, Any]:
    """The line of the policy that says what the kind of a voice is worth."""
    said = voice.kind
    if said is None:
        return {}
    if weighing is not None and weighing.is_derived(said):
        row = policy.derived.get(said.kind, UNKNOWN)
        return {f"derived.{said.kind}.bonus": row.bonus, f"derived.{said.kind}.weight": row.weight}
    if said.kind == PREFERENCE and (said.over or said.under):
        return {"preference": policy.preference}
    return {f"bonus.{said.kind}": policy.bonus.get(said.kind, 0.0)}


def _voices(count: int) -> str:
    return "one voice" if count == 1 else f"{count} voices"
