"""Example events as the reward stage writes them, and a run of the curate stage whose clock the test sets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec

from headrace_processors.curate.fold import build
from headrace_processors.curate.policy import NEWEST, CuratePolicy
from headrace_processors.curate.state import ASSESSED
from headrace_processors.reward.policy import RewardPolicy
from headrace_processors.stages import STAGES
from headrace_schemas.codec import encode
from headrace_schemas.derived import (
    Components,
    Content,
    DrawnPrompt,
    Example,
    ExampleSettlement,
    PromptContent,
    Requirement,
    Tick,
    Tracking,
    Weights,
    Withdrawal,
)
from headrace_schemas.events import (
    BatchReady,
    ClockTicked,
    ExampleRejected,
    ExampleRewarded,
    ExampleSettled,
    ExampleSuperseded,
    ExampleWithdrawn,
    PromptDrawn,
    RequirementsTracked,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Agent
from headrace_schemas.splits import split_of
from headrace_schemas.times import rfc3339
from headrace_streams.runtime.stage import Record
from headrace_streams.testing import MemoryTask
from support.signals import START_MS, StageRun, at

REWARD = next(stage for stage in STAGES if stage.name == "reward")
BUCKET = "sql/tiny"
DAY_MS = 86_400_000


def groups(split: str, bucket: str = BUCKET) -> Iterator[str]:
    """Prompt groups that fall into a split of the bucket."""
    return (name for name in (f"g{number}" for number in count()) if split_of(bucket, name) == split)


GROUPS = {split: [name for name, _ in zip(groups(split), range(600), strict=False)] for split in ("train", "validation", "test")}


def example(number: int, *, split: str = "train", **changed: Any) -> Example:
    """The example of a number: corrected, reward 0.5; every number is another text and another prompt group."""
    bucket = changed.get("bucket", BUCKET)
    content: dict[str, Any] = {
        "prompt": f"how many {number}?",
        "output": f"select {number}0",
        "target": f"select {number}",
        "context": None,
    }
    content |= {name: changed.pop(name) for name in tuple(content) if name in changed}
    correction = changed.pop("correction", 1.0)
    fields: dict[str, Any] = {
        "example_id": derive_id("example", f"i{number}"),
        "revision": 1,
        "interaction_id": f"i{number}",
        "bucket": bucket,
        "artifact_type": "sql",
        "model": "tiny",
        "agent": Agent(name="bot"),
        "prompt_group": GROUPS[split][number],
        "content": Content(**content),
        "quality": -0.5,
        "reward": 0.5,
        "components": Components(validation=0.0, feedback=0.5, difficulty=0.25, multiplier=1.5, correction=correction),
        "weights": Weights(balance=1.0),
        "contradicted": False,
        "voices": 1,
        "event_time": at(0),
        "train": True,
    }
    return Example(**{**fields, **changed})


def examples_of(*signals: bytes, **policy: Any) -> list[dict[str, Any]]:
    """What the reward stage says of examples, record by record."""
    stage = MemoryTask(REWARD, "signals", RewardPolicy(**policy))
    produced = [each for value in signals for each in stage.feed(value).produced]
    return [msgspec.json.decode(each.value)["data"] for each in produced if each.topic == "examples"]


def rewarded(number: int, **changed: Any) -> bytes:
    data = example(number, **changed)
    event = ExampleRewarded(
        specversion="1.0",
        id=derive_id("rewarded", data.example_id, data.revision),
        source="headrace:reward",
        time=data.event_time,
        data=data,
    )
    return encode(event)


def drawn(number: int, **changed: Any) -> bytes:
    """The prompt that was drawn from the interaction of a number, whose example would be `example(number, split="test")`."""
    fields: dict[str, Any] = {
        "prompt_id": derive_id("prompt", f"i{number}"),
        "interaction_id": f"i{number}",
        "bucket": BUCKET,
        "artifact_type": "sql",
        "model": "tiny",
        "agent": Agent(name="bot"),
        "prompt_group": GROUPS["test"][number],
        "content": PromptContent(prompt=f"how many {number}?"),
        "event_time": at(0),
    }
    data = DrawnPrompt(**{**fields, **changed})
    event_id = derive_id("drawn", data.prompt_id)
    return encode(PromptDrawn(specversion="1.0", id=event_id, source="headrace:reward", time=data.event_time, data=data))


def prompt_withdrawn(number: int, reason: Any = "retracted") -> bytes:
    prompt_id = derive_id("prompt", f"i{number}")
    data = Withdrawal(example_id=prompt_id, revision=2, interaction_id=f"i{number}", bucket=BUCKET, reason=reason)
    return encode(ExampleWithdrawn(specversion="1.0", id=f"wp{number}", source="headrace:reward", data=data))


def settled(number: int, *, revision: int = 1, bucket: str = BUCKET) -> bytes:
    example_id = derive_id("example", f"i{number}")
    data = ExampleSettlement(example_id=example_id, revision=revision, interaction_id=f"i{number}", bucket=bucket)
    return encode(ExampleSettled(specversion="1.0", id=f"s{number}-{revision}", source="headrace:reward", data=data))


def withdrawn(number: int, reason: Any = "retracted", *, revision: int = 2, bucket: str = BUCKET) -> bytes:
    data = Withdrawal(
        example_id=derive_id("example", f"i{number}"),
        revision=revision,
        interaction_id=f"i{number}",
        bucket=bucket,
        reason=reason,
    )
    return encode(ExampleWithdrawn(specversion="1.0", id=f"w{number}-{revision}", source="headrace:reward", data=data))


def tracked(satisfied: bool, release_id: str = "r1", bucket: str = BUCKET) -> bytes:
    required = [Requirement(name="good", metric="success", target=0.9, direction="at_least", satisfied=satisfied, current=0.95)]
    data = Tracking(bucket=bucket, release_id=release_id, satisfied=satisfied, requirements=required)
    return encode(RequirementsTracked(specversion="1.0", id=f"t-{release_id}", source="headrace:release", data=data))


def tick(bucket: str = BUCKET) -> bytes:
    data = Tick(bucket=bucket, time=at(0))
    return encode(ClockTicked(specversion="1.0", id="tick", source="headrace:curate", time=at(0), data=data))


class CurateRun(StageRun):
    """The curate stage under a policy. `days` is fold time since the start, for the test to set. What it says of how buckets
    stand is left out, but in `outputs`."""

    def __init__(self, *, through_dump: bool = False, recorded: str | None = None, version: int = NEWEST, **policy: Any) -> None:
        """`recorded`: the digest that the log names the policy by, if not today's."""
        self.policy = CuratePolicy(**policy)
        fold = build(self.policy.body(), recorded or self.policy.digest, version)
        super().__init__(fold, "examples", through_dump=through_dump)
        self.days = 0.0

    def feed(self, *values: bytes | None, **ignored: Any) -> list[Any]:
        before = len(self.outputs)
        for value in values:
            now = START_MS + int(self.days * DAY_MS)
            self.apply(self.fold.step(self.state, Record("examples", 3, self.records, now, now, b"sql/tiny", value)))
            assert sum(self.counters.values()) == self.records, self.counters
        return [output for output in self.outputs[before:] if output.topic != "assessments"]

    @property
    def deadlines(self) -> list[int]:
        """As of any stage, but those at which it is only said how a bucket stands."""
        found = self.fold.deadlines(self.state)
        return sorted(at for key, at in found.items() if not key.startswith(ASSESSED))

    @property
    def batches(self) -> list[Any]:
        return [output.value.data for output in self.outputs if isinstance(output.value, BatchReady)]

    @property
    def reasons(self) -> list[str]:
        return [output.value.data.reason for output in self.outputs if isinstance(output.value, ExampleRejected)]

    @property
    def superseded(self) -> list[Any]:
        return [output.value.data for output in self.outputs if isinstance(output.value, ExampleSuperseded)]

    @property
    def bucket(self) -> Any:
        return self.state[f"bucket:{BUCKET}"]


def day(number: float) -> str:
    """Event time, days after the start."""
    return rfc3339(START_MS + int(number * DAY_MS))
