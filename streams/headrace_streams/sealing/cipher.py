"""AES-SIV (RFC 5297), a key for every owner of texts: equal texts are equal bytes, so folds stay pure. Knows no event.

Deterministic encryption shows whether two texts of one event are equal and nothing else: what a text is bound to (owner, type
and id of its event) is authenticated with it, so no two events share a ciphertext. `cryptography` is loaded when there is a key.
"""

from __future__ import annotations

import os
from typing import Any

from headrace_schemas.root_error import HeadraceError
from headrace_streams.sealing.keyring import KEY_BYTES
from headrace_streams.settings import SettingsError

_CONTEXT = b"headrace sealed 1"


class NotOpened(HeadraceError, ValueError):
    """A sealed text that this key did not seal for this place."""


def new_key() -> bytes:
    """A random key."""
    return os.urandom(KEY_BYTES)


def load() -> Any:
    """The library's cipher. SettingsError without `cryptography`."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV
    except ModuleNotFoundError:
        from headrace_streams.pip_line import pip_line

        raise SettingsError(f"sealed texts need cryptography, which is not installed: {pip_line('sealing')}") from None
    return AESSIV


def encrypt(key: bytes, owner: str, text: bytes, bound_to: bytes) -> bytes:
    """16 bytes longer than `text`."""
    sealed: bytes = load()(key).encrypt(text, [_CONTEXT, owner.encode(), bound_to])
    return sealed


def decrypt(key: bytes, owner: str, sealed: bytes, bound_to: bytes) -> bytes:
    """Raises NotOpened."""
    cipher = load()
    from cryptography.exceptions import InvalidTag

    try:
        text: bytes = cipher(key).decrypt(sealed, [_CONTEXT, owner.encode(), bound_to])
    except (InvalidTag, ValueError) as error:
        raise NotOpened(f"{owner}: a sealed text is not one that its key sealed there") from error
    return text
