"""Who may do what, on a real broker that asks who comes: each role, each operation allowed and each denied."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.cimpl import NewTopic

import headrace
from headrace_schemas.access import ROLES
from headrace_schemas.topics import REDRIVE
from headrace_schemas.topology import ALL_TOPICS, TOPOLOGY
from headrace_streams.kafka import admin, clients
from support.ring import Ring
from support.secured import SecuredKafka, secured_kafka

pytestmark = [pytest.mark.kafka, pytest.mark.slow(seconds=60)]

DEPLOYMENT, OTHER, RING = "mine", "other", "ring"
NAMES = [topic.name for topic in ALL_TOPICS]
CHANGELOGS = {name for name in NAMES if name.startswith("state.")}
INPUTS = {"interactions", "feedback"}
OWN = {"state.train.batches"}

# By hand, so that a change of the tables that gives somebody a right more is seen here.
WRITES = {
    "agent": INPUTS,
    "gateway": INPUTS,
    "worker": {
        "refs",
        "sessions",
        "signals",
        "examples",
        "rejections",
        "batches",
        "assessments",
        "releases",
        "releases.history",
        "rules",
        "dead-letters",
    }
    | {"keys"}
    | (CHANGELOGS - OWN),
    "trainer": {"runs", "versions", "outcomes", "rules", "dead-letters"} | OWN,
    "console": {*INPUTS, "outcomes", "batches", "dead-letters", "assessments"},
    "reader": set[str](),
    "privacy": {*INPUTS, "batches"},
    "admin": CHANGELOGS,
}
READS = {
    "agent": {"releases"},
    "gateway": {"releases"},
    "worker": {*INPUTS, "outcomes"} | WRITES["worker"],  # of its own: what was left unended there
    "trainer": {"batches", "examples", "releases", "releases.history", "keys"} | WRITES["trainer"],
    "console": set(NAMES) - {"keys"},
    "reader": set(NAMES) - {"keys"},
    "privacy": set(NAMES),
    "admin": set(NAMES) - {"keys"},
}
TOPIC_RIGHTS = {"admin": {AclOperation.ALTER, AclOperation.ALTER_CONFIGS, AclOperation.CREATE, AclOperation.DELETE}}
ROLE = pytest.mark.parametrize("role", ROLES)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """Two deployments on one broker; rights were given for the one."""
    with secured_kafka(
        tmp_path_factory.mktemp("secured") / "kafka", *(f"{DEPLOYMENT}-{role}" for role in ROLES), "nobody"
    ) as kafka:
        for deployment in (DEPLOYMENT, OTHER, RING):
            asyncio.run(admin.declare(kafka.settings("headrace", deployment, Path("unused"))))
        printed = headrace_command("topics", "acls", "--deployment", DEPLOYMENT)
        assert kafka.apply(printed) > 60
        same_people = [word for role in ROLES for word in ("--principal", f"{role}=User:{user(role)}")]
        kafka.apply(headrace_command("topics", "acls", "--deployment", RING, *same_people))
        yield kafka


def headrace_command(*arguments: str, environment: Mapping[str, str] = os.environ) -> str:
    """What a command prints; AssertionError for one that does not end with 0."""
    line = [sys.executable, "-c", "from headrace_cli.main import main; main()", *arguments]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout
    return done.stdout


def user(role: str) -> str:
    return f"{DEPLOYMENT}-{role}"


def refusal(call: Callable[[], object]) -> int | None:
    """The code with which a broker refuses; None when it doesn't."""
    try:
        call()
    except KafkaException as error:
        return int(error.args[0].code())
    return None


def rights(secured: SecuredKafka, role: str, deployment: str) -> dict[str, set[AclOperation]]:
    """What the broker says that a role may do, by short topic name; a topic that it must not see is left out."""
    client, found = AdminClient(secured.client(user(role))), {}
    names = {f"{deployment}.{name}": name for name in NAMES}
    for name, answer in client.describe_topics(TopicCollection([*names]), include_authorized_operations=True).items():
        if (code := refusal(answer.result)) is None:
            found[names[name]] = set(answer.result().authorized_operations)
        else:
            assert code == KafkaError.TOPIC_AUTHORIZATION_FAILED
    return found


@ROLE
def test_a_role_may_do_with_each_topic_what_the_matrix_says_and_nothing_else(secured: SecuredKafka, role: str) -> None:
    expected = {}
    stages = role in ("worker", "trainer")
    for name in NAMES:
        writes, reads = name in WRITES[role], name in READS[role]
        allowed = {AclOperation.WRITE} if writes else set()
        allowed |= {AclOperation.READ} if reads else set()
        allowed |= TOPIC_RIGHTS.get(role, set())
        if allowed or ROLES[role].looks:
            allowed |= {AclOperation.DESCRIBE}  # of `keys`, too: that it is there is no secret
        if allowed and (stages or ROLES[role].looks):
            allowed |= {AclOperation.DESCRIBE_CONFIGS}
        if allowed:
            expected[name] = allowed
    assert rights(secured, role, DEPLOYMENT) == expected


@ROLE
def test_a_role_of_one_deployment_sees_nothing_of_another(secured: SecuredKafka, role: str) -> None:
    assert rights(secured, role, OTHER) == {}


