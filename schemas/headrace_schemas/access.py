"""Who may do what on a broker: roles, and what each needs of topics, groups and transactional ids. Drawn from the two tables, so
that a topic or a stage which is added is in it. Knows Kafka's words for it, no broker.

What a right implies is left out: Read, Write, Delete and Alter bring Describe, AlterConfigs brings DescribeConfigs. Nobody needs
a right on the cluster: since Kafka 2.8 an idempotent producer asks for Write on some topic only, and topics are created under a
right on their names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from headrace_schemas.topics import ANYBODY, OPERATOR, REDRIVE, TOPICS
from headrace_schemas.topology import ALL_TOPICS, CHANGELOGS, STAGES_BY_NAME, TOPOLOGY, changelog

Resource = Literal["topic", "group", "transactional-id"]
READ, WRITE, CREATE, DELETE, ALTER = "Read", "Write", "Create", "Delete", "Alter"
DESCRIBE = "Describe"
DESCRIBE_CONFIGS, ALTER_CONFIGS = "DescribeConfigs", "AlterConfigs"


class Role(Struct, frozen=True, kw_only=True):
    """Who comes to the broker. `stages` run under it; `writes` and `reads` are short topic names beside what those need.
    `looks` at everything but what is secret; `mends` topics and the states of tasks."""

    name: str
    description: str
    stages: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    looks: bool = False
    mends: bool = False


class Grant(Struct, frozen=True, order=True):
    """`operations` on a resource by its full name, or, `prefixed`, on all whose names begin so. In Kafka's words."""

    resource: Resource
    name: str
    prefixed: bool
    operations: tuple[str, ...]


_INPUTS = tuple(topic.name for topic in TOPICS if ANYBODY in topic.writers)
_REQUESTS = tuple(topic.name for topic in TOPICS if OPERATOR in topic.writers)

_FOLDS = tuple(stage.name for stage in TOPOLOGY if stage.name != "train")

ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role(name="agent", description="publishes, follows releases", writes=_INPUTS, reads=("releases",)),
        Role(name="gateway", description="publishes and follows releases for others", writes=_INPUTS, reads=("releases",)),
        Role(name="worker", description="runs every stage but train", stages=_FOLDS),
        Role(name="trainer", description="runs train", stages=("train",)),
        Role(name="console", description="looks, asks for releases, takes back", writes=(*_INPUTS, *_REQUESTS), looks=True),
        Role(name="reader", description="looks: status, verify, data sets", looks=True),
        Role(
            name="privacy",
            description="looks, opens what is sealed, forgets, asks for a run without what was forgotten",
            writes=(*_INPUTS, "batches"),
            reads=tuple(topic.name for topic in TOPICS if topic.secret),
            looks=True,
        ),
        Role(name="admin", description="declares and mends topics, makes a task's state anew", looks=True, mends=True),
    )
}


def grants(role: str, deployment: str) -> list[Grant]:
    """What `role`, a key of ROLES, needs in a deployment; ordered by resource and name."""
    who, prefix = ROLES[role], f"{deployment}."
    topics: dict[str, set[str]] = {}
    others: list[Grant] = []

    def allow(names: Iterable[str], operation: str) -> None:
        for name in names:
            topics.setdefault(name, set()).add(operation)

    allow(who.writes, WRITE)
    if "dead-letters" in who.writes:
        others.append(Grant("transactional-id", f"{prefix}{REDRIVE}", False, (WRITE,)))
    allow(who.reads, READ)
    for name in who.stages:
        stage = STAGES_BY_NAME[name]
        allow([*stage.inputs, *stage.lookups, *(changelog(name, topic).name for topic in stage.inputs)], READ)
        written = [topic.name for topic in ALL_TOPICS if name in topic.writers]
        allow(written, WRITE)
        allow(written, READ)  # or a task could not ask whether a transaction of its own was left unended there
        others.append(Grant("transactional-id", f"{prefix}{name}.", True, (WRITE,)))
    if who.stages:
        allow(list(topics), DESCRIBE_CONFIGS)  # a task refuses topics that somebody made otherwise
        others.append(Grant("group", f"{prefix}{role}", False, (READ,)))
    if who.looks:
        # One by one: a right on all names that begin so could not leave the secret ones out.
        allow([topic.name for topic in ALL_TOPICS if not topic.secret], READ)
        if who.mends:
            others.append(Grant("topic", prefix, True, (ALTER, ALTER_CONFIGS, CREATE, DELETE)))
        else:
            allow([topic.name for topic in ALL_TOPICS], DESCRIBE_CONFIGS)
            allow([topic.name for topic in ALL_TOPICS if topic.secret], DESCRIBE)
        others.append(Grant("group", prefix, True, (DESCRIBE,)))  # what workers let their groups know of their tasks
    if who.mends:
        allow([topic.name for topic in CHANGELOGS], WRITE)
        others.append(Grant("transactional-id", prefix, True, (WRITE,)))
    named = [Grant("topic", prefix + name, False, tuple(sorted(operations))) for name, operations in topics.items()]
    return sorted([*named, *others])
