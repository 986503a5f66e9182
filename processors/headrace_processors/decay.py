"""Forward decay: how much less an older event counts. Pure arithmetic on times in nanoseconds; knows no event.

After Cormode, Shkapenyuk, Srivastava and Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems" (2009):
the weight of an event at `t`, seen from `T`, is λ^((T-t)/day). Normalised weights do not depend on `T`.

With a floor f (ours) it is f + (1 - f)·λ^((T-t)/day): 1 for the newest, and never below f. It is added, nothing is cut off at
f: so the sums of such weights follow from those without a floor and a count, whatever comes and goes (`floored`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

DAY_NS = 86_400 * 1_000_000_000
LEAST = 1e-250  # a weight that would underflow: a batch divides by the mean of what may all be old beside one new event


def weight(per_day: float, age_ns: int) -> float:
    """λ^(age/day): 1 at age 0. `per_day` is λ in (0, 1]; an `age_ns` below 0 is a time after the reference and weighs more."""
    return float(per_day ** (age_ns / DAY_NS))


def weights(times_ns: Sequence[int], per_day: float, floor: float = 0.0) -> list[float]:
    """Weights in (0, 1], none below `floor`, of events at `times_ns`, seen from the newest of them, so that nothing overflows; []
    for none."""
    newest, rest = max(times_ns, default=0), 1 - floor
    return [floor + rest * max(LEAST, weight(per_day, newest - time)) for time in times_ns]


def floored(total: float, squares: float, count: int, floor: float) -> tuple[float, float]:
    """Σw and Σw² of `count` weights with a floor, from those sums of the same weights without one."""
    rest = 1 - floor
    return floor * count + rest * total, floor * (floor * count + 2 * rest * total) + rest * rest * squares


def effective_size(values: Iterable[float]) -> float:
    """(Σw)²/Σw²: how many equally weighted events these are worth; 0 for none. Does not depend on the order or the scale."""
    values = list(values)
    squares = math.fsum(value * value for value in values)
    return math.fsum(values) ** 2 / squares if squares > 0 else 0.0


class RunningSum(Struct, frozen=True):
    """A decayed count that is never rewritten as time passes: `value`, seen from `newest_ns`, its newest event."""

    value: float = 0.0
    newest_ns: int = 0

    def add(self, time_ns: int, per_day: float, amount: float = 1.0) -> RunningSum:
        """The sum with an event at `time_ns`, which may be older than the newest."""
        if not self.value:
            return RunningSum(amount, time_ns)
        if time_ns > self.newest_ns:
            return RunningSum(self.value * weight(per_day, time_ns - self.newest_ns) + amount, time_ns)
        return RunningSum(self.value + amount * weight(per_day, self.newest_ns - time_ns), self.newest_ns)

    def at(self, time_ns: int, per_day: float) -> float:
        """The sum as seen from `time_ns`, not before the newest event: what makes two sums comparable."""
        if time_ns == self.newest_ns:
            return self.value
        return self.value * weight(per_day, time_ns - self.newest_ns)
