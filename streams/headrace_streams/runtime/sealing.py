"""Texts of data subjects between log and fold: opened before a step, sealed behind it. Knows the keyring, no client, no stage.

A fold names the owner of what it writes (`Write.owner`) and of the state values that hold its texts (`Step.owners`); it reads and
writes plain text, and what is on the log follows from that and the keyring: live and in a replay the same bytes. Of an owner who
was erased nothing can be opened, and what is written of it holds no text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace_schemas import sealed_fields
from headrace_schemas.topics import ANYBODY, BY_NAME
from headrace_streams.runtime.errors import Refused
from headrace_streams.runtime.provenance import Headers
from headrace_streams.sealing import cipher
from headrace_streams.sealing.keyring import Keyring

HEADER = "headrace-sealed"  # of a record: the owner of the key
ERASED_SUBJECT = "headrace:erased:"  # and the digest of a subject: stands for its handle where nobody knows that any more
_SEALED, _ERASED = b"\x01sealed ", b"\x01erased "  # of equal length; neither JSON nor an object in msgpack begins so
_INPUTS = frozenset(topic.name for topic in BY_NAME.values() if ANYBODY in topic.writers)


class KeyMissing(Refused):
    """A text is sealed with a key that is not on the log and was not erased: a key was lost, or may not be read."""


class Opened(bytes):
    """The value of a sealed record as it was before it was sealed. `stored` is what lies on the log; `erased`: no key is left,
    and its texts are stand-ins."""

    stored: bytes
    owner: str
    erased: bool

    def __new__(cls, value: bytes, stored: bytes, owner: str, *, erased: bool) -> Opened:
        made = super().__new__(cls, value)
        made.stored, made.owner, made.erased = stored, owner, erased
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (bytes(self), self.stored, self.owner, self.erased)


def _opened(value: bytes, stored: bytes, owner: str, erased: bool) -> Opened:
    return Opened(value, stored, owner, erased=erased)


class SealedValue(bytes):
    """A value that is passed on as it was sealed: a fold that needs none of its texts need not open it."""


def stored(value: bytes | None) -> bytes | None:
    """A record's value as it lies on the log."""
    return value.stored if isinstance(value, Opened) else value


def is_erased(value: bytes | None) -> bool:
    """Whether a record's value was sealed, and nobody can open it any more."""
    return isinstance(value, Opened) and value.erased


def owner_of(topic: str, headers: Headers) -> str | None:
    """Whose key a record of one of our topics is sealed with; None for one that is not. On inputs anybody may say anything."""
    if len(headers) < 3 or topic in _INPUTS:
        return None
    found = next((value for name, value in headers if name == HEADER), None)
    return None if found is None else found.decode(errors="replace")


def sealed_header(owner: str) -> tuple[str, bytes]:
    return HEADER, owner.encode()


class Sealing:
    """Opens and seals by `keyring`, which somebody else keeps up to date."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring

    def opened(self, owner: str, value: bytes) -> Opened:
        """A sealed record's value. Raises KeyMissing, NotOpened and NotSealable."""
        if (secret := self._secret(owner)) is None:
            subject = self.keyring.erased_subject(owner)
            plain = sealed_fields.without_texts(value, None if subject is None else ERASED_SUBJECT + subject)
            return Opened(plain, value, owner, erased=True)
        try:
            plain = sealed_fields.open_(value, lambda text, place: cipher.decrypt(secret, owner, text, place))
        except sealed_fields.NotSealable:
            plain = sealed_fields.without_texts(value)  # it was written when the owner was erased, by who knew that first
        return Opened(plain, value, owner, erased=False)

    def sealed(self, owner: str, value: bytes) -> bytes:
        """A value as it goes onto the log. Raises KeyMissing and NotSealable."""
        if (secret := self._secret(owner)) is None:
            return sealed_fields.seal(value, None)
        return sealed_fields.seal(value, lambda text, place: cipher.encrypt(secret, owner, text, place))

    def sealed_state(self, owner: str, key: str, value: bytes, stand_in: bytes) -> bytes:
        """A state value in changelog form, with what stands for it when nobody can open it any more."""
        begin = owner.encode() + b"\0" + b"%d:" % len(stand_in) + stand_in
        if (secret := self._secret(owner)) is None:
            return _ERASED + begin
        return _SEALED + begin + cipher.encrypt(secret, owner, value, key.encode())

    def opened_state(self, key: str, value: bytes) -> tuple[str, bytes]:
        """(owner, value) of a state value for which `is_sealed_state` holds: its stand-in when its owner is erased."""
        name, _, rest = value[len(_SEALED) :].partition(b"\0")
        size, _, rest = rest.partition(b":")
        owner, length = name.decode(), int(size)
        if value.startswith(_ERASED) or (secret := self._secret(owner)) is None:
            return owner, rest[:length]
        return owner, cipher.decrypt(secret, owner, rest[length:], key.encode())

    def _secret(self, owner: str) -> bytes | None:
        """None when it is erased."""
        secret = self.keyring.secret(owner)
        if secret is None and not self.keyring.is_erased(owner):
            raise KeyMissing(
                f"{owner}: its texts are sealed, and topic keys has no key of it, nor says that one was erased: restore the "
                "topic, or let this principal read it (`headrace topics acls`)"
            )
        return secret


class PlainTexts(Sealing):
    """For whoever folds records that were opened before, and keeps what is written to themselves: seals nothing."""

    def __init__(self) -> None:
        super().__init__(Keyring())

    def opened(self, owner: str, value: bytes) -> Opened:
        return Opened(value, value, owner, erased=False)

    def sealed(self, owner: str, value: bytes) -> bytes:
        return value

    def sealed_state(self, owner: str, key: str, value: bytes, stand_in: bytes) -> bytes:
        return value


def is_sealed_state(value: bytes) -> bool:
    """Whether a state value in changelog form is sealed."""
    return value.startswith((_SEALED, _ERASED))


def owners_in(topic: str, records: Any) -> set[str]:
    """Whose keys are needed to read `records`."""
    sealed = [record.headers for record in records if len(record.headers) > 2]  # seldom any: each batch is asked this
    return {owner for headers in sealed if (owner := owner_of(topic, headers)) is not None}


NO_OWNERS: Mapping[str, str] = {}
