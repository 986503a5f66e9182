"""Small sums to learn: examples as records of the `examples` topic, members that name them, batches and pins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from headrace_schemas.canonical import sha256
from headrace_schemas.codec import encode
from headrace_schemas.derived import (
    Batch,
    BatchStatistics,
    Components,
    Content,
    DrawnPrompt,
    Example,
    Locator,
    Member,
    PromptContent,
    PromptMember,
    TrainingStart,
    Weights,
)  # fmt: skip
from headrace_schemas.events import ExampleRewarded, PromptDrawn
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Agent
from headrace_trainer.data.members import RecordValues, key_of
from headrace_trainer.policy import Hyperparameters

Split = Literal["train", "validation", "test"]
BUCKET = "sums/tiny"
HYPER = Hyperparameters(
    r=4, alpha=8, learning_rate=2e-2, epochs=4, min_steps=1, rows_per_step=8, dropout=0.05, validation_rows=2, precision="fp32",
    final_rate=0.0, rehearsal=0.25,
)  # fmt: skip


class RecordedExample(NamedTuple):
    member: Member
    value: bytes
    example: Example


def example(number: int, *, revision: int = 1, bucket: str = BUCKET, **changed: Any) -> Example:
    fields: dict[str, Any] = {
        "example_id": derive_id("example", f"i{number}"), "revision": revision, "interaction_id": f"i{number}", "bucket": bucket,
        "artifact_type": bucket.partition("/")[0], "model": "tiny", "agent": Agent(name="adder"), "prompt_group": f"g{number}",
        "content": Content(prompt=f"{number} + 1 ?", output="?", target=f"the sum is {number + 1}"),
        "quality": -0.2, "reward": 0.5,
        "components": Components(validation=0.0, feedback=0.5, difficulty=0.2, multiplier=1.3, correction=1.0),
        "weights": Weights(balance=1.0), "contradicted": False, "voices": 1, "event_time": "2026-11-21T10:00:00Z", "train": True,
    }  # fmt: skip
    return Example(**{**fields, **changed})


def record(example: Example) -> bytes:
    event = ExampleRewarded(
        specversion="1.0", id=derive_id("rewarded", example.example_id, example.revision), source="headrace:reward",
        time=example.event_time, data=example,
    )  # fmt: skip
    return encode(event)


def recorded(
    number: int, split: Split = "train", *, offset: int | None = None, partition: int = 0, **changed: Any
) -> RecordedExample:
    """The example of a number, its record and a member that names it. `role` and `weight` go to the member."""
    role, weight = changed.pop("role", "train"), changed.pop("weight", 1.0)
    rewarded = example(number, **changed)
    value = record(rewarded)
    locator = Locator(topic="examples", partition=partition, offset=number if offset is None else offset)
    member = Member(
        example_id=rewarded.example_id, revision=rewarded.revision, sha256=sha256(value), role=role, weight=weight,
        difficulty=0.2, split=split, locator=locator,
    )  # fmt: skip
    return RecordedExample(member, value, rewarded)


class RecordedPrompt(NamedTuple):
    member: PromptMember
    value: bytes


def drawn(number: int, *, offset: int | None = None, **changed: Any) -> RecordedPrompt:
    """The prompt that was drawn from the interaction of a number, its record and a member that names it."""
    like = example(number)
    fields: dict[str, Any] = {
        "prompt_id": derive_id("prompt", f"i{number}"), "interaction_id": like.interaction_id, "bucket": like.bucket,
        "artifact_type": like.artifact_type, "model": like.model, "agent": like.agent, "prompt_group": like.prompt_group,
        "content": PromptContent(prompt=like.content.prompt), "event_time": like.event_time,
    }  # fmt: skip
    prompt = DrawnPrompt(**{**fields, **changed})
    event_id = derive_id("drawn", prompt.prompt_id)
    event = PromptDrawn(specversion="1.0", id=event_id, source="headrace:reward", time=prompt.event_time, data=prompt)
    value = encode(event)
    locator = Locator(topic="examples", partition=0, offset=number if offset is None else offset)
    member = PromptMember(example_id=prompt.prompt_id, revision=1, sha256=sha256(value), locator=locator, drawn=True)
    return RecordedPrompt(member, value)


def values(*recorded: RecordedExample) -> RecordValues:
    """Their records, as a job is given them."""
    return {key_of(each.member): each.value for each in recorded}


def wrong(recorded: RecordedExample) -> RecordedPrompt:
    """The prompt of an example that gives no reference."""
    member = recorded.member
    prompt = PromptMember(
        example_id=member.example_id, revision=member.revision, sha256=member.sha256, locator=member.locator
    )  # fmt: skip
    return RecordedPrompt(prompt, recorded.value)


def batch(members: Iterable[Member], tests: Iterable[Member] = (), *, bucket: str = BUCKET, name: str = "b1") -> Batch:
    trained = list(members)
    artifact_type, _, base = bucket.partition("/")
    return Batch(
        batch_id=derive_id("batch", name), bucket=bucket, artifact_type=artifact_type, base=base, cause="target", target=16.0,
        members=trained, test_pool=list(tests), policy_digests={"curate": sha256(b"curate")},
        statistics=BatchStatistics(examples=len(trained), negatives=0, effective_size=float(len(trained)), mean_reward=0.5),
    )  # fmt: skip


def start(batch: Batch, **changed: Any) -> TrainingStart:
    fields: dict[str, Any] = {
        "run_id": derive_id("run", batch.batch_id), "batch_id": batch.batch_id, "bucket": batch.bucket, "base": batch.base,
        "seed": 7, "method": "lora", "hyperparameters": HYPER.to_wire(), "rehearsal": [], "policy_digests": {},
    }  # fmt: skip
    return TrainingStart(**{**fields, **changed})
