"""What is used of aiokafka's insides, on a real broker: asking about topics without making them, giving up what is in flight."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import ProducerClosed, UnknownTopicOrPartitionError

from headrace_streams.kafka import clients, compat
from headrace_streams.settings import Settings

pytestmark = pytest.mark.kafka


def test_asking_about_a_topic_does_not_make_it(settings: Settings) -> None:
    async def scenario() -> None:
        known, unknown = (clients.full_name(settings, topic) for topic in ("signals", "nothing-like-this"))
        async with clients.connected(clients.admin(settings)) as admin:
            for _ in range(2):
                told = {topic["topic"]: topic for topic in await compat.describe_topics(admin, [known, unknown])}
                assert told[unknown]["error_code"] == UnknownTopicOrPartitionError.errno
                assert len(told[known]["partitions"]) == settings.partitions
            assert unknown not in await admin.list_topics()

    asyncio.run(scenario())


def test_what_is_in_flight_is_given_up_at_once(settings: Settings) -> None:
    async def scenario() -> None:
        producer = clients.producer(settings, linger_ms=600_000)
        await clients.start(producer)
        future = await producer.send(clients.full_name(settings, "signals"), b"x", partition=0)
        async with asyncio.timeout(10):
            await compat.abandon(producer)
            with pytest.raises(ProducerClosed):
                await future
            await clients.close(producer)

    asyncio.run(scenario())
