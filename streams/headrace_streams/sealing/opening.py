"""Records opened for whoever reads a broker's topics beside the stages. Knows the keyring of this process, no event."""

from __future__ import annotations

from headrace_streams.runtime.provenance import Headers
from headrace_streams.runtime.sealing import Sealing, owner_of
from headrace_streams.sealing.key_log import key_log
from headrace_streams.settings import Settings


class Opener:
    """Opens records by the keys that there are when the first sealed one comes: for one piece of work, not for long."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sealing: Sealing | None = None

    async def opened(self, topic: str, value: bytes, headers: Headers) -> bytes:
        """The value of a record of `topic` (short name), opened if it is sealed. KeyMissing without its key."""
        owner = owner_of(topic, headers)
        if owner is None:
            return value
        if self._sealing is None:
            log = key_log(self._settings)
            await log.refresh()
            self._sealing = Sealing(log.ring)
        return self._sealing.opened(owner, value)
