"""The keys of sealed texts as the console has them: asked for seldom, and never waited for long. Knows no page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from headrace_lake.text_opener import TextOpener
from headrace_schemas.root_error import HeadraceError

AGAIN_SECONDS = 5.0
PATIENCE_SECONDS = 2.0  # a page waits for keys; without them its texts stay sealed


class KeyWatch:
    """`read` gives what opens texts, from the broker."""

    def __init__(self, read: Callable[[], Awaitable[TextOpener]]) -> None:
        self._read = read
        self._opener, self._until = TextOpener(), 0.0
        self._lock = asyncio.Lock()

    async def opener(self) -> TextOpener:
        """By keys that are at most AGAIN_SECONDS old; as before while the broker does not answer."""
        async with self._lock:
            if time.monotonic() >= self._until:
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        self._opener = await self._read()
                except (HeadraceError, TimeoutError, OSError):
                    pass
                self._until = time.monotonic() + AGAIN_SECONDS
        return self._opener
