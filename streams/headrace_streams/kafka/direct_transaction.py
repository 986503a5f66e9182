"""A transaction in the task of whoever commits: its requests one after the other, and nobody woken up in between.

aiokafka hands each part of a transaction to a sender of its own, which wakes up some twenty times for one; while other tasks fold
records, each of these turns waits for theirs. Its requests are used as they are, its sequence numbers and its state too, and
what does not go well at once (a leader that moves, a connection that breaks) goes to its sender after all, with the retries that
it has. Touches privates of the library, as `compat` does; the sender sees a request here only when it is answered. Knows
partitions, not what is in a record.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.producer import sender as library
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.producer.transaction_manager import TransactionResult, TransactionState
from aiokafka.structs import RecordMetadata

from headrace_streams.kafka.compat import ConnectionWatch


class _Add(library.AddPartitionsToTxnHandler):  # type: ignore[misc]
    _tps: set[TopicPartition]  # that are not added yet

    def handle_response(self, response: Any) -> float | None:
        manager = self._sender._txn_manager
        manager._pending_txn_partitions.update(self._tps)
        try:
            backoff: float | None = super().handle_response(response)
        finally:
            self._tps = set(manager._pending_txn_partitions)
            manager._pending_txn_partitions.clear()
        return backoff


class _End(library.EndTxnHandler):  # type: ignore[misc]
    def handle_response(self, response: Any) -> float | None:
        manager = self._sender._txn_manager
        manager._transition_to(TransactionState.COMMITTING_TRANSACTION)
        backoff: float | None = super().handle_response(response)
        if backoff is not None:
            manager.state = TransactionState.IN_TRANSACTION
        return backoff


class DirectTransaction:
    """Of a started transactional producer, one at a time: `begin`, `write` as often as need be, `commit`. Raises KafkaError, and
    is then over; `connections` says when none may begin (ConnectionLost)."""

    def __init__(self, producer: Any, connections: ConnectionWatch) -> None:
        self._sender, self._connections = producer._sender, connections
        self._manager, self._waiting = producer._txn_manager, producer._message_accumulator
        self._cluster = producer.client.cluster

    async def begin(self, partitions: Iterable[TopicPartition]) -> None:
        """With all partitions that it will write to."""
        self._manager.begin_transaction()
        add = _Add(self._sender, set(partitions) - self._manager.txn_partitions)
        while add._tps:
            self._connections.check()
            await add.do(await self._coordinator())
            if self._manager.state is not TransactionState.IN_TRANSACTION:
                self._manager.wait_for_transaction_end().result()  # raises what it ended with

    async def write(self, batches: Mapping[TopicPartition, BatchBuilder]) -> dict[TopicPartition, RecordMetadata]:
        """One batch to each partition; what the broker said of it."""
        taken = {tp: self._take(tp, builder) for tp, builder in batches.items()}
        try:
            await self._send(taken)
            await asyncio.wait([batch.future for batch in taken.values()])
        except asyncio.CancelledError:
            for batch in taken.values():
                batch.future.cancel()  # or whoever closes the producer would wait for it
            raise
        failures = [error for batch in taken.values() if (error := batch.future.exception()) is not None]
        if failures:
            raise failures[0]
        return {tp: batch.future.result() for tp, batch in taken.items()}

    async def commit(self) -> None:
        """Until the broker has decided so."""
        if not await _End(self._sender, TransactionResult.COMMIT).do(await self._coordinator()):
            self._manager.committing_transaction()
            await self._manager.wait_for_transaction_end()

    async def _send(self, taken: Mapping[TopicPartition, MessageBatch]) -> None:
        nodes: dict[Any, dict[TopicPartition, MessageBatch]] = defaultdict(dict)
        for tp, batch in taken.items():
            nodes[self._cluster.leader_for_partition(tp)][tp] = batch
        requests = []
        for node, there in nodes.items():
            if node is None or node == -1:
                for batch in there.values():
                    self._waiting.reenqueue(batch)
            else:
                requests.append(library.SendProduceReqHandler(self._sender, there).do(node))
        if len(requests) == 1:
            await requests[0]
        elif requests:
            await asyncio.gather(*requests)
        if any(not batch.future.done() for batch in taken.values()):
            self._waiting._wakeup(self._waiting.waiter())  # the sender finds them and tries again

    async def _coordinator(self) -> Any:
        return await self._sender._find_coordinator(CoordinationType.TRANSACTION, self._manager.transactional_id)

    def _take(self, tp: TopicPartition, builder: BatchBuilder) -> MessageBatch:
        """As if the sender had just taken it: with its sequence number, and known to whoever gives everything up."""
        self._waiting._batches[tp].append(MessageBatch(tp, builder, self._waiting._batch_ttl, 0))
        return self._waiting._pop_batch(tp)
