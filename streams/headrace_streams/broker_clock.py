"""What the broker's clock says, by the append times in its acknowledgements. Knows no record.

Whoever judges an event compares its time with the time at which the broker appended it. A machine whose clock is far ahead would
have all its events refused there, long after they were accepted here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from headrace_schemas.constraints import AHEAD_MS

FAR_MS = AHEAD_MS // 2  # from here on this machine's clock is not trusted


class BrokerClock:
    """Follows the broker's clock from its last word on, by a clock that nobody sets. Any thread may ask, one thread tells.

    The way of an answer counts as passed time, so the broker's clock is rather too early here than too late."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._heard: tuple[float, float] | None = None  # milliseconds of the broker, seconds of ours

    def heard(self, appended_ms: int) -> None:
        """The broker has just acknowledged a record that it appended at `appended_ms`."""
        self._heard = float(appended_ms), self._monotonic()

    def broker_ms(self) -> int | None:
        """The broker's time now; None when it never told."""
        if self._heard is None:
            return None
        appended, at = self._heard
        return int(appended + (self._monotonic() - at) * 1000)

    def ahead_ms(self) -> int | None:
        """How much this machine's clock is ahead; None unless that is far (or not known)."""
        broker = self.broker_ms()
        ahead = 0 if broker is None else int(self._wall() * 1000) - broker
        return ahead if ahead >= FAR_MS else None

    def trusted_ns(self) -> int:
        """Nanoseconds since the epoch by this machine's clock, or by the broker's where this one is far ahead of it."""
        wall = self._wall()
        if self._heard is not None:
            appended, at = self._heard
            ahead_ms = wall * 1000 - (appended + (self._monotonic() - at) * 1000)
            if ahead_ms >= FAR_MS:
                wall -= ahead_ms / 1000
        return int(wall * 1e9)
