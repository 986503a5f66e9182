"""Training data as files, from the log: what trained a release, or all that was cut for a bucket. Knows no Kafka client.

Rows are what a run learns from or watches, never what it is tested on: selection.py says which, to the trainer too. The digest
covers the rows (ids, revisions, texts, tools, weights), not their format: two exports of one release are equal. A rule says what
a row holds of an example, and a digest that was noted under an older one is made again by that one. Rows that both rules write
alike have one digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from headrace_lake.dataset_rule_1 import messages_by_rule_1
from headrace_lake.log import Log, events_of, told_events_of
from headrace_schemas.canonical import digest, sha256
from headrace_schemas.chat import answer_dict, messages_of, tool_dicts
from headrace_schemas.derived import Batch, Example, Member, ReleaseDecision, TrainingStart
from headrace_schemas.events import BatchReady, ExampleRewarded, ExampleWithdrawn, TrainingStarted
from headrace_schemas.ids import derive_id
from headrace_schemas.root_error import HeadraceError
from headrace_schemas.selection import (
    dataset_members,
    is_negative,
    is_training,
    is_validation,
    members_digest,
    watched,
    without_withdrawn,
)
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.reader import decode_or_none
from headrace_streams.release_log import ReleaseFilter
from headrace_streams.runtime.sealing import is_erased, stored
from headrace_streams.signing import TrustedKeys

Format = Literal["chat", "alpaca", "dpo", "kto", "parquet"]
Rule = Literal[1, 2]


class DatasetError(HeadraceError, ValueError):
    """The data asked for is not on the log; the message says what is missing."""


class DatasetRow(msgspec.Struct, frozen=True, kw_only=True):
    """One training example. `weight` is the one of the batch that it was cut in; `tools`, what the model could call, as chat
    templates take them."""

    example_id: str
    revision: int
    interaction_id: str
    bucket: str
    split: str
    weight: float
    reward: float
    quality: float
    model: str
    event_time: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None


def row_of(example: Example, member: Member, rule: Rule = 2) -> DatasetRow:
    content = example.content
    if rule == 1:
        messages, tools = messages_by_rule_1(content), None
    else:
        messages = [*messages_of(content.prompt, content.context), answer_dict(content.target)]
        tools = tool_dicts(content.tools)
    return DatasetRow(
        example_id=example.example_id,
        revision=example.revision,
        interaction_id=example.interaction_id,
        bucket=example.bucket,
        split=member.split,
        weight=member.weight,
        reward=example.reward,
        quality=example.quality,
        model=example.model,
        event_time=example.event_time,
        messages=messages,
        tools=tools,
    )


class DatasetExample(NamedTuple):
    """An example and the member of a batch that names it."""

    example: Example
    member: Member


class Selected(NamedTuple):
    """What a data set is made of: `learnt` is what a run learns from or watches, in its order; `avoided` are the negatives that
    were cut with it, or those that its run learnt from. `withdrawn`: how many rows are left out because they were retracted or
    erased; `erased`: and because the keys of their texts are gone; `policies`: digests of the policies of the batches; `members`:
    the digest of what trained a release, by `selection.members_digest`."""

    learnt: list[DatasetExample]
    avoided: list[DatasetExample]
    withdrawn: int = 0
    policies: list[dict[str, str]] = []  # noqa: RUF012 - never changed
    members: str | None = None
    erased: int = 0


def rows_of(examples: Iterable[DatasetExample], rule: Rule = 2) -> list[DatasetRow]:
    return [row_of(example, member, rule) for example, member in examples]


async def bucket_examples(log: Log, bucket: str) -> Selected:
    """All that was ever cut for training, at its newest revision; what was withdrawn since, or turned out to be worth nothing, is
    left out, as in rehearsal. Negatives as long as they are wrong."""
    members: dict[str, Member] = {}
    avoided: dict[str, Member] = {}
    policies: list[dict[str, str]] = []
    async for event in events_of(log, "batches", key=bucket):
        if isinstance(event, BatchReady) and event.data.bucket == bucket:
            rows = watched(event.data)
            members |= {member.example_id: member for member in rows if is_training(member) or is_validation(member)}
            avoided |= {member.example_id: member for member in rows if is_negative(member)}
            if event.data.policy_digests not in policies:
                policies.append(event.data.policy_digests)
    newest: dict[str, Example] = {}
    withdrawn: set[str] = set()
    erased: set[str] = set()
    async for event, gone in told_events_of(log, "examples", key=bucket):
        if isinstance(event, ExampleRewarded) and (event.data.example_id in members or event.data.example_id in avoided):
            if gone:
                erased.add(event.data.example_id)
                newest.pop(event.data.example_id, None)
                continue
            newest[event.data.example_id] = event.data
            withdrawn.discard(event.data.example_id)
        elif isinstance(event, ExampleWithdrawn) and newest.pop(event.data.example_id, None) is not None:
            withdrawn.add(event.data.example_id)
    allowed = [name for name in sorted(newest) if newest[name].train]
    return Selected(
        [DatasetExample(newest[name], members[name]) for name in allowed if name in members and newest[name].reward > 0],
        [DatasetExample(newest[name], avoided[name]) for name in allowed if name in avoided and newest[name].reward < 0],
        len(withdrawn & members.keys()),
        policies,
        erased=len(erased & members.keys()),
    )


async def release_examples(log: Log, bucket: str, release_id: str, trusted: TrustedKeys | None = None) -> Selected:
    """Exactly what trained a release: its batch's members and the rehearsal rows that its run pinned, each verified by digest.
    What was retracted or erased since is in no data set any more: it is left out, and how many rows that were comes beside.
    With `trusted` keys the release is one that they have signed.

    Raises DatasetError when the release, its batch, its run or one of the rows is not on the log."""
    release: ReleaseDecision | None = None
    count = await log.partitions("releases.history")
    taken = ReleaseFilter(count, "releases.history", trusted)
    async for record in log.read("releases.history", partition_for(bucket.encode(), count)):
        decision = taken.decision(record)
        if decision is not None and decision.kind == "promoted" and decision.data.release_id == release_id:
            release = decision.data
    if release is None or release.bucket != bucket:
        raise DatasetError(f"release {release_id!r} of bucket {bucket!r} is not on releases.history")
    batch: Batch | None = None
    start: TrainingStart | None = None
    async for event in events_of(log, "batches", key=bucket):
        if isinstance(event, BatchReady) and event.data.batch_id in release.batch_ids:
            batch = event.data
    async for event in events_of(log, "runs", key=bucket):
        if not isinstance(event, TrainingStarted) or event.data.batch_id not in release.batch_ids:
            continue
        if start is None or derive_id("version", event.data.run_id) == release.version_id:  # the batch may have failed before
            start = event.data
    if batch is None or start is None:
        raise DatasetError(f"the {'batch' if batch is None else 'run'} of release {release_id!r} is no longer on the log")
    withdrawn: set[str] = set()
    async for event in events_of(log, "examples", key=bucket):
        if isinstance(event, ExampleWithdrawn):
            withdrawn.add(event.data.example_id)
        elif isinstance(event, ExampleRewarded):
            withdrawn.discard(event.data.example_id)
    members = dataset_members(batch, start)
    named, found = release.dataset_digest, members_digest(members)
    if named is not None and named != found:
        raise DatasetError(
            f"release {release_id!r} was trained on {named}, and what its batch and its run name is {found}: the log is not what "
            "it was (`headrace replay --verify` says where)"
        )
    learnt = [member for member in members if not is_negative(member)]
    cut = members if start.avoids else watched(without_withdrawn(batch, start.withdrawn))
    negatives = [member for member in cut if is_negative(member)]
    left, avoided = ([member for member in listed if member.example_id not in withdrawn] for listed in (learnt, negatives))
    values, erased = await exact_examples(log, [*left, *avoided])
    gone = sum(member.sha256 in erased for member in left)
    left, avoided = ([member for member in listed if member.sha256 not in erased] for listed in (left, avoided))
    return Selected(
        [DatasetExample(values[member.sha256], member) for member in left],
        [DatasetExample(values[member.sha256], member) for member in avoided],
        len(learnt) - len(left) - gone,
        [batch.policy_digests],
        found,
        gone,
    )


async def exact_examples(log: Log, members: Iterable[Member]) -> tuple[dict[str, Example], set[str]]:
    """The example of each member by the digest of its record, and the digests of those whose texts were erased. DatasetError for
    one that is not where the member says."""
    wanted: dict[tuple[str, int], dict[int, Member]] = {}
    for member in members:
        wanted.setdefault((member.locator.topic, member.locator.partition), {})[member.locator.offset] = member
    found: dict[str, Example] = {}
    erased: set[str] = set()
    for (topic, partition), at in wanted.items():
        async for record in log.records_at(topic, partition, sorted(at)):
            value = stored(record.value)
            if value is not None and sha256(value) == at[record.offset].sha256:
                if is_erased(record.value):
                    erased.add(at[record.offset].sha256)
                    continue
                event = decode_or_none(record.value, record.headers)
                if isinstance(event, ExampleRewarded):
                    found[at[record.offset].sha256] = event.data
    for at in wanted.values():
        for member in at.values():
            if member.sha256 not in found and member.sha256 not in erased:
                where = f"{member.locator.topic}/{member.locator.partition}@{member.locator.offset}"
                raise DatasetError(
                    f"example {member.example_id!r} revision {member.revision} with {member.sha256} is not at {where}"
                )
    return found, erased


def rows_digest(rows: Sequence[DatasetRow]) -> str:
    """A row without tools says nothing of them."""
    fields: list[dict[str, Any]] = msgspec.to_builtins(rows)
    return digest([{name: value for name, value in row.items() if name != "tools" or value} for row in fields])
