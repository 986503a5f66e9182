"""Sealed texts of a lake opened for whoever may read topic `keys`: a lake has none itself. Knows the keyring, no query.

Without the right a text stays `[sealed]`; of an owner who was erased it is `[erased]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from headrace_lake.erased import tree_of
from headrace_lake.text_opener import TextOpener
from headrace_processors.owners import feedback_owner, interaction_owner, ref_owner
from headrace_schemas import sealed_fields
from headrace_schemas.inputs import Ref
from headrace_streams.kafka.clients import NotAllowed
from headrace_streams.runtime.sealing import HEADER, KeyMissing, Sealing
from headrace_streams.sealing import cipher
from headrace_streams.sealing.cipher import NotOpened
from headrace_streams.sealing.key_log import key_log
from headrace_streams.settings import Settings, SettingsError

_MARK = f'"{sealed_fields.FIELD}":'


class KeyOpener(TextOpener):
    """Opens what `sealing` has a key for, and tells what was erased."""

    def __init__(self, sealing: Sealing) -> None:
        self._sealing = sealing

    def opened(self, value: str, odd: bytes | None = None) -> str:
        if _MARK not in value:
            return value
        raw, ring = value.encode(), self._sealing.keyring
        for owner in _named(odd) or self._likely(raw):
            if ring.is_erased(owner):
                return sealed_fields.erased(raw).decode()
            with suppress(KeyMissing, NotOpened, sealed_fields.NotSealable, msgspec.MsgspecError):
                return bytes(self._sealing.opened(owner, raw)).decode()
        return value

    def _likely(self, value: bytes) -> Iterator[str]:
        """Owners that an event may have by what it says in clear. Which one it is the cipher tells, and of erased ones the first:
        an interaction, and all that is said of it, go together."""
        tree = tree_of(value)
        data: Mapping[str, Any] = {} if tree is None else tree["data"]
        if isinstance(data.get("interaction_id"), str):
            interaction = interaction_owner(data["interaction_id"])
            yield interaction
            yield from self._sealing.keyring.belonging(interaction)
        with suppress(msgspec.ValidationError):
            ref = msgspec.convert(data.get("ref"), Ref)
            assert tree is not None
            yield feedback_owner(ref, str(tree.get("source")), str(data.get("feedback_id") or tree.get("id")))
            yield ref_owner(ref)


def _named(odd: bytes | None) -> list[str]:
    headers = () if odd is None else msgspec.msgpack.decode(odd).get("headers", ())
    return [bytes(content).decode(errors="replace") for name, content in headers if name == HEADER]


async def opener_of(settings: Settings) -> KeyOpener:
    """By the keys that there are now. NotAllowed for who may not read them, SettingsError without the library."""
    cipher.load()
    log = key_log(settings)
    await log.refresh()
    return KeyOpener(Sealing(log.ring))


async def opener_if_allowed(settings: Settings) -> TextOpener:
    """As `opener_of`; one that opens nothing for who may not read `keys`, or lacks the library."""
    try:
        return await opener_of(settings)
    except (NotAllowed, SettingsError):
        return TextOpener()
