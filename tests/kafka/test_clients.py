"""Reading to the committed end of real partitions: aborted records and markers are passed over, open transactions wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import NodeNotReadyError

from headrace_streams.kafka import clients
from headrace_streams.kafka.clients import BrokerUnavailable, TopicMissing
from headrace_streams.kafka.reader import Reader, Span
from headrace_streams.settings import Settings

pytestmark = pytest.mark.kafka


async def _values(settings: Settings, start: int = 0, end: int | None = None, partition: int = 0) -> list[bytes]:
    return [record.value async for record in Reader(settings).read_partition("signals", partition, start, end)]


async def _send(sender: AIOKafkaProducer, settings: Settings, values: Sequence[bytes], partition: int = 0) -> None:
    for value in values:
        await sender.send_and_wait(clients.full_name(settings, "signals"), value, partition=partition)


async def _span(settings: Settings, partition: int = 0) -> Span:
    return (await Reader(settings).offsets(["signals"]))["signals", partition]


def test_an_empty_partition_reads_as_nothing(settings: Settings) -> None:
    assert asyncio.run(_values(settings)) == []


def test_aborted_records_and_markers_are_passed_over(settings: Settings) -> None:
    async def scenario() -> None:
        async with clients.connected(clients.producer(settings, transactional_id="a")) as sender:
            async with sender.transaction():
                await _send(sender, settings, [b"one", b"two"])  # 0, 1 and the marker 2
            await sender.begin_transaction()
            await _send(sender, settings, [b"never"])  # 3
            await sender.abort_transaction()  # 4
            assert await _values(settings) == [b"one", b"two"]
            assert await _span(settings) == Span(0, 5)
            assert await _values(settings, start=1) == [b"two"]
            assert await _values(settings, end=1) == [b"one"]
            assert await _values(settings, start=3) == []
            async with sender.transaction():
                await _send(sender, settings, [b"three"])
            assert await _values(settings) == [b"one", b"two", b"three"]

    asyncio.run(scenario())


def test_reading_ends_before_an_open_transaction(settings: Settings) -> None:
    async def scenario() -> None:
        plain, open_one = clients.producer(settings), clients.producer(settings, transactional_id="b")
        async with clients.connected(plain), clients.connected(open_one):
            await _send(plain, settings, [b"before"])
            await open_one.begin_transaction()
            await _send(open_one, settings, [b"open"])
            await _send(plain, settings, [b"after"])
            assert await _values(settings) == [b"before"]
            assert await _span(settings) == Span(0, 1)
            await open_one.commit_transaction()
            assert await _values(settings) == [b"before", b"open", b"after"]

    asyncio.run(scenario())


def test_a_topic_is_read_partition_by_partition(settings: Settings) -> None:
    async def scenario() -> None:
        async with clients.connected(clients.producer(settings)) as sender:
            await _send(sender, settings, [b"b"], partition=1)
            await _send(sender, settings, [b"a"], partition=0)
        assert [record.value async for record in Reader(settings).read_topic("signals")] == [b"a", b"b"]

    asyncio.run(scenario())


def test_a_record_of_the_largest_size_goes_through(settings: Settings) -> None:
    value = bytes(8 * 1024 * 1024 - 64 * 1024)

    async def scenario() -> None:
        async with clients.connected(clients.producer(settings)) as sender:
            await sender.send_and_wait(clients.full_name(settings, "examples"), value, partition=0)
        assert [record.value async for record in Reader(settings).read_partition("examples", 0)] == [value]

    asyncio.run(scenario())


def test_records_carry_the_time_of_the_broker(settings: Settings) -> None:
    async def scenario() -> None:
        async with clients.connected(clients.producer(settings)) as sender:
            await sender.send_and_wait(clients.full_name(settings, "signals"), b"x", partition=0, timestamp_ms=1000)
        [record] = [record async for record in Reader(settings).read_partition("signals", 0)]
        assert record.timestamp > 1_600_000_000_000
        assert record.timestamp_type == 1

    asyncio.run(scenario())


def test_a_missing_topic_or_partition_is_named(settings: Settings) -> None:
    other = settings.model_copy(update={"deployment": "nobody"})
    with pytest.raises(TopicMissing, match=r"nobody\.signals"):
        asyncio.run(_values(other))
    with pytest.raises(TopicMissing, match="has no partition 7"):
        asyncio.run(_values(settings, partition=7))


def test_a_client_may_be_closed_at_once(settings: Settings) -> None:
    async def scenario() -> None:
        for make in (clients.consumer, clients.producer, clients.admin):
            async with clients.connected(make(settings)):
                pass

    asyncio.run(scenario())


def test_a_broker_that_is_not_there_is_unavailable_after_the_deadline() -> None:
    nobody = Settings(bootstrap="127.0.0.1:1")

    async def scenario() -> None:
        for client in (clients.consumer(nobody), clients.producer(nobody), clients.admin(nobody)):
            with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1"):
                await clients.start(client, within=0.5)

    asyncio.run(scenario())


def test_a_broker_that_goes_between_two_questions_is_unavailable(settings: Settings) -> None:
    """So that whoever waits for brokers waits, instead of ending with an error of the library."""

    async def scenario() -> None:
        async with clients.connected(clients.admin(settings)) as admin:

            async def gone(_request: object) -> None:
                raise NodeNotReadyError("closed")

            admin._send_request = gone
            with pytest.raises(BrokerUnavailable, match=settings.bootstrap):
                await clients.describe(admin, ["anything"])

    asyncio.run(scenario())


def test_topic_without_a_leader_is_not_missing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that starts meanwhile waits for it."""
    code, name = 5, clients.full_name(settings, "signals")  # LEADER_NOT_AVAILABLE

    async def describe(*_: object) -> list[dict[str, object]]:
        return [{"topic": name, "error_code": code, "partitions": []}]

    monkeypatch.setattr(clients, "describe", describe)
    with pytest.raises(BrokerUnavailable, match="signals: LeaderNotAvailableError"):
        asyncio.run(clients.partition_counts(settings, ["signals"]))
