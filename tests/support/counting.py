"""A small stateful stage for tests of the drivers: counts the records of each key, rejects what says `bad`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace_schemas.derived import SignalRejection
from headrace_schemas.events import SignalRejected
from headrace_schemas.ids import derive_id
from headrace_schemas.topology import StageTopology
from headrace_streams.policy import Policy
from headrace_streams.runtime.stage import Fold, FoldStage, Record, RuleVersion, Step, Write


class CountingPolicy(Policy):
    step: int = 1


class CountingFold(Fold):
    """Writes one rejection a record that says how many its key had; `explode` raises."""

    def __init__(self, body: Mapping[str, Any], digest: str) -> None:
        self.by = CountingPolicy(**body).step

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        key = (record.key or b"none").decode()
        if record.value == b"explode":
            raise RuntimeError("told to")
        count = state.get(key, 0) + self.by
        data = SignalRejection(interaction_id=key, event_id=str(count), reason="counted", rule="test")
        name = derive_id("counted", key, count)
        event = SignalRejected(specversion="1.0", id=name, source="headrace:counting", data=data)
        return Step([Write("rejections", key, event)], {key: count}, {"counted": 1})

    def dump(self, key: str, value: Any) -> bytes:
        return str(value).encode()

    def load(self, key: str, value: bytes) -> Any:
        return int(value)


COUNTING = FoldStage(
    topology=StageTopology(
        name="counting", description="for tests", inputs=("signals",), outputs=("rejections",), counters=("counted",)
    ),
    policy=CountingPolicy,
    versions={1: RuleVersion(CountingFold)},
)
