"""Transactions without the library's sender, on a real broker: the same end as with it, also where something goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import NotLeaderForPartitionError, ProducerFenced, TopicAuthorizationFailedError

from headrace_streams.kafka import clients, compat
from headrace_streams.kafka.direct_transaction import DirectTransaction
from headrace_streams.kafka.reader import Reader
from headrace_streams.settings import Settings
from support.hanging import lose_connections
from support.live import until

pytestmark = pytest.mark.kafka


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[tuple[Any, DirectTransaction]]:
    producer = clients.producer(settings, transactional_id=f"{settings.deployment}.t")
    connections = compat.ConnectionWatch(producer)
    transaction = DirectTransaction(producer, connections)
    async with clients.connected(producer):
        await producer.partitions_for(clients.full_name(settings, "signals"))
        connections.lost = False  # as a journal does: a broker that is new has no coordinator at once
        yield producer, transaction


def place(settings: Settings, partition: int) -> TopicPartition:
    return TopicPartition(clients.full_name(settings, "signals"), partition)


def batch(producer: Any, *values: bytes) -> Any:
    builder = producer.create_batch()
    for value in values:
        builder.append(timestamp=None, key=None, value=value, headers=[])
    return builder


async def committed(settings: Settings, partition: int, count: int) -> list[bytes]:
    """All that is, as soon as there are `count`: the broker writes its markers after it has said that it will."""
    values: list[bytes] = []

    async def there() -> bool:
        values[:] = [record.value async for record in Reader(settings).read_partition("signals", partition)]
        return len(values) >= count

    await until(there)
    return values


async def whole(producer: Any, transaction: DirectTransaction, where: TopicPartition, *values: bytes) -> None:
    await transaction.begin([where])
    await transaction.write({where: batch(producer, *values)})
    await transaction.commit()


def test_everything_is_written_in_order_or_nothing(settings: Settings) -> None:
    async def scenario() -> None:
        async with started(settings) as (producer, transaction):
            zero, one = place(settings, 0), place(settings, 1)
            await transaction.begin([zero, one])
            first = await transaction.write({zero: batch(producer, b"1", b"2"), one: batch(producer, b"3")})
            then = await transaction.write({zero: batch(producer, b"4")})
            assert [first[zero].offset, first[one].offset, then[zero].offset] == [0, 0, 2]
            assert await committed(settings, 0, 0) == []
            await transaction.commit()
            assert (await committed(settings, 0, 3), await committed(settings, 1, 1)) == ([b"1", b"2", b"4"], [b"3"])
            await whole(producer, transaction, zero, b"5")
            async with producer.transaction():  # the library's own way goes on from there
                await producer.send_and_wait(zero.topic, b"6", partition=0)
            await whole(producer, transaction, zero, b"7")
            assert await committed(settings, 0, 6) == [b"1", b"2", b"4", b"5", b"6", b"7"]

    asyncio.run(scenario())


async def no_leader(producer: Any, where: TopicPartition) -> None:
    known = producer.client.cluster._partitions[where.topic]
    known[where.partition] = known[where.partition]._replace(leader=-1)


async def broken(producer: Any, where: TopicPartition) -> None:
    lose_connections(producer)


async def another_leader(producer: Any, where: TopicPartition) -> None:
    """The next answer says so."""
    client, send = producer.client, producer.client.send

    async def refuse(node: Any, request: Any, **options: Any) -> Any:
        answer = await send(node, request, **options)
        client.send = send
        answer.topics = [
            (topic, [(partition, NotLeaderForPartitionError.errno, *rest) for partition, _, *rest in there])
            for topic, there in answer.topics
        ]
        return answer

    client.send = refuse


@pytest.mark.parametrize(
    ("trouble", "before"), [(no_leader, "write"), (another_leader, "write"), (broken, "write"), (broken, "commit")]
)
def test_what_does_not_go_well_at_once_is_tried_again_and_is_there_once(
    settings: Settings, trouble: Callable[[Any, TopicPartition], Awaitable[None]], before: str
) -> None:
    async def scenario() -> None:
        async with started(settings) as (producer, transaction):
            where = place(settings, 0)
            await whole(producer, transaction, where, b"1")
            await transaction.begin([where])
            if before == "write":
                await trouble(producer, where)
            await transaction.write({where: batch(producer, b"2")})
            if before == "commit":
                await trouble(producer, where)
            async with asyncio.timeout(20):
                await transaction.commit()
            transaction._connections.lost = False
            await whole(producer, transaction, where, b"3")
            assert await committed(settings, 0, 3) == [b"1", b"2", b"3"]

    asyncio.run(scenario())


def test_none_begins_over_a_lost_connection(settings: Settings) -> None:
    async def scenario() -> None:
        async with started(settings) as (producer, transaction):
            where = place(settings, 0)
            await whole(producer, transaction, where, b"1")
            lose_connections(producer)
            with pytest.raises(compat.ConnectionLost):
                await transaction.begin([where])

    asyncio.run(scenario())


def test_a_successor_ends_it_at_the_next_request(settings: Settings) -> None:
    async def scenario() -> None:
        async with started(settings) as (producer, transaction):
            where = place(settings, 0)
            await transaction.begin([where])
            await transaction.write({where: batch(producer, b"1")})
            async with started(settings) as (other, successor):
                with pytest.raises(ProducerFenced):
                    await transaction.write({where: batch(producer, b"2")})
                await whole(other, successor, where, b"3")
            assert await committed(settings, 0, 1) == [b"3"]

    asyncio.run(scenario())


def test_one_that_is_cancelled_holds_nobody_up_who_closes_its_producer(settings: Settings) -> None:
    async def scenario() -> None:
        async with started(settings) as (producer, transaction):
            where = place(settings, 0)
            await transaction.begin([where])
            writing = asyncio.create_task(transaction.write({where: batch(producer, b"1")}))
            await asyncio.sleep(0)
            assert producer._message_accumulator._pending_batches
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            assert not producer._message_accumulator._pending_batches

    asyncio.run(scenario())


def test_a_partition_that_may_not_be_written_to_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with started(settings) as (producer, transaction):
            where, send = place(settings, 0), producer.client.send

            async def refuse(node: Any, request: Any, **options: Any) -> Any:
                answer = await send(node, request, **options)
                answer.errors = [(where.topic, [(0, TopicAuthorizationFailedError.errno)])]
                return answer

            monkeypatch.setattr(producer.client, "send", refuse)
            with pytest.raises(TopicAuthorizationFailedError, match=where.topic):
                await transaction.begin([where])

    asyncio.run(scenario())
