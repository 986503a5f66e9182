"""Declaring and checking topics on a real broker: every difference is named, and mended where nothing is lost by it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic

from headrace_cli.main import invoke
from headrace_processors.policy_file import Policies
from headrace_processors.stages import STAGES
from headrace_schemas.topics import TOPIC_NAMES
from headrace_schemas.topology import ALL_TOPICS, CHANGELOGS, changelog
from headrace_streams.kafka import admin, clients
from headrace_streams.kafka.config_requests import topic_configs
from headrace_streams.kafka.reader import Reader
from headrace_streams.runtime.errors import Refused
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.settings import Settings
from support.live import publish, run_until_read, until

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
    assert [counts.pop(name) for name in ("rules", "keys")] == [1, 1]
    assert set(counts.values()) == {2}


def test_asking_for_a_topic_never_creates_it(bare: Settings) -> None:
    with pytest.raises(clients.TopicMissing):
        asyncio.run(clients.partition_counts(bare, ["signals"]))
    assert f"{bare.deployment}.signals: missing" in asyncio.run(admin.check(bare))


def test_a_topic_that_a_deployment_is_too_old_to_have_is_empty_to_who_reads_and_missing_to_who_writes(bare: Settings) -> None:
    assert asyncio.run(Reader(bare).counts(["assessments"])) == {"assessments": 0}
    assert asyncio.run(Reader(bare).spans("keys")) == {}
    of_a_later_stage = ("sessions", changelog("attribute", "sessions").name)
    assert asyncio.run(Reader(bare).counts(of_a_later_stage)) == dict.fromkeys(of_a_later_stage, 0)
    with pytest.raises(clients.TopicMissing, match=r"signals: Unknown"):
        asyncio.run(Reader(bare).counts(["assessments", "signals"]))
    with pytest.raises(clients.TopicMissing, match=r"assessments: Unknown"):
        asyncio.run(clients.partition_counts(bare, ["assessments"]))


async def somebody_elses(settings: Settings, topic: str, partitions: int = 2, /, **configs: str) -> None:
    """A topic as another hand would make it; `__` in a key stands for a dot."""
    async with clients.connected(clients.admin(settings)) as client:
        given = {key.replace("__", "."): value for key, value in configs.items()}
        made = await client.create_topics([NewTopic(clients.full_name(settings, topic), partitions, 1, topic_configs=given)])
        assert [code for _, code, *_ in made.topic_errors] == [0]
        await seen(client, settings, topic, partitions)


async def seen(client: AIOKafkaAdminClient, settings: Settings, topic: str, partitions: int) -> None:
    """Until the broker tells of what its controller has made."""

    async def counted() -> bool:
        [told] = await clients.describe(client, [clients.full_name(settings, topic)])
        return len(told["partitions"]) == partitions

    await until(counted)


def test_every_difference_is_named(bare: Settings) -> None:
    asyncio.run(somebody_elses(bare, "signals", 3, retention__ms="1000"))
    asyncio.run(somebody_elses(bare, "state.reward.signals", cleanup__policy="delete"))
    prefix = bare.deployment
    lines = [line for line in asyncio.run(admin.check(bare)) if not line.endswith(": missing")]
    assert lines == [
        f"{prefix}.signals: partitions = 3, expected 2",
        f"{prefix}.signals: retention.ms = 1000, expected -1",
        f"{prefix}.signals: max.message.bytes = 1048588, expected 4194304",
        f"{prefix}.signals: message.timestamp.type = CreateTime, expected LogAppendTime",
        f"{prefix}.state.reward.signals: cleanup.policy = delete, expected compact",
        f"{prefix}.state.reward.signals: retention.ms = 604800000, expected -1",
        f"{prefix}.state.reward.signals: max.message.bytes = 1048588, expected 8388608",
        f"{prefix}.state.reward.signals: message.timestamp.type = CreateTime, expected LogAppendTime",
        f"{prefix}.state.reward.signals: segment.bytes = 1073741824, expected 16777216",
        f"{prefix}.state.reward.signals: min.cleanable.dirty.ratio = 0.5, expected 0.25",
        f"{prefix}.state.reward.signals: max.compaction.lag.ms = 9223372036854775807, expected 86400000",
        f"{prefix}.state.reward.signals: delete.retention.ms = 86400000, expected 604800000",
    ]


def test_what_can_be_mended_without_harm_is_mended_and_said(bare: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(somebody_elses(bare, "signals", 3, retention__ms="1000", segment__ms="77000000"))
    asyncio.run(somebody_elses(bare, "dead-letters", max__message__bytes="9000000", retention__ms="31536000000"))
    prefix = bare.deployment
    options = ["--bootstrap", bare.bootstrap, "--deployment", bare.deployment, "--partitions", "2"]
    assert invoke(["topics", "create", *options]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        f"mended {prefix}.signals: retention.ms 1000 -> -1",
        f"mended {prefix}.signals: max.message.bytes 1048588 -> 4194304",
        f"mended {prefix}.signals: message.timestamp.type CreateTime -> LogAppendTime",
        f"mended {prefix}.dead-letters: message.timestamp.type CreateTime -> LogAppendTime",
        f"{len(ALL_TOPICS) - 2} created, 0 grown, 2 were there",
    ]
    yourself = "set it yourself, if nothing is lost by it"
    assert told.err.splitlines() == [  # a shorter time, or a lower limit, would take something away
        f"not mended {prefix}.dead-letters: retention.ms = 31536000000, expected 2592000000: {yourself}",
        f"not mended {prefix}.dead-letters: max.message.bytes = 9000000, expected 8388608: {yourself}",
        "3 differences to what was asked for remain: headrace topics check names them",
    ]
    assert invoke(["topics", "check", *options]) == 1
    assert f"{prefix}.signals: partitions = 3, expected 2\n" in capsys.readouterr().out

    async def configuration() -> dict[str, str]:
        async with clients.connected(clients.admin(bare)) as client:
            return (await topic_configs(client, [f"{prefix}.signals"]))[f"{prefix}.signals"]

    assert asyncio.run(configuration())["segment.ms"] == "77000000"  # what the table doesn't speak of stays


@pytest.mark.parametrize("ahead_days", [-400, 400])
def test_times_that_publishers_chose_are_taken_unless_they_lie_in_the_future(bare: Settings, ahead_days: int) -> None:
    """A fold's time is the largest so far: one record of the year after next would be now for all that follow."""
    asyncio.run(somebody_elses(bare, "signals", message__timestamp__after__max__ms=str(2**62)))
    name = clients.full_name(bare, "signals")

    async def publish() -> None:
        async with clients.connected(clients.producer(bare)) as producer:
            await producer.send_and_wait(name, b"x", partition=1, timestamp_ms=int((time.time() + ahead_days * 86400) * 1000))

    asyncio.run(publish())
    declared = asyncio.run(admin.declare(bare))
    line = f"{name}: message.timestamp.type CreateTime -> LogAppendTime"
    assert (line in declared.mended) == (ahead_days < 0)
    assert [entry for entry in declared.left if "message.timestamp.type" in entry] == (
        []
        if ahead_days < 0
        else [
            f"{name}: message.timestamp.type = CreateTime, expected LogAppendTime: it holds records from the future "
            "(partition 1 from offset 0 on): delete it, or use another deployment"
        ]
    )


