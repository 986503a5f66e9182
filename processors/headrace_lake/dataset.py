"""Training data as files, from the log: what trained a release, or all that was cut for a bucket. Knows no Kafka client.

Rows are what a run learns from or watches, never what it is tested on: selection.py says which, to the trainer too. The digest
covers the rows (ids, revisions, texts, tools, weights), not their format: two exports of one release are equal. A rule says what
a row holds of an example, and a digest that was noted under an older one is made again by that one. Rows that both rules write
alike have one digest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import orjson

from headrace_lake.dataset_rule_1 import messages_by_rule_1
from headrace_lake.log import Log, events_of
from headrace_schemas.canonical import canonical, digest, sha256
from headrace_schemas.chat import answer_dict, messages_of, tool_dicts
from headrace_schemas.derived import Batch, Example, Member, ReleaseDecision, TrainingStart
from headrace_schemas.events import BatchReady, ExampleRewarded, ExampleWithdrawn, TrainingStarted
from headrace_schemas.ids import derive_id
from headrace_schemas.root_error import HeadraceError
from headrace_schemas.selection import dataset_members, is_training, is_validation, watched
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.reader import decode_or_none
from headrace_streams.release_log import ReleaseFilter
from headrace_streams.signing import TrustedKeys

Format = Literal["chat", "parquet"]
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


async def bucket_rows(log: Log, bucket: str, rule: Rule = 2) -> list[DatasetRow]:
    """All that was ever cut for training, at its newest revision; what was withdrawn since, or turned out to be worth nothing, is
    left out, as in rehearsal."""
    members: dict[str, Member] = {}
    async for event in events_of(log, "batches", key=bucket):
        if isinstance(event, BatchReady) and event.data.bucket == bucket:
            members |= {
                member.example_id: member for member in watched(event.data) if is_training(member) or is_validation(member)
            }
    newest: dict[str, Example] = {}
    async for event in events_of(log, "examples", key=bucket):
        if isinstance(event, ExampleRewarded) and event.data.example_id in members:
            newest[event.data.example_id] = event.data
        elif isinstance(event, ExampleWithdrawn):
            newest.pop(event.data.example_id, None)
    return [
        row_of(newest[name], members[name], rule) for name in sorted(newest) if newest[name].train and newest[name].reward > 0
    ]


async def release_rows(
    log: Log, bucket: str, release_id: str, trusted: TrustedKeys | None = None, rule: Rule = 2
) -> tuple[list[DatasetRow], int]:
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
    rows = [await _exact(log, member, rule) for member in members if member.example_id not in withdrawn]
    return rows, len(members) - len(rows)


async def _exact(log: Log, member: Member, rule: Rule) -> DatasetRow:
    locator = member.locator
    async for record in log.read(locator.topic, locator.partition, locator.offset, locator.offset + 1):
        if record.value is not None and sha256(record.value) == member.sha256:
            event = decode_or_none(record.value, record.headers)
            if isinstance(event, ExampleRewarded):
                return row_of(event.data, member, rule)
    where = f"{locator.topic}/{locator.partition}@{locator.offset}"
    raise DatasetError(f"example {member.example_id!r} revision {member.revision} with {member.sha256} is not at {where}")


def rows_digest(rows: Sequence[DatasetRow]) -> str:
    """A row without tools says nothing of them."""
    fields: list[dict[str, Any]] = msgspec.to_builtins(rows)
    return digest([{name: value for name, value in row.items() if name != "tools" or value} for row in fields])


def write(rows: Sequence[DatasetRow], out: Path, form: Format) -> Path:
    """Writes `rows` as `out/train.jsonl` (one {"messages": […], …} a line) or `out/train.parquet`, whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    lines = b"".join(canonical(msgspec.to_builtins(row)) + b"\n" for row in rows)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        made = Path(scratch) / "train.jsonl"
        made.write_bytes(lines)
        if form == "parquet":
            made = _parquet(made, Path(scratch) / "train.parquet")
        return made.replace(out / made.name)


def _parquet(lines: Path, made: Path) -> Path:
    """`messages` becomes a list of {role, content}; whatever else a message holds is JSON in `extra`. `tools` is JSON: a table
    would give each tool the parameters of all."""
    import pyarrow
    import pyarrow.parquet

    rows = [orjson.loads(line) for line in lines.read_bytes().splitlines()]
    for row in rows:
        row["messages"] = [
            {
                "role": message["role"],
                "content": message["content"],
                "extra": canonical({name: value for name, value in message.items() if name not in ("role", "content")}).decode(),
            }
            for message in row["messages"]
        ]
        row["tools"] = canonical(row["tools"]).decode() if row["tools"] else None
    text, number = pyarrow.string(), pyarrow.float64()
    message = pyarrow.struct([("role", text), ("content", text), ("extra", text)])
    types: dict[str, Any] = dict.fromkeys(DatasetRow.__struct_fields__, text)
    types |= {"revision": pyarrow.int64(), "weight": number, "reward": number, "quality": number}
    types["messages"] = pyarrow.list_(message)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(list(types.items()))), made)
    return made
