"""The keys of a deployment, as the records of topic `keys` say in their order. Pure: knows events, no client, no cipher.

The topic has one partition, so that everybody finds the same order: the first key of an owner is its key, whoever else made one
at the same time. An erasure holds from its place on: for all keys of the subject that came before it, and for those made later
for what had happened before. An interaction that several subjects name goes with the first of them that is erased. What is
said of a foreign id belongs to the interaction that the id means at its place on the topic, or comes to mean first: as the link
stage joins it. Which records on disk still hold a key that is erased (`leftovers`) follows from the same order, so that whoever
may write can remove them, after any crash.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import NamedTuple

from headrace_schemas.derived import KeyIssue
from headrace_schemas.events import Event, KeyBelongs, KeyErased, KeyIssued, SubjectKeysErased
from headrace_schemas.ids import derive_id
from headrace_schemas.times import parse_ns

INTERACTION_OWNER = "interaction/"  # how the owner begins that is an interaction
FOREIGN_OWNER = "foreign/"  # and what is no owner of texts, but a foreign id
KEY_BYTES = 32  # two AES-128 keys, as RFC 5297 has it


def subject_digest(handle: str) -> str:
    """By which a data subject is known here."""
    return derive_id("subject", handle)


class Leftover(NamedTuple):
    """A record of an owner who is erased that still holds more than that."""

    key_id: str
    owner: str
    subject: str | None


class ForeignLink(NamedTuple):
    """The interaction that a foreign id means, by the event time in ns of who says so."""

    owner: str
    time_ns: int


class Keyring:
    """`apply` every record of the topic, in order. `passed_over`: how many say what can't be, which count as not there."""

    def __init__(self) -> None:
        self._secrets: dict[str, bytes] = {}  # by owner
        self._erased: dict[str, str | None] = {}  # owner -> subject
        self._subjects: dict[str, tuple[str, ...]] = {}  # owner -> subjects, that which was named first before others
        self._meanings: dict[str, ForeignLink] = {}  # by foreign id
        self._unlinked: dict[str, dict[str, None]] = {}  # foreign id -> owners that nobody knows yet whose they are
        self._owned: dict[str, dict[str, None]] = {}  # subject -> owners, in order
        self._belonging: dict[str, dict[str, None]] = {}  # owner -> owners that belong to it
        self._marks: dict[str, int] = {}  # subject -> event time in ns
        self._records: dict[str, dict[str, None]] = {}  # owner -> ids of records that hold more than an erasure
        self._leftovers: dict[str, Leftover] = {}  # by record id
        self.last_erasure: KeyErased | None = None
        self.passed_over = 0

    def secret(self, owner: str) -> bytes | None:
        """The owner's key; None when there is none, or none any more."""
        return self._secrets.get(owner)

    def is_erased(self, owner: str) -> bool:
        return owner in self._erased

    def is_known(self, owner: str) -> bool:
        """Whether there is, or was, a key."""
        return owner in self._secrets or owner in self._erased

    def erased_subject(self, owner: str) -> str | None:
        """The digest of whom an erased owner belonged to first; None when that is not known."""
        return self._erased.get(owner)

    def is_of(self, owner: str, subject: str) -> bool:
        """Whether an owner that is not erased is known to be a subject's."""
        return owner in self._owned.get(subject, ())

    def meaning(self, foreign: str) -> ForeignLink | None:
        """Of a foreign id."""
        return self._meanings.get(foreign)

    def belongs(self, owner: str, of: str) -> bool:
        return owner in self._belonging.get(of, ())

    def belonging(self, of: str) -> list[str]:
        """Owners that belong to an owner."""
        return list(self._belonging.get(of, ()))

    def mark(self, subject: str) -> int:
        """Event time in ns up to which a subject is erased; -1: it never was."""
        return self._marks.get(subject, -1)

    def owners(self, subject: str) -> list[str]:
        """Those that are not erased."""
        return list(self._owned.get(subject, ()))

    def all_owners(self, subject: str) -> list[str]:
        """Those that are erased, too."""
        return [*self.owners(subject), *(owner for owner, gone in self._erased.items() if gone == subject)]

    @property
    def has_keys(self) -> bool:
        return bool(self._secrets)

    @property
    def has_erased(self) -> bool:
        return bool(self._erased)

    @property
    def leftovers(self) -> list[Leftover]:
        """What is to be written over by KeyErased, each under its key id."""
        return list(self._leftovers.values())

    def apply(self, event: Event) -> None:
        """One record. What is no event of the topic is passed over, and so is what says what can't be: no key of this size, no
        time."""
        try:
            self._apply(event)
        except ValueError:
            self.passed_over += 1

    def _apply(self, event: Event) -> None:
        match event:
            case KeyIssued(data=issued):
                self._issue(issued, parse_ns(issued.time), _secret_of(issued.secret_base64))
            case KeyBelongs(data=told) if told.owner.startswith(FOREIGN_OWNER):
                if told.of is not None:
                    self._link(told.owner, ForeignLink(told.of, parse_ns(told.time)))
            case KeyBelongs(data=told):
                time_ns = parse_ns(told.time)
                self._record(told.key_id, told.owner)
                if told.subject is not None:
                    self._own(told.owner, told.subject, time_ns)
                if told.of is not None:
                    self._belong(told.owner, told.of)
            case KeyErased(data=gone):
                self.last_erasure = event
                self._leftovers.pop(gone.key_id, None)
                self._records.get(gone.owner, {}).pop(gone.key_id, None)
                self._erase(gone.owner, gone.subject)
                if gone.subject is not None:  # what said whose it was first may be compacted away
                    self._erased[gone.owner] = gone.subject
            case SubjectKeysErased(data=mark):
                self._marks[mark.subject] = max(parse_ns(mark.time), self.mark(mark.subject))
                for owner in self.owners(mark.subject):
                    self._erase(owner, mark.subject)

    def _issue(self, issued: KeyIssue, time_ns: int, secret: bytes) -> None:
        owner = issued.owner
        self._record(issued.key_id, owner)
        if not self.is_known(owner):
            self._secrets[owner] = secret
            if issued.under is not None:
                if (known := self._meanings.get(issued.under)) is None:
                    self._unlinked.setdefault(issued.under, {})[owner] = None
                else:
                    self._belong(owner, known.owner)
        if issued.subject is not None:
            self._own(owner, issued.subject, time_ns)

    def _link(self, foreign: str, meaning: ForeignLink) -> None:
        before = self._meanings.get(foreign)
        if before is not None and meaning.time_ns < before.time_ns:
            return
        self._meanings[foreign] = meaning
        for owner in self._unlinked.pop(foreign, ()):
            self._belong(owner, meaning.owner)

    def _belong(self, owner: str, of: str) -> None:
        if not self.belongs(owner, of):
            self._belonging.setdefault(of, {})[owner] = None
            if of in self._erased:
                self._erase(owner, self._erased[of])

    def _record(self, key_id: str, owner: str) -> None:
        if owner in self._erased:
            self._leftovers[key_id] = Leftover(key_id, owner, self._erased[owner])
        else:
            self._records.setdefault(owner, {})[key_id] = None

    def _own(self, owner: str, subject: str, time_ns: int) -> None:
        if owner in self._erased:
            return
        if not self.is_of(owner, subject):
            self._subjects[owner] = (*self._subjects.get(owner, ()), subject)
            self._owned.setdefault(subject, {})[owner] = None
        if time_ns <= self.mark(subject):
            self._erase(owner, subject)

    def _erase(self, owner: str, subject: str | None) -> None:
        todo = [owner]
        while todo:
            owner = todo.pop()
            if owner in self._erased:
                continue
            known = self._subjects.pop(owner, ())
            first = known[0] if known else subject
            self._erased[owner] = first
            self._secrets.pop(owner, None)
            for each in known:
                self._owned[each].pop(owner, None)
            for key_id in self._records.pop(owner, ()):
                self._leftovers[key_id] = Leftover(key_id, owner, first)
            todo += self._belonging.get(owner, ())


def _secret_of(base64_text: str) -> bytes:
    """ValueError for what is no key."""
    secret = base64.b64decode(base64_text, validate=True)
    if len(secret) != KEY_BYTES:
        raise ValueError(f"secret_base64: {len(secret)} bytes, a key has {KEY_BYTES}")
    return secret


def keyring_of(events: Iterable[Event]) -> Keyring:
    """The keyring of a whole topic."""
    ring = Keyring()
    for event in events:
        ring.apply(event)
    return ring
