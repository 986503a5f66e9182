"""Requests that people make of a running deployment, and the answers found in the log. Knows topics and events, no command.

A request is one event on `outcomes`; the release stage answers each with one event on `releases.history` whose `request_id` is
the request's event id.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from typing import Any, NamedTuple

import msgspec
from aiokafka import ConsumerRecord, TopicPartition

from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import Evaluation, ModelVersion, Release
from headrace_schemas.errors import DecodeError
from headrace_schemas.events import (
    BatchReady,
    EvaluationCompleted,
    Event,
    ExampleRewarded,
    InteractionRetracted,
    ModelVersionCreated,
    ReleaseDeclined,
    ReleasePaused,
    ReleasePromoted,
    ReleaseResumed,
    ReleaseRevoked,
    ReleaseRolledBack,
    SubjectErased,
    TrainingStarted,
)
from headrace_schemas.inputs import InteractionRetraction, SubjectErasure
from headrace_schemas.root_error import HeadraceError
from headrace_schemas.times import rfc3339
from headrace_streams.kafka import clients
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.settings import Settings

SOURCE = "headrace:command"
ANSWERS = (ReleasePromoted, ReleaseDeclined, ReleaseRolledBack, ReleaseRevoked, ReleasePaused, ReleaseResumed)
SERVING = (ReleasePromoted, ReleaseRolledBack, ReleaseRevoked)  # answers that say what is served from then on


class NoAnswer(HeadraceError, TimeoutError):
    """The request stands in the log, but nobody has answered it yet. Whoever starts a worker later still gets it answered."""


class Answer(NamedTuple):
    """What the release stage said: `kind` promoted, declined, rolled_back, revoked, paused or resumed."""

    kind: str
    time: str
    data: Release


class Touched(NamedTuple):
    """What an interaction or a person's data went into. `inherited`: not trained on it, but on top of an adapter that was."""

    example_ids: list[str]
    batch_ids: list[str]
    releases: list[Answer]
    inherited: list[Answer]
    served: list[str]  # release ids among them that are served now


