"""State of the reward stage under rule version 1: one value per interaction, texts and all. Data and its bounds; decides nothing.

The value begins with whatever comes first, the interaction or feedback on it, and never goes away: what remains of a retracted
or erased one is ids and digests, so that a redelivery is still known as one. A `name=` is the name on the log.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field, structs

from headrace_schemas.derived import Components
from headrace_schemas.inputs import VOICE_LIMIT, Agent, Context, Output, Text, Tool

CORRECTIONS_LIMIT = 4 * 1024 * 1024  # bytes of corrected outputs kept of one interaction
REPEAT_LIMIT = 16  # feedback kept of one voice, to fall back on when later ones are retracted


class FeedbackRecord1(Struct, frozen=True, kw_only=True, omit_defaults=True):
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


class InteractionTexts1(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The texts of an interaction."""

    prompt: Text
    output: Output
    context: Context = None
    tools: list[Tool] | None = None


class InteractionFacts1(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the interaction itself said. `texts` are gone once it was retracted or erased."""

    digest: str  # of the interaction's data, to tell a duplicate from a conflict
    event_time: str
    time_ns: int
    artifact_type: str
    model: str
    agent: Agent
    prompt_group: str
    prompt_chars: int  # rendered
    context_chars: int
    texts: InteractionTexts1 | None = field(name="original", default=None)
    adapter: str | None = None
    data_subject: str | None = None
    train: bool = True
    traceparent: str | None = None


class RewardOutcome1(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the last revision said: the next one is written only when this changes."""

    quality: float
    reward: float
    components: Components
    contradicted: bool
    voices: int
    score: float | None = None
    target: str = ""  # digest of the corrected output; empty: the output itself


class InteractionState1(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One interaction. `outcome` is what `examples` holds of it now; `bucket` and `balance` are fixed at revision 1."""

    facts: InteractionFacts1 | None = None
    feedback: tuple[FeedbackRecord1, ...] = field(name="statements", default=())  # in their order
    ended: Literal["", "retracted", "erased"] = ""
    revision: int = 0
    outcome: RewardOutcome1 | None = None
    bucket: str = ""
    balance: float = 1.0

    @property
    def waiting(self) -> int:
        """Input records that are kept but have no effect yet: all while the interaction is unknown, else retractions of
        feedback that nobody has given."""
        if self.facts is None:
            return sum(record.received + record.retracted for record in self.feedback) + (self.ended == "retracted")
        return sum(record.retracted and not record.received for record in self.feedback)

    def find_feedback(self, source: str, feedback_id: str) -> FeedbackRecord1 | None:
        return next((record for record in self.feedback if (record.source, record.feedback_id) == (source, feedback_id)), None)

    def with_feedback(self, record: FeedbackRecord1) -> tuple[InteractionState1, list[FeedbackRecord1]]:
        """The state with `record` in place of the one with its identity, and what fell out because of the limits."""
        identity = record.source, record.feedback_id
        others = (other for other in self.feedback if (other.source, other.feedback_id) != identity)
        newest, dropped = _newest(sorted((*others, record), key=lambda each: each.order))
        return structs.replace(self, feedback=newest), dropped

    def tombstone(self, how: Literal["retracted", "erased"]) -> InteractionState1:
        """The state without any text. Of an erased one neither subject nor digests are left."""
        facts = self.facts
        if facts is not None:
            facts = structs.replace(facts, texts=None)
            if how == "erased":
                facts = structs.replace(facts, digest="", data_subject=None, prompt_group="", agent=Agent(name=facts.agent.name))
        feedback = tuple(without_text(record, how) for record in self.feedback)
        return structs.replace(self, facts=facts, feedback=feedback, ended=how)


def without_text(record: FeedbackRecord1, how: Literal["retracted", "erased"]) -> FeedbackRecord1:
    """What is kept of feedback on an interaction that was retracted or erased."""
    if how == "erased":
        digest = "erased" if record.received else ""
        return structs.replace(record, corrected=None, size=0, score=None, principal=None, name=None, digest=digest)
    return structs.replace(record, corrected=None, size=0)


def _newest(ordered: list[FeedbackRecord1]) -> tuple[tuple[FeedbackRecord1, ...], list[FeedbackRecord1]]:
    """The last voices and of each the last feedback, as far as they have room; and the others."""
    newest: list[FeedbackRecord1] = []
    dropped: list[FeedbackRecord1] = []
    repeats: dict[tuple[str | None, ...], int] = {}
    room = CORRECTIONS_LIMIT
    for record in reversed(ordered):
        repeated = repeats.get(record.voice, 0)
        if (repeated or len(repeats) < VOICE_LIMIT) and repeated < REPEAT_LIMIT and record.size <= room:
            repeats[record.voice] = repeated + 1
            room -= record.size
            newest.append(record)
        else:
            dropped.append(record)
    return tuple(reversed(newest)), dropped
