"""What tasks of this process count while they run: plain numbers by stage and input topic. Knows no exporter and no client.

They begin at zero with the process, unlike the counters in position records, and outlive a task that is started again. By
nature there is one set a process, as there is of loggers: `of` names them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import deepcopy

import msgspec

from headrace_streams.runtime.step import Produced

COMMIT_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
LATENCY_BOUNDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
TRAINING_BOUNDS = (10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 3 * 3600.0, 12 * 3600.0)
CODES = 64  # different codes that are told apart; those of later ones are counted together


class Histogram:
    """`counts[i]` observations are at most `bounds[i]` and more than the bound before; the last count is of those beyond."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class StageMeter:
    """One stage over one input topic, all its tasks in this process together.

    `commits`: seconds of a transaction; `latency`: seconds from an input record's append time to the commit of what it led to, by
    this machine's clock; `dead`: dead letters by code; `outputs`: committed records by topic; `restarts`: by reason; `trainings`:
    seconds of a training, by outcome."""

    def __init__(self) -> None:
        self.commits = Histogram(COMMIT_BOUNDS)
        self.latency = Histogram(LATENCY_BOUNDS)
        self.dead: Counter[str] = Counter()
        self.outputs: Counter[str] = Counter()
        self.restarts: Counter[str] = Counter()
        self.trainings: dict[str, Histogram] = {}

    def committed(self, seconds: float, produced: Iterable[Produced]) -> None:
        """A transaction that took effect."""
        self.commits.observe(seconds)
        for topic, count in Counter([item.topic for item in produced]).items():
            self.outputs[topic] += count
            if topic == "dead-letters":
                for item in produced:
                    if item.topic == topic:
                        code = _code(item.value)
                        self.dead[code if code in self.dead or len(self.dead) < CODES else "other"] += 1

    def folded(self, append_times: Iterable[int], now_ms: int) -> None:
        """Input records, by append time in ms, whose outputs are committed at `now_ms`."""
        for time_ms, count in Counter(append_times).items():
            self.latency.observe(max(0, now_ms - time_ms) / 1000, count)

    def restarted(self, reason: str) -> None:
        self.restarts[reason] += 1

    def trained(self, outcome: str, seconds: float) -> None:
        self.trainings.setdefault(outcome, Histogram(TRAINING_BOUNDS)).observe(seconds)


class _Error(msgspec.Struct):
    code: str


class _Data(msgspec.Struct):
    error: _Error


class _DeadLetter(msgspec.Struct):
    data: _Data


_dead_letters = msgspec.json.Decoder(_DeadLetter)
_meters: dict[tuple[str, str], StageMeter] = {}


def of(stage: str, topic: str) -> StageMeter:
    """The meter of a stage over a topic, made when it is first asked for."""
    return _meters.setdefault((stage, topic), StageMeter())


def snapshot() -> dict[tuple[str, str], StageMeter]:
    """All meters as they are now; to be called where tasks run."""
    return deepcopy(_meters)


def _code(value: bytes) -> str:
    with suppress(msgspec.MsgspecError):
        return _dead_letters.decode(value).data.error.code
    return "other"
