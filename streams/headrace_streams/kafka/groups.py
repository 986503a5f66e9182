"""What a broker says of a consumer group: who has which partition, and the offsets committed for it. Decides nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError, for_code

from headrace_streams.kafka import clients
from headrace_streams.settings import Settings

PATIENCE_SECONDS = 5.0  # with a broker that has not found the group's coordinator


class GroupView(NamedTuple):
    """`assigned`: host of the member that has a partition, by (short topic name, partition); `metadata`: what stands beside its
    committed offset. `unseen`: why the group could not be looked at, None where it was."""

    assigned: Mapping[tuple[str, int], str] = {}
    metadata: Mapping[tuple[str, int], str] = {}
    unseen: str | None = None


async def group_view(settings: Settings, group: str) -> GroupView:
    """A group as it is now; one that there never was has no members. Raises BrokerUnavailable."""
    async with clients.connected(clients.admin(settings)) as client:
        patience = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await _view(settings, client, group)
            except KafkaError as error:
                if not error.retriable or time.monotonic() >= patience:
                    return GroupView(unseen=f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.1)  # the first who asks a new broker for a group makes it look for a coordinator


async def _view(settings: Settings, client: AIOKafkaAdminClient, group: str) -> GroupView:
    assigned = {}
    for response in await client.describe_consumer_groups([group]):
        for code, _group, _state, _type, _protocol, members, *_ in response.groups:
            if code:
                raise for_code(code)(f"group {group}")
            for _id, _client, host, _metadata, assignment, *_ in members:
                if assignment:
                    for tp in ConsumerProtocolMemberAssignment.decode(assignment).partitions():
                        assigned[_place(settings, tp)] = host.removeprefix("/")
    offsets = await client.list_consumer_group_offsets(group)
    return GroupView(assigned, {_place(settings, tp): meta.metadata or "" for tp, meta in offsets.items()})


def _place(settings: Settings, tp: TopicPartition) -> tuple[str, int]:
    return clients.short_name(settings, tp.topic), tp.partition
