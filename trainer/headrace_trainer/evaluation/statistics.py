"""How sure a mean and a count of wins are. Knows numbers and which of them belong together, nothing of models.

Intervals are 95 % percentile bootstraps (Efron 1979) over prompt groups: rows of one task rise and fall together, and counted one
by one ten tasks of twenty rows would pass the gate by chance every third time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace_schemas.canonical import rounded

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    value: float
    low: float
    high: float


def bootstrap(values: Sequence[float], resamples: int, seed: int, groups: Sequence[str] | None = None) -> Interval:
    """Mean and its 95 % interval; `groups` names what each value belongs to, by default each to itself. ValueError without
    values."""
    if not len(values):
        raise ValueError("no rows to measure on")
    data: Floats = np.asarray(values, dtype=np.float64)
    low, high = _resampled(data, np.ones(len(data)), resamples, seed)
    indices = {group: index for index, group in enumerate(dict.fromkeys(groups or ()))}
    if groups is not None and len(indices) < len(data):
        owners = [indices[group] for group in groups]
        sums, sizes = np.bincount(owners, weights=data).astype(np.float64), np.bincount(owners).astype(np.float64)
        ends = _resampled(sums, sizes, resamples, seed)
        low, high = min(low, ends[0]), max(high, ends[1])  # of one group alone the interval would be a point
    return Interval(rounded(float(data.mean())), rounded(low), rounded(high))


def _resampled(sums: Floats, sizes: Floats, resamples: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean over units of so many values each, with these sums."""
    picks = np.random.default_rng(seed).integers(0, len(sums), size=(resamples, len(sums)))
    low, high = np.percentile(sums[picks].sum(axis=1) / sizes[picks].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def sign_test(wins: int, losses: int) -> float:
    """One-sided exact p-value: the chance of at least so many wins if wins and losses were equally likely. Ties are left out."""
    played = wins + losses
    return rounded(sum(math.comb(played, k) for k in range(wins, played + 1)) / 2**played)
