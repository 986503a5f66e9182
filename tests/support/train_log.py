"""What stands around the train stage on a real broker: examples and batches to publish, answers as release gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import Adapter, Batch, Evaluation, ReleaseDecision, Withdrawal
from headrace_schemas.events import BatchReady, Event, ExampleWithdrawn, ReleaseDeclined, ReleasePromoted
from headrace_schemas.ids import derive_id
from headrace_streams.kafka import clients
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.reader import Reader
from headrace_streams.runtime.stage import Headers
from headrace_streams.settings import Settings
from headrace_streams.testing import written_headers
from headrace_trainer.policy import BasePolicy, Hyperparameters, TrainerPolicy
from support import training_data
from support.live import until
from support.training_data import RecordedExample


def policy_of(base: Path, hyper: Hyperparameters = training_data.HYPER, **changed: Any) -> TrainerPolicy:
    return TrainerPolicy(
        bases={"tiny": BasePolicy(weights=str(base))}, defaults=hyper, threads=1, checkpoint_seconds=0.0, **changed
    )


class TrainLog:
    """Publishes into the topics that the train stage reads, and reads those that it writes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def write(self, topic: str, key: str, *values: bytes, headers: Headers | None = None) -> list[int]:
        """Publishes to the key's partition, with the headers of the stage that writes there; offsets."""
        partition = partition_for(key.encode(), self.settings.partitions)
        async with clients.connected(clients.producer(self.settings)) as producer:
            name = clients.full_name(self.settings, topic)
            told = list(written_headers(topic) if headers is None else headers)
            sent = [
                await producer.send(name, value=value, key=key.encode(), partition=partition, headers=told) for value in values
            ]
            return [(await record).offset for record in sent]

    async def publish_examples(
        self, examples: Sequence[RecordedExample], bucket: str = training_data.BUCKET
    ) -> list[RecordedExample]:
        """Publishes the examples; the same with members that name where they are."""
        offsets = await self.write("examples", bucket, *(example.value for example in examples))
        partition = partition_for(bucket.encode(), self.settings.partitions)
        published = []
        for example, offset in zip(examples, offsets, strict=True):
            locator = msgspec.structs.replace(example.member.locator, partition=partition, offset=offset)
            published.append(example._replace(member=msgspec.structs.replace(example.member, locator=locator)))
        return published

    async def withdraw(self, recorded: RecordedExample) -> None:
        data = Withdrawal(
            example_id=recorded.member.example_id, revision=9, interaction_id=recorded.example.interaction_id,
            bucket=recorded.example.bucket, reason="retracted",
        )  # fmt: skip
        identity = derive_id("withdrawn", data.example_id)
        event = ExampleWithdrawn(specversion="1.0", id=identity, source="headrace:reward", time="2026-11-21T10:00:00Z", data=data)
        await self.write("examples", data.bucket, encode(event))

    async def publish_batch(
        self,
        name: str,
        numbers: range,
        *,
        bucket: str = training_data.BUCKET,
        change: Callable[[Batch], Batch] = lambda batch: batch,
    ) -> Batch:
        """Publishes 24 training, 4 validation and 32 test examples from `numbers` on, and their batch."""
        first = numbers.start
        examples = [training_data.recorded(number, bucket=bucket) for number in numbers]
        examples += [training_data.recorded(first + 1000 + number, "validation", bucket=bucket) for number in range(4)]
        examples += [training_data.recorded(first + 2000 + number, "test", bucket=bucket) for number in range(32)]
        members = [example.member for example in await self.publish_examples(examples, bucket)]
        batch = change(training_data.batch(members[:-32], members[-32:], bucket=bucket, name=name))
        await self.publish_manifest(batch)
        return batch

    async def publish_manifest(self, batch: Batch, headers: Headers | None = None) -> None:
        event = BatchReady(
            specversion="1.0", id=derive_id("ready", batch.batch_id), source="headrace:curate", time="2026-11-21T10:00:00Z",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", data=batch,
        )  # fmt: skip
        await self.write("batches", batch.bucket, encode(event), headers=headers)

    async def publish_release(self, evaluation: Evaluation, *, promote: bool = True) -> str:
        """What the release stage would write."""
        kind = ReleasePromoted if promote else ReleaseDeclined
        identity = derive_id("release", evaluation.evaluation_id)
        adapter: Adapter | None = evaluation.adapter
        data = ReleaseDecision(
            release_id=identity, sequence=1, bucket=evaluation.bucket, artifact_type=evaluation.artifact_type,
            base=evaluation.base, batch_ids=[evaluation.batch_id], reason="by hand", policy_digests={}, adapter=adapter,
            request_id=derive_id("evaluation", evaluation.evaluation_id), evaluation_id=evaluation.evaluation_id,
            version_id=evaluation.version_id,
        )  # fmt: skip
        event = kind(specversion="1.0", id=identity, source="headrace:release", time="2026-11-21T10:00:00Z", data=data)
        if promote:
            await self.write("releases", evaluation.bucket, encode(event))
        await self.write("releases.history", evaluation.bucket, encode(event))
        return identity

    async def events(self, kind: type, topic: str) -> list[Any]:
        """Data of all events of a kind in a topic, read committed."""
        events: list[Event] = [decode(record.value) async for record in Reader(self.settings).read_topic(topic)]
        return [event.data for event in events if isinstance(event, kind)]

    async def wait_for(self, kind: type, topic: str, count: int = 1, seconds: float = 120.0) -> list[Any]:
        events: list[Any] = []

        async def enough() -> bool:
            events[:] = await self.events(kind, topic)
            return len(events) >= count

        await until(enough, seconds)
        return events
