"""Fetches of one partition, each when it is asked for: committed records, about GIVEN_BYTES at a time. Knows offsets and
transactions, not what is in a record.

A consumer of aiokafka asks for more as soon as it has given something out, so a partition that many tasks write to wakes its
reader at the commit of each; and it looks around five times a second in any case. Its requests and its view of transactions are
used as they are; batches are read as `compat` reads them.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import (
    KafkaError,
    KafkaProtocolError,
    LeaderNotAvailableError,
    NoError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest

from headrace_streams.kafka import compat
from headrace_streams.kafka.clients import FETCH_LIMIT

WAIT_MS = 500  # that a broker may hold a request
RETRY_SECONDS = 0.1


class PartitionFetcher:
    """Over the connections of a started client of any kind, one fetch at a time. `position` lies behind what was given out and
    the transaction markers that follow it; `end` is where committed readers stopped at the last answer, None before."""

    def __init__(self, client: Any, partition: TopicPartition, position: int) -> None:
        self.position = position
        self.end: int | None = None
        self._client, self._partition = compat.connection_of(client), partition
        self._left: Any = None  # of the last answer
        self._asking: asyncio.Task[None] | None = None

    @property
    def left(self) -> bool:
        """Whether some of the last answer has not been given out."""
        return self._left is not None

    def prefetch(self) -> None:
        """Asks for what follows, while the caller sees to what it was given."""
        if self._left is None and self._asking is None:
            self._asking = asyncio.create_task(self._ask(0))

    async def close(self) -> None:
        """Nothing is asked for any more."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def fetch(self, timeout_ms: int, max_records: int) -> list[Any]:
        """The next records, none if none come in time; 0 ms: those that are there. They are what a batch's reader made: offset,
        timestamp, key, value and headers. Raises OffsetOutOfRangeError, or another KafkaError that does not pass by itself."""
        until = time.monotonic() + timeout_ms / 1000
        while True:
            if self._asking is not None:
                asking, self._asking = self._asking, None
                await asking
            elif self._left is None:
                await self._ask(max(0, min(WAIT_MS, round((until - time.monotonic()) * 1000))))
            if (given := self._given(max_records)) or time.monotonic() >= until:
                return given

    def _given(self, max_records: int) -> list[Any]:
        records = self._left
        if records is None:
            return []
        given: list[Any] = []
        try:
            if records.portion(given, max_records):
                self._left = None
        except compat.DamagedBatch:
            self._left = None  # it is read again
        self.position = records.position
        return given

    async def _ask(self, wait_ms: int) -> None:
        try:
            there, version = await self._answer(wait_ms)
        except KafkaError as error:
            if not error.retriable:
                raise
            self._client.force_metadata_update()
            await asyncio.sleep(RETRY_SECONDS)
        else:
            self._take(there, version)

    async def _answer(self, wait_ms: int) -> tuple[list[Any], int]:
        """What the leader says of the partition, and in which version. Raises KafkaError."""
        topic, number = self._partition
        node = self._client.cluster.leader_for_partition(self._partition)
        if node is None or node == -1:
            raise LeaderNotAvailableError(self._partition)
        request = FetchRequest(wait_ms, 1, FETCH_LIMIT, READ_COMMITTED, [(topic, [(number, self.position, FETCH_LIMIT)])])
        response = await self._client.send(node, request)
        if not response.topics:  # as a broker answers an error of its own
            raise KafkaProtocolError("an answer without partitions")
        ((_, ((_, code, _, *there),)),) = response.topics
        kind = for_code(code)
        if kind is OffsetOutOfRangeError:
            raise OffsetOutOfRangeError({self._partition: self.position})
        if kind is TopicAuthorizationFailedError:
            raise TopicAuthorizationFailedError(topic)
        if kind is not NoError:
            raise kind()
        return there, response.API_VERSION

    def _take(self, there: list[Any], version: int) -> None:
        """`there`: last stable offset, aborted transactions and records, in the place that a version gives them."""
        self.end = there[0]
        aborted = there[2] if version >= 11 else there[-2]
        answer = compat.PartitionRuns(self._partition, there[-1], aborted, self.position)
        if not answer.empty:
            self._left = answer
