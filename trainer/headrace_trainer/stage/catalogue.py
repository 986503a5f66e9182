"""What the train stage reads: members by locator, earlier batches, what is served, answers of the release stage. Knows Kafka,
decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from aiokafka import ConsumerRecord, TopicPartition

from headrace_schemas.codec import DecodeError, decode
from headrace_schemas.derived import Batch, Member, ReleaseDecision, TrainingStart
from headrace_schemas.events import BatchReady, Event, TrainingStarted
from headrace_schemas.selection import training_members
from headrace_streams.kafka import clients
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.reader import Reader, Span
from headrace_streams.settings import Settings
from headrace_trainer.data.members import MemberKey, key_of
from headrace_trainer.stage.rehearsal import LatestRevisions

_NEAR = 200  # offsets between two wanted records that are read over instead of sought
_FETCH_BYTES = 256 * 1024
_SILENCE_SECONDS = 10.0


class ServedAdapter(NamedTuple):
    """What a bucket serves now: the release that put it there (None: none yet) and the adapter's digest (None: the base)."""

    release_id: str | None
    digest: str | None


async def values_of(settings: Settings, members: Iterable[Member]) -> dict[MemberKey, bytes]:
    """Record values at the members' locators; a locator without a record is left out. Digests are not checked here."""
    wanted: dict[tuple[str, int], dict[int, list[MemberKey]]] = {}
    for member in members:
        offsets = wanted.setdefault((member.locator.topic, member.locator.partition), {})
        offsets.setdefault(member.locator.offset, []).append(key_of(member))
    values: dict[MemberKey, bytes] = {}
    for (topic, partition), offsets in wanted.items():
        async for record in _records_at(settings, topic, partition, sorted(offsets)):
            values.update((key, record.value) for key in offsets[record.offset] if record.value is not None)
    return values


async def _records_at(settings: Settings, topic: str, partition: int, offsets: Sequence[int]) -> AsyncIterator[ConsumerRecord]:
    """The committed records at `offsets` (ascending) of a partition."""
    tp = TopicPartition(clients.full_name(settings, topic), partition)
    span = (await Reader(settings).offsets([topic])).get((topic, partition), Span(0, 0))
    ahead = [offset for offset in offsets if span.begin <= offset < span.end]
    async with clients.connected(clients.consumer(settings, max_partition_fetch_bytes=_FETCH_BYTES)) as client:
        client.assign([tp])
        position = -_NEAR
        wanted = set(ahead)
        while ahead:
            if not position <= ahead[0] < position + _NEAR:
                position = ahead[0]
                client.seek(tp, position)
            async with asyncio.timeout(_SILENCE_SECONDS):
                records = await _next_records(client, tp, position)
            for record in records:
                if record.offset in wanted:
                    yield record
            position = await client.position(tp)
            ahead = [offset for offset in ahead if offset >= position]


async def _next_records(client: Any, tp: TopicPartition, position: int) -> list[ConsumerRecord]:
    """The next records; empty when only transaction markers came."""
    while True:
        records: list[ConsumerRecord] = (await client.getmany(tp, timeout_ms=200)).get(tp, [])
        if records or await client.position(tp) > position:
            return records


class _Head(msgspec.Struct):
    """As much of an example's or withdrawal's data as `LatestRevisions` needs."""

    example_id: str
    revision: int
    reward: float = 0.0
    train: bool = False
    reason: str | None = None


class _Record(msgspec.Struct):
    type: str
    data: msgspec.Raw


_records = msgspec.json.Decoder(_Record)
_heads = msgspec.json.Decoder(_Head)


