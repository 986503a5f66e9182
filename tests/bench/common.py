"""What all measurements share: repeat, median and spread, one line per figure with its ratio to a named baseline, memory."""

from __future__ import annotations

import argparse
import logging
import statistics
from pathlib import Path

RUNS = 5

logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the first records to a new topic always meet a retry or two


def arguments(about: str | None, count: int) -> tuple[int, int]:
    """(runs, count) of a script: what its command line says, or 5 runs of `count`; less is for seeing that it works."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS, help="how often everything is repeated (default: %(default)s)")
    parser.add_argument("--count", type=int, default=count, help="how much is measured in one run (default: %(default)s)")
    given = parser.parse_args()
    return given.runs, given.count


def line(name: str, values: list[float], unit: str, baseline: tuple[str, list[float]] | None = None) -> None:
    """Median, least and most of `values`; the ratio is of medians."""
    middle = statistics.median(values)
    text = f"{name:42} {middle:10.2f} {unit:10} [{min(values):.2f} .. {max(values):.2f}]"
    if baseline is not None:
        text += f"   x{middle / statistics.median(baseline[1]):.2f} of {baseline[0]}"
    print(text, flush=True)


def memory(what: str) -> int:
    """Bytes of this process, as the kernel tells: VmRSS, VmHWM. The highest of `getrusage` would be that of its parent."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{what}:")]
    return int(line.split()[1]) * 1024
