"""What the train stage reads beside its input: members by locator, earlier batches and what became of their examples, pins of a
run, answers of the release stage. Knows what to ask the log, decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from headrace_schemas.derived import Batch, Member, TrainingStart
from headrace_schemas.events import BatchReady, TrainingStarted
from headrace_schemas.selection import training_members
from headrace_streams import release_log
from headrace_streams.kafka import clients
from headrace_streams.kafka.reader import Reader, Span, event_of
from headrace_trainer.data.members import MemberKey, key_of
from headrace_trainer.stage.rehearsal import LatestRevisions

_NEAR = 200  # offsets between two wanted records that are read over instead of sought
_FETCH_BYTES = 256 * 1024
_SILENCE_SECONDS = 10.0


async def values_of(reader: Reader, members: Iterable[Member]) -> dict[MemberKey, bytes]:
    """Record values at the members' locators; a locator without a record is left out. Digests are not checked here."""
    wanted: dict[tuple[str, int], dict[int, list[MemberKey]]] = {}
    for member in members:
        offsets = wanted.setdefault((member.locator.topic, member.locator.partition), {})
        offsets.setdefault(member.locator.offset, []).append(key_of(member))
    values: dict[MemberKey, bytes] = {}
    for (topic, partition), offsets in wanted.items():
        async for record in _records_at(reader, topic, partition, sorted(offsets)):
            values.update((key, record.value) for key in offsets[record.offset] if record.value is not None)
    return values


async def _records_at(reader: Reader, topic: str, partition: int, offsets: Sequence[int]) -> AsyncIterator[ConsumerRecord]:
    """The committed records at `offsets` (ascending) of a partition."""
    tp = TopicPartition(clients.full_name(reader.settings, topic), partition)
    span = (await reader.spans(topic)).get(partition, Span(0, 0))
    ahead = [offset for offset in offsets if span.begin <= offset < span.end]
    async with clients.connected(clients.consumer(reader.settings, max_partition_fetch_bytes=_FETCH_BYTES)) as consumer:
        consumer.assign([tp])
        position = -_NEAR
        wanted = set(ahead)
        while ahead:
            if not position <= ahead[0] < position + _NEAR:
                position = ahead[0]
                consumer.seek(tp, position)
            async with asyncio.timeout(_SILENCE_SECONDS):
                records = await _next_records(consumer, tp, position)
            for record in records:
                if record.offset in wanted:
                    yield record
            position = await consumer.position(tp)
            ahead = [offset for offset in ahead if offset >= position]


async def _next_records(consumer: AIOKafkaConsumer, tp: TopicPartition, position: int) -> list[ConsumerRecord]:
    """The next records; empty when only transaction markers came."""
    while True:
        records: list[ConsumerRecord] = (await consumer.getmany(tp, timeout_ms=200)).get(tp, [])
        if records or await consumer.position(tp) > position:
            return records


class _Head(msgspec.Struct):
    """As much of an example's or withdrawal's data as `LatestRevisions` needs."""

    example_id: str
    revision: int
    reward: float = 0.0
    train: bool = False
    reason: str | None = None


class _Envelope(msgspec.Struct):
    type: str
    data: msgspec.Raw


_envelopes = msgspec.json.Decoder(_Envelope)
_heads = msgspec.json.Decoder(_Head)


class Catalogue:
    """Earlier batches of a partition and what became of their examples; follows `batches` and `examples` from call to call."""

    def __init__(self, reader: Reader, partition: int) -> None:
        self._reader, self._partition = reader, partition
        self._latest = LatestRevisions()
        self._batches: list[tuple[int, Batch]] = []
        self._next: dict[tuple[str, int], int] = {}

    async def refresh(self, bucket: str) -> None:
        """Reads on to the present end of both topics. `bucket` tells where its examples are."""
        async for record in self._new_records("batches", self._partition):
            event = event_of(record)
            if isinstance(event, BatchReady):
                self._batches.append((record.offset, event.data))
        async for record in self._new_records("examples", await self._reader.partition_of("examples", bucket)):
            self._note(record)

    async def _new_records(self, topic: str, partition: int) -> AsyncIterator[ConsumerRecord]:
        async for record in self._reader.read_partition(topic, partition, self._next.get((topic, partition), 0)):
            yield record
            self._next[topic, partition] = record.offset + 1

    def _note(self, record: ConsumerRecord) -> None:
        try:
            envelope = _envelopes.decode(record.value)
            if envelope.type == "headrace.example.rewarded.v1":
                data = _heads.decode(envelope.data)
                self._latest.add(data.example_id, data.revision, data.train and data.reward > 0, record.offset, record.value)
            elif envelope.type == "headrace.example.withdrawn.v1":
                data = _heads.decode(envelope.data)
                self._latest.withdraw(data.example_id, data.revision, for_ever=data.reason != "feedback_retracted")
        except (msgspec.MsgspecError, TypeError):
            return  # not written by us; the members that a manifest names are verified when they are loaded

    def earlier_members(self, bucket: str, before: int) -> list[Member]:
        """Members to learn of the bucket's batches before offset `before`, at their latest revision."""
        batches = [batch for offset, batch in self._batches if offset < before and batch.bucket == bucket]
        return self._latest.current(member for batch in batches for member in training_members(batch.members))

    def members_of(self, batch_ids: Sequence[str]) -> list[Member]:
        """The same of the named batches."""
        batches = [batch for _, batch in self._batches if batch.batch_id in batch_ids]
        return self._latest.current(member for batch in batches for member in training_members(batch.members))

    def withdrawn_of(self, batch: Batch) -> list[str]:
        """Members and test rows of a batch that were withdrawn since it was cut."""
        return self._latest.withdrawn((*batch.members, *batch.test_pool))


async def started(reader: Reader, bucket: str, batch_id: str) -> TrainingStart | None:
    """The pins of a batch: the first `TrainingStarted` of it in `runs`."""
    first: TrainingStart | None = None
    async for event in reader.events("runs", key=bucket, containing=batch_id.encode()):
        if isinstance(event, TrainingStarted) and event.data.batch_id == batch_id:
            first = first or event.data
    return first


async def wait_until_answered(reader: Reader, bucket: str, evaluation_id: str) -> None:
    """Until the release stage has decided about an evaluation."""
    async with aclosing(release_log.follow(reader, bucket)) as decisions:
        async for newest in decisions:
            if any(evaluation_id in (decision.data.evaluation_id, decision.data.request_id) for decision in newest):
                return
