"""Transactions that hang, made on purpose: a broker that does not ask the coordinator, and a producer that does not tell it.

Knows how connections are lost, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import CloseReason
from aiokafka.errors import KafkaConnectionError

from headrace_streams.kafka import clients, compat
from headrace_streams.settings import Settings


async def trust_producers(settings: Settings) -> None:
    """The broker takes records of transactions whose coordinator was not told of their partition. Such a partition gets no
    marker, like one whose leader the coordinator does not know."""
    resource = ConfigResource(ConfigResourceType.BROKER, "1", {"transaction.partition.verification.enable": "false"})
    async with clients.connected(clients.admin(settings)) as admin:
        for response in await admin.alter_configs([resource]):
            assert not any(code for code, *_ in response.resources), response


def spoil_next_transaction(journal: Any, skipped: Iterable[TopicPartition], *, committed: bool) -> None:
    """A journal's next transaction gets no marker in `skipped`; if it is not to be committed, the journal fails before."""
    manager: Any = journal._producer._txn_manager
    begin, partitions = manager.begin_transaction, set(skipped)

    def begin_and_forget() -> None:
        begin()
        manager._txn_partitions |= partitions  # takes them for told
        manager.begin_transaction = begin

    async def fail() -> None:
        raise KafkaConnectionError("dies now")

    manager.begin_transaction = begin_and_forget
    if not committed:
        journal._transaction.commit = fail


def lose_connections(client: Any) -> None:
    """All that it has, as by a broker that went away."""
    connections: Mapping[Any, Any] = compat.connection_of(client)._conns
    for connection in connections.values():
        connection._writer.transport.abort()
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
