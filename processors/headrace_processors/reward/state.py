"""State of the reward stage: a case per interaction, with all that was said of it. Data and its bounds; decides nothing.

A case begins with whatever comes first, the interaction or something said of it, and never goes away: what is left of a
retracted or erased one is ids and digests, so that a redelivery is still known as one.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, structs

from headrace_processors.decay import RunningSum
from headrace_processors.reward.feedback import Statement
from headrace_schemas.derived import Components
from headrace_schemas.inputs import VOICE_LIMIT, Agent, Context, Output, Text, Tool

CORRECTIONS_LIMIT = 4 * 1024 * 1024  # bytes of corrected outputs kept of one interaction
REPEAT_LIMIT = 16  # statements kept of one voice, to fall back on when later ones are retracted


class Original(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The texts of an interaction."""

    prompt: Text
    output: Output
    context: Context = None
    tools: list[Tool] | None = None


class Facts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the interaction itself said. `original` is gone once it was retracted or erased."""

    digest: str  # of the interaction's data, to tell a duplicate from a conflict
    event_time: str
    time_ns: int
    artifact_type: str
    model: str
    agent: Agent
    prompt_group: str
    prompt_chars: int  # rendered
    context_chars: int
    original: Original | None = None
    adapter: str | None = None
    data_subject: str | None = None
    train: bool = True
    traceparent: str | None = None


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the last revision said: the next one is written only when this changes."""

    quality: float
    reward: float
    components: Components
    contradicted: bool
    voices: int
    score: float | None = None
    target: str = ""  # digest of the corrected output; empty: the output itself


class Case(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One interaction. `outcome` is what `examples` holds of it now; `bucket` and `balance` are fixed at revision 1."""

    facts: Facts | None = None
    statements: tuple[Statement, ...] = ()  # in their order
    ended: Literal["", "retracted", "erased"] = ""
    revision: int = 0
    outcome: Outcome | None = None
    bucket: str = ""
    balance: float = 1.0

    @property
    def waiting(self) -> int:
        """Input records that are kept but have no effect yet: all while the interaction is unknown, else retractions of
        feedback that nobody has given."""
        if self.facts is None:
            told = sum(statement.said + statement.retracted for statement in self.statements)
            return told + (self.ended == "retracted")
        return sum(statement.retracted and not statement.said for statement in self.statements)

    def find(self, source: str, feedback_id: str) -> Statement | None:
        return next((one for one in self.statements if one.source == source and one.feedback_id == feedback_id), None)

    def tell(self, statement: Statement) -> tuple[Case, list[Statement]]:
        """The case with `statement` in place of the one with its identity, and what fell out because of the limits."""
        others = (one for one in self.statements if one.source != statement.source or one.feedback_id != statement.feedback_id)
        kept, dropped = _newest(sorted((*others, statement), key=lambda one: one.order))
        return structs.replace(self, statements=kept), dropped


class Shares(Struct, frozen=True):
    """Decayed counts of scored interactions by artifact type, of one partition."""

    by_type: dict[str, RunningSum]


class Forgotten(Struct, frozen=True):
    """A subject was erased: what happened up to `time_ns` is not taken in any more, however late it comes."""

    time_ns: int


def ended(case: Case, how: Literal["retracted", "erased"]) -> Case:
    """The case without any text. Of an erased one neither subject nor digests are left."""
    facts = case.facts
    if facts is not None:
        facts = structs.replace(facts, original=None)
        if how == "erased":
            facts = structs.replace(facts, digest="", data_subject=None, prompt_group="", agent=Agent(name=facts.agent.name))
    statements = tuple(textless(statement, how) for statement in case.statements)
    return structs.replace(case, facts=facts, statements=statements, ended=how)


def textless(statement: Statement, how: str) -> Statement:
    """What is kept of a statement on an ended case."""
    if how == "erased":
        digest = "erased" if statement.said else ""
        return structs.replace(statement, corrected=None, size=0, score=None, principal=None, name=None, digest=digest)
    return structs.replace(statement, corrected=None, size=0)


def _newest(ordered: list[Statement]) -> tuple[tuple[Statement, ...], list[Statement]]:
    """The last voices and of each the last statements, as far as they have room; and the others."""
    kept: list[Statement] = []
    dropped: list[Statement] = []
    repeats: dict[tuple[str | None, ...], int] = {}
    room = CORRECTIONS_LIMIT
    for statement in reversed(ordered):
        said = repeats.get(statement.voice, 0)
        if (said or len(repeats) < VOICE_LIMIT) and said < REPEAT_LIMIT and statement.size <= room:
            repeats[statement.voice] = said + 1
            room -= statement.size
            kept.append(statement)
        else:
            dropped.append(statement)
    return tuple(reversed(kept)), dropped
