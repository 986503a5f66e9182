"""The gate of rule versions 1 and 2 over many histories at once: one look, a paired bootstrap over rows and groups. Knows
figures, not their making.
"""

from __future__ import annotations

import numpy as np

from simulations.gate import Bools, Floats

RESAMPLES = 1000  # the trainer takes 2,000; all histories share these


def lower_bounds(values: Floats, random: np.random.Generator) -> Floats:
    """Lower end of the 95 % percentile interval of the mean of each row of `values`."""
    size = values.shape[1]
    weights = random.multinomial(size, np.full(size, 1 / size), size=RESAMPLES) / size
    bounds: Floats = np.percentile(values @ weights.T, 2.5, axis=1)
    return bounds


def passes(rows: Floats, random: np.random.Generator, *, min_rows: int = 30) -> Bools:
    """Whether each history's candidate passes: `rows` is histories x groups x rows of a group."""
    histories, groups, size = rows.shape
    if groups * size < min_rows:
        return np.zeros(histories, dtype=bool)
    low = lower_bounds(rows.reshape(histories, -1), random)
    if size > 1 and groups > 1:
        low = np.minimum(low, lower_bounds(rows.mean(axis=2), random))
    passed: Bools = low > 0
    return passed
