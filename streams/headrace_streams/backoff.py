"""How long to wait before trying again: twice as long each time, up to a bound. Reads no clock and knows no cause."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """Waits of `first` seconds, then twice that, and so on up to `longest`. `spread` 0.5 makes a wait of d from 0.5 d to 1.5 d,
    so that many that failed together do not come back together."""

    def __init__(self, first: float, longest: float, *, spread: float = 0.0) -> None:
        self._first, self._longest, self._spread = first, longest, spread
        self._next = first

    def reset(self) -> None:
        """It went well: the next wait is the first one again."""
        self._next = self._first

    def at_least(self, seconds: float) -> None:
        """The next wait is no shorter than that."""
        self._next = max(self._next, seconds)

    def seconds(self) -> float:
        """How long to wait now, for who waits by himself; makes the next wait longer."""
        seconds, self._next = self._next, min(2 * self._next, self._longest)
        return seconds * random.uniform(1 - self._spread, 1 + self._spread)

    async def wait(self) -> None:
        """Sleeps, and makes the next wait longer."""
        await asyncio.sleep(self.seconds())
