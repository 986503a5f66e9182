"""`headrace topics acls`: the rights of each role as commands for `kafka-acls`, as Strimzi's KafkaUsers, as JSON. Asks nobody."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from headrace_cli.common import USAGE, CliError, common, emit
from headrace_schemas.access import ROLES, Grant, grants
from headrace_streams.settings import Settings

_STRIMZI_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")


@click.command()
@click.option(
    "--principal",
    "named",
    multiple=True,
    metavar="ROLE=NAME",
    help="Kafka's name of who has a role, e.g. worker=User:hr-worker; repeatable. Default: User:DEPLOYMENT-ROLE.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["kafka-acls", "strimzi"]),
    default="kafka-acls",
    show_default=True,
    help="Commands, or KafkaUser resources (YAML).",
)
@click.option("--cluster", default="kafka", show_default=True, help="With strimzi: the Kafka resource's name.")
@common
def acls(settings: Settings, as_json: bool, named: Sequence[str], form: str, cluster: str) -> None:
    """Print who may write and read what: the rights that each role needs on this deployment, and no more.

    Roles: agent, gateway, worker, trainer, console, reader, admin."""
    principals = _principals(named, settings.deployment)
    rights = [(role, principal, grants(role, settings.deployment)) for role, principal in principals]
    if as_json:
        for role, principal, granted in rights:
            emit({"role": role, "principal": principal, "grants": [_object(grant) for grant in granted]})
    elif form == "strimzi":
        for role, principal, granted in rights:
            click.echo("\n".join(_kafka_user(role, principal, cluster, granted)))
    else:
        click.echo("# admin.properties: how kafka-acls logs in, as somebody who may change ACLs")
        for role, principal, granted in rights:
            click.echo(f"\n# {role}: {ROLES[role].description}")
            for command in _commands(principal, granted):
                click.echo(shlex.join(["kafka-acls", "--bootstrap-server", settings.bootstrap, *command]))


def _principals(named: Iterable[str], deployment: str) -> list[tuple[str, str]]:
    """(role, principal) in the order of roles."""
    given: dict[str, list[str]] = {}
    for text in named:
        role, equals, name = text.partition("=")
        if role not in ROLES:
            raise CliError(USAGE, f"--principal {text!r}: there is no role {role!r}; known: {', '.join(ROLES)}")
        kind, colon, rest = name.partition(":")
        if not (equals and kind and colon and rest) or not text.isprintable():
            raise CliError(USAGE, f"--principal {text!r}: {name!r} is no principal, e.g. {role}=User:{deployment}-{role}")
        given.setdefault(role, []).append(name)
    return [(role, name) for role in ROLES for name in given.get(role, [f"User:{deployment}-{role}"])]


def _object(grant: Grant) -> dict[str, Any]:
    return {
        "resource": grant.resource,
        "name": grant.name,
        "pattern": "prefixed" if grant.prefixed else "literal",
        "operations": list(grant.operations),
    }


def _commands(principal: str, granted: Iterable[Grant]) -> Iterator[list[str]]:
    """Arguments of `kafka-acls`; what has the same operations is one command."""
    alike: dict[tuple[str, bool, tuple[str, ...]], list[str]] = {}
    for grant in granted:
        alike.setdefault((grant.resource, grant.prefixed, grant.operations), []).append(grant.name)
    for (resource, prefixed, operations), names in alike.items():
        yield [
            *("--command-config", "admin.properties", "--add", "--allow-principal", principal),
            *(word for operation in operations for word in ("--operation", operation)),
            *(("--resource-pattern-type", "prefixed") if prefixed else ()),
            *(word for name in names for word in (f"--{resource}", name)),
        ]


def _kafka_user(role: str, principal: str, cluster: str, granted: Iterable[Grant]) -> Iterator[str]:
    name = principal.removeprefix("User:")
    if not _STRIMZI_NAME.fullmatch(name):
        raise CliError(USAGE, f"--principal {role}={principal}: a KafkaUser is called by lower-case letters, digits, - and .")
    yield from ("---", f"# {role}: {ROLES[role].description}", "apiVersion: kafka.strimzi.io/v1beta2", "kind: KafkaUser")
    yield from ("metadata:", f"  name: {json.dumps(name)}", "  labels:", f"    strimzi.io/cluster: {json.dumps(cluster)}")
    yield from ("spec:", "  authentication:", "    type: scram-sha-512", "  authorization:", "    type: simple", "    acls:")
    for grant in granted:
        kind = "transactionalId" if grant.resource == "transactional-id" else grant.resource
        yield from ("      - resource:", f"          type: {kind}", f"          name: {json.dumps(grant.name)}")
        yield f"          patternType: {'prefix' if grant.prefixed else 'literal'}"
        yield f"        operations: [{', '.join(grant.operations)}]"
