"""Who says what of one interaction: feedback becomes voices, voices become one summary. Pure; knows no event and no record.

A voice is (principal, check name); without a principal each feedback is a voice of its own. Of each voice the latest kind and
the latest score count, by event time, then id; retracted feedback doesn't. Feedback about the *output* (kinds and scores) and
about the *target* (corrected outputs; the kind `user_correction` says nothing else) is never mixed.
Scores are 0-100, in units of the summary: validation in (-1, 1), feedback in the bonus's own units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from msgspec import Struct

from headrace_schemas.inputs import Feedback, Output

CORRECTION = "user_correction"
PREFERENCE = "preference"


class FeedbackRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One feedback as state. Not yet `received`: a retraction came first, and `time_ns` is the retraction's until it is."""

    source: str
    feedback_id: str
    time_ns: int
    digest: str = ""  # of the feedback's data, to tell a duplicate from a conflict; empty: not received yet
    kind: str = ""
    score: float | None = None
    name: str | None = None
    principal: str | None = None  # its id
    corrected: Output | None = None
    size: int = 0  # bytes that `corrected` may take in the state
    over: tuple[str, ...] = ()
    under: bool = False
    retracted: bool = False

    @property
    def received(self) -> bool:
        return bool(self.digest)

    @property
    def counts(self) -> bool:
        return self.received and not self.retracted

    @property
    def voice(self) -> tuple[str | None, ...]:
        return (self.source, self.feedback_id, None) if self.principal is None else (self.principal, self.name)

    @property
    def order(self) -> tuple[int, str, str]:
        return self.time_ns, self.feedback_id, self.source


class FeedbackSummary(Struct, frozen=True, kw_only=True):
    """What all voices together say: means over those that speak of the output, and the latest correction of anybody."""

    validation: float
    feedback: float
    voices: int
    contradicted: bool
    score: float | None = None  # mean of the voices' scores, 0-100
    corrected: Output | None = None


def score_of_100(feedback: Feedback) -> float | None:
    """The score mapped from its scale to 0-100."""
    if feedback.score is None or feedback.scale is None:
        return feedback.score
    low, high = feedback.scale
    return (feedback.score - low) / (high - low) * 100


def aggregate(records: Sequence[FeedbackRecord], bonus: Callable[[FeedbackRecord], float]) -> FeedbackSummary | None:
    """The summary of `records` in their `order`, or None when none of them counts. `bonus`: what a kind is worth."""
    voices: dict[tuple[str | None, ...], list[FeedbackRecord]] = {}
    corrected: Output | None = None
    for record in records:
        if not record.counts:
            continue
        voices.setdefault(record.voice, []).append(record)
        corrected = corrected if record.corrected is None else record.corrected
    if not voices:
        return None
    validations: list[float] = []
    feedbacks: list[float] = []
    scores: list[float] = []
    praise = blame = False
    for of_voice in voices.values():
        validation, feedback, score, speaks = _voice(of_voice, bonus)
        if score is not None:
            scores.append(score)
        if speaks:
            validations.append(validation)
            feedbacks.append(feedback)
            praise = praise or validation + feedback > 0
            blame = blame or validation + feedback < 0
    return FeedbackSummary(
        validation=_mean(validations) if validations else 0.0,
        feedback=_mean(feedbacks) if feedbacks else 0.0,
        voices=len(voices),
        contradicted=praise and blame,
        score=_mean(scores) if scores else None,
        corrected=corrected,
    )


def _voice(
    records: Sequence[FeedbackRecord], bonus: Callable[[FeedbackRecord], float]
) -> tuple[float, float, float | None, bool]:
    """(validation, feedback, score, whether it speaks of the output at all) of one voice."""
    kind = next((record for record in reversed(records) if record.kind != CORRECTION), None)
    score = next((record.score for record in reversed(records) if record.score is not None), None)
    validation = 0.0 if score is None else math.tanh((score - 50) / 50)
    return validation, 0.0 if kind is None else bonus(kind), score, kind is not None or score is not None


def _mean(values: Sequence[float]) -> float:
    """By exact summation, so that the order of the voices doesn't show."""
    return math.fsum(values) / len(values)
