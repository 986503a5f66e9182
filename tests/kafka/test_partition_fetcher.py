"""Fetches of one partition on a real broker: what is given out, where the next one begins, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, TopicAuthorizationFailedError

from headrace_streams.kafka import clients, compat
from headrace_streams.kafka.partition_fetcher import PartitionFetcher
from headrace_streams.settings import Settings
from support.hanging import lose_connections

pytestmark = pytest.mark.kafka


@asynccontextmanager
async def fetcher(settings: Settings, position: int = 0) -> AsyncIterator[PartitionFetcher]:
    async with clients.connected(clients.consumer(settings)) as consumer:
        partition = TopicPartition(clients.full_name(settings, "signals"), 0)
        await consumer.end_offsets([partition])
        yield PartitionFetcher(consumer, partition, position)


async def send(settings: Settings, *values: bytes) -> None:
    async with clients.connected(clients.producer(settings)) as producer:
        for value in values:
            await producer.send_and_wait(clients.full_name(settings, "signals"), value, partition=0)


def test_committed_records_only_and_markers_are_passed_over(settings: Settings) -> None:
    async def scenario() -> None:
        async with (
            clients.connected(clients.producer(settings, transactional_id=f"{settings.deployment}.t")) as producer,
            fetcher(settings) as fetching,
        ):
            name = clients.full_name(settings, "signals")
            assert (await fetching.fetch(0, 10), fetching.position, fetching.end) == ([], 0, 0)
            async with producer.transaction():
                await producer.send_and_wait(name, b"1", partition=0)
                assert (await fetching.fetch(0, 10), fetching.position, fetching.end) == ([], 0, 0)
            await producer.begin_transaction()
            await producer.send_and_wait(name, b"never", partition=0)
            await producer.abort_transaction()
            given = await fetching.fetch(10_000, 10)
            while fetching.position < 4:
                given += await fetching.fetch(100, 10)
            assert ([record.value for record in given], fetching.position, fetching.end) == ([b"1"], 4, 4)
            async with producer.transaction():
                await producer.send_and_wait(name, b"2", partition=0)
            (record,) = await fetching.fetch(10_000, 10)
            assert (record.value, record.offset) == (b"2", 4)

    asyncio.run(scenario())


def test_portions_by_number_and_by_bytes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "GIVEN_BYTES", 100)

    async def scenario() -> None:
        await send(settings, b"1", b"2", b"3", b"4" * 100, b"5")
        async with fetcher(settings) as fetching:
            first = await fetching.fetch(10_000, 2)
            assert ([record.value for record in first], fetching.position, fetching.left) == ([b"1", b"2"], 2, True)
            then = await fetching.fetch(10_000, 10)
            assert ([record.value for record in then], fetching.position) == ([b"3", b"4" * 100], 4)
            assert [record.value for record in await fetching.fetch(10_000, 10)] == [b"5"]
            assert (await fetching.fetch(0, 10), fetching.left) == ([], False)

    asyncio.run(scenario())


def test_what_was_asked_for_ahead_comes_once_and_in_order(settings: Settings) -> None:
    async def scenario() -> None:
        await send(settings, b"1", b"2", b"3")
        async with fetcher(settings) as fetching:
            fetching.prefetch()
            assert [record.value for record in await fetching.fetch(10_000, 2)] == [b"1", b"2"]
            fetching.prefetch()  # of what is left there is no need to ask
            assert [record.value for record in await fetching.fetch(10_000, 2)] == [b"3"]
            fetching.prefetch()
            await send(settings, b"4")
            fetching.prefetch()
            assert [record.value for record in await fetching.fetch(10_000, 2)] == [b"4"]
            fetching.prefetch()
            await fetching.close()
            assert (await fetching.fetch(0, 2), fetching.position) == ([], 4)

    asyncio.run(scenario())


def test_what_passes_is_waited_for(settings: Settings) -> None:
    async def scenario() -> None:
        await send(settings, b"1", b"2")
        async with fetcher(settings) as fetching:
            client, partition = fetching._client, fetching._partition
            known = client.cluster._partitions[partition.topic]
            known[0] = known[0]._replace(leader=-1)
            assert [record.value for record in await fetching.fetch(20_000, 1)] == [b"1"]
            lose_connections(fetching)
            assert [record.value for record in await fetching.fetch(20_000, 1)] == [b"2"]
            waiting = asyncio.create_task(fetching.fetch(20_000, 1))
            async with asyncio.timeout(10):
                while not any(connection._requests for connection in client._conns.values()):  # noqa: ASYNC110 (nobody tells)
                    await asyncio.sleep(0.01)
            lose_connections(fetching)
            await send(settings, b"3")
            assert [record.value for record in await waiting] == [b"3"]
            answer = client.send

            async def broken(node: object, request: object) -> object:
                client.send = answer
                answered = await answer(node, request)
                answered.topics = []
                return answered

            client.send = broken
            await send(settings, b"4")
            assert [record.value for record in await fetching.fetch(20_000, 1)] == [b"4"]

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [OffsetOutOfRangeError, TopicAuthorizationFailedError])
def test_what_does_not_pass_is_raised(settings: Settings, monkeypatch: pytest.MonkeyPatch, error: type[KafkaError]) -> None:
    async def scenario() -> None:
        async with fetcher(settings, 5) as fetching:
            if error is not OffsetOutOfRangeError:
                send = fetching._client.send

                async def refuse(node: object, request: object) -> object:
                    answer = await send(node, request)
                    answer.topics = [("", [(0, error.errno, 0, *([None] * 5))])]
                    return answer

                monkeypatch.setattr(fetching._client, "send", refuse)
            with pytest.raises(error):
                await fetching.fetch(10_000, 10)

    asyncio.run(scenario())
