"""How long after an answer something is said of it, as counters of a fixed histogram. Knows bounds and names, no stage.

Whole numbers only: sums do not depend on the order of what is counted, and add up over partitions. A quantile is the bound of the
interval that it lies in; nothing is interpolated.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import inf

DELAY = "delay_"  # and the upper bound of an interval in seconds, or `over`, or `sum_ms`
MINUTE, HOUR, DAY = 60, 3600, 86_400
BOUNDS = (
    1,
    5,
    15,
    MINUTE,
    5 * MINUTE,
    15 * MINUTE,
    HOUR,
    3 * HOUR,
    12 * HOUR,
    DAY,
    3 * DAY,
    7 * DAY,
    14 * DAY,
    30 * DAY,
    90 * DAY,
)
SUM_MS = DELAY + "sum_ms"
_NAMES = (*(f"{DELAY}{bound}s" for bound in BOUNDS), f"{DELAY}over")
_BOUNDS_MS = [bound * 1000 for bound in BOUNDS]


def delays_of(delays_ns: Iterable[int]) -> dict[str, int]:
    """What delays in ns count as. One below 0 is none: the clocks of two publishers differ."""
    counted: dict[str, int] = {}
    total = 0
    for delay_ns in delays_ns:
        delay_ms = max(0, delay_ns // 1_000_000)
        name = _NAMES[bisect_left(_BOUNDS_MS, delay_ms)]
        counted[name] = counted.get(name, 0) + 1
        total += delay_ms
    if total:
        counted[SUM_MS] = total
    return counted


def delay_of(delay_ns: int) -> dict[str, int]:
    """What a single delay counts as."""
    delay_ms = max(0, delay_ns // 1_000_000)
    name = _NAMES[bisect_left(_BOUNDS_MS, delay_ms)]
    return {name: 1, SUM_MS: delay_ms} if delay_ms else {name: 1}


def histogram_of(counters: Mapping[str, int]) -> list[tuple[float, int]]:
    """(upper bound in s, how many are at most that long and longer than the bound before), the last inf."""
    return [(bound, counters.get(name, 0)) for bound, name in zip((*BOUNDS, inf), _NAMES, strict=True)]


def quantile_of(counters: Mapping[str, int], share: float) -> float | None:
    """The bound in s that at least this `share` of the delays in (0, 1] do not exceed; None without one."""
    histogram = histogram_of(counters)
    wanted = Fraction(share) * sum(count for _, count in histogram)
    reached = 0
    for bound, count in histogram:
        reached += count
        if reached and reached >= wanted:
            return bound
    return None
