"""Who says what of one interaction: feedback becomes voices, voices become one summary. Pure; knows no event and no record.

A voice is (principal, check name); without a principal each feedback is a voice of its own. Of each voice the latest kind and
the latest score count, by event time, then id; retracted feedback doesn't. Feedback about the *output* (kinds and scores) and
about the *target* (corrected outputs; the kind `user_correction` says nothing else) is never mixed.
Scores are 0-100, in units of the summary: validation in (-1, 1), feedback in the bonus's own units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from msgspec import Struct

from headrace_schemas.inputs import Feedback

CORRECTION = "user_correction"
PREFERENCE = "preference"


class FeedbackRecord(Struct, frozen=True, kw_only=True, array_like=True):
    """One feedback as state. Not yet `received`: a retraction came first, and `time_ns` is the retraction's until it is. What is
    long stands under keys of its own, named by the digests here."""

    source: str
    feedback_id: str
    time_ns: int
    digest: str = ""  # of the feedback's data, to tell a duplicate from a conflict; empty: not received yet
    kind: str = ""
    score: float | None = None
    name: str | None = None
    principal: str | None = None  # its id
    corrected: str | None = None  # digest of the corrected output
    size: int = 0  # bytes of it all in the state
    over: str | None = None  # digest of the ids that a preference was over
    under: bool = False
    retracted: bool = False
    speaker: str | None = None  # what the principal is: human, validator, test, agent

    @property
    def received(self) -> bool:
        return bool(self.digest)

    @property
    def counts(self) -> bool:
        return self.received and not self.retracted

    @property
    def identity(self) -> tuple[str, str]:
        return self.source, self.feedback_id

    @property
    def voice(self) -> tuple[str | None, ...]:
        return (self.source, self.feedback_id, None) if self.principal is None else (self.principal, self.name)

    @property
    def order(self) -> tuple[int, str, str]:
        return self.time_ns, self.feedback_id, self.source


class Statement(Protocol):
    """What a summary reads of a feedback, of whatever rule version. `corrected` is its corrected output, or the digest of it."""

    @property
    def kind(self) -> str: ...
    @property
    def score(self) -> float | None: ...
    @property
    def corrected(self) -> Any: ...
    @property
    def over(self) -> Any: ...
    @property
    def under(self) -> bool: ...
    @property
    def counts(self) -> bool: ...
    @property
    def voice(self) -> tuple[str | None, ...]: ...


S = TypeVar("S", bound=Statement)


class FeedbackSummary(Struct, frozen=True, kw_only=True):
    """What all voices together say: means over those that speak of the output, and the latest correction of anybody."""

    validation: float
    feedback: float
    voices: int
    contradicted: bool
    score: float | None = None  # mean of the voices' scores, 0-100
    corrected: Any = None  # as the statement says it, None when nobody corrected
    derived: int = 0  # of the voices those that nobody gave
    direct: float | None = None  # validation + feedback of the others, where quality hears only them


def score_of_100(feedback: Feedback) -> float | None:
    """The score mapped from its scale to 0-100, finite whatever finite scale it has: length and distance are measured in halves
    where they would overflow."""
    if feedback.score is None or feedback.scale is None:
        return feedback.score
    low, high = feedback.scale
    score, length = feedback.score, high - low
    if math.isinf(length):
        low, score, length = low / 2, score / 2, high / 2 - low / 2
    return (score - low) / length * 100


def aggregate(
    records: Sequence[S], bonus: Callable[[S], float], share: Callable[[S], float] | None = None
) -> FeedbackSummary | None:
    """The summary of `records` in their order, or None when none of them counts. `bonus`: what a kind is worth; `share`: how much
    of what it says of the output a record is credited with, None where all say all of it."""
    if len(records) == 1 and share is None:
        return _alone(records[0], bonus)
    voices = voices_of(records, bonus, share)
    if not voices:
        return None
    corrected = corrected_of(records)
    validations: list[float] = []
    feedbacks: list[float] = []
    scores: list[float] = []
    praise = blame = False
    for _, validation, feedback, score, speaks, _, _ in voices:
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


def _alone(record: S, bonus: Callable[[S], float]) -> FeedbackSummary | None:
    """The summary of a single feedback, as most interactions have: nobody to agree with."""
    if not record.counts:
        return None
    score = record.score
    return FeedbackSummary(
        validation=0.0 if score is None else math.tanh((score - 50) / 50) + 0.0,  # as a sum of one: never -0.0
        feedback=0.0 if record.kind == CORRECTION else bonus(record) + 0.0,
        voices=1,
        contradicted=False,
        score=None if score is None else score + 0.0,
        corrected=record.corrected,
    )


def corrected_of(records: Sequence[Statement]) -> Any:
    """The latest corrected output that counts, if there is one."""
    return next((record.corrected for record in reversed(records) if record.counts and record.corrected is not None), None)


class VoiceOpinion(NamedTuple, Generic[S]):
    """What one voice comes to. `speaks`: of the output at all; `kind` and `scored`: the statements whose kind and score count."""

    records: Sequence[S]
    validation: float
    feedback: float
    score: float | None
    speaks: bool
    kind: S | None
    scored: S | None


def voices_of(
    records: Sequence[S], bonus: Callable[[S], float], share: Callable[[S], float] | None = None
) -> list[VoiceOpinion[S]]:
    """The voices of all that counts, in the order of their first statements."""
    voices: dict[tuple[str | None, ...], list[S]] = {}
    for record in records:
        if record.counts:
            voices.setdefault(record.voice, []).append(record)
    return [_opinion(of_voice, bonus, share) for of_voice in voices.values()]


def _opinion(records: Sequence[S], bonus: Callable[[S], float], share: Callable[[S], float] | None) -> VoiceOpinion[S]:
    kind = next((record for record in reversed(records) if record.kind != CORRECTION), None)
    scored = next((record for record in reversed(records) if record.score is not None), None)
    score = None if scored is None else scored.score
    validation = 0.0 if score is None else math.tanh((score - 50) / 50)
    feedback = 0.0 if kind is None else bonus(kind)
    if share is not None:
        validation = validation if scored is None else validation * share(scored)
        feedback = feedback if kind is None else feedback * share(kind)
    return VoiceOpinion(records, validation, feedback, score, kind is not None or score is not None, kind, scored)


def _mean(values: Sequence[float]) -> float:
    """By exact summation, so that the order of the voices doesn't show."""
    return math.fsum(values) / len(values)
