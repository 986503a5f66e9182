"""Declares topics on a broker and says where a broker differs from the table. Changes nothing that is already there, except that
the two input topics (and their changelogs) may grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, SecurityDisabled, TopicAlreadyExistsError, for_code

from headrace_schemas.topics import MIB, Topic
from headrace_schemas.topology import ALL_TOPICS
from headrace_streams.kafka import compat
from headrace_streams.kafka.clients import DEADLINE, BrokerUnavailable, admin, connected, describe, full_name
from headrace_streams.settings import Settings

_MISSING, _NO_LEADER_YET = 3, 5  # Kafka's UNKNOWN_TOPIC_OR_PARTITION and LEADER_NOT_AVAILABLE


class Declared(NamedTuple):
    """Short names, in table order."""

    created: list[str]
    grown: list[str]
    kept: list[str]


def partitions_of(settings: Settings, topic: Topic) -> int:
    return topic.fixed_partitions or settings.partitions


def topic_configs(settings: Settings, topic: Topic) -> dict[str, str]:
    """The broker's configuration of a topic, as strings."""
    configs = {
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "retention.ms": str(topic.retention_ms),
        "retention.bytes": "-1",
        "max.message.bytes": str(topic.max_bytes),
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(min(2, settings.replication_factor)),
    }
    if topic.compacted:
        configs["segment.bytes"] = str(64 * MIB)  # only closed segments are compacted, and a task reads it all at start
    return configs


async def declare(settings: Settings, topics: Sequence[Topic] = ALL_TOPICS) -> Declared:
    """Creates what is missing, grows what may grow. Raises BrokerUnavailable, or KafkaError for what the broker refuses."""
    async with connected(admin(settings)) as client:
        there = await _described(client, settings, topics)
        missing = [topic for topic in topics if topic.name not in there]
        if missing:
            await _create(client, settings, missing)
        grown = [topic for topic in topics if topic.may_grow and len(there.get(topic.name, range(10**6))) < settings.partitions]
        if grown:
            await client.create_partitions({full_name(settings, t.name): NewPartitions(settings.partitions) for t in grown})
        made = {topic.name for topic in (*missing, *grown)}
        await _visible(client, settings, [topic for topic in topics if topic.name in made])
        return Declared([t.name for t in missing], [t.name for t in grown], [t.name for t in topics if t.name not in made])


async def check(settings: Settings, topics: Sequence[Topic] = ALL_TOPICS) -> list[str]:
    """One line for each difference between the table and the broker; empty when there is none. Raises BrokerUnavailable."""
    differences: list[str] = []
    async with connected(admin(settings)) as client:
        there = await _described(client, settings, topics)
        found = [topic for topic in topics if topic.name in there]
        configs = await _configs(client, settings, found)
        for topic in topics:
            name = full_name(settings, topic.name)
            if topic.name not in there:
                differences.append(f"{name}: missing")
                continue
            partitions = there[topic.name]
            if len(partitions) != partitions_of(settings, topic):
                differences.append(f"{name}: partitions = {len(partitions)}, expected {partitions_of(settings, topic)}")
            replicas = min(len(partition["replicas"]) for partition in partitions)
            if replicas != settings.replication_factor:
                differences.append(f"{name}: replication factor = {replicas}, expected {settings.replication_factor}")
            for key, expected in topic_configs(settings, topic).items():
                actual = configs.get(name, {}).get(key)
                if actual != expected:
                    differences.append(f"{name}: {key} = {actual}, expected {expected}")
    return differences


async def delete(settings: Settings, topics: Sequence[Topic] = ALL_TOPICS) -> None:
    """Deletes a deployment's topics, with all that is in them."""
    async with connected(admin(settings)) as client:
        there = await _described(client, settings, topics)
        if there:
            await client.delete_topics([full_name(settings, name) for name in there])


async def authorizes(settings: Settings) -> bool:
    """Whether the broker asks an authorizer who may do what. Raises BrokerUnavailable."""
    async with connected(admin(settings)) as client:
        return await compat.acl_error(client) is not SecurityDisabled


async def _visible(client: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic]) -> None:
    """Waits until the broker tells of what the controller has just made; whoever comes next would else miss a topic."""
    try:
        async with asyncio.timeout(DEADLINE):
            while topics:
                there = await _described(client, settings, topics)
                topics = [topic for topic in topics if len(there.get(topic.name, ())) < partitions_of(settings, topic)]
                await asyncio.sleep(0.02 if topics else 0)
    except TimeoutError:
        names = ", ".join(full_name(settings, topic.name) for topic in topics)
        raise BrokerUnavailable(f"{names}: declared, but not to be seen after {DEADLINE:g} s") from None


async def _described(client: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic]) -> dict[str, list[Any]]:
    """Partitions of the topics that exist, by short name."""
    shorts = {full_name(settings, topic.name): topic.name for topic in topics}
    described = await describe(client, list(shorts))
    for topic in described:
        if topic["error_code"] not in (0, _MISSING, _NO_LEADER_YET):
            raise BrokerUnavailable(f"{topic['topic']}: {for_code(topic['error_code']).__name__}")
    return {shorts[topic["topic"]]: topic["partitions"] for topic in described if not topic["error_code"]}


async def _create(client: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic]) -> None:
    response = await client.create_topics(
        [
            NewTopic(
                full_name(settings, topic.name),
                partitions_of(settings, topic),
                settings.replication_factor,
                topic_configs=topic_configs(settings, topic),
            )
            for topic in topics
        ]
    )
    for name, code, *message in response.topic_errors:
        if code and for_code(code) is not TopicAlreadyExistsError:  # somebody else was faster: fine
            error: KafkaError = for_code(code)(f"{name}: {message[0] if message else ''}")
            raise error


async def _configs(client: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic]) -> Mapping[str, Mapping[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, full_name(settings, topic.name)) for topic in topics]
    if not resources:
        return {}
    found: dict[str, dict[str, str]] = {}
    for response in await client.describe_configs(resources):
        for _code, _message, _type, name, entries in response.resources:
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found
