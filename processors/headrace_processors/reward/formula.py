"""What an interaction is worth: quality of its output, reward of its target. Formulas only; knows no record and no state.

`docs/algorithms.md`, "Reward" (ours; the additive form with difficulty and squashing follows common reward shaping):
*quality* in [-1, 1] says how good the output was; *reward* in [-1, 1] how much is to be learnt from the target, which is the
corrected output where there is one, else the output. Derived floats have 12 significant digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

from headrace_processors.decay import RunningSum
from headrace_processors.reward.feedback import PREFERENCE, FeedbackSummary, Statement
from headrace_processors.reward.policy import RewardPolicy
from headrace_schemas.canonical import rounded
from headrace_schemas.derived import Components

KNOWN_TYPES = 64  # artifact types whose share of a partition is counted: a bound on the state, whatever names come


class RewardResult(Struct, frozen=True, kw_only=True):
    quality: float
    reward: float
    components: Components


class RewardSums(NamedTuple):
    """A reward in the making, not rounded. `opinion`: what is said of the output; `earned`: that, or what the correction earns;
    `multiplied`: that times `multiplier`, which difficulty raises; `reward`: squashed."""

    opinion: float
    earned: float
    multiplier: float
    multiplied: float
    reward: float
    quality: float


class DifficultyParts(NamedTuple):
    """What each part adds to a difficulty."""

    complexity: float
    prompt: float
    context: float


def bonus_of(policy: RewardPolicy, feedback: Statement) -> float:
    """What a kind of feedback is worth. A preference counts for what was preferred and against what it was preferred to."""
    if feedback.kind == PREFERENCE and (feedback.over or feedback.under):
        return -policy.preference if feedback.under else policy.preference
    return policy.bonus.get(feedback.kind, 0.0)


def difficulty_of(policy: RewardPolicy, artifact_type: str, prompt_chars: int, context_chars: int) -> float:
    """In [0, 1]: the weighted sum of complexity and of the lengths of prompt and context, both saturating."""
    complexity, prompt, context = _difficulty_parts(policy, artifact_type, prompt_chars, context_chars)
    return complexity + prompt + context


def difficulty_parts(policy: RewardPolicy, artifact_type: str, prompt_chars: int, context_chars: int) -> DifficultyParts:
    """The addends of a difficulty."""
    return DifficultyParts(*_difficulty_parts(policy, artifact_type, prompt_chars, context_chars))


def _difficulty_parts(
    policy: RewardPolicy, artifact_type: str, prompt_chars: int, context_chars: int
) -> tuple[float, float, float]:
    complexity = policy.complexity.get(artifact_type, policy.complexity_default)
    prompt = min(1.0, prompt_chars / policy.prompt_full_chars)
    context = min(1.0, context_chars / policy.context_full_chars)
    weights = policy.difficulty_weights
    return weights.complexity * complexity, weights.prompt * prompt, weights.context * context


def terms_of(policy: RewardPolicy, summary: FeedbackSummary, difficulty: float, correction: float | None) -> RewardSums:
    """`correction` = 1 - similarity of output and corrected output, None without one. A typo is not a lesson: below
    `correction_full` it earns its part of the bonus only. With a correction the reward is that of the target, whatever was
    said of the output: a wrong answer that somebody corrected is a good lesson."""
    opinion = summary.validation + summary.feedback
    quality = math.tanh(opinion if summary.direct is None else summary.direct)
    multiplier = 1 + policy.difficulty_slope * difficulty
    if correction is None:
        earned = opinion
        if opinion < 0 and policy.difficulty_on_negative == "ignore":
            multiplier = 1.0
    else:
        quality = min(quality, -correction)
        earned = policy.correction_bonus * min(1.0, correction / policy.correction_full)
    multiplied = earned * multiplier
    return RewardSums(opinion, earned, multiplier, multiplied, squash(policy, multiplied), quality)


def reward_of(policy: RewardPolicy, summary: FeedbackSummary, difficulty: float, correction: float | None) -> RewardResult:
    """The reward and its raw terms, as they are published; arguments as of `terms_of`."""
    return result_of(terms_of(policy, summary, difficulty, correction), summary, difficulty, correction)


def result_of(terms: RewardSums, summary: FeedbackSummary, difficulty: float, correction: float | None) -> RewardResult:
    """What is published of terms."""
    components = Components(
        validation=rounded(summary.validation),
        feedback=rounded(summary.feedback),
        difficulty=rounded(difficulty),
        multiplier=rounded(terms.multiplier),
        correction=None if correction is None else rounded(correction),
    )
    return RewardResult(quality=rounded(terms.quality), reward=rounded(terms.reward), components=components)


def squash(policy: RewardPolicy, value: float) -> float:
    """Into [-1, 1], by tanh (1 only where floats end) or by cutting off (saturates: many rewards become exactly ±1)."""
    return math.tanh(value) if policy.squash == "tanh" else max(-1.0, min(1.0, value))


CountByType = Mapping[str, RunningSum]  # decayed count of scored interactions by artifact type


def balance_of(policy: RewardPolicy, counts: CountByType, artifact_type: str) -> float:
    """clip((wanted share / seen share)^0.5, 0.5, 1.5) of an artifact type, from the counts before this interaction. The prior
    is `share_prior` examples in the wanted shares; types without a wanted share divide equally what the others leave."""
    named = policy.share_target
    target = named.get(artifact_type)
    if target is None:
        unnamed, left = len(counts) + (artifact_type not in counts), 1.0
        if named:
            unnamed -= sum([name in counts for name in named])
            left = max(0.0, 1.0 - math.fsum(named.values()))
        target = left / max(1, unnamed)
    newest, per_day = max([count.newest_ns for count in counts.values()], default=0), policy.decay_per_day
    seen = [count.value if count.newest_ns == newest else count.at(newest, per_day) for count in counts.values()]
    own = counts[artifact_type].at(newest, per_day) if artifact_type in counts else 0.0
    share = (own + policy.share_prior * target) / (math.fsum(seen) + policy.share_prior)
    if not target:
        return policy.balance_low
    return rounded(max(policy.balance_low, min(policy.balance_high, (target / share) ** policy.balance_exponent)))


def count_type(policy: RewardPolicy, counts: CountByType, artifact_type: str, time_ns: int) -> dict[str, RunningSum]:
    """The counts with one more interaction; of more than `KNOWN_TYPES` types the smallest count is forgotten."""
    count = counts.get(artifact_type, RunningSum()).add(time_ns, policy.decay_per_day)
    grown = {**counts, artifact_type: count}
    if len(grown) > KNOWN_TYPES:
        newest = max(other.newest_ns for other in grown.values())
        smallest = min(grown, key=lambda name: (grown[name].at(newest, policy.decay_per_day), name))
        del grown[smallest]
    return grown