def request(kind: type[Any], data: Any) -> Event:
    """An event of ours with a new id and the time of now."""
    now = rfc3339(time.time_ns() // 1_000_000)
    event: Event = kind(specversion="1.0", id=uuid.uuid4().hex, source=SOURCE, time=now, data=data)
    return event


async def publish(settings: Settings, topic: str, key: str, event: Event) -> None:
    """Appends the event to the key's partition of `topic` and waits for the acknowledgement. Raises as the clients do."""
    count = (await clients.partition_counts(settings, [topic]))[topic]
    async with clients.connected(clients.producer(settings)) as producer:
        partition = partition_for(key.encode(), count)
        sending = producer.send_and_wait(clients.full_name(settings, topic), encode(event), key.encode(), partition)
        try:
            await asyncio.wait_for(sending, clients.DEADLINE)
        except TimeoutError:
            raise clients.BrokerUnavailable(f"{settings.bootstrap} did not acknowledge within {clients.DEADLINE:g} s") from None


async def ask(settings: Settings, bucket: str, event: Event, timeout: float) -> Answer:
    """Publishes a request about `bucket` and waits for its answer. NoAnswer after `timeout` seconds."""
    count = (await clients.partition_counts(settings, ["releases.history"]))["releases.history"]
    history = TopicPartition(clients.full_name(settings, "releases.history"), partition_for(bucket.encode(), count))
    async with clients.connected(clients.consumer(settings)) as consumer:
        consumer.assign([history])
        consumer.seek(history, (await consumer.end_offsets([history]))[history])  # before asking: the answer comes after
        await publish(settings, "outcomes", bucket, event)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for record in (await consumer.getmany(history, timeout_ms=500)).get(history, ()):
                        answer = _answer(record)
                        if answer is not None and answer.data.request_id == event.id:
                            return answer
        except TimeoutError:
            raise NoAnswer(f"no answer for {bucket} within {timeout:g} s; the request stands: is a worker running?") from None


async def history(settings: Settings) -> list[Answer]:
    """Every answer that was ever given, bucket by bucket in order."""
    answers = [answer async for record in clients.read_topic(settings, "releases.history") if (answer := _answer(record))]
    return sorted(answers, key=lambda answer: (answer.data.bucket, answer.data.sequence))


async def follow(settings: Settings) -> AsyncGenerator[Answer, None]:
    """Every answer from the first one on, then each as it comes; never ends by itself. Close it (`aclosing`) to stop earlier."""
    counts = await clients.partition_counts(settings, ["releases.history"])
    name = clients.full_name(settings, "releases.history")
    partitions = [TopicPartition(name, number) for number in range(counts["releases.history"])]
    async with clients.connected(clients.consumer(settings, auto_offset_reset="earliest")) as consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        while True:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for record in records:
                    if (answer := _answer(record)) is not None:
                        yield answer


async def served(settings: Settings) -> dict[str, Release]:
    """What is served now, by bucket."""
    now: dict[str, Release] = {}
    async for event in _events(settings, "releases"):
        if isinstance(event, SERVING):
            now[event.data.bucket] = event.data
    return now


async def versions(settings: Settings) -> list[ModelVersion]:
    return [event.data async for event in _events(settings, "versions") if isinstance(event, ModelVersionCreated)]


async def evaluation(settings: Settings, evaluation_id: str) -> Evaluation | None:
    async for event in _events(settings, "outcomes"):
        if isinstance(event, EvaluationCompleted) and event.data.evaluation_id == evaluation_id:
            return event.data
    return None


async def retract(settings: Settings, interaction_id: str, reason: str | None) -> Touched:
    """Says that an interaction shall not be learnt from; what it has gone into so far. DecodeError for an id that can't be."""
    event = request(InteractionRetracted, InteractionRetraction(interaction_id=interaction_id, reason=reason))
    decode(encode(event))
    await publish(settings, "interactions", interaction_id, event)
    return await touched(settings, interaction_id=interaction_id)


async def forget(settings: Settings, data_subject: str) -> Touched:
    """Asks for a person's data to be erased, and says what it has gone into so far. DecodeError for an id that can't be."""
    event = request(SubjectErased, SubjectErasure(data_subject=data_subject))
    decode(encode(event))
    await publish(settings, "interactions", data_subject, event)
    return await touched(settings, data_subject=data_subject)


async def touched(settings: Settings, *, interaction_id: str | None = None, data_subject: str | None = None) -> Touched:
    """Follows examples into batches (as members or as rehearsal rows), batches into versions, versions into releases."""
    examples = {
        event.data.example_id
        async for event in _events(settings, "examples", containing=interaction_id or data_subject)
        if isinstance(event, ExampleRewarded)
        and (event.data.interaction_id == interaction_id if interaction_id else event.data.data_subject == data_subject)
    }
    batches: set[str] = set()
    if examples:
        for topic in ("batches", "runs"):
            batches |= {event.data.batch_id async for event in _events(settings, topic) if examples & set(_rows(event))}
    made = await versions(settings) if batches else []
    direct = {version.adapter.digest for version in made if version.batch_id in batches}
    inherited = _descendants(made, direct)
    answers = [answer for answer in await history(settings) if answer.kind in ("promoted", "rolled_back", "revoked")]
    now = {release.release_id for release in (await served(settings)).values()}
    trained = [answer for answer in answers if _digest(answer) in direct]
    later = [answer for answer in answers if _digest(answer) in inherited]
    still = [answer.data.release_id for answer in (*trained, *later) if answer.data.release_id in now]
    return Touched(sorted(examples), sorted(batches), trained, later, still)


def _descendants(made: Collection[ModelVersion], adapters: Collection[str]) -> set[str]:
    """Adapters whose training began from one of `adapters`, or from one that did; without `adapters` themselves."""
    known = set(adapters)
    while new := {version.adapter.digest for version in made if version.parent_adapter in known} - known:
        known |= new
    return known - set(adapters)


def _digest(answer: Answer) -> str | None:
    return answer.data.adapter.digest if answer.data.adapter else None


def _rows(event: Event) -> Iterator[str]:
    """Ids of the examples that a batch or a training run trains on; test rows are not learnt from."""
    members = event.data.members if isinstance(event, BatchReady) else ()
    for member in event.data.rehearsal if isinstance(event, TrainingStarted) else members:
        yield member.example_id


async def _events(settings: Settings, topic: str, containing: str | None = None) -> AsyncIterator[Any]:
    """The events of a topic; with `containing`, only those in whose text that string occurs."""
    needle = msgspec.json.encode(containing)[1:-1] if containing is not None else b""  # as it stands in what we wrote
    async for record in clients.read_topic(settings, topic):
        if record.value is not None and needle in record.value and (event := _event(record)) is not None:
            yield event


def _event(record: ConsumerRecord) -> Event | None:
    """None for a record that somebody else put there: no junk may keep people from what is on the log."""
    try:
        return decode(record.value, record.headers)
    except DecodeError:
        return None


def _answer(record: ConsumerRecord) -> Answer | None:
    event = _event(record)
    if not isinstance(event, ANSWERS):
        return None
    kind = str(type(event).__struct_config__.tag).split(".")[-2]
    return Answer(kind, event.time or "", event.data)