def test_a_task_refuses_topics_that_somebody_made_otherwise_and_goes_on_once_they_are_mended(bare: Settings) -> None:
    asyncio.run(somebody_elses(bare, "interactions"))
    asyncio.run(somebody_elses(bare, "state.intake.interactions", cleanup__policy="delete"))
    asyncio.run(somebody_elses(bare, "signals", retention__ms="1000"))
    right = {"message__timestamp__type": "LogAppendTime", "max__message__bytes": "8388608"}
    asyncio.run(somebody_elses(bare, "dead-letters", retention__ms="1000", **right))
    others = [topic for topic in ALL_TOPICS if topic.name in ("refs", "rules", "sessions")]
    asyncio.run(admin.declare(bare, others))
    intake = next(stage for stage in STAGES if stage.name == "intake")
    prefix = bare.deployment

    async def run() -> None:
        await run_until_read(FoldTask(intake, Policies().intake.body(), "interactions", 0, bare))

    with pytest.raises(Refused) as refused:
        asyncio.run(run())
    times = "message.timestamp.type = CreateTime, expected LogAppendTime"
    assert str(refused.value).split(": ", 1)[1].split("; ") == [
        f"{prefix}.state.intake.interactions: cleanup.policy = delete, expected compact",
        f"{prefix}.state.intake.interactions: max.message.bytes = 1048588, expected 8388608",
        f"{prefix}.state.intake.interactions: {times}",
        f"{prefix}.interactions: max.message.bytes = 1048588, expected 4194304",
        f"{prefix}.interactions: {times}",
        f"{prefix}.signals: retention.ms = 1000, expected -1",
        f"{prefix}.signals: max.message.bytes = 1048588, expected 4194304",
        f"{prefix}.signals: {times}: `headrace topics create` mends what can be mended",
    ]  # how long dead letters are kept is their keeper's to say
    asyncio.run(admin.declare(bare))
    asyncio.run(run())


