"""The keys of a deployment, as the records of topic `keys` say in their order. Pure: knows events, no client, no cipher.

The topic has one partition, so that everybody finds the same order: the first key of an owner is its key, whoever else made one
at the same time. An erasure holds from its place on: for all keys of the subject that came before it, and for those made later
for what had happened before. Which records on disk still hold a key that is erased (`leftovers`) follows from the same order, so
that whoever may write can remove them, after any crash.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import NamedTuple

from headrace_schemas.events import Event, KeyBelongs, KeyErased, KeyIssued, SubjectKeysErased
from headrace_schemas.ids import derive_id
from headrace_schemas.times import parse_ns

INTERACTION_OWNER = "interaction/"  # how the owner begins that is an interaction


def subject_digest(handle: str) -> str:
    """By which a data subject is known here."""
    return derive_id("subject", handle)


class Leftover(NamedTuple):
    """A record of an owner who is erased that still holds more than that."""

    key_id: str
    owner: str
    subject: str | None


class Keyring:
    """`apply` every record of the topic, in order."""

    def __init__(self) -> None:
        self._secrets: dict[str, bytes] = {}  # by owner
        self._erased: dict[str, str | None] = {}  # owner -> subject
        self._subjects: dict[str, str] = {}  # owner -> subject
        self._owned: dict[str, dict[str, None]] = {}  # subject -> owners, in order
        self._belonging: dict[str, dict[str, None]] = {}  # owner -> owners that belong to it
        self._marks: dict[str, int] = {}  # subject -> event time in ns
        self._records: dict[str, dict[str, None]] = {}  # owner -> ids of records that hold more than an erasure
        self._leftovers: dict[str, Leftover] = {}  # by record id
        self.last_erasure: KeyErased | None = None

    def secret(self, owner: str) -> bytes | None:
        """The owner's key; None when there is none, or none any more."""
        return self._secrets.get(owner)

    def is_erased(self, owner: str) -> bool:
        return owner in self._erased

    def is_known(self, owner: str) -> bool:
        """Whether there is, or was, a key."""
        return owner in self._secrets or owner in self._erased

    def erased_subject(self, owner: str) -> str | None:
        """The digest of whom an erased owner belonged to; None when that is not known."""
        return self._erased.get(owner)

    def subject_of(self, owner: str) -> str | None:
        return self._subjects.get(owner)

    def belongs(self, owner: str, of: str) -> bool:
        return owner in self._belonging.get(of, ())

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
        """One record. What is no event of the topic is passed over."""
        match event:
            case KeyIssued(data=issued):
                self._issue(issued.key_id, issued.owner, issued.subject, parse_ns(issued.time), issued.secret_base64)
            case KeyBelongs(data=told):
                self._record(told.key_id, told.owner)
                if told.subject is not None:
                    self._own(told.owner, told.subject, parse_ns(told.time))
                if told.of is not None and not self.belongs(told.owner, told.of):
                    self._belonging.setdefault(told.of, {})[told.owner] = None
                    if told.of in self._erased:
                        self._erase(told.owner, self._erased[told.of])
            case KeyErased(data=gone):
                self.last_erasure = event
                self._leftovers.pop(gone.key_id, None)
                self._records.get(gone.owner, {}).pop(gone.key_id, None)
                self._erase(gone.owner, gone.subject)
            case SubjectKeysErased(data=mark):
                self._marks[mark.subject] = max(parse_ns(mark.time), self.mark(mark.subject))
                for owner in self.owners(mark.subject):
                    self._erase(owner, mark.subject)

    def _issue(self, key_id: str, owner: str, subject: str | None, time_ns: int, secret_base64: str) -> None:
        self._record(key_id, owner)
        if owner not in self._erased and owner not in self._secrets:
            self._secrets[owner] = base64.b64decode(secret_base64)
        if subject is not None:
            self._own(owner, subject, time_ns)

    def _record(self, key_id: str, owner: str) -> None:
        if owner in self._erased:
            self._leftovers[key_id] = Leftover(key_id, owner, self._erased[owner])
        else:
            self._records.setdefault(owner, {})[key_id] = None

    def _own(self, owner: str, subject: str, time_ns: int) -> None:
        if owner in self._erased:
            return
        if owner not in self._subjects:
            self._subjects[owner] = subject
            self._owned.setdefault(subject, {})[owner] = None
        if time_ns <= self.mark(subject):
            self._erase(owner, subject)

    def _erase(self, owner: str, subject: str | None) -> None:
        todo = [owner]
        while todo:
            owner = todo.pop()
            if owner in self._erased:
                continue
            self._erased[owner] = subject
            self._secrets.pop(owner, None)
            if (known := self._subjects.pop(owner, None)) is not None:
                self._owned[known].pop(owner, None)
            for key_id in self._records.pop(owner, ()):
                self._leftovers[key_id] = Leftover(key_id, owner, subject)
            todo += self._belonging.get(owner, ())


def keyring_of(events: Iterable[Event]) -> Keyring:
    """The keyring of a whole topic."""
    ring = Keyring()
    for event in events:
        ring.apply(event)
    return ring
