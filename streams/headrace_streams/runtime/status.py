"""What running tasks and the worker around them report of themselves. Plain values, JSON-able; knows no client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct


class TaskReport(Struct, frozen=True, kw_only=True):
    """One task. `phase`: starting, restoring, running, stopped; the train stage's also says what it waits for or is at. `lag` in
    offsets, None until the first fetch; `now` is fold time in ms; `activity` is what a task that works for long is at (the train
    stage: bucket, batch, step, loss)."""

    stage: str
    topic: str
    partition: int
    phase: str
    next_offset: int = 0
    lag: int | None = None
    now: int = 0
    state_keys: int = 0
    counters: Mapping[str, int] = {}
    activity: Mapping[str, Any] = {}


class SlotReport(Struct, frozen=True, kw_only=True):
    """An assigned partition: its task (None before the first one), how often it was started again, what the last one ended
    with, and whether there will be no other: it is `done`, or was `refused`, so that somebody has to look."""

    topic: str
    partition: int
    task: TaskReport | None
    restarts: int
    error: str | None
    ended: Literal["done", "refused"] | None


class WorkerReport(Struct, frozen=True, kw_only=True):
    """A supervisor. `away`: why the broker can't be reached, None while it answers."""

    group: str
    broker: str
    away: str | None
    tasks: Sequence[SlotReport]
