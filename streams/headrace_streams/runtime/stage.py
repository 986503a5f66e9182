"""What a stage is: a row (name, input topics, output topics, policy, fold) and the pure function behind it. Knows no client.

A fold is `step(state, record) -> Step`: it reads no clock, draws no random number and changes nothing; the driver (live task
or replay) applies `Step.changes` to the state, writes `Step.outputs` and adds `Step.counts` to the counters, all or nothing.
State is a mapping from state key to an immutable value; `dump`/`load` are its changelog form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import Struct
from pydantic import BaseModel

from headrace_schemas.events import Event

Headers = Sequence[tuple[str, bytes]]


class Record(NamedTuple):
    """One input record. `topic` is the short name; `timestamp` (append time) and `now` (fold time) are ms since the epoch.

    `now` never runs backwards within a partition: it is the largest append time seen so far, this record's included.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    now: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Output(NamedTuple):
    """One event to write. `value` is an event, or bytes that are one already (pass-through). `everywhere`: to each partition."""

    topic: str
    key: str
    value: Event | bytes
    everywhere: bool = False


class Step(NamedTuple):
    """What one record does: events out, state changes (`None` deletes the key), counters up or down by box name."""

    outputs: Sequence[Output] = ()
    changes: Mapping[str, Any] = {}
    counts: Mapping[str, int] = {}


class Fold(Protocol):
    """The decision of a stage under one policy body. Raises nothing for bad input that it can answer with an event."""

    def step(self, state: Mapping[str, Any], record: Record) -> Step: ...

    def dump(self, key: str, value: Any) -> bytes:
        """The changelog form of a state value: canonical, so that equal states are equal bytes."""
        ...

    def load(self, key: str, value: bytes) -> Any: ...

    def tick_due(self, state: Mapping[str, Any]) -> Sequence[str]:
        """State keys (buckets) that wait for time to pass: while there are any, an idle input gets `ClockTicked` records."""
        ...


class Stage(Struct, frozen=True, kw_only=True):
    """A row of the stage table. `build(body)` makes the fold from the JSON form of a `policy` object, live or from the log."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    version: int  # of the rules in code; raised when the same policy would decide otherwise than before
    policy: type[BaseModel]
    build: Callable[[Mapping[str, Any]], Fold]
    boxes: tuple[str, ...]  # counters that add up to the input records