class Catalogue:
    """Earlier batches of a partition and what became of their examples; follows `batches` and `examples` from call to call."""

    def __init__(self, settings: Settings, partition: int) -> None:
        self._settings, self._partition = settings, partition
        self._latest = LatestRevisions()
        self._batches: list[tuple[int, Batch]] = []
        self._next: dict[str, int] = {"batches": 0, "examples": 0}

    async def refresh(self, bucket: str) -> None:
        """Reads on to the present end of both topics. `bucket` tells where its examples are."""
        count = (await clients.partition_counts(self._settings, ["examples"]))["examples"]
        async for record in self._new_records("batches", self._partition):
            event = decode_known(record.value)
            if isinstance(event, BatchReady):
                self._batches.append((record.offset, event.data))
        partition = partition_for(bucket.encode(), count)
        async for record in self._new_records("examples", partition):
            self._note(record)

    async def _new_records(self, topic: str, partition: int) -> AsyncIterator[ConsumerRecord]:
        key = f"{topic}/{partition}"
        async for record in Reader(self._settings).read_partition(topic, partition, self._next.get(key, 0)):
            yield record
            self._next[key] = record.offset + 1

    def _note(self, record: ConsumerRecord) -> None:
        try:
            head = _records.decode(record.value)
            if head.type == "headrace.example.rewarded.v1":
                data = _heads.decode(head.data)
                self._latest.add(data.example_id, data.revision, data.train and data.reward > 0, record.offset, record.value)
            elif head.type == "headrace.example.withdrawn.v1":
                data = _heads.decode(head.data)
                self._latest.withdraw(data.example_id, data.revision, for_ever=data.reason != "feedback_retracted")
        except (msgspec.MsgspecError, TypeError):
            return  # not written by us; the members that a manifest names are verified when they are loaded

    def earlier_members(self, bucket: str, before: int) -> list[Member]:
        """Members to learn of the bucket's batches before offset `before`, at their newest revision."""
        batches = [batch for offset, batch in self._batches if offset < before and batch.bucket == bucket]
        return self._latest.current(member for batch in batches for member in training_members(batch.members))

    def withdrawn_of(self, batch: Batch) -> list[str]:
        """Members and test rows of a batch that were withdrawn since it was cut."""
        return self._latest.withdrawn((*batch.members, *batch.test_pool))

    def members_of(self, batch_ids: Sequence[str]) -> list[Member]:
        """The same of the named batches."""
        batches = [batch for _, batch in self._batches if batch.batch_id in batch_ids]
        return self._latest.current(member for batch in batches for member in training_members(batch.members))


def decode_known(value: bytes | None) -> Event | None:
    """An event, or None for what is none of ours (a topic that others may have written to)."""
    try:
        return decode(value)
    except DecodeError:
        return None


async def served(settings: Settings, bucket: str) -> ServedAdapter:
    """The newest record of the bucket in `releases`."""
    served = ServedAdapter(None, None)
    async for event in _of_bucket(settings, "releases", bucket):
        release = getattr(event, "data", None)
        if isinstance(release, ReleaseDecision) and release.bucket == bucket:
            served = ServedAdapter(release.release_id, release.adapter.digest if release.adapter else None)
    return served


async def started(settings: Settings, bucket: str, batch_id: str) -> TrainingStart | None:
    """The pins of a batch: the first `TrainingStarted` of it in `runs`."""
    async for event in _of_bucket(settings, "runs", bucket):
        if isinstance(event, TrainingStarted) and event.data.batch_id == batch_id:
            return event.data
    return None


async def _of_bucket(settings: Settings, topic: str, bucket: str) -> AsyncIterator[Event]:
    """All events in the partition of a bucket."""
    count = (await clients.partition_counts(settings, [topic]))[topic]
    async for record in Reader(settings).read_partition(topic, partition_for(bucket.encode(), count)):
        event = decode_known(record.value)
        if event is not None:
            yield event


async def answered(settings: Settings, bucket: str, evaluation_id: str) -> None:
    """Waits until `releases.history` answers an evaluation."""
    count = (await clients.partition_counts(settings, ["releases.history"]))["releases.history"]
    tp = TopicPartition(clients.full_name(settings, "releases.history"), partition_for(bucket.encode(), count))
    async with clients.connected(clients.consumer(settings, auto_offset_reset="earliest")) as client:
        client.assign([tp])
        await client.seek_to_beginning(tp)
        while True:
            for record in (await client.getmany(tp, timeout_ms=500)).get(tp, []):
                event = decode_known(record.value)
                data = getattr(event, "data", None)
                if isinstance(data, ReleaseDecision) and evaluation_id in (data.evaluation_id, data.request_id):
                    return
