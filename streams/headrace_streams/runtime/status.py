"""What running tasks and the worker around them report of themselves. Plain values, JSON-able; knows no client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

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
    offsets, None until the first fetch, and `lag_seconds` how long the first of them has waited; `now` is fold time in ms.
    `activity` is what a task that works for long is at (the train stage: bucket, batch, step, loss), `held` what around it keeps
    it from that. `partitions` is the count of the input topic, `committed` the time of the last commit (seconds since the epoch).
    `gauges`: figures by name of each bucket, of not more than `GAUGED_BUCKETS`; `buckets` is how many there are."""

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
    held: str | None = None
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


class TaskNote(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker lets the group know of an assigned partition, as metadata of the offset that it commits for monitoring, of
    which brokers keep up to 4 KiB. `recent`: how often its task was started again in the last RECENT_SECONDS; `held` as a
    report's."""

    phase: str = "starting"
    error: str | None = None
    ended: Literal["done", "refused"] | None = None
    recent: int = 0
    held: str | None = None


RECENT_SECONDS = 600.0
NOTE_CHARACTERS = 450  # of each text in a note: 4 bytes each at the most, and there may be two


def encode_note(note: TaskNote) -> str:
    return msgspec.json.encode(replace(note, error=_clipped(note.error), held=_clipped(note.held))).decode()


def decode_note(text: str) -> TaskNote | None:
    """None for what is no note: somebody else's metadata, or that of a version that writes another form."""
    try:
        return msgspec.json.decode(text, type=TaskNote)
    except msgspec.MsgspecError:
        return None


def _clipped(text: str | None) -> str | None:
    if text is None:
        return None
    line = " ".join(text.split())
    plain = "".join(character if character.isprintable() else "?" for character in line)
    return plain if len(plain) <= NOTE_CHARACTERS else plain[: NOTE_CHARACTERS - 1] + "…"


class WorkerReport(Struct, frozen=True, kw_only=True):
    """A supervisor. `away`: why the broker can't be reached, None while it answers; `waiting`: what it waits for before it has
    its partitions, None once the group gave it some, or none. `silences`: how many of each kind somebody should look at, where
    this process looks who is silent."""

    group: str
    broker: str
    away: str | None
    waiting: str | None = None
    tasks: Sequence[SlotReport] = ()
    silences: Mapping[str, int] = {}
