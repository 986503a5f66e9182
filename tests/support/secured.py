"""A local Kafka that asks who comes and has an authorizer; rights are given as `headrace topics acls` prints them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from headrace_streams.local_kafka import credentials
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings

_RESOURCES = {
    "--topic": ResourceType.TOPIC,
    "--group": ResourceType.GROUP,
    "--transactional-id": ResourceType.TRANSACTIONAL_ID,
}
_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "Delete": AclOperation.DELETE,
    "Alter": AclOperation.ALTER,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
    "AlterConfigs": AclOperation.ALTER_CONFIGS,
}


class SecuredKafka:
    """`user` everywhere: `headrace`, who may do everything, or one of those that it was made with."""

    def __init__(self, kafka: LocalKafka) -> None:
        assert kafka.credentials is not None
        self.kafka, self.passwords = kafka, kafka.credentials.passwords

    def security(self, user: str, password: str | None = None) -> dict[str, str]:
        return {
            "protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": credentials.MECHANISM,
            "sasl_username": user,
            "sasl_password": password or self.passwords[user],
        }

    def settings(self, user: str, deployment: str, data_dir: Path) -> Settings:
        return Settings.model_validate(
            {
                "bootstrap": self.kafka.bootstrap,
                "deployment": deployment,
                "security": self.security(user),
                "partitions": 2,
                "data_dir": data_dir,
            }
        )

    def client(self, user: str, **more: str) -> dict[str, str | int | float | bool]:
        """The configuration of a client of another library than ours."""
        return {
            "bootstrap.servers": self.kafka.bootstrap,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": credentials.MECHANISM,
            "sasl.username": user,
            "sasl.password": self.passwords[user],
            **more,
        }

    def apply(self, script: str) -> int:
        """Gives the rights that lines of `kafka-acls` would give; how many."""
        bindings = [
            binding
            for line in script.splitlines()
            if line.startswith("kafka-acls ")
            for binding in _bindings(shlex.split(line)[1:])
        ]
        client = AdminClient(self.client("headrace"))
        for made in client.create_acls(bindings).values():
            made.result(30)
        return len(bindings)


def _bindings(words: Sequence[str]) -> Iterator[AclBinding]:
    given: dict[str, list[str]] = {}
    words = [word for word in words if word != "--add"]
    for option, value in zip(words[::2], words[1::2], strict=True):
        given.setdefault(option, []).append(value)
    pattern = (
        ResourcePatternType.PREFIXED
        if given.pop("--resource-pattern-type", None) == ["prefixed"]
        else ResourcePatternType.LITERAL
    )
    [principal] = given.pop("--allow-principal")
    operations = given.pop("--operation")
    given.pop("--bootstrap-server")
    given.pop("--command-config")
    for option, names in given.items():
        for name in names:
            for operation in operations:
                yield AclBinding(
                    _RESOURCES[option], name, pattern, principal, "*", _OPERATIONS[operation], AclPermissionType.ALLOW
                )


@contextmanager
def secured_kafka(folder: Path, *users: str) -> Iterator[SecuredKafka]:
    """A secured broker with `users` beside those that it always has."""
    folder.mkdir(mode=0o700)
    credentials.make(folder, *users)
    with LocalKafka(folder) as kafka:
        yield SecuredKafka(kafka)
