"""Where the parts of a picture stand: numbers into places of an SVG's view box. Pure; knows no template and no page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from headrace_lake.read_models.run_view import RunPoint
from headrace_processors.reward.trace import RewardTerm

TICKS = 4


class ChartScale(NamedTuple):
    """A range of values and the places that it is drawn between."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value; what lies outside stands at the end."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Values at round distances within the range, `TICKS` or a few more."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        step: float = 10 ** math.floor(math.log10(span / TICKS))
        step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= TICKS + 1)
        first = math.ceil(self.low / step - 1e-9)
        return [round(number * step, 12) for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


class ChartBar(NamedTuple):
    """A bar along a line: its start, its length, and the place of the sum after it; `rises` says its colour."""

    start: float
    length: float
    end: float
    rises: bool


def spread(values: Sequence[float], start: float, end: float, *, zero: bool = False) -> ChartScale:
    """The scale from the least of `values` (or from 0) to the largest, `start` to `end`."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return ChartScale(low, high, start, end)


def waterfall_scale(terms: Sequence[RewardTerm], start: float, end: float) -> ChartScale:
    """One in which the totals of all terms, and 0, have room."""
    return spread([0.0, *(term.total for term in terms)], start, end)


def waterfall(terms: Sequence[RewardTerm], scale: ChartScale) -> list[ChartBar]:
    """Each term as a bar from the total before it to its own."""
    bars: list[ChartBar] = []
    before = 0.0
    for term in terms:
        one, other = scale.at(before), scale.at(term.total)
        length = max(abs(other - one), 1.0)
        bars.append(ChartBar(min(one, other), round(length, 1), other, term.total >= before))
        before = term.total
    return bars


def polyline(points: Sequence[tuple[float, float]], across: ChartScale, down: ChartScale) -> str:
    """The `points` attribute of a line."""
    return " ".join(f"{across.at(x):g},{down.at(y):g}" for x, y in points)


def columns(
    counts: Sequence[float], left: float, right: float, top: float, bottom: float
) -> list[tuple[float, float, float, float]]:
    """(x, y, width, height) of a column for each count, beside one another."""
    most = max([*counts, 0]) or 1
    width = (right - left) / max(1, len(counts))
    return [
        (
            round(left + number * width + 1, 1),
            round(bottom - count / most * (bottom - top), 1),
            round(max(width - 2, 1), 1),
            round(count / most * (bottom - top), 1),
        )
        for number, count in enumerate(counts)
    ]


def series(points: Sequence[RunPoint], name: str, phase: str | None = None) -> list[tuple[float, float]]:
    """(step, value) of one figure of a run where it was said, in one phase or in all."""
    return [
        (float(point.step), float(value))
        for point in points
        if phase in (None, point.phase) and (value := getattr(point, name)) is not None and math.isfinite(value)
    ]
