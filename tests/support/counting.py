"""A small stateful stage for tests of the drivers: counts the records of each key, rejects what says `bad`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from headrace_schemas.derived import SignalRejection
from headrace_schemas.events import SignalRejected
from headrace_schemas.ids import derive_id
from headrace_streams.runtime.stage import Output, Record, Stage, Step


class CountingPolicy(BaseModel):
    step: int = 1


class CountingFold:
    """Writes one rejection a record that says how many its key had; `explode` raises."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.by = CountingPolicy(**body).step

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        key = (record.key or b"none").decode()
        if record.value == b"explode":
            raise RuntimeError("told to")
        count = state.get(key, 0) + self.by
        data = SignalRejection(interaction_id=key, event_id=str(count), reason="counted", rule="test")
        name = derive_id("counted", key, count)
        event = SignalRejected(specversion="1.0", id=name, source="headrace:counting", data=data)
        return Step([Output("rejections", key, event)], {key: count}, {"counted": 1})

    def dump(self, key: str, value: Any) -> bytes:
        return str(value).encode()

    def load(self, key: str, value: bytes) -> Any:
        return int(value)

    def tick_due(self, state: Mapping[str, Any]) -> Sequence[str]:
        return ()


COUNTING = Stage(
    name="counting",
    inputs=("signals",),
    outputs=("rejections",),
    version=1,
    policy=CountingPolicy,
    build=CountingFold,
    boxes=("counted",),
)
