"""State of the reward stage: what is kept of an interaction, in a few values that change apart. Data and bounds; decides nothing.

| key | value |
|---|---|
| `interaction/{id}` | the case: identities, statements, outcome; no text, under 1 KB; rewritten by each record about it |
| `content/{id}` | what the interaction said, texts and all; written once |
| `correction/{id}/{digest}` | a corrected output; written once, gone with the last statement that names it |
| `over/{id}/{digest}` | the ids that a preference was over; likewise |
| `subject/{digest}` | a subject was erased |
| `erasing/{digest}/{number}` | ids that an erasure has still to end |
| `shares` | decayed counts of artifact types |

The driver holds the first four as bytes, decoded only by a record about them: a million open interactions are a million byte
strings, whatever objects their texts would be. An erased or retracted interaction keeps ids and digests, so that a redelivery is
known as one; what expired after it was an example keeps what a withdrawal needs.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec
from msgspec import Raw, Struct, structs

from headrace_processors.decay import RunningSum
from headrace_processors.reward.feedback import FeedbackRecord
from headrace_schemas.derived import Components
from headrace_schemas.inputs import VOICE_LIMIT, Agent

STATEMENTS_LIMIT = 4 * 1024 * 1024  # bytes of all feedback kept of one interaction, corrected outputs and `over` included
REPEAT_LIMIT = 16  # feedback kept of one voice, to fall back on when later ones are retracted
SAME = 1e-9  # by how much two outcomes may differ in any number and say the same: no consumer decides by less
ERASED = "erased"  # in place of a digest that an erasure took away
NOTHING = Raw(b"")  # of a text that is not there: msgspec reads no `Raw | None`

_ENCODER = msgspec.json.Encoder()
_OTHERS = (b',"d', b',"f')  # what nearly always stands behind a time of 13 digits: digest, feedback
_SETTLES = re.compile(rb'\{"touched":\d+(?:,"expired":true)?,"settles":(\d+)')
_WHO = ("human", "agent")  # of the kinds of principal, those that have an opinion


class InteractionContent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an interaction said: all that an example of it repeats, in the bytes in which it does."""

    event_time: str
    time_ns: int
    artifact_type: str
    model: str
    agent: Agent
    prompt: Raw
    output: Raw
    prompt_chars: int  # rendered
    context_chars: int
    context: Raw = NOTHING
    tools: Raw = NOTHING
    prompt_group: str | None = None  # as its publisher gave it
    adapter: str | None = None
    data_subject: str | None = None
    train: bool = True
    finish_reason: str | None = None
    traceparent: str | None = None
    session_id: str | None = None  # from rule version 3 on
    sealed: bool = False  # whether it came sealed: then whatever is written of its texts is


class RewardOutcome(Struct, frozen=True, kw_only=True, array_like=True):
    """What the last revision said: the next one is written only when this changes."""

    quality: float
    reward: float
    validation: float
    feedback: float
    difficulty: float
    multiplier: float
    correction: float | None
    score: float | None
    contradicted: bool
    voices: int
    target: str = ""  # digest of the corrected output; empty: the output itself

    @property
    def components(self) -> Components:
        return Components(
            validation=self.validation,
            feedback=self.feedback,
            difficulty=self.difficulty,
            multiplier=self.multiplier,
            correction=self.correction,
        )

    def says(self, other: RewardOutcome) -> bool:
        """Whether both say the same, as far as anybody decides by it."""
        if (self.target, self.voices, self.contradicted) != (other.target, other.voices, other.contradicted):
            return False
        return all(
            mine == theirs or (mine is not None and theirs is not None and abs(mine - theirs) <= SAME)
            for mine, theirs in zip(self._numbers(), other._numbers(), strict=True)
        )

    def _numbers(self) -> tuple[float | None, ...]:
        return (
            self.quality,
            self.reward,
            self.validation,
            self.feedback,
            self.difficulty,
            self.multiplier,
            self.correction,
            self.score,
        )


