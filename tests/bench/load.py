"""Pairs of an interaction and its feedback, made before and published in large batches: no measurement waits for its load.

Knows topics and partitions, nothing of what is measured.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bench import events
from headrace_streams.kafka import clients
from headrace_streams.runtime.journal import BATCH_BYTES
from headrace_streams.settings import Settings

CHUNK = 20_000  # pairs made and published at once


class Pair(NamedTuple):
    number: int
    interaction: bytes
    feedback: bytes


def pairs(count: int, first: int = 0) -> list[Pair]:
    """Pairs `first` to `first + count - 1`, the same whenever they are made."""
    draw = random.Random(first)
    return [
        Pair(number, events.interaction(draw, number), events.feedback(draw, number)) for number in range(first, first + count)
    ]


async def publish(settings: Settings, made: Sequence[Pair]) -> None:
    """All interactions, then all feedback, spread over the partitions, as fast as a broker takes them; returns when all are
    acknowledged."""
    async with clients.connected(clients.producer(settings, max_batch_size=BATCH_BYTES)) as producer:
        for topic, values in (
            ("interactions", [pair.interaction for pair in made]),
            ("feedback", [pair.feedback for pair in made]),
        ):
            for partition in range(settings.partitions):
                records = ((None, value) for value in values[partition :: settings.partitions])
                await send(producer, clients.full_name(settings, topic), records, partition)


async def fill(settings: Settings, count: int) -> None:
    """`count` pairs, a part of them in memory at a time."""
    for first in range(0, count, CHUNK):
        await publish(settings, pairs(min(CHUNK, count - first), first))


async def send(
    producer: Any,
    name: str,
    records: Iterable[tuple[bytes | None, bytes | None]],
    partition: int = 0,
    headers: list[tuple[str, bytes]] | None = None,
) -> None:
    """Keys and values to one partition, in batches as large as they may be; returns when all are acknowledged."""
    batch, sent = producer.create_batch(), []
    for key, value in records:
        if batch.append(key=key, value=value, timestamp=None, headers=headers or []) is None:
            sent.append(await producer.send_batch(batch, name, partition=partition))
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None, headers=headers or [])
    if batch.record_count():
        sent.append(await producer.send_batch(batch, name, partition=partition))
    await asyncio.gather(*sent)
