"""The keyring of a deployment as topic `keys` has it, followed by one reader in a process. Knows no fold and no sealed record."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from weakref import WeakKeyDictionary

from headrace_streams.kafka.clients import BrokerUnavailable
from headrace_streams.kafka.reader import Reader, decode_or_none
from headrace_streams.runtime.provenance import Headers, writer_of
from headrace_streams.sealing.issuing import WRITER
from headrace_streams.sealing.keyring import Keyring
from headrace_streams.settings import Settings

TOPIC = "keys"
SETTLE_SECONDS = 20.0  # longer than any transaction of ours may stay open
AGAIN_SECONDS = 0.02


class KeyLog:
    """`ring` is up to date after `refresh`."""

    def __init__(self, settings: Settings) -> None:
        self.ring = Keyring()
        self._reader = Reader(settings)
        self._next = 0
        self.was_read = False
        self._lock = asyncio.Lock()

    async def refresh(self, until: int = 0) -> None:
        """Reads what has come, to the end, and at least up to offset `until`, behind a record that was committed: it is read when
        whatever another task has open below it has ended. Raises as `Reader`."""
        async with self._lock:
            if until and self._next >= until:
                return
            deadline = time.monotonic() + SETTLE_SECONDS
            await self._read()
            self.was_read = True
            while self._next < until:
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(
                        f"{TOPIC}: a transaction hangs below offset {until}: no key is used until it has ended"
                    )
                await asyncio.sleep(AGAIN_SECONDS)
                await self._read()

    async def _read(self) -> None:
        if not await self._reader.partitions(TOPIC):
            return
        async with aclosing(self._reader.read_partition(TOPIC, 0, self._next)) as records:
            async for record in records:
                apply(self.ring, record.value, record.headers)
                self._next = record.offset + 1


def apply(ring: Keyring, value: bytes | None, headers: Headers) -> None:
    """One record; what intake has not written is passed over."""
    if value is not None and writer_of(headers) == WRITER and (event := decode_or_none(value, headers)) is not None:
        ring.apply(event)


_logs: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], KeyLog]] = WeakKeyDictionary()


def key_log(settings: Settings) -> KeyLog:
    """The one of this process: a keyring of a million keys is 650 MB."""
    known = _logs.setdefault(asyncio.get_running_loop(), {})
    place = settings.bootstrap, settings.deployment
    if place not in known:
        known[place] = KeyLog(settings)
    return known[place]
