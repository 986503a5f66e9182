"""State of the attribute stage: one value per session; each thing said of one once, under a key of its own. Decides nothing.

Keys are JSON lists: `[session id]`, `[session id, source, feedback id]` (a word or a report), `[session id, interaction id]`
(what derivations compare of it). Values stay the bytes that they are on the log; of a session they begin with `touched`, the fold
time of the last record about it.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

MEMBERS = 64  # of a session are known, the last ones
WORDS = 64  # said of a session are known: of one more the record is a dead letter
WORDS_BYTES = 2 * 1024 * 1024  # of their events: all of it may be derived anew in one step, for each of the interactions
REPORTS = 16  # of a session are known, the last ones
SIGNS = 256  # of a session are known, the last ones: of one before, that it is taken back


class SessionMember(Struct, frozen=True, order=True, array_like=True):
    """An interaction of a session, by its event time."""

    time_ns: int
    interaction_id: str


class SessionCredit(Struct, frozen=True, array_like=True):
    """Feedback that was derived for an interaction, and stands."""

    interaction_id: str
    share: float
    feedback_id: str


class SessionWord(Struct, frozen=True, kw_only=True, array_like=True):
    """Something that was said of a session. Not yet `received`: its retraction came first."""

    source: str
    feedback_id: str
    time_ns: int = 0
    digest: str = ""  # of its data, to tell a duplicate from a conflict; empty: not received yet
    about: str = ""  # the interaction that it names
    corrects: bool = False  # it has a corrected output, which is one interaction's
    retracted: bool = False
    revision: int = 0  # how often it was credited otherwise
    credits: tuple[SessionCredit, ...] = ()

    @property
    def identity(self) -> tuple[str, str]:
        return self.source, self.feedback_id

    @property
    def received(self) -> bool:
        return bool(self.digest)

    @property
    def effect(self) -> str:
        """The counter of its records once they have one."""
        return "retracted" if self.retracted else "credited"

    @property
    def waiting(self) -> int:
        """Its records that have no effect yet."""
        return int(not self.received or not (self.revision or self.retracted))


class ReportRecord(Struct, frozen=True, order=True, array_like=True):
    """Something that was reported of a session, by its event time."""

    time_ns: int
    source: str
    feedback_id: str
    digest: str
    retracted: bool = False

    @property
    def identity(self) -> tuple[str, str]:
        return self.source, self.feedback_id


class ReportContent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a report says, under its key."""

    kind: str
    name: str = ""
    about: str = ""
    content: str | None = None  # sketch


class SignRecord(Struct, frozen=True, array_like=True):
    """What a derivation saw, as the feedback that it became and that stands. `derivation`: kind, then name@version."""

    kind: str
    derivation: str
    interaction_id: str
    causes: tuple[str, ...]
    feedback_id: str

    @property
    def identity(self) -> tuple[str, str, str, tuple[str, ...]]:
        return self.kind, self.derivation, self.interaction_id, self.causes


class SessionState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session: its last interactions, in the order of (event time, id), what was said of it, in the order of arrival, what was
    reported of it, in the order of event time, and what was seen in it."""

    touched: int
    members: tuple[SessionMember, ...] = ()
    words: tuple[SessionWord, ...] = ()
    reports: tuple[ReportRecord, ...] = ()
    signs: tuple[SignRecord, ...] = ()
    found: int = 0  # how many signs there ever were: numbers their feedback

    @property
    def waiting(self) -> int:
        return sum(word.waiting for word in self.words)

    def word(self, source: str, feedback_id: str) -> SessionWord | None:
        return next((word for word in self.words if word.identity == (source, feedback_id)), None)

    def report(self, source: str, feedback_id: str) -> ReportRecord | None:
        return next((report for report in self.reports if report.identity == (source, feedback_id)), None)


def session_key(session_id: str) -> str:
    return msgspec.json.encode([session_id]).decode()


def word_key(session_id: str, source: str, feedback_id: str) -> str:
    return msgspec.json.encode([session_id, source, feedback_id]).decode()


def member_key(session_id: str, interaction_id: str) -> str:
    return msgspec.json.encode([session_id, interaction_id]).decode()


def session_of(key: str) -> str | None:
    """The session of a session's own key, None for a key of what was said or compared. ValueError for any other."""
    parts = msgspec.json.decode(key, type=list[str])
    if not 1 <= len(parts) <= 3:
        raise ValueError(f"state key: {key!r} is none of attribute's")
    return parts[0] if len(parts) == 1 else None
