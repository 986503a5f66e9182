"""What `headrace status` says, asked again and again while somebody looks. Knows the lake's report and threads, no page.

It is asked in a thread with an event loop of its own, never for a request: a page shows the newest one and how old it is. What
asking takes decides how often it is asked, so that a long log does not cost the machine more than a tenth of a core.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

EVERY_SECONDS = 2.0
PAUSE = 9.0  # times as long as it took
IDLE_SECONDS = 60.0  # after which nobody looks any more
SPAN_SECONDS = 30.0  # over which rates are taken
FRESH_SECONDS = 1.5  # that a page waits for the first report


class StatusSeen(NamedTuple):
    """The newest report and when it was made (ms); `error`: why there is no newer one. `ends`: offsets at which the log ended, by
    topic/partition; `rates`: records a second that each stage has read lately."""

    report: Mapping[str, Any] | None = None
    ends: Mapping[str, int] = {}
    at_ms: int | None = None
    error: str | None = None
    rates: Mapping[str, float] = {}


Asked = tuple[Mapping[str, Any], Mapping[str, int]]


class StatusWatch:
    """`ask` makes a report and says where the log ends, in a thread. Nothing is asked before somebody looks."""

    def __init__(self, ask: Callable[[], Asked], *, every: float = EVERY_SECONDS) -> None:
        self._ask, self._every = ask, every
        self._looked = asyncio.Event()
        self._told = asyncio.Event()
        self._looked_at = 0.0
        self._past: deque[tuple[float, dict[str, int]]] = deque()
        self.newest = StatusSeen()

    def looked_at(self) -> None:
        """Somebody looks now. In the event loop."""
        self._looked_at = time.monotonic()
        self._looked.set()

    async def first(self) -> None:
        """Somebody looks, and waits a moment when there is nothing yet, or nothing but what an earlier visitor saw."""
        self.looked_at()
        with suppress(TimeoutError):
            async with asyncio.timeout(FRESH_SECONDS):
                await self._told.wait()

    async def run(self) -> None:
        """Asks on and on, until cancelled."""
        while True:
            if time.monotonic() - self._looked_at > IDLE_SECONDS:
                self._looked.clear()
                self._told.clear()
                self._past.clear()
            await self._looked.wait()
            began = time.monotonic()
            self.newest = await asyncio.to_thread(self._asked)
            self._told.set()
            await asyncio.sleep(max(self._every, PAUSE * (time.monotonic() - began)))

    def _asked(self) -> StatusSeen:
        try:
            report, ends = self._ask()
        except Exception as error:  # the log can't be reached, whatever the reason: the last one stands, with its age
            return self.newest._replace(error=" ".join(str(error).split()) or type(error).__name__)
        return StatusSeen(report, ends, time.time_ns() // 1_000_000, None, self._rates(report))

    def _rates(self, report: Mapping[str, Any]) -> dict[str, float]:
        now, counts = time.monotonic(), {stage["stage"]: stage["records"] for stage in report["stages"]}
        self._past.append((now, counts))
        while now - self._past[0][0] > SPAN_SECONDS:
            self._past.popleft()
        then, before = self._past[0]
        if now <= then:
            return {}
        return {stage: max(0, count - before.get(stage, count)) / (now - then) for stage, count in counts.items()}
