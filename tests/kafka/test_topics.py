"""Declaring and checking topics on a real broker: every difference is named, nothing that is there is changed."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiokafka.admin import NewTopic

from headrace_cli.main import invoke
from headrace_schemas.topics import TOPIC_NAMES
from headrace_schemas.topology import ALL_TOPICS, CHANGELOGS
from headrace_streams.kafka import admin, clients
from headrace_streams.settings import Settings

pytestmark = pytest.mark.kafka


@pytest.fixture
def bare(broker: str, deployment: str) -> Settings:
    """Settings of a deployment without topics."""
    return Settings(bootstrap=broker, deployment=deployment, partitions=2)


def test_every_topic_is_declared_once(bare: Settings) -> None:
    names = [topic.name for topic in ALL_TOPICS]
    assert names == [*TOPIC_NAMES, *(topic.name for topic in CHANGELOGS)]
    assert asyncio.run(admin.check(bare)) == [f"{bare.deployment}.{name}: missing" for name in names]
    assert asyncio.run(admin.declare(bare)).created == names
    assert asyncio.run(admin.check(bare)) == []
    assert asyncio.run(admin.declare(bare)).kept == names
    counts = asyncio.run(clients.partition_counts(bare, names))
    assert counts.pop("rules") == 1
    assert set(counts.values()) == {2}


def test_asking_for_a_topic_never_creates_it(bare: Settings) -> None:
    with pytest.raises(clients.TopicMissing):
        asyncio.run(clients.partition_counts(bare, ["signals"]))
    assert f"{bare.deployment}.signals: missing" in asyncio.run(admin.check(bare))


def test_every_difference_is_named(bare: Settings) -> None:
    async def somebody_elses() -> None:
        async with clients.connected(clients.admin(bare)) as client:
            name = clients.full_name(bare, "signals")
            await client.create_topics([NewTopic(name, 3, 1, topic_configs={"retention.ms": "1000"})])

    asyncio.run(somebody_elses())
    asyncio.run(admin.declare(bare))
    assert asyncio.run(admin.check(bare)) == [
        f"{bare.deployment}.signals: partitions = 3, expected 2",
        f"{bare.deployment}.signals: retention.ms = 1000, expected -1",
        f"{bare.deployment}.signals: max.message.bytes = 1048588, expected 4194304",
        f"{bare.deployment}.signals: message.timestamp.type = CreateTime, expected LogAppendTime",
    ]


def test_only_input_topics_and_their_changelogs_grow(bare: Settings) -> None:
    asyncio.run(admin.declare(bare))
    wider = bare.model_copy(update={"partitions": 3})
    assert asyncio.run(admin.declare(wider)).grown == [topic.name for topic in ALL_TOPICS if topic.may_grow]
    counts = asyncio.run(clients.partition_counts(bare, ["interactions", "feedback", "signals"]))
    assert counts == {"interactions": 3, "feedback": 3, "signals": 2}
    assert asyncio.run(admin.declare(bare)).grown == []  # and never shrink


def test_the_command_creates_and_checks(bare: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--bootstrap", bare.bootstrap, "--deployment", bare.deployment, "--partitions", "2"]
    assert invoke(["topics", "check", *options, "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["differences"]) == len(ALL_TOPICS)
    assert invoke(["topics", "create", *options]) == 0
    assert capsys.readouterr().out == f"{len(ALL_TOPICS)} created, 0 grown, 0 were there\n"
    assert invoke(["topics", "check", *options]) == 0
    assert invoke(["topics", "check", *options[:-1], "5"]) == 1
    assert f"{bare.deployment}.signals: partitions = 2, expected 5" in capsys.readouterr().out
    assert invoke(["topics", "create", *options, "--replication-factor", "3"]) == 0
    assert "differences to what was asked for remain" in capsys.readouterr().err


def test_more_replicas_than_brokers_is_the_brokers_answer(bare: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--bootstrap", bare.bootstrap, "--deployment", bare.deployment, "--replication-factor", "3"]
    assert invoke(["topics", "create", *options]) == 4
    error = capsys.readouterr().err
    assert "InvalidReplicationFactor" in error
    assert error.count("\n") == 1
