"""How voices of different weight come to one summary. Pure; knows a policy and a case, no event.

Of a voice that is credited with a share, the share is its weight; of one that was derived, what policy says of its derivation.

    (Σ weight x what it says) / max(1, Σ weight)        since rule version 5

With weights of 1 that is the mean. What weak voices lack of one whole voice says nothing: one of weight 0.25 alone comes to a
quarter of what it says, four of them that agree to all of it, and beside a whole voice it moves the mean by a fifth. (The mean of
products, as it was before, made a whole voice of any share: +1 and a share of 0.01 of +1 came to 0.505.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from headrace_processors.reward.feedback import FeedbackRecord, FeedbackSummary, VoiceOpinion, aggregate, corrected_of, voices_of
from headrace_processors.reward.formula import bonus_of
from headrace_processors.reward.policy import DerivedWorth, RewardPolicy
from headrace_processors.reward.state import InteractionState

UNKNOWN = DerivedWorth()  # of a derivation that the policy does not name
Share = Callable[[FeedbackRecord], float]


class Weighing(NamedTuple):
    """Of a record its `weight`, what its kind is worth (`bonus`) and whether nobody said it (`is_derived`); `in_quality`: whether
    quality hears what was derived."""

    weight: Callable[[FeedbackRecord], float]
    bonus: Callable[[FeedbackRecord], float]
    is_derived: Callable[[FeedbackRecord], bool]
    in_quality: bool


def summary_of(
    policy: RewardPolicy, records: Sequence[Any], share: Share | None, weighing: Weighing | None
) -> FeedbackSummary | None:
    """Of all that is said, by what `hearing_of` found."""
    return aggregate(records, partial(bonus_of, policy), share) if weighing is None else weighed(records, weighing)


def hearing_of(policy: RewardPolicy, version: int, case: InteractionState) -> tuple[Share | None, Weighing | None]:
    """How a rule version hears what is said of a case: by shares until 4, by a weighing since 5."""
    return (share_of(case), None) if version < 5 else (None, weighing_of(policy, case))


def share_of(case: InteractionState) -> Share | None:
    """How much of what it says feedback is credited with; None where it is all of it, as it mostly is."""
    if not case.attributed:
        return None
    shares = case.shares
    return lambda said: shares.get(said.identity, 1.0)


def weighing_of(policy: RewardPolicy, case: InteractionState) -> Weighing | None:
    """None where all that was said is said whole, and by somebody, as it mostly is."""
    if not case.attributed:
        return None
    shares, derived = case.shares, frozenset(case.derived)

    def worth(said: FeedbackRecord) -> DerivedWorth | None:
        return policy.derived.get(said.kind, UNKNOWN) if said.identity in derived else None

    def weight(said: FeedbackRecord) -> float:
        row = worth(said)
        return shares.get(said.identity, 1.0) if row is None else row.weight

    def bonus(said: FeedbackRecord) -> float:
        row = worth(said)
        return bonus_of(policy, said) if row is None else row.bonus

    return Weighing(weight, bonus, lambda said: said.identity in derived, policy.derived_in_quality)


def weighed(records: Sequence[FeedbackRecord], weighing: Weighing) -> FeedbackSummary | None:
    """As `feedback.aggregate`. What was derived and weighs nothing is not heard."""
    heard = heard_of(records, weighing)
    direct = [said for said in heard if not weighing.is_derived(said)]
    voices, given = voices_of(heard, weighing.bonus), voices_of(direct, weighing.bonus)
    if not voices:
        return None
    derived = len(voices) - len(given)
    validation, feedback = _means(voices, weighing)
    said = aggregate(heard if weighing.in_quality else direct, weighing.bonus)
    quality = sum(_means(given, weighing)) if derived and not weighing.in_quality else None
    return FeedbackSummary(
        validation=validation,
        feedback=feedback,
        voices=len(voices),
        contradicted=said is not None and said.contradicted,
        score=None if said is None else said.score,
        corrected=corrected_of(heard),
        derived=derived,
        direct=quality,
    )


def heard_of(records: Sequence[FeedbackRecord], weighing: Weighing) -> Sequence[FeedbackRecord]:
    return [said for said in records if weighing.weight(said) > 0 or not weighing.is_derived(said)]


def weights_of(voice: VoiceOpinion[FeedbackRecord], weighing: Weighing) -> tuple[float, float]:
    """Of its score, and of its kind; of what it does not say as of the other."""
    one, other = voice.scored or voice.kind, voice.kind or voice.scored
    return 0.0 if one is None else weighing.weight(one), 0.0 if other is None else weighing.weight(other)


def _means(voices: Sequence[VoiceOpinion[FeedbackRecord]], weighing: Weighing) -> tuple[float, float]:
    """Validation and feedback, by exact summation."""
    speaking = [(voice, *weights_of(voice, weighing)) for voice in voices if voice.speaks]
    validation = math.fsum(weight * voice.validation for voice, weight, _ in speaking)
    feedback = math.fsum(weight * voice.feedback for voice, _, weight in speaking)
    return (
        validation / max(1.0, math.fsum(weight for _, weight, _ in speaking)),
        feedback / max(1.0, math.fsum(weight for _, _, weight in speaking)),
    )