@ROLE
def test_a_role_writes_to_the_topics_that_are_its_own_and_to_no_other(secured: SecuredKafka, role: str) -> None:
    outcomes: dict[str, int | None] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        outcomes[str(message.topic()).removeprefix(f"{DEPLOYMENT}.")] = error.code() if error else None

    producer = Producer(secured.client(user(role), **{"topic.metadata.refresh.interval.ms": "-1"}))
    for name in NAMES:
        producer.produce(f"{DEPLOYMENT}.{name}", b"no event", b"key", on_delivery=delivered)
    assert producer.flush(60) == 0
    refused = KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert outcomes == {name: None if name in WRITES[role] else refused for name in NAMES}


@ROLE
def test_a_role_reads_the_topics_that_it_needs_and_no_other(secured: SecuredKafka, role: str) -> None:
    writer = Producer(secured.client("headrace"))
    for name in NAMES:
        writer.produce(f"{DEPLOYMENT}.{name}", b"something", b"key", partition=0)
    assert writer.flush(60) == 0

    settings = secured.settings(user(role), DEPLOYMENT, Path("unused"))

    async def reads(name: str) -> bool:
        partition = TopicPartition(f"{DEPLOYMENT}.{name}", 0)
        async with clients.connected(clients.consumer(settings)) as consumer, asyncio.timeout(30):
            consumer.assign([partition])
            consumer.seek(partition, 0)
            try:
                return bool(await consumer.getmany(partition, timeout_ms=20_000))
            except TopicAuthorizationFailedError:
                return False

    visible = set(rights(secured, role, DEPLOYMENT))  # of the others a reader doesn't even learn where they are
    assert READS[role] <= visible
    assert {name for name in visible if asyncio.run(reads(name))} == READS[role]


@ROLE
def test_a_role_takes_the_transactional_ids_of_its_own_stages_only(secured: SecuredKafka, role: str) -> None:
    mine = {stage.name for stage in TOPOLOGY if stage.name in ROLES[role].stages or ROLES[role].mends}
    mine |= {REDRIVE} if role in ("console", "admin") else set()
    names = {REDRIVE: REDRIVE, **{stage.name: f"{stage.name}.anything.0" for stage in TOPOLOGY}}
    codes = {}
    for name, id in names.items():
        producer = Producer(secured.client(user(role), **{"transactional.id": f"{DEPLOYMENT}.{id}"}))
        codes[name] = refusal(producer.init_transactions)
    refused = KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert codes == {name: None if name in mine else refused for name in names}


@ROLE
def test_a_role_joins_its_own_group_only(secured: SecuredKafka, role: str) -> None:
    settings = secured.settings(user(role), DEPLOYMENT, Path("unused"))

    async def join(group: str) -> None:
        member = clients.consumer(settings, min(READS[role]), group=f"{DEPLOYMENT}.{group}")
        async with clients.connected(member), asyncio.timeout(30):
            while not member.assignment():
                await member.getmany(timeout_ms=100)

    refused = (clients.NotAllowed, GroupAuthorizationFailedError)  # the second of who may see the group
    for group in ("worker", "trainer"):
        with nullcontext() if group == role else pytest.raises(refused, match=f"GroupAuthorizationFailed.*{group}"):
            asyncio.run(join(group))


@ROLE
def test_only_the_admin_makes_and_removes_topics_and_only_of_its_deployment(secured: SecuredKafka, role: str) -> None:
    client, refused = AdminClient(secured.client(user(role))), KafkaError.TOPIC_AUTHORIZATION_FAILED
    mine, others = f"{DEPLOYMENT}.new-{role}", f"{OTHER}.new-{role}"
    made = client.create_topics([NewTopic(mine, 1, 1), NewTopic(others, 1, 1)])
    assert refusal(made[others].result) == refused
    assert refusal(made[mine].result) == (None if role == "admin" else refused)
    unwanted = mine if role == "admin" else f"{DEPLOYMENT}.dead-letters"
    removed = client.delete_topics([unwanted, f"{OTHER}.signals"])
    assert refusal(removed[f"{OTHER}.signals"].result) == refused
    assert refusal(removed[unwanted].result) == (None if role == "admin" else refused)


def test_the_ring_turns_with_every_process_under_its_own_principal(secured: SecuredKafka, tmp_path: Path) -> None:
    def ring_of(role: str) -> Ring:
        ring = Ring(secured.settings(user(role), RING, tmp_path), tmp_path / role)
        ring.environment |= {f"HEADRACE_SECURITY_{name.upper()}": value for name, value in secured.security(user(role)).items()}
        return ring

    bucket = "sql/m"
    worker, reader, console, trainer = (ring_of(role) for role in ("worker", "reader", "console", "trainer"))
    with (
        worker,
        trainer,
        headrace.Releases(
            secured.kafka.bootstrap, deployment=RING, kafka=secured.security(user("agent")), store=tmp_path, cache=tmp_path
        ) as releases,
    ):
        worker.start("worker")
        trainer.start("trainer")
        with headrace.Recorder(
            secured.kafka.bootstrap, agent="a", deployment=RING, kafka=secured.security(user("gateway"))
        ) as recorder:
            for number in range(20):
                call = recorder.interaction(
                    artifact_type="sql", model="m", prompt=f"question {number}", output=f"answer {number}"
                )
                recorder.feedback(call, kind="success", score=100)
            assert recorder.flush(60), recorder.trouble
        counted = reader.wait(published=40, deadline=120)
        assert counted["curate"]["admitted"] == 20
        headrace_command("pause", bucket, environment=console.environment)  # asks, and reads the answer
        headrace_command("retract", call.interaction_id, environment=console.environment)
        assert json.loads(headrace_command("status", "--json", environment=reader.environment).splitlines()[0])
        assert releases.current(bucket) is None
        headrace_command("replay", "--verify", environment=reader.environment)
        worker.check_alive()
        trainer.check_alive()