class Similarity(Struct, frozen=True, kw_only=True, array_like=True):
    """How alike the output and a corrected output are, so that it is computed once: milliseconds for long texts."""

    target: str  # digest of the corrected output
    weights: str  # what the policy said of it
    value: float


class AttributedShare(Struct, frozen=True, array_like=True):
    """How much of what was said of its session an interaction is credited with, by feedback that was derived from it."""

    source: str
    feedback_id: str
    share: float


class InteractionState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The case of one interaction. It begins with whatever comes first, the interaction or feedback on it. `outcome` is what
    `examples` holds of it now; `bucket` and `balance` are fixed at revision 1. The first three fields stand
    first in its bytes."""

    touched: int  # fold time in ms of the last record about it
    expired: bool = False  # nothing was heard of it for too long: what is left serves a withdrawal only
    settles: int = 0  # fold time in ms until which its label is provisional; 0: it is not
    digest: str = ""  # of the interaction's data, to tell a duplicate from a conflict; empty: not recorded yet
    subject: str = ""  # digest of its data subject's handle
    feedback: tuple[FeedbackRecord, ...] = ()  # in their order
    ended: Literal["", "retracted", "erased"] = ""
    revision: int = 0
    outcome: RewardOutcome | None = None
    standing: bool = False  # of an expired one: whether an example of it stands
    bucket: str = ""
    balance: float = 1.0
    group: str = ""  # derived prompt group, known from revision 1 on
    similarity: Similarity | None = None
    drawn: str = ""  # the bucket of the prompt that was drawn from it, as long as that was not withdrawn
    final: bool = False  # its label is final, where policy says when: what is said now is late
    attributed: tuple[AttributedShare, ...] = ()  # of its feedback, what was derived from words on its session, or seen in it
    derived: tuple[tuple[str, str], ...] = ()  # identities of what was seen in it
    session: str = ""  # where the stage attribute is to hear when it ends

    @property
    def recorded(self) -> bool:
        return bool(self.digest)

    @property
    def waiting(self) -> int:
        """Input records that are kept but have no effect yet: all while the interaction is unknown, else retractions of
        feedback that nobody has given."""
        if self.expired:
            return 0
        waiting = 0
        if not self.digest:
            for record in self.feedback:
                waiting += record.received + record.retracted
            return waiting + (self.ended == "retracted")
        for record in self.feedback:
            if record.retracted and not record.received:
                waiting += 1
        return waiting

    @property
    def principals(self) -> list[str] | None:
        """People and agents that are heard, as kind:id."""
        heard = {f"{said.speaker}:{said.principal}" for said in self.feedback if said.speaker in _WHO and said.counts}
        return sorted(heard) or None

    @property
    def shares(self) -> dict[tuple[str, str], float]:
        """By the identity of feedback; of all other it is 1."""
        return {(each.source, each.feedback_id): each.share for each in self.attributed}

    def with_shares_of_its_feedback(self) -> InteractionState:
        """Without shares and marks of what fell out."""
        left = {record.identity for record in self.feedback}
        attributed = tuple(each for each in self.attributed if (each.source, each.feedback_id) in left)
        return structs.replace(self, attributed=attributed, derived=tuple(each for each in self.derived if each in left))

    def find_feedback(self, source: str, feedback_id: str) -> FeedbackRecord | None:
        for record in self.feedback:
            if record.feedback_id == feedback_id and record.source == source:
                return record
        return None

    def with_feedback(self, record: FeedbackRecord) -> tuple[InteractionState, list[FeedbackRecord]]:
        """The state with `record` in place of the one with its identity, and what fell out because of the limits."""
        if not self.feedback:
            return structs.replace(self, feedback=(record,)), []
        identity = record.identity
        others = (other for other in self.feedback if other.identity != identity)
        newest, dropped = _newest(sorted((*others, record), key=lambda each: each.order))
        return structs.replace(self, feedback=newest), dropped

    def tombstone(self, how: Literal["retracted", "erased"]) -> InteractionState:
        """The state without any text. Of an erased one neither subject nor digests are left."""
        rest: dict[str, object] = {"similarity": None, "settles": 0, "final": False}
        feedback = tuple(without_text(record, how) for record in self.feedback)
        if how == "retracted":
            return structs.replace(self, feedback=feedback, ended=how, **rest)
        digest = ERASED if self.recorded else ""
        return structs.replace(self, feedback=feedback, ended=how, digest=digest, subject="", group="", **rest)

    def remains(self) -> InteractionState | None:
        """What is left of it when it expires: nothing, unless a withdrawal needs it or it must not come back."""
        if not self.recorded or not (self.revision or self.drawn or self.ended == "retracted"):
            return None
        return InteractionState(
            touched=self.touched,
            expired=True,
            subject=self.subject,
            ended=self.ended,
            revision=self.revision,
            standing=self.outcome is not None,
            bucket=self.bucket,
            drawn=self.drawn,
            session=self.session,
        )


class TypeCounts(Struct, frozen=True):
    """Decayed counts of scored interactions by artifact type, of one partition."""

    by_type: dict[str, RunningSum]


class ErasedSubject(Struct, frozen=True, omit_defaults=True):
    """A subject was erased: what happened up to `time_ns` is not taken in any more, however late it comes."""

    time_ns: int
    pending: tuple[int, ...] = ()  # numbers of the portions that have still to be ended


def plainly_touched(value: bytes) -> int | None:
    """`touched` of an encoded case that is not expired and begins as nearly all do; None of others, whatever they are."""
    digits = value[11:24]
    return int(digits) if value[24:27] in _OTHERS and digits.isdigit() and value.startswith(b'{"touched":') else None


def settles_of(value: bytes) -> int:
    """`settles` of an encoded case, without decoding it: it stands behind `touched` and `expired`."""
    settles = _SETTLES.match(value)
    return int(settles[1]) if settles else 0


def is_expired(value: bytes) -> bool:
    """`expired` of an encoded case, without decoding it: it stands behind `touched`."""
    return value[24:27] not in _OTHERS and b'"expired":true' in value[:48]


def has_prompt_alone(value: bytes) -> bool:
    """Whether an encoded case that is expired has a prompt that was drawn, and never was an example."""
    return b',"drawn":' in value and b',"revision":' not in value  # in a text these quotes would be escaped


def without_text(record: FeedbackRecord, how: Literal["retracted", "erased"]) -> FeedbackRecord:
    """What is kept of feedback on an interaction that was retracted or erased. `over` is ids, which a later retraction needs."""
    if how == "erased":
        digest = ERASED if record.received else ""
        record = structs.replace(record, score=None, principal=None, speaker=None, name=None, digest=digest)
    return record if record.corrected is None else structs.replace(record, corrected=None)


def sized(record: FeedbackRecord, *texts: bytes) -> FeedbackRecord:
    """The record with the bytes that it and its texts take in the state."""
    return structs.replace(record, size=len(_ENCODER.encode(record)) + sum(map(len, texts)))


def _newest(ordered: list[FeedbackRecord]) -> tuple[tuple[FeedbackRecord, ...], list[FeedbackRecord]]:
    """The last voices and of each the last feedback, as far as they have room; and the others. The newest always has."""
    newest: list[FeedbackRecord] = []
    dropped: list[FeedbackRecord] = []
    repeats: dict[tuple[str | None, ...], int] = {}
    room = STATEMENTS_LIMIT
    for record in reversed(ordered):
        repeated = repeats.get(record.voice, 0)
        if (repeated or len(repeats) < VOICE_LIMIT) and repeated < REPEAT_LIMIT and record.size <= room:
            repeats[record.voice] = repeated + 1
            room -= record.size
            newest.append(record)
        else:
            dropped.append(record)
    return tuple(reversed(newest)), dropped
