"""What all measurements share: repeat, median and spread, one line per figure with its ratio to a named baseline."""

from __future__ import annotations

import statistics
from collections.abc import Callable

RUNS = 5


def repeated(measure: Callable[[], float], runs: int = RUNS) -> list[float]:
    return [measure() for _ in range(runs)]


def line(name: str, values: list[float], unit: str, baseline: tuple[str, list[float]] | None = None) -> None:
    """Median, least and most of `values`; the ratio is of medians."""
    middle = statistics.median(values)
    text = f"{name:42} {middle:10.2f} {unit:10} [{min(values):.2f} .. {max(values):.2f}]"
    if baseline is not None:
        text += f"   x{middle / statistics.median(baseline[1]):.2f} of {baseline[0]}"
    print(text, flush=True)
