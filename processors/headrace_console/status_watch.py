"""What `headrace status` says, asked again and again while somebody looks. Knows the lake's report and threads, no page.

It is asked in a thread with an event loop of its own, never for a request: a page shows the newest one and how old it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

EVERY_SECONDS = 2.0
IDLE_SECONDS = 60.0  # after which nobody looks any more


class StatusSeen(NamedTuple):
    """The newest report and when it was made (ms); `error`: why there is no newer one."""

    report: Mapping[str, Any] | None = None
    at_ms: int | None = None
    error: str | None = None


class StatusWatch:
    """`ask` makes a report, in a thread. Nothing is asked before somebody looks."""

    def __init__(self, ask: Callable[[], Mapping[str, Any]], *, every: float = EVERY_SECONDS) -> None:
        self._ask, self._every = ask, every
        self._looked = asyncio.Event()
        self._looked_at = 0.0
        self.newest = StatusSeen()

    def looked_at(self) -> None:
        """Somebody looks now. In the event loop."""
        self._looked_at = time.monotonic()
        self._looked.set()

    async def run(self) -> None:
        """Asks on and on, until cancelled."""
        while True:
            if time.monotonic() - self._looked_at > IDLE_SECONDS:
                self._looked.clear()
            await self._looked.wait()
            self.newest = await asyncio.to_thread(self._asked)
            await asyncio.sleep(self._every)

    def _asked(self) -> StatusSeen:
        try:
            return StatusSeen(self._ask(), time.time_ns() // 1_000_000, None)
        except Exception as error:  # the log can't be reached, whatever the reason: the last one stands, with its age
            return self.newest._replace(error=" ".join(str(error).split()) or type(error).__name__)
