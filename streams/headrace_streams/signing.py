"""Signatures of releases: keys, what a signature covers, how it is written beside a record. Knows no client and no event.

`headrace-signature: KEYID:BASE64`, an Ed25519 signature (RFC 8032) over deployment, short topic, key and value: what was signed
once is believed nowhere else. The value says its place in order. `cryptography` is loaded when there is a key, and not before.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace_streams.settings import Settings, SettingsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HEADER = "headrace-signature"
SIGNED_TOPICS = frozenset({"releases", "releases.history"})

_CONTEXT = b"headrace release 1"  # no signature that this key makes of anything else fits
_ID_DIGITS = 16
_PEM_LIMIT = 64 * 1024  # bytes; a key has some 120


def signed_content(deployment: str, topic: str, key: bytes, value: bytes) -> bytes:
    """What a signature covers; each part with its length before it, so that no two contents are the same bytes."""
    parts = (_CONTEXT, deployment.encode(), topic.encode(), key, value)
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)


def without_signature(topic: str, headers: Sequence[tuple[str, Any]]) -> Sequence[tuple[str, Any]]:
    """Headers as a fold made them: what a task adds when it commits, one signature behind all others, is left out."""
    return headers[:-1] if topic in SIGNED_TOPICS and headers and headers[-1][0] == HEADER else headers


class SigningKey:
    """A private key that signs for one deployment; `id` names it, 16 hex digits of the SHA-256 of the public key."""

    def __init__(self, private: Ed25519PrivateKey, deployment: str) -> None:
        self._private, self._deployment = private, deployment
        self.id = key_id(private.public_key())

    def header(self, topic: str, key: bytes, value: bytes) -> tuple[str, bytes]:
        """The header of a record; `topic` is the short name."""
        signature = self._private.sign(signed_content(self._deployment, topic, key, value))
        return HEADER, f"{self.id}:{base64.b64encode(signature).decode()}".encode()


class TrustedKeys:
    """The public keys that a reader of one deployment believes; any of them will do."""

    def __init__(self, keys: Iterable[Ed25519PublicKey], deployment: str) -> None:
        self._keys = {key_id(key): key for key in keys}
        self._deployment = deployment

    @property
    def ids(self) -> list[str]:
        """How signatures name them."""
        return list(self._keys)

    def fault(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
    ) -> str | None:
        """Why a record is not to be believed, as the end of a sentence about it; None for one that a trusted key has signed."""
        from cryptography.exceptions import InvalidSignature

        found = [text for name, text in headers if name == HEADER]
        if not found:
            return "it is not signed"
        name, colon, encoded = (found[-1] or b"").partition(b":")
        if len(found) > 1 or not colon or len(name) != _ID_DIGITS:
            return "its signature can't be read"
        if (public := self._keys.get(name.decode(errors="replace"))) is None:
            return f"it is signed by the key {name.decode(errors='replace')!r}, which is not trusted"
        try:
            signature = base64.b64decode(encoded, validate=True)
            public.verify(signature, signed_content(self._deployment, topic, key or b"", value or b""))
        except InvalidSignature:
            return f"its signature is not one that key {name.decode()} made for it"
        except ValueError:
            return "its signature can't be read"
        return None


def signing_key(settings: Settings) -> SigningKey | None:
    """The key of the setting `signing_key`; None when there is none. SettingsError for one that can't be used."""
    if settings.signing_key is None:
        return None
    named = f"signing_key = {str(settings.signing_key)!r}"
    return SigningKey(_private(_file(settings.signing_key, named), named), settings.deployment)


def trusted_keys(settings: Settings) -> TrustedKeys | None:
    """The keys of the setting `trusted_keys`; None when there are none, and everything is believed. SettingsError for one that
    can't be used."""
    if settings.trusted_keys is None:
        return None
    keys = []
    for number, entry in enumerate(settings.trusted_keys):
        shown = "a PEM text" if is_pem(entry) else repr(entry)
        named = f"trusted_keys[{number}] = {shown}"
        keys.append(_public(entry.encode() if is_pem(entry) else _file(Path(entry), named), named))
    return TrustedKeys(keys, settings.deployment)


def is_pem(text: str) -> bool:
    """Whether it is a key itself and not where one is."""
    return "-----BEGIN" in text


def key_id(public: Ed25519PublicKey) -> str:
    """The name of a public key in a signature."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:_ID_DIGITS]


def create(path: Path) -> str:
    """Writes a new private key for its user alone (0600) and returns its id. FileExistsError when the file is there: a key that
    readers trust is not overwritten. SettingsError without `cryptography`."""
    _load(str(path))
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return key_id(private.public_key())


def public_pem(path: Path) -> tuple[str, str]:
    """Id and PEM text of the public key in a file, which may hold the private one. SettingsError for anything else."""
    named = str(path)
    data = _file(path, named)
    public = _private(data, named).public_key() if b"PRIVATE KEY-----" in data else _public(data, named)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key_id(public), public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _file(path: Path, named: str) -> bytes:
    try:
        with path.expanduser().open("rb") as file:
            return file.read(_PEM_LIMIT)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise SettingsError(f"{named}: {getattr(error, 'strerror', None) or error}") from None


def _load(named: str) -> Any:
    """The library's functions that read keys."""
    try:
        from cryptography.hazmat.primitives import serialization
    except ModuleNotFoundError:
        from headrace_streams.pip_line import pip_line

        raise SettingsError(f"{named}: signing needs cryptography, which is not installed: {pip_line('signing')}") from None
    return serialization


def _private(data: bytes, named: str) -> Ed25519PrivateKey:
    serialization = _load(named)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = _decoded(lambda: serialization.load_pem_private_key(data, password=None), named, "private")
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{named}: no Ed25519 key: `headrace keys create FILE` makes one")
    return key


def _public(data: bytes, named: str) -> Ed25519PublicKey:
    serialization = _load(named)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if b"PRIVATE KEY-----" in data:
        raise SettingsError(f"{named}: a private key: readers get the public one, which `headrace keys show FILE` prints")
    key = _decoded(lambda: serialization.load_pem_public_key(data), named, "public")
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(f"{named}: no Ed25519 key: `headrace keys show FILE` prints the public one of a signing key")
    return key


def _decoded(load: Any, named: str, kind: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load()
    except TypeError:
        raise SettingsError(f"{named}: the key has a passphrase, and nobody is there to type it: keep one without") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError(f"{named}: no {kind} key in PEM, or a damaged one") from None