def test_only_input_topics_and_their_changelogs_grow(bare: Settings) -> None:
    asyncio.run(admin.declare(bare))
    wider = bare.model_copy(update={"partitions": 3})
    assert asyncio.run(admin.declare(wider)).grown == [topic.name for topic in ALL_TOPICS if topic.may_grow]
    counts = asyncio.run(clients.partition_counts(bare, ["interactions", "feedback", "signals"]))
    assert counts == {"interactions": 3, "feedback": 3, "signals": 2}
    assert asyncio.run(admin.declare(bare)).grown == []  # and never shrink
    assert asyncio.run(admin.check(bare)) == []  # more than asked for, where that is allowed, is no difference


def test_a_changelog_grows_with_the_input_that_somebody_grew(bare: Settings) -> None:
    asyncio.run(admin.declare(bare))

    async def grow() -> None:
        async with clients.connected(clients.admin(bare)) as client:
            await client.create_partitions({clients.full_name(bare, "feedback"): NewPartitions(5)})
            await seen(client, bare, "feedback", 5)

    asyncio.run(grow())
    assert asyncio.run(admin.check(bare)) == [f"{bare.deployment}.state.intake.feedback: partitions = 2, expected 5"]
    assert asyncio.run(admin.declare(bare)).grown == ["state.intake.feedback"]
    assert asyncio.run(admin.check(bare)) == []


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


def test_status_and_verify_live_through_an_input_that_somebody_grew(
    settings: Settings, headrace: Callable[..., tuple[int, str, str]]
) -> None:
    intake = next(stage for stage in STAGES if stage.name == "intake")
    event = (
        b'{"specversion":"1.0","id":"%d","source":"s","type":"headrace.interaction.retracted.v1","data":{"interaction_id":"i%d"}}'
    )

    def fold(partition: int) -> None:
        asyncio.run(publish(settings, "interactions", partition, [(None, event % (partition, partition))]))
        asyncio.run(run_until_read(FoldTask(intake, Policies().intake.body(), "interactions", partition, settings)))

    async def grow() -> None:
        async with clients.connected(clients.admin(settings)) as client:
            await client.create_partitions({clients.full_name(settings, "interactions"): NewPartitions(3)})
            await seen(client, settings, "interactions", 3)

    fold(0)
    asyncio.run(grow())
    fold(1)
    with pytest.raises(Refused, match=r"state\.intake\.interactions has 2 partitions, fewer than its input"):
        fold(2)
    for _ in ("before", "after"):
        code, out, error = headrace("replay", "--verify")
        assert code == 0, out + error
        code, out, error = headrace("status", "--json")
        assert "intake" in out, error
        code, out, error = headrace("topics", "create", "--partitions", "2")
        assert code == 0, error
    fold(2)
    code, out, error = headrace("replay", "--verify")
    assert code == 0, out + error
    assert headrace("topics", "check", "--partitions", "2") == (0, f"{len(ALL_TOPICS)} topics are as declared\n", "")
