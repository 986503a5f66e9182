"""When the tasks of a process begin their transactions: those that read what comes from outside on common beats, the others as
what these wrote arrives. Knows durations and clocks, no task.

Sixteen tasks that each begin a transaction whenever they can keep two cores busy with that alone. Together they are done while
their code and the broker's are warm, and whoever reads from many of them is woken up once. Beats are of the wall clock, so
processes whose clocks agree keep them together too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

BEATS = (0.02, 0.04, 0.08)  # seconds; each is a multiple of those before
SHARE = 3  # a beat is at least so many times as long as a transaction takes
WEIGHT = 0.1  # of the newest in what one takes


class Pace:
    """`wall` tells seconds since 1970."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._taken = 0.0

    def took(self, seconds: float) -> None:
        """A transaction has been committed."""
        self._taken += WEIGHT * (seconds - self._taken)

    @property
    def beat(self) -> float:
        """Seconds between two beats now."""
        return next((beat for beat in BEATS if beat >= SHARE * self._taken), BEATS[-1])

    def until_beat(self) -> float:
        """Seconds until the next one."""
        now = self._wall()
        return math.ceil(now / self.beat) * self.beat - now
