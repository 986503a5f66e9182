"""`headrace topics acls` as text: every grant is in each form, names are respected, and what can't be is said in one line."""

from __future__ import annotations

import itertools
import json
import shlex

import pytest
import yaml

from headrace_cli.main import invoke
from headrace_schemas.access import ROLES, grants
from headrace_schemas.topology import ALL_TOPICS, TOPOLOGY

GIVEN = ["topics", "acls", "--deployment", "mine", "--bootstrap", "kafka:9092"]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert invoke([*GIVEN, *arguments]) == 0
    return capsys.readouterr().out


def test_every_stage_runs_under_one_role_and_writes_what_the_table_says() -> None:
    assert sorted(name for role in ROLES.values() for name in role.stages) == sorted(stage.name for stage in TOPOLOGY)
    for role in ROLES.values():
        writable = {grant.name for grant in grants(role.name, "d") if "Write" in grant.operations and grant.resource == "topic"}
        for topic in ALL_TOPICS:
            if set(topic.writers) & set(role.stages):
                assert f"d.{topic.name}" in writable


def test_each_form_has_every_grant(capsys: pytest.CaptureFixture[str]) -> None:
    expected = sorted(
        (f"User:mine-{role}", grant.resource, grant.name, grant.prefixed, operation)
        for role in ROLES
        for grant in grants(role, "mine")
        for operation in grant.operations
    )
    rows = [json.loads(line) for line in printed(capsys, "--json").splitlines()]
    assert [row["role"] for row in rows] == list(ROLES)
    assert expected == sorted(
        (row["principal"], grant["resource"], grant["name"], grant["pattern"] == "prefixed", operation)
        for row in rows
        for grant in row["grants"]
        for operation in grant["operations"]
    )
    users = list(yaml.safe_load_all(printed(capsys, "--format", "strimzi", "--cluster", "our")))
    assert {user["metadata"]["labels"]["strimzi.io/cluster"] for user in users} == {"our"}
    kinds = {"topic": "topic", "group": "group", "transactionalId": "transactional-id"}
    assert expected == sorted(
        (f"User:{user['metadata']['name']}", kinds[rule["resource"]["type"]], rule["resource"]["name"], prefixed, operation)
        for user in users
        for rule in user["spec"]["authorization"]["acls"]
        for prefixed in [rule["resource"]["patternType"] == "prefix"]
        for operation in rule["operations"]
    )
    commands = [shlex.split(line) for line in printed(capsys).splitlines() if line.startswith("kafka-acls")]
    assert all(words[1:3] == ["--bootstrap-server", "kafka:9092"] for words in commands)
    assert expected == sorted(
        (words[words.index("--allow-principal") + 1], option[2:], name, "prefixed" in words, operation)
        for words in commands
        for option, name in itertools.pairwise(words)
        if option in ("--topic", "--group", "--transactional-id")
        for flag, operation in itertools.pairwise(words)
        if flag == "--operation"
    )


def test_principals_have_the_names_that_they_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--principal", "agent=User:CN=a,O=us", "--principal", "agent=User:b", "--principal", "worker=User:hr-worker"]
    rows = [json.loads(line) for line in printed(capsys, *given, "--json").splitlines()]
    assert [row["principal"] for row in rows if row["role"] in ("agent", "worker", "reader")] == [
        "User:CN=a,O=us",
        "User:b",
        "User:hr-worker",
        "User:mine-reader",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--principal", "boss=User:x"], "--principal 'boss=User:x': there is no role 'boss'; known: agent, gateway, worker,"),
        (["--principal", "worker"], "--principal 'worker': '' is no principal, e.g. worker=User:mine-worker"),
        (["--principal", "worker=hr"], "--principal 'worker=hr': 'hr' is no principal, e.g. worker=User:mine-worker"),
        (["--principal", "worker=User:a\nb"], "is no principal"),
        (["--principal", "worker=User:CN=x", "--format", "strimzi"], "a KafkaUser is called by lower-case letters"),
    ],
)
def test_a_name_that_can_not_be_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke([*GIVEN, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
