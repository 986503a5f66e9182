"""What running tasks and the worker around them report of themselves. Plain values, JSON-able; knows no client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

GAUGED_BUCKETS = 200  # of one task, whose figures are shown: labels of metrics must be bounded


class RestoreReport(Struct, frozen=True, kw_only=True):
    """How a task's last start went: seconds from its fence to its first fetch; records read of its changelog, and the keys and
    bytes of state that they left."""

    seconds: float
    records: int
    keys: int
    bytes: int


class TaskReport(Struct, frozen=True, kw_only=True):
    """One task. `phase`: starting, restoring, running, stopped; the train stage's also says what it waits for or is at. `lag` in
    offsets, None until the first fetch, and `lag_seconds` how long the first of them has waited; `now` is fold time in ms;
    `activity` is what a task that works for long is at (the train stage: bucket, batch, step, loss). `partitions` is the count
    of the input topic, `committed` the time of the last commit (seconds since the epoch). `gauges`: figures by name of each
    bucket, of not more than `GAUGED_BUCKETS`; `buckets` is how many there are."""

    stage: str
    topic: str
    partition: int
    phase: str
    next_offset: int = 0
    lag: int | None = None
    lag_seconds: float | None = None
    now: int = 0
    state_keys: int = 0
    counters: Mapping[str, int] = {}
    activity: Mapping[str, Any] = {}
    partitions: int = 0
    committed: float | None = None
    restore: RestoreReport | None = None
    buckets: int = 0
    gauges: Mapping[str, Mapping[str, float]] = {}


class SlotReport(Struct, frozen=True, kw_only=True):
    """An assigned partition: its task (None before the first one), how often it was started again, what the last one ended
    with, and whether it is `done`, or `refused`: somebody has to look (it is looked at again every minute)."""

    topic: str
    partition: int
    task: TaskReport | None
    restarts: int
    error: str | None
    ended: Literal["done", "refused"] | None


class WorkerReport(Struct, frozen=True, kw_only=True):
    """A supervisor. `away`: why the broker can't be reached, None while it answers; `waiting`: what it waits for before it has
    its partitions, None once the group gave it some, or none."""

    group: str
    broker: str
    away: str | None
    waiting: str | None = None
    tasks: Sequence[SlotReport] = ()
