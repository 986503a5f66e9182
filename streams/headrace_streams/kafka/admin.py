"""Declares topics on a broker, says where a broker differs from the table, and mends what can be mended without harm: inputs (and
their changelogs) grow, configurations are set right where that takes nothing away. No partition count ever falls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import KafkaError, SecurityDisabled, TopicAlreadyExistsError, for_code

from headrace_schemas.constraints import AHEAD_MS
from headrace_schemas.topics import Topic
from headrace_schemas.topology import ALL_TOPICS, TOPOLOGY, changelog
from headrace_streams.kafka import compat
from headrace_streams.kafka.clients import DEADLINE, BrokerUnavailable, admin, connected, consumer, describe, full_name
from headrace_streams.kafka.config_requests import set_topic_configs, topic_configs
from headrace_streams.kafka.topic_configs import TIMESTAMPS, declared, differences
from headrace_streams.settings import Settings

_INPUT_OF = {changelog(stage.name, topic).name: topic for stage in TOPOLOGY for topic in stage.inputs}
_MISSING, _NO_LEADER_YET = 3, 5  # Kafka's UNKNOWN_TOPIC_OR_PARTITION and LEADER_NOT_AVAILABLE


class Declared(NamedTuple):
    """Short names, in table order; `mended` a line for each configuration that was set right, `left` for each that was not."""

    created: list[str]
    grown: list[str]
    kept: list[str]
    mended: list[str]
    left: list[str]


def partitions_of(settings: Settings, topic: Topic, there: Mapping[str, Sequence[Any]] | None = None) -> int:
    """How many partitions a topic is to have. Where an input has grown, its changelog is to have as many (`there`: partitions of
    the topics that exist)."""
    asked = topic.fixed_partitions or settings.partitions
    return max(asked, len((there or {}).get(_INPUT_OF.get(topic.name, ""), ()))) if topic.may_grow else asked


async def declare(settings: Settings, topics: Sequence[Topic] = ALL_TOPICS) -> Declared:
    """Creates what is missing, grows what may grow, mends configurations where that takes nothing away. Raises BrokerUnavailable,
    or KafkaError for what the broker refuses."""
    async with connected(admin(settings)) as client:
        there = await _described(client, settings, topics)
        missing = [topic for topic in topics if topic.name not in there]
        if missing:
            await _create(client, settings, missing, there)
        wanted = {topic.name: partitions_of(settings, topic, there) for topic in topics}
        grown = [topic for topic in topics if topic.may_grow and len(there.get(topic.name, range(10**6))) < wanted[topic.name]]
        if grown:
            await client.create_partitions({full_name(settings, t.name): NewPartitions(wanted[t.name]) for t in grown})
        made = {topic.name for topic in (*missing, *grown)}
        await _visible(client, settings, [topic for topic in topics if topic.name in made], wanted)
        mended, left = await _mend(client, settings, [topic for topic in topics if topic.name in there], there)
    kept = [topic.name for topic in topics if topic.name not in made]
    return Declared([topic.name for topic in missing], [topic.name for topic in grown], kept, mended, left)


async def check(settings: Settings, topics: Sequence[Topic] = ALL_TOPICS) -> list[str]:
    """One line for each difference between the table and the broker; empty when there is none. Raises BrokerUnavailable."""
    lines: list[str] = []
    async with connected(admin(settings)) as client:
        there = await _described(client, settings, topics)
        configs = await _configs(client, settings, [topic for topic in topics if topic.name in there])
        for topic in topics:
            name = full_name(settings, topic.name)
            if topic.name not in there:
                lines.append(f"{name}: missing")
                continue
            partitions, expected = there[topic.name], partitions_of(settings, topic, there)
            if len(partitions) < expected or (len(partitions) > expected and not topic.may_grow):
                lines.append(f"{name}: partitions = {len(partitions)}, expected {expected}")
            replicas = min(len(partition["replicas"]) for partition in partitions)
            if replicas != settings.replication_factor:
                lines.append(f"{name}: replication factor = {replicas}, expected {settings.replication_factor}")
            found = differences(topic, configs.get(name, {}), settings.replication_factor)
            lines += [f"{name}: {difference}" for difference in found]
    return lines


async def _mend(
    client: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic], there: Mapping[str, Sequence[Any]]
) -> tuple[list[str], list[str]]:
    """Sets right what can be set right without harm: (a line for each that was, a line for each that was not)."""
    configs = await _configs(client, settings, topics)
    changes: dict[str, dict[str, str]] = {}
    lines: dict[str, list[str]] = {}
    left: list[str] = []
    for topic in topics:
        name = full_name(settings, topic.name)
        for found in differences(topic, configs.get(name, {}), settings.replication_factor):
            if not found.mendable:
                left.append(f"{name}: {found}: set it yourself, if nothing is lost by it")
            elif found.key == TIMESTAMPS and (ahead := await _ahead(settings, topic, len(there[topic.name]))):
                left.append(f"{name}: {found}: {ahead}")
            else:
                changes.setdefault(name, {})[found.key] = found.expected
                lines.setdefault(name, []).append(f"{name}: {found.key} {found.actual} -> {found.expected}")
    refused = await _set(client, changes) if changes else {}
    left += [f"{name}: {reason}" for name, reason in refused.items()]
    return [line for name, mended in lines.items() if name not in refused for line in mended], left


async def _set(client: AIOKafkaAdminClient, changes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Sets values and waits until the broker tells of them; its refusals by topic."""
    refused = await set_topic_configs(client, changes)
    wanted = {name: values.items() for name, values in changes.items() if name not in refused}
    try:
        async with asyncio.timeout(DEADLINE):
            while wanted:
                told = await topic_configs(client, list(wanted))
                wanted = {name: values for name, values in wanted.items() if not values <= told[name].items()}
                await asyncio.sleep(0.02 if wanted else 0)
    except TimeoutError:
        raise BrokerUnavailable(f"{', '.join(wanted)}: mended, but not to be seen after {DEADLINE:g} s") from None
    return refused


