"""Puts batches on a broker as they are, byte by byte: what a client of ours would never make. Knows no event."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import MessageSizeTooLargeError, for_code
from aiokafka.protocol.produce import ProduceRequest

from headrace_streams.kafka import clients
from headrace_streams.kafka.compat import connection_of
from headrace_streams.settings import Settings


class InvalidRecord(Exception):
    """The broker's INVALID_RECORD, which the client does not know."""

    code = 87


async def produce_raw(settings: Settings, topic: str, partition: int, *batches: bytes) -> list[int]:
    """Appends each of `batches`. Which of them the broker refused, by index: too large, or without a key on a compacted topic."""
    name = clients.full_name(settings, topic)
    refused = []
    async with clients.connected(clients.producer(settings)) as producer:
        await producer.partitions_for(name)
        for index, batch in enumerate(batches):
            try:
                await _append(connection_of(producer), name, partition, batch)
            except (MessageSizeTooLargeError, InvalidRecord):
                refused.append(index)
    return refused


async def _append(client: Any, topic: str, partition: int, batch: bytes) -> None:
    request = ProduceRequest(None, -1, 10_000, [(topic, [(partition, batch)])])
    async with asyncio.timeout(clients.DEADLINE):
        while True:
            node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
            response = await client.send(node, request)
            error = for_code(response.topics[0][1][0][1])
            if not error.retriable:
                break
            await asyncio.sleep(0.1)  # a topic that was just made has no leader yet
    if response.topics[0][1][0][1] == InvalidRecord.code:
        raise InvalidRecord(topic)
    if error.errno:
        raise error(response)