async def _ahead(settings: Settings, topic: Topic, count: int) -> str | None:
    """Why the records of a topic, whose publishers chose their times, must not be read as if the broker had; None when none of
    them is from the future: times of the past do no harm, as those of a fold never run backwards."""
    limit, name = time.time_ns() // 1_000_000 + AHEAD_MS, full_name(settings, topic.name)
    async with connected(consumer(settings)) as reader:
        partitions = [TopicPartition(name, number) for number in range(count)]
        found = await reader.offsets_for_times(dict.fromkeys(partitions, limit))
    ahead = [f"{tp.partition} from offset {at.offset} on" for tp, at in sorted(found.items()) if at is not None]
    where = ", ".join(ahead[:3])
    return f"it holds records from the future (partition {where}): delete it, or use another deployment" if ahead else None


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


async def _visible(client: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic], wanted: Mapping[str, int]) -> None:
    """Waits until the broker tells of what the controller has just made; whoever comes next would else miss a topic."""
    try:
        async with asyncio.timeout(DEADLINE):
            while topics:
                there = await _described(client, settings, topics)
                topics = [topic for topic in topics if len(there.get(topic.name, ())) < wanted[topic.name]]
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


async def _create(
    client: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic], there: Mapping[str, Sequence[Any]]
) -> None:
    response = await client.create_topics(
        [
            NewTopic(
                full_name(settings, topic.name),
                partitions_of(settings, topic, there),
                settings.replication_factor,
                topic_configs=declared(topic, settings.replication_factor),
            )
            for topic in topics
        ]
    )
    for name, code, *message in response.topic_errors:
        if code and for_code(code) is not TopicAlreadyExistsError:  # somebody else was faster: fine
            error: KafkaError = for_code(code)(f"{name}: {message[0] if message else ''}")
            raise error


async def _configs(client: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic]) -> Mapping[str, Mapping[str, str]]:
    """Configurations by full name."""
    return await topic_configs(client, [full_name(settings, topic.name) for topic in topics]) if topics else {}
